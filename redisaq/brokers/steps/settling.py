"""Steps that settle messages (S), and what is left to settle.

`Acknowledge` settles messages that simply succeeded, all of a partition in a few bytes each. `Resolve` settles each message in its own way,
and carries the message itself if it is to be kept. Both need the current fencing token, and you can repeat both (S1).

At every instant a message is in exactly one of: delayed, stream-unread, pending, retry, dead, done. A message that failed moves whole from
the stream's pending entries to the group's own `retry` set, so trimming cannot take it. `life` counts redrives: 0 for a message's first
life. `attempt` counts handlers begun in this life. Both are part of every settlement and must match (S1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from redisaq.brokers.steps import ShareStep
from redisaq.core.records import Resolution

__all__ = ["Acknowledge", "ReadRemaining", "Remaining", "Resolve", "Resolved", "Settled"]


class Resolved(msgspec.Struct, frozen=True):
    """The answer to Resolve. `done` False: another token is current, and nothing was changed.

    Attributes:
        done: the caller's token is the current one.
        token: the current token, 0 if there is none.
        moved: for each resolution, whether it changed anything; False if the message was settled before, or is in another life or attempt.
        spent: if refused, whether it was a Seek that replaced the token last (S5).
    """

    done: bool
    token: int
    moved: tuple[bool, ...] = ()
    spent: bool = False


class Settled(msgspec.Struct, frozen=True):
    """The answer to Acknowledge. `done` False: refused; `token` is the current one (0 if there is none).

    Attributes:
        spent: if refused, whether it was a Seek that replaced the token last (S5).
    """

    done: bool
    token: int
    spent: bool = False


class Remaining(msgspec.Struct, frozen=True):
    """What a partition still holds for a group.

    Attributes:
        unread: at least one entry was never delivered.
        pending: how many entries were delivered and are not settled.
        retry: how many messages of the group failed and are to be tried again.
        delayed: how many messages are not in the stream yet, for all groups.
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
    """Acknowledge entries that are done (S1); repeating it is harmless."""

    name: ClassVar[str] = "settle"

    token: int
    entry_ids: Sequence[bytes]


class Resolve(ShareStep[Resolved], frozen=True):
    """Settle some messages, each only if its place, life and attempt are still those that its resolution names (S1).

    It succeeds even when memory is full, and a message is at its new place before it leaves the old one (S2). A message that is already in
    `retry`, because a lost group was made again (T6), stays there unchanged.

    Attributes:
        token: the fencing token.
        resolutions: what becomes of each message.
        dead_maxlen: how many dead letters to keep, the latest ones; None for all.
    """

    token: int
    resolutions: Sequence[Resolution]
    dead_maxlen: int | None


class ReadRemaining(ShareStep[Remaining], frozen=True):
    """Return what is left of the partition for the group."""

    name: ClassVar[str] = "remaining"
