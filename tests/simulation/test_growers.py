"""A grower dies, or stops and wakes, before each of its steps: others complete what it began, and a late one harms nothing (G1, G3)."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import pytest

from redisaq import Message
from redisaq.testing import Fault, Simulation
from redisaq.testing.faults import Kind
from tests.simulation.judged import simulate

ANNOUNCE, CUT, PUBLISH = 4, 6, 8
"""Numbers of a grower's operations: it announces, makes the new streams, cuts the old ones, waits for replicas, and publishes."""

KEYS = [f"k{number}" for number in range(12)]


async def growing(sim: Simulation) -> None:
    """Two partitions become four, while a producer sends and a consumer handles; then the topic is as it is to be."""

    async def handle(_message: Message[Any]) -> None:
        await anyio.sleep(0.02)

    producer = sim.producer("orders", init_partitions=2)
    sim.member("a", "orders", handle, ordering="key", heartbeat_interval=0.5, heartbeat_ttl=2.5)
    for number in range(20):
        await producer.batch_enqueue([{"n": number, "key": key} for key in KEYS], partition_key="key")
        if number == 3:
            sim.grow("orders", 4)
        await anyio.sleep(0.6)
    await sim.until_quiet(timeout=60)
    assert sim.store.topics["orders"].history in ((), (2, 4))
    assert sim.store.topics["orders"].history or "grower-0 announce" not in " ".join(sim.record.trace)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_failover_that_loses_the_cuts(backend: Literal["trio", "asyncio"]) -> None:
    """G2, G7: what was cut is under its old name again, while others have met the seals; it is cut once more."""
    report = simulate(growing, seed=0, backend=backend, faults=[Fault("grower-0", CUT, "lost_cut", 0.7)])
    assert report.ok, report.violations
    assert any("server failover: the last 0.700 s are forgotten" in line for line in report.trace)
    assert len([line for line in report.trace if line.endswith(" publish: done")]) >= 2, "it was published again"


@pytest.mark.parametrize("number", range(ANNOUNCE, PUBLISH + 1))
@pytest.mark.parametrize("kind", ["grower_crash", "grower_pause"])
def test_others_complete_what_a_grower_began(kind: Kind, number: int) -> None:
    backend: Literal["trio", "asyncio"] = "trio" if number % 2 else "asyncio"
    report = simulate(growing, seed=0, backend=backend, faults=[Fault("grower-0", number, kind, 0.0 if kind == "grower_crash" else 7.0)])
    assert report.ok, report.violations
    assert [fault.kind for fault in report.faults] == [kind]
