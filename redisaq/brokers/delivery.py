"""The part of the Broker protocol for messages that did not simply succeed: retries, delays, dead letters.

At every instant a message is in exactly one of: delayed, stream-unread, pending, retry, dead, done. Each method is one atomic step
between these; a step that is repeated changes nothing (S1). A message that failed leaves the stream's pending entries for the group's own
`retry` set, whole, so trimming cannot take it.

`life` counts redrives: 0 for a message's first life. `attempt` counts handlers begun in this life. Both travel with every settlement and
must match (S1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from redisaq.brokers.terms import Doorbell, GroupName
from redisaq.core.records import RAW, Body, Failure, Resolution
from redisaq.describing import text_of

__all__ = ["Body", "DeliveryBroker", "Due", "Failure", "Resolution", "Resolved"]


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


class SetAside(msgspec.Struct, frozen=True):
    """A record that could not be read, or whose other half is gone, and what became of it.

    Attributes:
        entry_id: of the entry, or the id of a delayed message; b"" where several are meant.
        reason: in words.
    """

    entry_id: bytes
    reason: str


class Due(msgspec.Struct, frozen=True):
    """What is due.

    Attributes:
        retries: due messages of `retry`, earliest first; they stay there until they are settled (S3), so the next call names them again.
        moved: how many delayed messages were moved into the stream, in due order.
        next_due: server time in microseconds of the earliest one, of both kinds, that this answer has left where it is and does not name;
            None if there is none. Not after `now` if `count` left something out; in a second if the stream does not take what is due.
        now: the server's time.
        set_aside: what this call found damaged. Retries are among the dead letters now, as they were; delayed ones are in the stream.
    """

    retries: tuple[Body, ...]
    moved: int
    next_due: int | None
    now: int
    set_aside: tuple[SetAside, ...] = ()


GONE = "its body is gone: was it evicted? It is lost"
"""Of a retry, or a delayed message, that has a due time and nothing else."""

FOUND = "so many bodies had lost their due times: were these evicted? They are due now"
"""Of retries and delayed messages that had no due time."""


def unreadable(entry_id: bytes, data: bytes, error: Exception) -> tuple[Resolution, SetAside]:
    """Return what takes a retry that cannot be read to the dead letters, as it is, and what to report."""
    reason = f"a retry that cannot be read: {text_of(error)}"
    body = Body(entry_id, (RAW, data), failure=Failure("Unreadable", reason, "", 0, 0, 0, ""))
    return Resolution("retry", "dead", body, raw=data), SetAside(entry_id, reason)


class DeliveryBroker(Protocol):
    """See the module."""

    async def resolve(
        self, group: GroupName, partition: int, token: int, resolutions: Sequence[Resolution], *, dead_maxlen: int | None
    ) -> Resolved:
        """Settle some messages in one atomic fenced step, each only if it is still what and where its body says (S1).

        In the script XACK and ZREM come first (S2), so that it passes whole at maxmemory. `dead_maxlen`: so many dead letters are kept,
        the latest. A message that is in `retry` already, since a group was lost and made again (T6), stays there as it is.
        """
        ...

    async def start_retry(self, group: GroupName, partition: int, token: int, *, entry_id: bytes, life: int, attempt: int) -> bool:
        """Note that a handler begins on a message of `retry`: its attempt becomes `attempt`, if it was one less in the same life.

        False, and nothing changed, if another token stands, if this one was released (T5), or if the message is not there so. Repeating
        it after a lost answer is True.
        """
        ...

    async def due(self, group: GroupName, partition: int, token: int, *, count: int, dead_maxlen: int | None = None) -> Due:
        """Move at most `count` due delayed messages into the stream (XADD first, then ZREM: S2); return up to `count` due retries.

        What of these is damaged is set aside, one by one. Whoever has retries in flight asks for more than those. Of messages due at the
        same microsecond, the ids' bytes tell the order.

        Raises:
            LeaseLostError: another token stands.
        """
        ...

    async def listen_partition(self, topic: str, partition: int) -> Doorbell:
        """Return the partition's doorbell: rung when something is delayed, or redriven, to an earlier time than what was there.

        A resolution does not ring: only the partition's owner makes those, and it knows their times.
        """
        ...
