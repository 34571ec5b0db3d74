"""The memory broker's two things that wait: a partition's reader and a group's doorbell.

Invariants: entries given to a read are either returned or left in `take_leftover`. The next `wait` sees each ring once, however late it
comes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
from anyio.lowlevel import checkpoint

from redisaq.brokers.memory.clients import ReadingClient, Subscription, WaitingRead
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.terms import ReaderMark
from redisaq.core.records import Entry
from redisaq.errors import ConnectionFailed

ReadAnswer = Sequence[Entry] | WaitingRead
Operate = Callable[[str, Callable[[MemoryStore], ReadAnswer]], Awaitable[ReadAnswer]]
"""The broker's method that carries out one step at the store."""


class MemoryReader:
    """A Reader with a connection of its own to the store."""

    def __init__(self, store: MemoryStore, client: ReadingClient, operate: Operate) -> None:
        self._store = store
        self._client = client
        self._operate = operate
        self._reading = False
        self._leftover: list[Entry] = []

    async def read(self, count: int, block: float) -> Sequence[Entry]:
        """Return new entries; see Reader."""
        self._reading = True
        try:
            answer = await self._operate("read", lambda store: store.read(self._client, count, block))
            return await self._wait(answer, block) if isinstance(answer, WaitingRead) else answer
        finally:
            self._reading = False

    async def _wait(self, waiting: WaitingRead, block: float) -> Sequence[Entry]:
        returns = False
        try:
            with anyio.move_on_after(block):
                await waiting.answered.wait()
            returns = True
        finally:
            self._store.stop_waiting(waiting)
            if not returns:
                self._leftover.extend(waiting.entries)
        if waiting.error is not None:
            raise waiting.error
        return waiting.entries

    def ask_ahead(self, count: int) -> None:
        """Do nothing: the store is in the same process."""

    async def finish(self) -> None:
        """Do nothing: `ask_ahead` asked for nothing."""
        await checkpoint()

    def take_leftover(self) -> Sequence[Entry]:
        """Return, once, what a cancelled read still brought."""
        leftover, self._leftover = self._leftover, []
        return leftover

    @property
    def mark(self) -> ReaderMark:
        """The mark under which this reader is registered."""
        return self._client.mark

    @property
    def settled(self) -> bool:
        """True if every read has its answer; a cancelled read is answered at once."""
        return not self._reading

    async def close(self) -> None:
        """Close the connection; a read under way raises ConnectionFailed."""
        self._store.disconnect(self._client, "the reader was closed")
        await checkpoint()


class MemoryDoorbell:
    """A Doorbell with a subscription of its own at the store."""

    def __init__(self, store: MemoryStore, subscription: Subscription) -> None:
        self._store = store
        self.subscription = subscription

    async def wait(self) -> None:
        """Return at the next ring, or at once if it rang since the last call; see Doorbell."""
        subscription = self.subscription
        await checkpoint()
        while not subscription.rung:
            if subscription.broken:
                raise ConnectionFailed(self._store.url, subscription.broken)
            await subscription.changed.wait()
        subscription.rung = False

    async def close(self) -> None:
        """Stop listening; a task that still waits gets ConnectionFailed."""
        self._store.unsubscribe(self.subscription, "the doorbell was closed")
        await checkpoint()
