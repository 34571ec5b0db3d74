"""One producer and two consumers over the public API, while something happens to their servers.

Input: a URL, and what is to happen. Output: an `Outcome`: what was lost, handled twice, out of order or at the same time as another message
of its key, the longest time in which nothing was handled, and the slowest enqueue. It says what happened; `Bounds` say what may.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.to_thread

from redisaq import Consumer, Message, Producer
from redisaq.errors import AmbiguousEnqueueError, RedisaqError
from tests.servers import PROGRAMS

P = TypeVar("P")

KEYS, PARTITIONS = 8, 6
QUIET = 20.0
"""Seconds without a message handled, after which what was not handled counts as lost."""


@dataclass(frozen=True)
class Bounds:
    """What may happen. None: anything."""

    gap: float
    slowest: float
    lost: int | None = 0
    twice: int | None = None
    out_of_order: int | None = 0


@dataclass
class Outcome:
    """What happened to messages that were acknowledged.

    Attributes:
        name: what was played.
        acknowledged: messages whose enqueue returned.
        lost: of these, how many were never handled.
        twice: messages that were handled more than once.
        out_of_order: messages that were first handled after a later one of their key.
        together: times that two handlers ran for one key.
        gap: the longest time in which no handler began, in seconds.
        slowest: the longest enqueue, in seconds.
        uncertain: enqueues that ended with AmbiguousEnqueueError.
        errors: what other enqueues raised.
    """

    name: str
    acknowledged: int = 0
    lost: int = 0
    twice: int = 0
    out_of_order: int = 0
    together: int = 0
    gap: float = 0.0
    slowest: float = 0.0
    uncertain: int = 0
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return one line for a table."""
        numbers = f"{self.lost} of {self.acknowledged} lost, {self.twice} twice, {self.out_of_order} out of order, {self.together} together"
        return f"{self.name}: {numbers}, gap {self.gap:.2f} s, slowest {self.slowest:.2f} s, {self.uncertain} uncertain, {self.errors[:3]}"

    def beyond(self, bounds: Bounds) -> list[str]:
        """Return what went beyond the bounds, in words."""
        most = {
            "lost": bounds.lost,
            "twice": bounds.twice,
            "out_of_order": bounds.out_of_order,
            "gap": bounds.gap,
            "slowest": bounds.slowest,
        }
        most |= {"together": 0, "uncertain": 0}
        found = [
            f"{what} {getattr(self, what)}, at most {limit}"
            for what, limit in most.items()
            if limit is not None and getattr(self, what) > limit
        ]
        return found + self.errors


class Outage:
    """The messages of one run.

    Attributes:
        began: when it began, by time.monotonic.
    """

    def __init__(self, name: str, *, work: float, rate: float) -> None:
        """Make a run.

        Args:
            name: what is played.
            work: seconds that a handler takes.
            rate: messages a second, all keys together.
        """
        self.outcome = Outcome(name)
        self.began = time.monotonic()
        self._work, self._rate = work, rate
        self._acknowledged: set[int] = set()
        self._handled: Counter[int] = Counter()
        self._last: dict[int, int] = {}
        self._running: Counter[int] = Counter()
        self._starts: list[float] = []
        self._sent = 0
        self._on = True

    async def handle(self, message: Message[Any]) -> None:
        """Note the message."""
        number, key = message.payload["n"], message.payload["k"]
        self.outcome.together += self._running[key] > 0
        self._running[key] += 1
        try:
            self._starts.append(time.monotonic())
            self._handled[number] += 1
            if self._handled[number] == 1:
                self.outcome.out_of_order += number < self._last.get(key, -1)
                self._last[key] = max(number, self._last.get(key, -1))
            await anyio.sleep(self._work)
        finally:
            self._running[key] -= 1

    async def produce(self, producer: Producer, key: int) -> None:
        """Send one message of the key after the other, each when the one before is acknowledged."""
        while self._on:
            self._sent += 1
            number, began = self._sent, time.monotonic()
            try:
                await producer.enqueue({"n": number, "k": key}, key=f"k{key}")
                self._acknowledged.add(number)
            except AmbiguousEnqueueError:
                self.outcome.uncertain += 1
            except RedisaqError as error:
                self.outcome.errors.append(repr(error)[:200])
            self.outcome.slowest = max(self.outcome.slowest, time.monotonic() - began)
            await anyio.sleep(KEYS / self._rate)

    async def stop(self) -> None:
        """Send nothing more, and wait until all is handled, or nothing has been for long."""
        self._on, stopped = False, time.monotonic()
        while self._missing() and time.monotonic() < max(stopped, *self._starts[-1:]) + QUIET:
            await anyio.sleep(0.05)

    def judge(self) -> Outcome:
        """Return what happened."""
        outcome = self.outcome
        outcome.acknowledged, outcome.lost = len(self._acknowledged), self._missing()
        outcome.twice = sum(count > 1 for count in self._handled.values())
        outcome.gap = max((later - sooner for sooner, later in zip(self._starts, self._starts[1:], strict=False)), default=0.0)
        return outcome

    def _missing(self) -> int:
        return sum(number not in self._handled for number in self._acknowledged)


async def play(
    name: str,
    url: str,
    namespace: str,
    fault: Callable[[], Awaitable[None]],
    *,
    before: float = 2.0,
    after: float = 2.0,
    work: float = 0.0,
    rate: float = 200.0,
    settings: dict[str, Any] | None = None,
    **producing: Any,
) -> Outcome:
    """Return what happened while `fault` ran, `before` seconds before it and `after` seconds after it."""
    producer = Producer("jobs", url, namespace=namespace, init_partitions=PARTITIONS, **producing)
    run = Outage(name, work=work, rate=rate)
    async with producer, anyio.create_task_group() as tasks:
        consumers = [
            Consumer("jobs", url, namespace=namespace, ordering="key", concurrency=20, batch_size=50, **(settings or {})) for _ in range(2)
        ]
        for consumer in consumers:
            await tasks.start(consumer.process, run.handle)
        async with anyio.create_task_group() as senders:
            for key in range(KEYS):
                senders.start_soon(run.produce, producer, key)
            await anyio.sleep(before)
            await fault()
            await anyio.sleep(after)
            await run.stop()
        for consumer in consumers:
            await consumer.stop()
    for consumer in consumers:
        await consumer.close()
    return run.judge()


@dataclass(frozen=True)
class Row(Generic[P]):
    """One thing that happens, with what options of the servers, and what may come of it.

    Attributes:
        fault: what happens at a place; returns for how many seconds there was no master.
        options: options of the servers.
        backlog: handlers are slower than the producer, so that messages wait.
        only: kinds of servers that can do it.
        lost: how many acknowledged messages may be lost; None: any number.
        confirmed: producers and consumers wait for replicas (C7).
    """

    fault: Callable[[P], Awaitable[float]]
    options: tuple[str, ...] = ()
    backlog: bool = False
    only: tuple[str, ...] = tuple(PROGRAMS)
    lost: int | None = 0
    confirmed: bool = False


class Servers(Protocol):
    """A cluster, or servers behind sentinels."""

    kind: str

    @property
    def url(self) -> str:
        """Where they are."""
        ...


async def play_row(name: str, row: Row[P], place: P, servers: Servers, namespace: str, **more: Any) -> tuple[Outcome, Bounds]:
    """Play one row; return what happened and what may: the longest gap is what the servers took, 1.3 times, and a second."""
    took = 0.0

    async def fault() -> None:
        nonlocal took
        took = await row.fault(place)

    load: dict[str, Any] = {"work": 0.05, "rate": 220.0} if row.backlog else {}
    if row.confirmed:
        load |= {"acks": "replica", "settings": {"durability": "replica"}}
    outcome = await play(f"{name} on {servers.kind}", servers.url, namespace, fault, **load, **more)
    outcome.name += f" ({took:.2f} s without a master)"
    return outcome, Bounds(gap=1.3 * took + 1.0, slowest=1.3 * took + 2.0, lost=row.lost)


def play_rows(words: list[str], rows: Mapping[str, Row[Any]], one: Callable[[str, str], tuple[Outcome, Bounds]]) -> int:
    """Play the rows that a command line names, or all; return 1 if one went beyond its bounds.

    Args:
        words: names of rows, and `--program KIND`.
        rows: all rows.
        one: plays the row of this name on new servers of this kind.
    """
    program = words.pop(words.index("--program") + 1) if "--program" in words else "valkey9"
    names = [word for word in words if word != "--program"] or list(rows)
    bad = 0
    for name in names:
        if program not in rows[name].only:
            continue
        outcome, bounds = one(name, program)
        beyond = outcome.beyond(bounds)
        print(outcome, *(f"\n    BEYOND: {what}" for what in beyond), flush=True)
        bad += bool(beyond)
    return min(bad, 1)


async def timed(happen: Callable[[], object]) -> float:
    """Let something happen in a thread; return how long it took."""
    began = time.monotonic()
    await anyio.to_thread.run_sync(happen)
    return time.monotonic() - began
