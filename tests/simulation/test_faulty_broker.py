"""A group in virtual time whose broker loses requests and replies and takes its time: nothing is lost, no partition has two owners.

Each seed is one interleaving of one random story: members join, stop and are cancelled, handlers are quick, slow or fail. To replay one
by hand, call `story` in `virtual_run` with its seed, backend and rate.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer, RetryPolicy
from redisaq.brokers.memory import MemoryBroker
from redisaq.environment import current_environment
from redisaq.errors import ConnectionFailed
from redisaq.testing import virtual_run

SEEDS = int(os.environ.get("REDISAQ_SEEDS", "15"))  # of each rate on each backend

_numbers = itertools.count()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rate of faults, which a test may change: lost requests, and (but for appends) lost replies, as often."""
    rate = [0.0]
    whole: Callable[..., Awaitable[Any]] = MemoryBroker._operate

    async def operate(self: MemoryBroker, name: str, step: Any) -> Any:
        if not rate[0] or name == "connect":
            return await whole(self, name, step)
        chance = current_environment().random
        drawn = chance.random()
        await anyio.sleep(chance.uniform(0.0, 0.05))
        if drawn < rate[0]:
            raise ConnectionFailed("memory://", "the request was lost")
        answer = await whole(self, name, step)
        if drawn < 2 * rate[0] and name != "append":
            raise ConnectionFailed("memory://", "the reply was lost", maybe_executed=True)
        return answer

    monkeypatch.setattr(MemoryBroker, "_operate", operate)
    return rate


class Story:
    """What happens in one seed, and what must not."""

    def __init__(self, seed: int, faults: list[float], rate: float) -> None:
        self.chance = random.Random(seed)
        self.faults = faults
        self.rate = rate
        self.url = f"memory://{next(_numbers)}"
        self.owners: dict[int, str] = {}
        self.overlaps: list[tuple[int, str, str]] = []
        self.handled: Counter[str] = Counter()
        self.alive: list[tuple[Consumer[Any], anyio.CancelScope]] = []
        self.names = (f"m{number}" for number in itertools.count())

    def handler(self, name: str) -> Callable[[Message[Any]], Awaitable[None]]:
        async def handle(message: Message[Any]) -> None:
            other = self.owners.get(message.partition, name)
            if other != name:
                self.overlaps.append((message.partition, other, name))
            self.owners[message.partition] = name
            try:
                await anyio.sleep(self.chance.choice((0, 0.001, 0.02, 0.3)))
                if self.chance.random() < 0.05:
                    raise ValueError("one in twenty")
                self.handled[message.msg_id] += 1
            finally:
                if self.owners.get(message.partition) == name:
                    del self.owners[message.partition]

        return handle

    def join(self, tasks: Any) -> None:
        policy = RetryPolicy(max_attempts=1000, backoff=0.05, max_backoff=1.0, blocking=self.chance.random() < 0.3)
        size = self.chance.choice((1, 5, 20))
        consumer: Consumer[Any] = Consumer(
            "t",
            self.url,
            heartbeat_interval=0.5,
            heartbeat_ttl=2.5,
            retry=policy,
            batch_size=size,
            ordering=self.chance.choice(("partition", "key", "none")),
            concurrency=self.chance.choice((None, 3)),
        )
        scope, handle = anyio.CancelScope(), self.handler(next(self.names))

        async def run() -> None:
            with scope:
                await consumer.process(handle)

        tasks.start_soon(run)
        self.alive.append((consumer, scope))

    async def run(self) -> None:
        ids: list[str] = []
        async with Producer("t", self.url, init_partitions=6) as producer, anyio.create_task_group() as tasks:
            self.faults[0] = self.rate
            for _ in range(14):
                drawn = self.chance.random()
                if drawn < 0.45 or not self.alive:
                    self.join(tasks)
                elif drawn < 0.65:
                    tasks.start_soon(self.alive.pop(self.chance.randrange(len(self.alive)))[0].stop)
                elif drawn < 0.8:
                    self.alive.pop(self.chance.randrange(len(self.alive)))[1].cancel()
                ids += await producer.batch_enqueue([{}] * self.chance.randrange(1, 30))
                await anyio.sleep(self.chance.choice((0.01, 0.3, 1.0, 4.0)))
            if not self.alive:
                self.join(tasks)
            with anyio.move_on_after(600):
                while not all(self.handled[msg_id] for msg_id in ids):
                    await anyio.sleep(0.5)
            self.faults[0] = 0.0
            for consumer, _ in self.alive:
                tasks.start_soon(consumer.stop)
        assert self.overlaps == []
        assert [msg_id for msg_id in ids if not self.handled[msg_id]] == []


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("rate", [0.0, 0.06, 0.2])
def test_nothing_is_lost_and_nobody_overlaps(faults: list[float], rate: float, backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    for seed in range(SEEDS):
        story = Story(seed, faults, rate)
        try:
            virtual_run(story.run, seed=seed, backend=backend)
        except BaseException as error:
            error.add_note(f"seed {seed}, rate {rate}, {backend}")
            raise
