"""Simulated groups: whatever fault occurs, nothing is lost, doubled, out of order or run by two members at once.

One whole run takes 100 seeds, shared out over the scenarios; `REDISAQ_SEEDS` raises that. `python -m tests.simulation` takes thousands.
"""

from __future__ import annotations

import anyio
import pytest

from redisaq.testing import Fault, Simulation
from redisaq.testing.faults import Kind
from tests.simulation.catalogue import SCENARIOS, Backend
from tests.simulation.judged import simulate
from tests.simulation.shares import BACKENDS, play_well, seeds_of

both = pytest.mark.parametrize("backend", BACKENDS)


@pytest.mark.parametrize(
    ("scenario", "backend"), [(scenario, backend) for scenario in SCENARIOS for backend in BACKENDS if seeds_of(scenario, backend)]
)
def test_no_invariant_is_broken(scenario: str, backend: Backend) -> None:
    for seed in seeds_of(scenario, backend):
        play_well(scenario, backend, seed)


@both
@pytest.mark.parametrize("kind", ["crash", "pause"])
def test_an_exception_of_the_scenario_is_raised_whatever_befalls_members_while_they_end(kind: Kind, backend: Backend) -> None:
    ended_by: set[int] = set()

    async def scenario(sim: Simulation) -> None:
        async def handle(_message: object) -> None:
            await anyio.sleep(0.1)

        producer = sim.producer("orders", init_partitions=2)
        await producer.batch_enqueue(range(10))
        sim.member("a", "orders", handle, heartbeat_interval=1.0, heartbeat_ttl=4.0)
        await anyio.sleep(0.35)
        ended_by.add(sim._source._chance("a").operations)
        raise ValueError("on purpose")

    for number in range(1, 50):
        with pytest.raises(ValueError, match="on purpose"):
            simulate(scenario, 1, backend, [Fault("a", number, kind, 1.0)])
    assert max(ended_by) < 40, "operations of the end were among them"
