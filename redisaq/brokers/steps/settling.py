"""Steps that settle messages (S), and what is left to settle.

`Acknowledge` settles messages that simply succeeded, all of a partition in a few bytes each; `Resolve` settles each as it is told, with the
message itself where it is to be kept. Both do it under the fencing token, and both may be repeated (S1).

At every instant a message is in exactly one of: delayed, stream-unread, pending, retry, dead, done. A message that failed leaves the
stream's pending entries for the group's own `retry` set, whole, so trimming cannot take it. `life` counts redrives: 0 for a message's
first life. `attempt` counts handlers begun in this life. Both travel with every settlement and must match (S1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from redisaq.brokers.steps import ShareStep
from redisaq.core.records import Resolution

__all__ = ["Acknowledge", "ReadRemaining", "Remaining", "Resolve", "Resolved", "Settled"]


class Resolved(msgspec.Struct, frozen=True):
    """The answer: `done` False means that another token stands (`token`, 0 if none) and nothing was changed.

    Attributes:
        done: the caller's token stands.
        token: the one that stands.
        moved: for each resolution, whether it changed anything; False for one that was settled before, or in another life or attempt.
    """

    done: bool
    token: int
    moved: tuple[bool, ...] = ()


class Settled(msgspec.Struct, frozen=True):
    """The answer to Acknowledge: `done` False means refused, and `token` is the one that stands (0 if none stands)."""

    done: bool
    token: int


class Remaining(msgspec.Struct, frozen=True):
    """What a partition still holds for a group.

    Attributes:
        unread: at least one entry was never delivered.
        pending: entries delivered and not settled.
        retry: messages of the group that failed and are to be tried again.
        delayed: messages that are not in the stream yet, for whatever group.
    """

    unread: bool
    pending: int
    retry: int = 0
    delayed: int = 0

    @property
    def empty(self) -> bool:
        """True if nothing is left."""
        return not self.unread and not self.pending and not self.retry and not self.delayed


class Acknowledge(ShareStep[Settled], frozen=True):
    """Acknowledge entries that are done with (S1); repeating it is harmless."""

    name: ClassVar[str] = "settle"

    token: int
    entry_ids: Sequence[bytes]


class Resolve(ShareStep[Resolved], frozen=True):
    """Settle some messages, each only if it is still what and where its body says (S1).

    In the script XACK and ZREM come first (S2), so that it passes whole at maxmemory. A message that is in `retry` already, since a group
    was lost and made again (T6), stays there as it is.

    Attributes:
        token: the fencing token.
        resolutions: what becomes of each.
        dead_maxlen: so many dead letters are kept, the latest; None: all.
    """

    token: int
    resolutions: Sequence[Resolution]
    dead_maxlen: int | None


class ReadRemaining(ShareStep[Remaining], frozen=True):
    """Return what is left of the partition for the group."""

    name: ClassVar[str] = "remaining"
