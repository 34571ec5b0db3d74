"""Scenarios about a topic that grows while everything goes on (G)."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import anyio

from redisaq import Message, Producer, RetryAfter, RetryPolicy
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed
from redisaq.testing import Simulation
from tests.simulation.scenarios import FAULTS, chance, scenario

KEYS = [f"k{number}" for number in range(12)]
COUNTS = (2, 3, 5, 8)


def unreliable(random: Random, failing: float = 0.04) -> Callable[[Message[Any]], Awaitable[None]]:
    """Return a handler that is quick or slow, and fails now and then."""

    async def handle(_message: Message[Any]) -> None:
        await anyio.sleep(random.choice((0, 0.001, 0.02, 0.3)))
        drawn = random.random()
        if drawn < failing:
            raise ValueError("one in some")
        if drawn < failing * 1.5:
            raise RetryAfter(0.4)

    return handle


async def send(producer: Producer, random: Random, messages: int) -> None:
    """Send messages of all kinds, in order for each key, with pauses between placing and the next."""
    for number in range(messages):
        key = random.choice(KEYS)
        drawn = random.random()
        try:
            if drawn < 0.15:
                await producer.enqueue({"n": number}, key=key, delay=random.uniform(0.0, 4.0))
            elif drawn < 0.3:
                await producer.enqueue({"n": number}, key=key, dedup_id=f"{key}-{number}")
            elif drawn < 0.6:
                await producer.batch_enqueue([{"n": number, "key": random.choice(KEYS)} for _ in range(6)], partition_key="key")
            else:
                await producer.enqueue({"n": number}, key=key)
        except (ConnectionFailed, AmbiguousEnqueueError):
            continue
        await anyio.sleep(random.choice((0.0, 0.05, 0.3)))


@scenario(
    "a topic grows three times, while growers die and stop, and producers, a slow group, a late one and one without order go on",
    replace(FAULTS, grower_crash=0.05, grower_pause=0.05),
)
async def growing(sim: Simulation) -> None:
    random = chance()
    producers = [sim.producer("orders", init_partitions=COUNTS[0]) for _ in range(2)]
    names = itertools.count()
    options: dict[str, Any] = {"heartbeat_interval": 0.5, "heartbeat_ttl": 2.5}

    def join(group: str, **more: Any) -> None:
        sim.member(
            f"m{next(names)}",
            "orders",
            unreliable(random),
            group_name=group,
            retry=RetryPolicy(max_attempts=5, backoff=0.2),
            **options,
            **more,
        )

    async def grow() -> None:
        for count in COUNTS[1:]:
            await anyio.sleep(random.uniform(1.0, 4.0))
            sim.grow("orders", count)  # it may die half-way: then others complete what it began

    for _ in range(2):
        join("billing")
    join("unordered", ordering="none")
    join("strict", ordering="partition")
    async with anyio.create_task_group() as tasks:
        for producer in producers:
            tasks.start_soon(send, producer, random, 60)
        tasks.start_soon(grow)
        await anyio.sleep(5.0)
        join("billing")
        join("late")
    await sim.until_quiet(timeout=600)
