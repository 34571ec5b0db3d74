"""A simulated group: one seed, one trace, in every process; and nothing lost, doubled or run twice at once."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, Literal

import anyio
import pytest

from redisaq import Message
from redisaq.testing import FaultPlan, Simulation, simulate

Backend = Literal["trio", "asyncio"]
SEEDS = int(os.environ.get("REDISAQ_SEEDS", "15"))

both = pytest.mark.parametrize("backend", ["trio", "asyncio"])

FAULTS = FaultPlan(
    lost_request=0.01,
    lost_reply=0.01,
    late_request=0.01,
    disconnect=0.005,
    delay=(0.0, 0.1),
    crash=0.02,
    pause=0.02,
    slow_handler=0.01,
    clock_drift=0.001,
)


async def scenario(sim: Simulation) -> None:
    """Five members share twelve partitions while messages come in."""
    producer = sim.producer("orders", init_partitions=12)

    async def handle(_message: Message[Any]) -> None:
        await anyio.sleep(0.01)

    for name in "abcde":
        sim.member(name, "orders", handle, group_name="billing")
    for first in range(0, 300, 10):
        await producer.batch_enqueue([{"n": n} for n in range(first, first + 10)], partition_key="n")
        await anyio.sleep(0.5)
    await sim.until_quiet(timeout=600)


@both
def test_no_invariant_is_broken(backend: Backend) -> None:
    for seed in range(SEEDS):
        report = simulate(scenario, seed=seed, backend=backend, faults=FAULTS)
        assert report.ok, f"seed {seed}: {report.violations}\n{report.timeline()}"
        assert len(report.produced) == 300
        assert {delivery.msg_id for delivery in report.deliveries} == set(report.produced)


SCRIPT = """
import sys
from redisaq.testing import simulate
from tests.simulation.test_simulate import FAULTS, scenario
print(simulate(scenario, seed=7, backend=sys.argv[1], faults=FAULTS).trace_hash)
"""


@both
def test_the_same_seed_gives_the_same_trace_in_every_process(backend: Backend) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, backend], stdout=subprocess.PIPE, env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in ("0", "1", "4242")
    ]
    hashes = {process.communicate(timeout=120)[0].decode().strip() for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert hashes == {simulate(scenario, seed=7, backend=backend, faults=FAULTS).trace_hash}
