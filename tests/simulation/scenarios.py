"""The scenarios that this project's simulations play, by name, each with its faults.

A scenario gets a Simulation, and raises an AssertionError for violations that only this scenario can know. The simulation itself checks the
invariants. A scenario takes its random numbers from the run's environment, so that the seed alone determines the run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import anyio

from redisaq import Message, PartialFailure, Producer, RetryPolicy
from redisaq.environment import current_environment
from redisaq.errors import ConnectionFailed
from redisaq.testing import FaultPlan, Simulation

FAULTS = FaultPlan(
    lost_request=0.01,
    lost_reply=0.01,
    late_request=0.01,
    disconnect=0.005,
    delay=(0.0, 0.1),
    crash=0.02,
    pause=0.02,
    slow_handler=0.01,
    clock_drift=0.001,
    silent_request=0.003,
    silent_reply=0.003,
    silent_network=0.01,
    silent_server=0.0002,
    outage=0.0002,
)


@dataclass(frozen=True)
class Scenario:
    """One scenario.

    Attributes:
        play: the coroutine function.
        about: a description in one line.
        faults: the faults that may occur.
    """

    play: Callable[[Simulation], Awaitable[None]]
    about: str
    faults: FaultPlan = FAULTS


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    about: str, faults: FaultPlan = FAULTS
) -> Callable[[Callable[[Simulation], Awaitable[None]]], Callable[[Simulation], Awaitable[None]]]:
    """Enter a coroutine function under its name."""

    def enter(play: Callable[[Simulation], Awaitable[None]]) -> Callable[[Simulation], Awaitable[None]]:
        SCENARIOS[play.__name__] = Scenario(play, about, faults)
        return play

    return enter


def chance() -> Random:
    """Return chance of the scenario's own."""
    return Random(current_environment().random.random())


async def brief(_message: object) -> None:
    """Take a moment."""
    await anyio.sleep(0.01)


async def fill(producer: Producer, messages: int, every: float = 0.5, keys: int | None = None) -> list[str]:
    """Append messages in batches of ten; `n` counts them, `key` is their key. Return their ids."""
    ids: list[str] = []
    for first in range(0, messages, 10):
        numbers = range(first, min(first + 10, messages))
        ids += await producer.batch_enqueue([{"n": n, "key": str(n % (keys or messages))} for n in numbers], partition_key="key")
        await anyio.sleep(every)
    return ids


async def insistently(call: Callable[[], Awaitable[Any]]) -> Any:
    """Call until the connection holds."""
    while True:
        try:
            return await call()
        except ConnectionFailed:
            await anyio.sleep(0.1)


def dead_ids(sim: Simulation) -> set[str]:
    """Return the message ids of all dead letters."""
    return {letter.body.fields[1].decode() for shelf in sim.store.shelves.values() for letter in shelf.dead_page(b"", 1 << 30)}


def lost_data(sim: Simulation) -> bool:
    """Return whether the server has lost data."""
    return bool(sim.record.losses)


def dropped_ids(sim: Simulation) -> set[str]:
    """Return the ids of the messages that went with it."""
    return set(sim.record.dropped())


@scenario("five members share twelve partitions while 300 messages come in")
async def orders(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=12)
    for name in "abcde":
        sim.member(name, "orders", brief, group_name="billing")
    await fill(producer, 300)
    await sim.until_quiet(timeout=600)


@scenario("three members, four partitions, 30 messages")
async def small(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=4)
    for name in "abc":
        sim.member(name, "orders", brief, heartbeat_interval=1.0, heartbeat_ttl=4.0)
    await fill(producer, 30)
    await sim.until_quiet(timeout=300)


@scenario("process_batch, now and then with a batch that fails in part, or whole")
async def batches(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=6)

    async def handle(messages: list[Message[Any]]) -> None:
        await anyio.sleep(0.02)
        failed = [message for message in messages if message.payload["n"] % 10 == 3 and message.attempt == 1]
        if any(message.payload["n"] % 20 == 3 for message in failed):
            raise ValueError("the first time all of it fails")
        if failed:
            raise PartialFailure({message: ValueError("the first time") for message in failed})

    for name in "abc":
        retry = RetryPolicy(max_attempts=20, backoff=0.2, max_backoff=1.0)
        sim.member(name, "orders", handle, mode="process_batch", batch_size=5, retry=retry)
    await fill(producer, 150)
    await sim.until_quiet(timeout=600)


@scenario("messages(): loops that pull, and now and then raise")
async def pulled(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=6)

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(0.02)
        if message.payload["n"] % 20 == 3 and message.attempt == 1:
            raise ValueError("the first time it fails")

    for name in "abc":
        sim.member(name, "orders", handle, mode="messages", batch_size=5, retry=RetryPolicy(max_attempts=20, backoff=0.2))
    await fill(producer, 100)
    await sim.until_quiet(timeout=600)


@scenario("two groups on one topic, one of them by key")
async def groups(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=6)
    for name in ("a1", "a2", "a3"):
        sim.member(name, "orders", brief, group_name="billing")
    for name in ("b1", "b2"):
        sim.member(name, "orders", brief, group_name="audit", ordering="key", concurrency=4)
    await fill(producer, 120, keys=20)
    await sim.until_quiet(timeout=600)
