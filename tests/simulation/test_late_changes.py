"""An Admin's changes are never carried out after its later changes (E1), even if connections break and requests arrive late."""

from __future__ import annotations

import anyio
import pytest

from redisaq.errors import ConnectionFailed
from redisaq.testing import FaultPlan, Simulation
from tests.simulation.judged import simulate
from tests.simulation.scenarios import insistently
from tests.simulation.variants.crowd import GROUP, TOPIC, owned, takes, topic, until
from tests.simulation.variants.variant import BACKENDS, Backend


async def pausing_and_resuming(sim: Simulation) -> None:
    """Some pauses break. Each resume is repeated until it succeeds, and from then on no member finds the group paused."""
    await topic(sim, 1)
    sim.member("a", TOPIC, takes(0.0))
    await until(lambda: owned(sim, "a") == {0})
    async with sim.admin() as admin:
        broken = 0
        for _ in range(10):
            try:
                await admin.pause(TOPIC, GROUP.group)
            except ConnectionFailed:
                broken += 1
            await insistently(lambda: admin.resume(TOPIC, GROUP.group))
            for _ in range(60):  # longer than a request is late at most
                assert not sim.store.coordination[GROUP].paused, "a pause came behind the resume"
                await anyio.sleep(0.1)
    assert broken, "no request for a pause came late"
    await sim.until_quiet()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_pause_comes_behind_the_resume_that_is_to_end_it(backend: Backend) -> None:
    for seed in range(5):
        report = simulate(pausing_and_resuming, seed=seed, backend=backend, faults=FaultPlan(late_request=0.2))
        assert report.ok, f"seed {seed}: {report.violations}"
