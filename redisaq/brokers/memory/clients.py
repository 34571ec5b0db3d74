"""The store's view of its clients: reading connections, reads that wait, doorbells.

It keeps answers and notifications until the waiting task picks them up. Nothing here waits by itself, so these objects do what a server
would still be doing for a client that has stalled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from redisaq.brokers.terms import GroupName, ReaderMark
from redisaq.core.records import Entry


@dataclass(eq=False)
class WaitingRead:
    """A read that found nothing and waits at the store, as a blocked XREADGROUP does.

    Attributes:
        client: the connection that it came over.
        count: the most entries that it takes.
        until: the server's time at which it times out, even if its client has stalled.
        entries: its answer. These entries count as delivered even if no task picks them up.
        error: its answer, if there will be no entries.
    """

    client: ReadingClient
    count: int
    until: int
    answered: anyio.Event = field(default_factory=anyio.Event)
    entries: Sequence[Entry] = ()
    error: Exception | None = None

    def answer(self, entries: Sequence[Entry]) -> None:
        """Answer it with entries."""
        self.entries = entries
        self.answered.set()

    def refuse(self, error: Exception) -> None:
        """Answer it with an error."""
        self.error = error
        self.answered.set()


@dataclass(eq=False)
class ReadingClient:
    """A reading connection, as the server sees it (T3).

    Attributes:
        group: the group that it reads for.
        partition: the partition of the group's topic.
        mark: identifies it, to kill it.
        broken: why the connection is gone, "" while it is there.
    """

    group: GroupName
    partition: int
    mark: ReaderMark
    broken: str = ""


Channel = GroupName | str | tuple[str, int]
"""What a doorbell listens to: a group's document, a topic's partition count, or a partition's earliest due time."""


@dataclass(eq=False)
class Subscription:
    """A doorbell's subscription at the store.

    Attributes:
        channels: what rings it.
        rung: it has rung since the last `wait` returned.
        broken: why it will never ring again, "" while it can.
        changed: set at the next ring or break.
    """

    channels: frozenset[Channel]
    rung: bool = False
    broken: str = ""
    changed: anyio.Event = field(default_factory=anyio.Event)

    def ring(self) -> None:
        """Ring, and wake the waiting tasks."""
        self.rung = True
        self._wake()

    def cut(self, reason: str) -> None:
        """End the subscription, and wake the waiting tasks."""
        self.broken = reason
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()
