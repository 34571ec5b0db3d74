"""Scenarios on a cluster: each slot fails over by itself, calls span nodes and end in part, nodes stand still, and slots move (C)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import anyio

from redisaq import Message, Producer, RetryAfter, RetryPolicy
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, ServerError
from redisaq.testing import Simulation
from tests.simulation.judges.sent import Sent
from tests.simulation.scenarios import FAULTS, chance, scenario

TOPIC, PARTITIONS = "orders", 4
KEYS = [f"k{number}" for number in range(8)]

NODES_FAIL = replace(FAULTS, silent_server=0.0, outage=0.0, failover=0.001, replica_lag=1.0)


class Task:
    """A task of a producer that sends one thing after another: its messages are numbered for each key, see `Sent`."""

    def __init__(self, producer: Producer, name: str) -> None:
        """Begin at number 1 for each key."""
        self._producer = producer
        self._name = name
        self._numbers: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    async def send(self, *keys: str, **options: Any) -> bool:
        """Send one message for each of these keys, in one call; return whether it succeeded. What is delayed has no number."""
        payloads: list[dict[str, Any]] = []
        for key in keys:
            self._numbers[key] += 1
            payloads.append({"key": key} | ({} if "delay" in options else {"by": self._name, "n": self._numbers[key]}))
        try:
            if len(payloads) == 1:
                await self._producer.enqueue(payloads[0], key=keys[0], **options)
            else:
                await self._producer.batch_enqueue(payloads, partition_key="key", **options)
        except (ConnectionFailed, AmbiguousEnqueueError, ServerError) as error:
            self.failed[type(error).__name__] += 1
            return False
        return True

    async def send_some(self, random: Random, calls: int) -> None:
        """Send messages of all kinds."""
        for number in range(calls):
            drawn = random.random()
            keys = random.choices(KEYS, k=random.choice((2, 4, 8)))
            if drawn < 0.5:
                await self.send(*keys)
            elif drawn < 0.6:
                await self.send(keys[0], dedup_id=f"{self._name}-{number}")
            elif drawn < 0.7:
                await self.send(*keys, delay=random.uniform(0.0, 2.0))
            else:
                await self.send(keys[0])
            await anyio.sleep(random.choice((0.0, 0.02, 0.3)))


async def disturb(sim: Simulation, random: Random, times: int) -> None:
    """Let slots move, and nodes stand still or fail over, one after the other."""
    for _ in range(times):
        await anyio.sleep(random.uniform(0.2, 1.5))
        place, drawn = random.randrange(PARTITIONS), random.random()
        if drawn < 0.4:
            await sim.move_slot(TOPIC, place, random.uniform(0.0, 1.0))
        elif drawn < 0.6:
            await sim.stop_node(TOPIC, place, random.uniform(0.0, 2.0))
        elif drawn < 0.8:
            await sim.failover(random.uniform(0.0, 1.0), TOPIC, place, away=random.uniform(0.0, 3.0), slow=random.choice((0.0, 0.5)))
        else:
            await sim.failover(random.uniform(0.0, 1.0), away=random.uniform(0.0, 3.0))


def unreliable(random: Random) -> Callable[[Message[Any]], Awaitable[None]]:
    """Return a handler that fails now and then."""

    async def handle(_message: Message[Any]) -> None:
        await anyio.sleep(random.choice((0.0, 0.01, 0.2)))
        drawn = random.random()
        if drawn < 0.03:
            raise ValueError("one in some")
        if drawn < 0.05:
            raise RetryAfter(0.3)

    return handle


@scenario("a cluster whose nodes fail over one by one, stand still, and hand slots over; calls span nodes and end in part", NODES_FAIL)
async def scattered(sim: Simulation) -> None:
    sim.cluster(PARTITIONS + 1)
    sim.record.observers.append(Sent(sim.record))
    random = chance()
    producers = [sim.producer(TOPIC, init_partitions=PARTITIONS, send_timeout=10.0) for _ in range(2)]
    retry = RetryPolicy(max_attempts=20, backoff=0.1, max_backoff=1.0)
    for name in "abc":
        handle = unreliable(random)
        sim.member(name, TOPIC, handle, ordering="key", concurrency=3, retry=retry, heartbeat_interval=1.0, heartbeat_ttl=5.0)
    async with anyio.create_task_group() as tasks:
        for at, producer in enumerate(producers):
            for lane in "xy":
                tasks.start_soon(Task(producer, f"{at}{lane}").send_some, random, 20)
        tasks.start_soon(disturb, sim, random, 6)
    await sim.until_quiet(timeout=600)
