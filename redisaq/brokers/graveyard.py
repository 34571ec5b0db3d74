"""The part of the Broker protocol for whoever looks after the dead letters: look, redrive, purge.

None of it is fenced: an admin owns no partition. A redriven message begins a new life, so nothing that was said about its last one can
touch it (S1). Dead letters have ids of their own, which grow as messages die and never come again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from redisaq.brokers.terms import GroupName
from redisaq.core.records import Body

__all__ = ["DeadLetterEntry", "Graveyard"]


class DeadLetterEntry(msgspec.Struct, frozen=True):
    """A dead letter.

    Attributes:
        dead_id: its own id; its first number is the server's time, in milliseconds, at which the message died.
        body: the message, and why it is here.
    """

    dead_id: bytes
    body: Body


class Graveyard(Protocol):
    """See the module."""

    async def dead_page(self, group: GroupName, partition: int, *, after: bytes, count: int) -> list[DeadLetterEntry]:
        """Return up to `count` dead letters with ids above `after` (b"": from the first), in the order of dying."""
        ...

    async def redrive(self, group: GroupName, partition: int, ids: Sequence[bytes] | None, *, count: int) -> int:
        """Let up to `count` dead letters be tried again: the first of all, or (`ids` given) the first of these that are there.

        One atomic step moves them into the group's `retry` set: the same message, its next life, no attempt, due now, in the order of
        dying, also over several calls. Rings the partition's doorbell. To redrive all, call again until it answers 0.

        Returns:
            How many were moved.
        """
        ...

    async def purge(self, group: GroupName, partition: int, ids: Sequence[bytes] | None) -> int:
        """Drop these dead letters, or all (None); return how many there were."""
        ...
