"""The Broker that needs no server: each step is one synchronous function at a store in this process.

Brokers of the same name and namespace on one event loop share one store; another event loop has another. Invariants: a step is done whole
or not at all. Every call lets other tasks run, and can be cancelled before its step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from anyio.lowlevel import checkpoint

from redisaq.brokers.memory import (
    administration,
    coordination,
    examination,
    growing,
    leases,
    messages,
    producing,
    retention,
    retrying,
    schedules,
    settling,
    topics,
)
from redisaq.brokers.memory.clients import Channel, ReadingClient, Subscription
from redisaq.brokers.memory.reader import MemoryDoorbell, MemoryReader
from redisaq.brokers.memory.registry import carry_out
from redisaq.brokers.memory.store import MemoryStore, open_store
from redisaq.brokers.steps import Step
from redisaq.brokers.terms import Doorbell, GroupName, Reader, ReaderMark
from redisaq.environment import Environment, current_environment
from redisaq.errors import ConnectionFailed

FAMILIES = (
    *(administration, coordination, examination, growing, leases, messages, producing, retention, retrying, schedules, settling, topics),
)
"""Importing each of these registers the functions that do its steps."""

R = TypeVar("R")
T = TypeVar("T")


@dataclass(eq=False)
class _Session:
    """What this broker has open at its store, from connect to close."""

    store: MemoryStore
    open: bool = True
    clients: list[ReadingClient] = field(default_factory=list[ReadingClient])
    subscriptions: list[Subscription] = field(default_factory=list[Subscription])

    def keep(self, client: ReadingClient) -> None:
        """Close the client together with the broker; at once if a late call opened it after that."""
        self.clients = [*(one for one in self.clients if not one.broken), client]
        if not self.open:
            self.close()

    def doorbell(self, *channels: Channel) -> Doorbell:
        """Return a doorbell that is closed together with the broker, as above."""
        subscription = self.store.subscribe(*channels)
        self.subscriptions = [*(one for one in self.subscriptions if not one.broken), subscription]
        if not self.open:
            self.close()
        return MemoryDoorbell(self.store, subscription)

    def close(self) -> None:
        """Close everything that is open."""
        self.open = False
        for client in self.clients:
            self.store.disconnect(client, "the broker was closed")
        for subscription in self.subscriptions:
            self.store.unsubscribe(subscription, "the broker was closed")


class MemoryBroker:
    """A Broker in this process, for tests and simulations.

    Args:
        name: brokers of the same name and namespace, on the same event loop, share a store.
        namespace: as of any broker.
        environment: gives versions, and the store its time; default: the environment of the context in which the broker is first used.
    """

    def __init__(self, name: str, namespace: str, environment: Environment | None = None) -> None:
        self._name = name
        self._namespace = namespace
        self._environment = environment
        self._session: _Session | None = None

    @property
    def store(self) -> MemoryStore:
        """The running event loop's store of this name: a test can do to it what happens to servers."""
        return open_store(self._name, self._namespace, self._environment or current_environment())

    @property
    def run_id(self) -> str:
        """The store's run; "" before its first use."""
        return "" if self._session is None else self._session.store.run_id

    async def connect(self) -> None:
        """Open the store, which always exists."""
        await self._operate("connect", lambda _: None)

    async def close(self) -> None:
        """Release the store, which keeps its data. Calls, reads and waits for doorbells under way raise ConnectionFailed.

        The next call opens it again.
        """
        if self._session is not None:
            self._session.close()
            self._session = None
        await checkpoint()

    async def _operate(self, name: str, step: Callable[[MemoryStore], T]) -> T:  # noqa: ARG002 -- for subclasses
        """Carry out one operation: every call of the broker passes through here, and so does every read.

        A fault plan overrides only this method: it may wait, raise before the step or after it, or carry out the step after it has raised.
        """
        session = self._enter()
        run_id = session.store.run_id
        await checkpoint()
        if not session.open:
            raise ConnectionFailed(session.store.url, "the broker was closed")
        if session.store.run_id != run_id:
            raise ConnectionFailed(session.store.url, "the server restarted", maybe_executed=True)
        return step(session.store)

    async def _operate_where(self, slot: tuple[str, int], name: str, step: Callable[[MemoryStore], T]) -> T:  # noqa: ARG002 -- for subclasses
        """Carry out one operation where a partition is: a simulated cluster overrides this."""
        return await self._operate(name, step)

    def _enter(self) -> _Session:
        store = self.store
        # Another store means another event loop: nothing that is open in the old one can be waited for here.
        if self._session is None or self._session.store is not store:
            self._session = _Session(store)
        return self._session

    async def do(self, step: Step[R]) -> R:
        """Do one step."""
        return await self._operate(step.name, lambda store: self._carry_out(store, step))

    async def do_each(self, steps: Sequence[Step[R]]) -> list[R]:
        """Do several steps of one class, in one operation."""
        if not steps:
            await checkpoint()
            return []
        return await self._operate(steps[0].name, lambda store: [self._carry_out(store, step) for step in steps])

    def _carry_out(self, store: MemoryStore, step: Step[R]) -> R:
        """Do one step at the store, now."""
        return carry_out(store, step)

    async def append(
        self, topic: str, entries: Sequence[tuple[int, Sequence[bytes]]], *, maxlen: int | None, approximate: bool, cuts: int = 0
    ) -> list[bytes | None]:
        """Append in order; `approximate` trims exactly, too."""
        del approximate
        return await self._operate("append", lambda store: store.append(topic, entries, maxlen, cuts))

    async def kill(self, marks: Sequence[ReaderMark]) -> bool:
        """Kill reading connections. Calls of other kinds need no kill: one that broke has run already, or never will (E1)."""
        return await self._operate("kill", lambda store: store.kill(marks))

    async def open_reader(self, group: GroupName, partition: int, token: int, incarnation: str) -> Reader:
        """Open a reading connection under the token (T3)."""
        session = self._enter()

        def step(store: MemoryStore) -> Reader:
            client = store.open_client(group, partition, token, incarnation)
            session.keep(client)
            return self._reader(store, client)

        return await self._operate_where((group.topic, partition), "open_reader", step)

    def _reader(self, store: MemoryStore, client: ReadingClient) -> Reader:
        return MemoryReader(store, client, self._operate)

    async def listen(self, group: GroupName) -> Doorbell:
        """Return a doorbell for the group and its topic."""
        session = self._enter()
        return await self._operate("listen", lambda _: session.doorbell(group, group.topic))

    async def listen_partition(self, topic: str, partition: int) -> Doorbell:
        """Return the partition's doorbell."""
        session = self._enter()
        return await self._operate_where((topic, partition), "listen_partition", lambda _: session.doorbell((topic, partition)))
