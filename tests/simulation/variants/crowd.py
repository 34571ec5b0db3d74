"""The scenarios that more than one variant uses: a small group, its messages, and waiting for something to be so.

Times are seconds of virtual time. Everything is small, so that a seed takes a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from redisaq import Message, Producer, RetryPolicy
from redisaq.brokers.terms import GroupName
from redisaq.testing import FaultPlan, Simulation
from tests.simulation.variants.variant import Scenario

TOPIC, GROUP = "orders", GroupName("orders", "default_group")

QUICK: dict[str, Any] = {"heartbeat_interval": 0.5, "heartbeat_ttl": 2.5}
"""Options of members whose leases are short, so that a scenario is, too."""

STORM = FaultPlan(
    lost_request=0.02,
    lost_reply=0.02,
    late_request=0.04,
    disconnect=0.01,
    delay=(0.0, 0.1),
    crash=0.03,
    pause=0.06,
    slow_handler=0.03,
    clock_drift=0.01,
)
"""Everything that happens to processes and networks, often."""


def takes(seconds: float) -> Callable[[Message[Any]], Awaitable[None]]:
    """Return a handler that takes so long."""

    async def handle(_message: Message[Any]) -> None:
        await anyio.sleep(seconds)

    return handle


def crowd(
    members: str = "abc", *, partitions: int = 4, messages: int = 60, every: float = 0.25, seconds: float = 0.1, **options: Any
) -> Scenario:
    """Return a scenario of some members that work while messages come in; then all is to become quiet."""
    retry = RetryPolicy(backoff=0.1, max_backoff=1.0)
    settings: dict[str, Any] = QUICK | {"retry": retry} | options

    async def scenario(sim: Simulation) -> None:
        producer = sim.producer(TOPIC, init_partitions=partitions)
        for name in members:
            sim.member(name, TOPIC, takes(seconds), **settings)
        for number in range(0, messages, 3):
            await producer.batch_enqueue([{"n": number + more} for more in range(3)])
            await anyio.sleep(every)
        await sim.until_quiet()

    return scenario


async def topic(sim: Simulation, partitions: int) -> Producer:
    """Return a producer whose topic is there."""
    producer = sim.producer(TOPIC, init_partitions=partitions)
    await producer.connect()
    return producer


async def until(condition: Callable[[], bool], limit: float = 60.0) -> None:
    """Wait until it is so; TimeoutError if that takes more than `limit` seconds."""
    with anyio.fail_after(limit):
        while not condition():
            await anyio.sleep(0.01)


def owned(sim: Simulation, name: str) -> set[int]:
    """Return the partitions that a member works on."""
    member = sim._members[name]
    return set(member.consumer.assignment) if member.consumer is not None and member.live else set()


def incarnation(sim: Simulation, name: str) -> str:
    """Return a running member's name in its group."""
    consumer = sim._members[name].consumer
    assert consumer is not None
    return consumer.statistics().member


async def after_heartbeat(sim: Simulation, name: str) -> None:
    """Wait until a member's time has just been extended."""
    name, before = incarnation(sim, name), sim.store.members(GROUP).members
    renewed = before[name]
    await until(lambda: sim.store.members(GROUP).members[name] > renewed)


def lose_rings(sim: Simulation) -> None:
    """Let no doorbell be heard any more: rings may be lost, and then everything has to come right without."""
    setattr(sim.store, "ring", lambda _channel: None)  # noqa: B010 -- it is a method


def complain(sim: Simulation, sentence: str) -> None:
    """Let a violation be in the report that only the scenario can see."""
    sim.record.violation(sentence)
