"""Scenarios about messages that do not simply succeed: retries, dead letters, redrives, delays, deduplication."""

from __future__ import annotations

from typing import Any

import anyio

from redisaq import DeadLetter, Discard, Message, RetryAfter, RetryPolicy
from redisaq.testing import Simulation
from tests.simulation.scenarios import brief, dead_ids, dropped_ids, fill, insistently, lost_data, scenario


async def every_seventh_fails(message: Message[Any]) -> None:
    """Fail forever on every seventh message, and once on some others."""
    await anyio.sleep(0.01)
    number = message.payload["n"]
    if number % 7 == 0:
        raise ValueError("one in seven")
    if number % 10 == 1 and message.attempt == 1:
        raise ValueError("the first time")


async def _fail_and_redrive(sim: Simulation, retry: RetryPolicy) -> None:
    producer = sim.producer("orders", init_partitions=8)
    for name in "abcd":
        sim.member(name, "orders", every_seventh_fails, group_name="billing", ordering="key", concurrency=4, retry=retry)
    ids = await fill(producer, 80, keys=30)
    async with sim.admin() as admin:
        await insistently(lambda: admin.redrive("orders", "billing"))
        more = await fill(producer, 40, keys=30)
        await insistently(lambda: admin.redrive("orders", "billing"))
    await sim.until_quiet(timeout=900)
    assert {*ids[::7], *more[::7]} <= dead_ids(sim) | dropped_ids(sim)


@scenario("by key, every seventh message always fails and is parked; dead letters are redriven meanwhile")
async def parked(sim: Simulation) -> None:
    await _fail_and_redrive(sim, RetryPolicy(max_attempts=4, backoff=0.1, max_backoff=0.5))


@scenario("by key, every seventh message always fails and holds its key; dead letters are redriven meanwhile")
async def blocking(sim: Simulation) -> None:
    await _fail_and_redrive(sim, RetryPolicy(max_attempts=4, backoff=0.1, max_backoff=0.5, blocking=True))


@scenario("one at a time in each partition, every seventh message always fails and holds its partition")
async def holding(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=6)
    retry = RetryPolicy(max_attempts=4, backoff=0.1, max_backoff=2.0, blocking=True)
    for name in "abc":
        sim.member(name, "orders", every_seventh_fails, retry=retry)
    await fill(producer, 100, keys=30)
    await sim.until_quiet(timeout=900)


@scenario("handlers raise RetryAfter, DeadLetter and Discard, or take too long; few attempts, so that crashes use them up")
async def verdicts(sim: Simulation) -> None:
    producer, began = sim.producer("orders", init_partitions=6), anyio.current_time()

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(0.05)
        number = message.payload["n"]
        if number % 6 == 0 and anyio.current_time() < began + 40:
            raise RetryAfter(0.5)
        if number % 6 == 1:
            raise DeadLetter("one in six")
        if number % 6 == 2:
            raise Discard
        if number % 6 == 3 and message.attempt == 1:
            await anyio.sleep(100)

    for name in "abcd":
        retry = RetryPolicy(max_attempts=2, backoff=0.1, blocking=name in "ab")
        sim.member(name, "orders", handle, ordering="none", concurrency=6, retry=retry, timeout=1.0)
    await fill(producer, 120)
    await sim.until_quiet(timeout=900)


@scenario("messages with delays, and some that are enqueued twice under one deduplication id")
async def delayed(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=4)
    for name in "abc":
        sim.member(name, "orders", brief, group_name="billing")
    for number in range(60):
        delay = (number * 7 % 20) / 4 if number % 3 else None
        dedup = f"invoice-{number // 2}" if number % 5 < 2 else None
        ids = [await producer.enqueue({"n": number}, delay=delay, dedup_id=dedup) for _ in range(2 if dedup else 1)]
        assert len(set(ids)) == 1 or lost_data(sim)
        await anyio.sleep(0.2)
    await sim.until_quiet(timeout=600)
