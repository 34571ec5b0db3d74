"""Scenarios about members that come and go: rolling restarts, static names, and random stories."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import anyio

from redisaq import Message, RetryPolicy
from redisaq.testing import FaultPlan, Simulation
from tests.simulation.scenarios import brief, chance, fill, scenario


@scenario("every member leaves and comes back, one after the other, three times over")
async def rolling(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=8)
    names, generation = ["a", "b", "c", "d"], itertools.count()

    async def restart_all() -> None:
        for place in [*range(4)] * 3:
            await sim.leave(names[place])
            names[place] = f"{names[place][0]}{next(generation)}"
            sim.member(names[place], "orders", brief, group_name="billing")
            await anyio.sleep(1.0)

    for name in names:
        sim.member(name, "orders", brief, group_name="billing")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(restart_all)
        await fill(producer, 160, every=1.0)
    await sim.until_quiet(timeout=600)


@scenario("members with static names, each started a second time while the first still runs or after it has gone")
async def named(sim: Simulation) -> None:
    producer, random = sim.producer("orders", init_partitions=8), chance()
    await fill(producer, 10)
    for name in "abc":
        sim.member(name, "orders", brief, consumer_name=f"worker-{name}")
    for first, second in (("a", "a2"), ("b", "b2"), ("c", "c2")):
        await fill(producer, 30)
        early = random.random() < 0.5
        if early:
            sim.member(second, "orders", brief, consumer_name=f"worker-{first}")
        end = random.choice((sim.leave, sim.crash, sim.cancel))
        await end(first)
        await fill(producer, 10)
        if not early:
            sim.member(second, "orders", brief, consumer_name=f"worker-{first}")
    await sim.until_quiet(timeout=600)


class Story:
    """Members with settings of every kind join, stop and are cancelled at random; handlers are quick, slow, or fail."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.random = chance()
        self.numbers = itertools.count()
        self.alive: list[str] = []

    def handler(self, random: Random) -> Callable[[Message[Any]], Awaitable[None]]:
        async def handle(_message: Message[Any]) -> None:
            await anyio.sleep(random.choice((0, 0.001, 0.02, 0.3)))
            if random.random() < 0.05:
                raise ValueError("one in twenty")

        return handle

    def join(self) -> None:
        random, name = self.random, f"m{next(self.numbers)}"
        self.sim.member(
            name,
            "orders",
            self.handler(random),
            heartbeat_interval=0.5,
            heartbeat_ttl=2.5,
            retry=RetryPolicy(max_attempts=1000, backoff=0.05, max_backoff=1.0, blocking=random.random() < 0.3),
            batch_size=random.choice((1, 5, 20)),
            ordering=random.choice(("partition", "key", "none")),
            concurrency=random.choice((None, 3)),
        )
        self.alive.append(name)

    def one_of(self) -> str:
        return self.alive.pop(self.random.randrange(len(self.alive)))

    async def play(self) -> None:
        random, sim = self.random, self.sim
        producer = sim.producer("orders", init_partitions=6, send_timeout=600.0)
        async with anyio.create_task_group() as tasks:
            for _ in range(14):
                drawn = random.random()
                if drawn < 0.45 or not self.alive:
                    self.join()
                elif drawn < 0.65:
                    tasks.start_soon(sim.leave, self.one_of())
                elif drawn < 0.8:
                    tasks.start_soon(sim.cancel, self.one_of())
                await producer.batch_enqueue(
                    [{"key": str(random.randrange(9))} for _ in range(random.randrange(1, 30))], partition_key="key"
                )
                await anyio.sleep(random.choice((0.01, 0.3, 1.0, 4.0)))
            if not self.alive:
                self.join()
        await sim.until_quiet(timeout=1200)


@scenario("random comings and goings, no faults", FaultPlan(delay=(0.0, 0.02)))
async def story(sim: Simulation) -> None:
    await Story(sim).play()


@scenario(
    "random comings and goings while one call in eight is lost, half of them with only their replies",
    FaultPlan(lost_request=0.06, lost_reply=0.06, delay=(0.0, 0.05)),
)
async def weather(sim: Simulation) -> None:
    await Story(sim).play()


@scenario(
    "random comings and goings while four calls in ten are lost, and processes crash and pause",
    FaultPlan(lost_request=0.2, lost_reply=0.2, delay=(0.0, 0.05), crash=0.01, pause=0.01),
)
async def storm(sim: Simulation) -> None:
    await Story(sim).play()
