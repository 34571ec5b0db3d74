"""What the store knows of those connected to it: reading connections, reads that wait, doorbells.

In come answers and rings; they are kept until the task that waits picks them up. Nothing here waits by itself, so each of these
is also what a server would still be doing for a client that stands still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from redisaq.brokers.terms import GroupName, RawEntry, ReaderMark


@dataclass(eq=False)
class WaitingRead:
    """A read that found nothing and waits at the store, as a blocked XREADGROUP does.

    Attributes:
        client: the connection it came over.
        count: how many entries it wants at most.
        until: the server's time at which it gives up by itself, even if its client stands still.
        entries: its answer: delivered, whether or not anybody picks them up.
        error: its answer, if there will be no entries.
    """

    client: ReadingClient
    count: int
    until: int
    answered: anyio.Event = field(default_factory=anyio.Event)
    entries: Sequence[RawEntry] = ()
    error: Exception | None = None

    def answer(self, entries: Sequence[RawEntry]) -> None:
        """Give it its entries."""
        self.entries = entries
        self.answered.set()

    def refuse(self, error: Exception) -> None:
        """Give it an error."""
        self.error = error
        self.answered.set()


@dataclass(eq=False)
class ReadingClient:
    """A reading connection, as the server sees it (T3).

    Attributes:
        group: whose entries it reads.
        partition: of the group's topic.
        mark: what can be killed.
        broken: why the connection is no more, "" while it is there.
    """

    group: GroupName
    partition: int
    mark: ReaderMark
    broken: str = ""


Channel = GroupName | str | tuple[str, int]
"""What rings: a group's document, a topic's partition count, or a partition's earliest due time."""


@dataclass(eq=False)
class Subscription:
    """A doorbell's line to the store.

    Attributes:
        channels: what rings it.
        rung: since it was last heard.
        broken: why nothing will ring any more, "" while it can.
        changed: set at the next ring or break.
    """

    channels: frozenset[Channel]
    rung: bool = False
    broken: str = ""
    changed: anyio.Event = field(default_factory=anyio.Event)

    def ring(self) -> None:
        """Ring, and wake who waits."""
        self.rung = True
        self._wake()

    def cut(self, reason: str) -> None:
        """End the line, and wake who waits."""
        self.broken = reason
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()
