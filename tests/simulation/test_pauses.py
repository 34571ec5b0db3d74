"""A process is suspended again while it handles the end of its last suspension."""

from __future__ import annotations

from typing import Literal

import anyio
import pytest

from redisaq import events
from redisaq.testing import Simulation
from tests.simulation.judged import simulate
from tests.simulation.scenarios import brief


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_partition_whose_loss_is_held_up_is_taken_again(backend: Literal["trio", "asyncio"]) -> None:
    """Its owner's end is reported however long that takes: a partition whose owner's end is not reported is never taken again."""

    async def scenario(sim: Simulation) -> None:
        held_up = 0

        def hold_up(event: events.Event) -> None:
            nonlocal held_up
            if isinstance(event, events.LeaseLost) and held_up < 4:
                held_up += 1
                sim._pause(sim._named("a"), 5.0)  # pyright: ignore[reportPrivateUsage] -- before the next step, not soon after

        producer = sim.producer("orders", init_partitions=4)
        await producer.batch_enqueue([{"n": n} for n in range(8)])
        sim.member("a", "orders", brief, heartbeat_interval=0.5, heartbeat_ttl=3.0, on_event=hold_up)
        await anyio.sleep(2.0)
        await sim.pause("a", seconds=10)
        await producer.batch_enqueue([{"n": n} for n in range(8)])
        await sim.until_quiet(timeout=100)
        assert held_up == 4

    report = simulate(scenario, seed=1, backend=backend)
    assert report.ok, report.violations
