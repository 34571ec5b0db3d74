"""What tests of consumers share: a topic of its own, and handlers that note what they got."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import anyio
import pytest
import trio.lowlevel
from sniffio import current_async_library

from redisaq import Consumer, Message, Producer
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.memory.store import MemoryStore
from redisaq.events import Event
from redisaq.testing import virtual_run

IN_VIRTUAL_TIME = pytest.mark.redisaq_seeds(1, backend=("trio", "asyncio"))
"""For a file of coroutine tests whose waits, limits and leases are not to take real time, nor to depend on how busy the machine is."""

ASYNCIO_ALONE = pytest.mark.redisaq_seeds(1, backend="asyncio")
TRIO_ALONE = pytest.mark.redisaq_seeds(1, backend="trio")
"""The same for one test of such a file, on the only backend that has what it is about."""

Backend = Literal["trio", "asyncio"]
on_both = pytest.mark.parametrize("backend", ["trio", "asyncio"])
"""For a plain test that plays its own virtual runs."""

_numbers = itertools.count()


def play(scenario: Callable[[str], Awaitable[Any]], backend: Backend, seed: int = 0) -> Any:
    """Run a scenario in virtual time, with the URL of a memory broker, and return its result."""
    return virtual_run(scenario, "memory://played", backend=backend, seed=seed)


def store_of(url: str) -> MemoryStore:
    """Return what a memory broker keeps."""
    return MemoryBroker(url.removeprefix("memory://"), "redisaq").store


def hold_up(seconds: float) -> None:
    """Let virtual time pass while the event loop does nothing, as a handler that blocks the loop for so long does."""
    if current_async_library() == "trio":
        clock: Any = trio.lowlevel.current_clock()
        clock.jump(seconds)
    else:
        loop: Any = asyncio.get_running_loop()
        loop._now += seconds


def fresh_url() -> str:
    """Return the URL of a memory broker that no other test uses."""
    return f"memory://{next(_numbers)}"


async def produce(url: str, count: int, *, partitions: int = 1, **more: Any) -> list[str]:
    """Append {"n": 0} … to topic "jobs"; return the ids."""
    async with Producer("jobs", url, init_partitions=partitions) as producer:
        return await producer.batch_enqueue([{"n": n} for n in range(count)], **more)


class Notebook:
    """Notes messages and events."""

    def __init__(self) -> None:
        self.messages: list[Message[Any]] = []
        self.events: list[Event] = []
        self.running = self.most_running = 0

    async def handle(self, message: Message[Any]) -> None:
        """Note the message, as a handler that does nothing else."""
        self.messages.append(message)

    async def handle_slowly(self, message: Message[Any]) -> None:
        """Note the message and how many run at once."""
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await anyio.sleep(0.01)
            self.messages.append(message)
        finally:
            self.running -= 1

    def note(self, event: Event) -> None:
        """Note an event."""
        self.events.append(event)

    @property
    def numbers(self) -> list[int]:
        """The payloads' numbers, in the order they were noted."""
        return [message.payload["n"] for message in self.messages]

    @property
    def counts(self) -> Counter[str]:
        """How often each message was noted."""
        return Counter(message.msg_id for message in self.messages)

    def of(self, kind: type[Event]) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def quick(url: str, **more: Any) -> Consumer[Any]:
    """Return a consumer of "jobs" whose lease is short."""
    return Consumer("jobs", url, **{"heartbeat_interval": 0.1, "heartbeat_ttl": 0.6, **more})
