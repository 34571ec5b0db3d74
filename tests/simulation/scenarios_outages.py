"""Scenarios about a server that loses data: it fails over to a replica that lagged, or the data of one slot is gone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio

from redisaq import Message, RetryPolicy
from redisaq.testing import FaultPlan, Simulation
from tests.simulation.scenarios import FAULTS, brief, fill, scenario


def with_losses(plan: FaultPlan) -> FaultPlan:
    """Return the plan with losses of data added."""
    return replace(plan, failover=0.002, slot_loss=0.0005, lost_cut=0.1)


@scenario(
    "a server that fails over and loses slots, beside all other faults; some handlers fail, some messages are delayed", with_losses(FAULTS)
)
async def forgetful(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=6)

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(0.05)
        number = message.payload["n"]
        if number % 7 == 0 and message.attempt == 1:
            raise ValueError("the first time")

    retry = RetryPolicy(max_attempts=50, backoff=0.1, max_backoff=1.0)
    for name in "abc":
        sim.member(name, "orders", handle, ordering="key", concurrency=3, retry=retry)
    for number in range(10):
        await producer.enqueue({"n": number}, delay=1.0)
        await fill(producer, 10, keys=5)
    await sim.until_quiet(timeout=600)


@scenario("two groups, one with short leases, on a server that fails over and loses slots", with_losses(FaultPlan(delay=(0.0, 0.05))))
async def bereft(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=4)
    for name in "ab":
        sim.member(name, "orders", brief, group_name="billing", heartbeat_interval=0.5, heartbeat_ttl=2.5)
    for name in "cde":
        sim.member(name, "orders", brief, group_name="audit", mode="messages", batch_size=5)
    await fill(producer, 120, keys=20)
    await sim.leave("a")
    sim.member("f", "orders", brief, group_name="billing")
    await fill(producer, 60, keys=20)
    await sim.until_quiet(timeout=600)
