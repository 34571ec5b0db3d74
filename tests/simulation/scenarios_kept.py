"""Scenarios with more than plain messages: unreadable entries, trimming, groups that an admin moves, servers that permit less."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import anyio

from redisaq import Admin, DeadLetter, Message, RetryPolicy
from redisaq.errors import AmbiguousEnqueueError
from redisaq.testing import FaultPlan, Simulation
from tests.simulation.scenarios import FAULTS, brief, fill, insistently, scenario

CALM_SERVER = replace(FAULTS, silent_server=0.0, outage=0.0)


def append_foreign(sim: Simulation, topic: str, number: int) -> None:
    """Append to a stream as a client that does not know redisaq: other fields, or a payload that is not JSON."""
    words = [b"foreign", b"%d" % number] if number % 2 else [b"i", b"foreign-%d" % number, b"d", b"{"]
    sim.store.append(topic, [(number % 3, words)], None)


@scenario("headers and timeouts; entries that cannot be read; at most five dead letters are kept of each partition")
async def mixed(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=3)

    async def handle(message: Message[Any]) -> None:
        number = message.payload["n"]
        assert message.headers == {"trace": str(number)}
        await anyio.sleep(5.0 if number % 11 == 0 and message.attempt == 1 else 0.02)
        if number % 5 == 0:
            raise DeadLetter("one in five")

    for name in "abc":
        options: dict[str, Any] = {"ordering": "key", "concurrency": 3, "dead_maxlen": 5}
        sim.member(name, "orders", handle, retry=RetryPolicy(max_attempts=20, backoff=0.2, max_backoff=1.0), **options)
    for number in range(60):
        await producer.enqueue({"n": number}, key=str(number % 7), headers={"trace": str(number)}, timeout=1.0 + number % 3)
        if number % 6 == 0:
            append_foreign(sim, "orders", number // 6)
        await anyio.sleep(0.1)
    await sim.until_quiet(timeout=600)
    assert all(len(shelf.dead) <= 5 for shelf in sim.store.shelves.values())


@scenario("two groups on a topic that is trimmed as soon as both have done with it; producers wait while a partition is full", CALM_SERVER)
async def trimmed(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=4, retention="acked", max_backlog=15, send_timeout=60.0)
    for name in "ab":
        sim.member(name, "orders", brief, group_name="billing")
    for name in "cd":
        sim.member(name, "orders", brief, group_name="audit", ordering="none", concurrency=3)
    await fill(producer, 120, keys=20)
    await sim.until_quiet(timeout=600)


@scenario(
    "a server whose access rules forbid CLIENT KILL: who cannot tell what became of a message says so",
    FaultPlan(lost_reply=0.01, late_request=0.005, silent_reply=0.003, delay=(0.0, 0.05), crash=0.02),
)
async def unkillable(sim: Simulation) -> None:
    sim.store.permits_killing = False
    producer = sim.producer("orders", init_partitions=4, send_timeout=20.0)
    for name in "abc":
        sim.member(name, "orders", brief, ordering="none", concurrency=4)
    for number in itertools.count():
        if number == 60:
            break
        try:
            await producer.batch_enqueue([{"n": number}] * 2)
        except AmbiguousEnqueueError:
            await anyio.sleep(0.1)
        await anyio.sleep(0.05)
    await sim.until_quiet(timeout=600)


async def deleted_by(admin: Admin, topic: str) -> None:
    """Delete a topic; a try before, whose answer was lost, may have done it."""
    if topic in await admin.topics():
        await admin.delete_topic(topic, force=True)


@scenario("topics come and go: each is filled, worked empty, its dead letters are purged, and it is deleted", CALM_SERVER)
async def deleted(sim: Simulation) -> None:
    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(0.02)
        if message.payload["n"] % 7 == 0:
            raise DeadLetter("one in seven")

    async with sim.admin() as admin:
        for number in range(3):
            topic = f"orders-{number}"
            producer = sim.producer(topic, init_partitions=3)
            for name in "ab":
                sim.member(f"{name}{number}", topic, handle, retry=RetryPolicy(max_attempts=20, backoff=0.2))
            await fill(producer, 30)
            await producer.enqueue({"n": 1}, delay=1.0, dedup_id="once")
            await sim.until_quiet(timeout=600)
            for name in "ab":
                await sim.leave(f"{name}{number}")
            await producer.close()
            await anyio.sleep(6.0)  # what its members sent and comes late has come
            await insistently(lambda topic=topic: admin.purge(topic, "default_group"))  # type: ignore[misc]
            await insistently(lambda topic=topic: deleted_by(admin, topic))  # type: ignore[misc]
    kept = {place for place, shelf in sim.store.shelves.items() if shelf.retry or len(shelf.dead)}
    left = {name for name, _ in (*sim.store.streams, *sim.store.delayed)} | {group.topic for group, _ in (*sim.store.leases, *kept)}
    assert not left, f"deleted topics have left something: {sorted(left)}"
