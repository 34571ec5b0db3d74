"""One seed, one trace, in every process; other seeds, other traces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from redisaq.testing import Simulation
from tests.matrix import everything
from tests.simulation.against import SCRIPT, others
from tests.simulation.catalogue import Backend
from tests.simulation.judged import simulate
from tests.simulation.playing import play
from tests.simulation.shares import TURNS, play_well
from tests.simulation.traces import changed, comparable, recorded_trace, versions

SEED = 7


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[subprocess.Popen[str]]:
    """Another process, in which sets of strings have another order; it plays the runs that it is sent."""
    seed = "4242" if os.environ.get("PYTHONHASHSEED") == "0" else "0"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
    with process:
        yield process
        process.kill()


TWICE = set(TURNS) if everything() or not comparable() else {"orders", "small"}
"""Scenarios that another process plays as well. Of the others, the recorded traces show the same: they were made in another process."""


@pytest.mark.parametrize("scenario", TURNS)
def test_the_same_seed_gives_the_same_trace_in_every_process(scenario: str, request: pytest.FixtureRequest) -> None:
    if scenario not in TWICE and recorded_trace(scenario, TURNS[scenario], 0):
        play_well(scenario, TURNS[scenario], 0)
        return
    elsewhere: subprocess.Popen[str] = request.getfixturevalue("elsewhere")
    assert elsewhere.stdin is not None
    assert elsewhere.stdout is not None
    print(scenario, TURNS[scenario], 0, file=elsewhere.stdin, flush=True)  # it plays while we do
    try:
        report = play_well(scenario, TURNS[scenario], 0)
    finally:
        told = elsewhere.stdout.readline().strip()
    assert told == report.trace_hash


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_the_same_seed_gives_the_same_trace_twice(backend: Backend) -> None:
    assert play("small", backend, SEED).trace == play("small", backend, SEED).trace


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_other_seeds_give_other_traces(backend: Backend) -> None:
    assert len({play("small", backend, seed).trace_hash for seed in range(4)}) == 4


def test_another_trace_than_the_recorded_one_is_noticed() -> None:
    recorded = {"versions": versions(), "traces": {"small trio 7": "abc"}}
    assert "record the traces again" in changed("small", "trio", 7, "abd", recorded)
    assert not changed("small", "trio", 7, "abcdef", recorded)
    assert not changed("small", "trio", 8, "abd", recorded), "no whole run plays this seed"
    assert not changed("small", "trio", 7, "abd", recorded | {"versions": versions() | {"anyio": "1.0"}}), "another order of tasks"


def test_seeds_whose_trace_is_another_one_at_another_commit_are_found(tmp_path: Path) -> None:
    """There, seed 1 of `small` has the trace that it has here, and seed 2 fails."""
    there = tmp_path / "tests" / "simulation"
    there.mkdir(parents=True)
    for folder in (there, there.parent):
        (folder / "__init__.py").touch()
    told = f"def play(*seed): return type('Report', (), {{'trace_hash': {{1: {play('small', 'trio', 1).trace_hash!r}}}[seed[2]]}})"
    (there / "playing.py").write_text(told, encoding="utf-8")
    assert others(tmp_path, "small", "trio", [1, 2], 2) == [2]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_what_a_scenario_raises_comes_out_as_it_is(backend: Backend) -> None:
    async def scenario(sim: Simulation) -> None:
        sim.member("a", "orders", print)
        await anyio.sleep(1)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as caught:
        simulate(scenario, seed=3, backend=backend)
    assert caught.value.__notes__ == [f"simulated under seed 3 on {backend}"]
