"""A server that has changed freezes takeovers for one ttl (M7)."""

from __future__ import annotations

import anyio
import pytest

from redisaq.testing import Simulation
from tests.simulation.judged import simulate
from tests.simulation.variants.crowd import TOPIC, owned, takes, topic, until
from tests.simulation.variants.variant import BACKENDS, Backend


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("changed", [False, True], ids=["same server", "changed server"])
def test_the_dead_are_taken_over_one_ttl_after_the_server_changed(backend: Backend, changed: bool) -> None:
    """M7: a new server may have missed the last renewals, so takeovers wait a whole ttl.

    On the same server they wait for the rest of one.
    """
    waits: list[float] = []

    async def scenario(sim: Simulation) -> None:
        await topic(sim, 4)
        for name in "ab":
            sim.member(name, TOPIC, takes(0.0), heartbeat_interval=0.5, heartbeat_ttl=4.0)
        await until(lambda: len(owned(sim, "a")) == len(owned(sim, "b")) == 2)
        await sim.crash("b")
        await anyio.sleep(3.0)
        if changed:
            sim.store.restart()
        began = anyio.current_time()
        await until(lambda: len(owned(sim, "a")) == 4)
        waits.append(anyio.current_time() - began)

    for seed in range(5):
        report = simulate(scenario, seed=seed, backend=backend)
        assert report.ok, report.violations
    assert all(4.0 <= wait < 5.5 if changed else wait < 2.0 for wait in waits), waits
