"""One seed, one trace, in every process; other seeds, other traces."""

from __future__ import annotations

import os
import subprocess
import sys

import anyio
import pytest

from redisaq.testing import Simulation
from tests.simulation.catalogue import SCENARIOS, Backend
from tests.simulation.judged import simulate
from tests.simulation.playing import play

SEED = 7

SCRIPT = """
import itertools, logging
from tests.simulation.catalogue import SCENARIOS
from tests.simulation.playing import play
logging.disable(logging.CRITICAL)
for scenario, backend in zip(SCENARIOS, itertools.cycle(("trio", "asyncio"))):
    print(scenario, backend, play(scenario, backend, 7).trace_hash)
"""


def test_the_same_seed_gives_the_same_trace_in_every_process() -> None:
    """Each scenario, on the backends in turn, in two processes whose sets of strings differ in order."""
    processes = [
        subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in ("0", "4242")
    ]
    told = [process.communicate(timeout=170)[0].decode().splitlines() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert len(told[0]) == len(SCENARIOS)
    assert told[0] == told[1]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_the_same_seed_gives_the_same_trace_twice(backend: Backend) -> None:
    assert play("small", backend, SEED).trace == play("small", backend, SEED).trace


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_other_seeds_give_other_traces(backend: Backend) -> None:
    assert len({play("small", backend, seed).trace_hash for seed in range(20)}) > 18


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_what_a_scenario_raises_comes_out_as_it_is(backend: Backend) -> None:
    async def scenario(sim: Simulation) -> None:
        sim.member("a", "orders", print)
        await anyio.sleep(1)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as caught:
        simulate(scenario, seed=3, backend=backend)
    assert caught.value.__notes__ == [f"simulated under seed 3 on {backend}"]
