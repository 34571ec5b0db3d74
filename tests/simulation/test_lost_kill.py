"""A reader's kill of its own broken read (T3) is itself lost: it is sent again before anything else is read."""

from __future__ import annotations

import anyio
import pytest

from redisaq.testing import Simulation
from tests.simulation.judged import simulate
from tests.simulation.variants.crowd import TOPIC, owned, takes, topic, until
from tests.simulation.variants.variant import BACKENDS, Backend
from tests.simulation.variants.wire import Wire


async def kill_is_lost(sim: Simulation) -> None:
    """A read comes late, and the kill that is to prevent that does not come at all."""
    wire = Wire(sim)
    producer = await topic(sim, 1)
    sim.member("a", TOPIC, takes(0.05), batch_size=2)
    await until(lambda: owned(sim, "a") == {0})
    wire.hold("a", "read", 1.0)
    wire.lose("a", "fence")
    for _ in range(40):
        await producer.batch_enqueue([{}] * 2)
        await anyio.sleep(0.05)
    assert wire.befallen == ["hold a read", "lose a fence"]
    await sim.until_quiet()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_kill_that_was_lost_is_sent_again(backend: Backend) -> None:
    for seed in range(3):
        report = simulate(kill_is_lost, seed=seed, backend=backend)
        assert report.ok, f"seed {seed}: {report.violations}"
