"""A deduplication window that ends while a producer still tries: its message is there once all the same (E1, E2, E7)."""

from __future__ import annotations

from typing import Literal

import pytest

from redisaq.testing import FaultPlan, Simulation
from tests.simulation.judged import simulate
from tests.simulation.scenarios import brief

FAULTS = FaultPlan(lost_request=0.03, lost_reply=0.05, late_request=0.05, disconnect=0.02, delay=(0.0, 0.3))


@pytest.mark.parametrize("window", [0.2, 4.0])
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_message_is_appended_once(backend: Literal["trio", "asyncio"], window: float) -> None:
    async def scenario(sim: Simulation) -> None:
        producer = sim.producer("orders", init_partitions=2, send_timeout=600.0)
        sim.member("a", "orders", brief)
        for n in range(40):
            await producer.enqueue({"n": n}, dedup_id=f"invoice-{n}", dedup_window=window, delay=1.0 if n % 3 == 0 else None)
        await sim.until_quiet()

    for seed in range(8):
        report = simulate(scenario, seed=seed, backend=backend, faults=FAULTS)
        assert report.ok, (seed, report.violations)
        assert len(set(report.produced)) == 40
