"""The part of the Broker protocol that makes enqueueing effectively once (E), delayed, and deduplicated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from redisaq.brokers.terms import ReaderMark


class Found(msgspec.Struct, frozen=True):
    """What a look at a stream's tail showed.

    Attributes:
        present: for each message asked for, its entry id, or b"" for one that is among the delayed, or None if it is in neither.
        complete: the tail reaches back to the anchor: what is not present was never appended. Otherwise trimming took the evidence (E2).
        last: the last id that the stream ever had, b"0-0" if it is not there (C5).
    """

    present: tuple[bytes | None, ...]
    complete: bool
    last: bytes


class Delayed(msgspec.Struct, frozen=True):
    """A message to be appended later: `due` in microseconds of the server's time since 1970."""

    partition: int
    msg_id: bytes
    due: int
    fields: Sequence[bytes]


class ProducingBroker(Protocol):
    """See the module."""

    async def anchors(self, topic: str, partitions: Sequence[int]) -> list[bytes | None]:
        """Return the last entry id that each stream ever had (b"0-0" for one that never had any), None where the stream is missing (E2)."""
        ...

    async def find(self, topic: str, partition: int, anchor: bytes, msg_ids: Sequence[bytes]) -> Found:
        """Look for messages among the delayed and in the stream's entries after the anchor, in one atomic step (E2, E7)."""
        ...

    async def kill(self, marks: Sequence[ReaderMark]) -> bool:
        """Kill these connections, those that are still of this server's run (E1); False if the server does not permit it."""
        ...

    async def delay(self, topic: str, messages: Sequence[Delayed]) -> list[bool]:
        """Keep messages until they are due, each once by its id; ring if one is due before what was there. May be repeated.

        Messages due at the same microsecond are moved in the order of their ids' bytes: where another matters, give each a later time.

        Returns:
            For each whether it is kept now; False where the partition's stream is missing (E5).
        """
        ...

    async def append_once(
        self,
        topic: str,
        partition: int,
        fields: Sequence[bytes],
        *,
        dedup_id: str,
        window: float,
        due: int | None,
        maxlen: int | None,
        approximate: bool,
    ) -> bytes | None:
        """Append unless the same `dedup_id` was used in this partition within `window` seconds, atomically. Safe to repeat.

        Args:
            topic: the topic.
            partition: the partition; whoever uses the same id must come to the same one.
            fields: of the entry; the message id is the second.
            dedup_id: the caller's own.
            window: seconds for which the mark stays.
            due: server time in microseconds until which it is delayed; None: append it now.
            maxlen: as for `append`.
            approximate: as for `append`.

        Returns:
            The message id that stands: the one in `fields` if it is new (also when this very call is repeated: E7), else the first one's.
            None if the partition's stream is missing (E5).
        """
        ...

    async def backlog(self, topic: str, partitions: Sequence[int], *, enough: int = 1 << 31) -> list[int]:
        """Return how many entries each partition holds that its slowest group has not been given; all of them if it has no group.

        A number above `enough` need not be exact: a server that must count stops there.
        """
        ...
