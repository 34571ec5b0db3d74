"""`python -m tests.simulation --shrink`: failed seeds are reported with the few faults that matter, and with files that replay them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redisaq.testing import FaultPlan, Simulation, load_faults
from tests.simulation import __main__ as command
from tests.simulation.catalogue import SCENARIOS, Backend, Scenario
from tests.simulation.playing import Outcome, play_some


async def breaks(sim: Simulation) -> None:
    """Fail if a reply is lost."""
    producer = sim.producer("orders")
    for number in range(10):
        await producer.enqueue(number)
    assert producer.statistics().retried == 0


@pytest.fixture(autouse=True)
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter a scenario that fails now and then; play in this process, which knows of it."""
    monkeypatch.setitem(SCENARIOS, "breaks", Scenario(breaks, "breaks", FaultPlan(lost_reply=0.1, delay=(0.0, 0.1))))

    def run(work: Iterator[tuple[str, Backend, range]], jobs: int, limit: float, told: Callable[[Outcome], None]) -> None:
        for one in work:
            told(play_some(*one))

    monkeypatch.setattr(command, "run", run)


def words(*more: Any) -> list[str]:
    return ["--scenario", "breaks", "--backend", "asyncio", *map(str, more)]


def failing_seed() -> int:
    return next(seed for seed in range(20) if play_some("breaks", "asyncio", range(seed, seed + 1)).failures)


def test_failed_seeds_are_shrunk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words("--seeds", 20, "--shrink", "--out", tmp_path)) == 1
    told = capsys.readouterr().out
    assert len(re.findall(r"of \d+ faults 1 is enough under seed \d+ on asyncio", told)) == 3 < told.count("--replay\n")
    (again, *_) = re.findall(r"python -m tests\.simulation (.* --faults \S+)", told)
    faults = load_faults(shlex.split(again)[-1])
    assert [fault.kind for fault in faults] == ["lost_reply"]
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".json", ".json", ".svg", ".svg", ".svg", ".txt", ".txt", ".txt"]
    with pytest.raises(AssertionError):
        command.main(shlex.split(again))


def test_one_seed_is_shrunk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = failing_seed()
    assert command.main(words("--first", seed, "--replay", "--shrink", 20, "--out", tmp_path)) == 1
    told = capsys.readouterr().out
    assert f"faults 1 is enough under seed {seed} on asyncio" in told
    assert (tmp_path / f"breaks-{seed}-asyncio.json").exists()


def test_a_seed_that_does_not_fail_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--scenario", "small", "--backend", "trio", "--replay", "--shrink", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "small, seed 0 on trio, does not fail\n"
    assert list(tmp_path.iterdir()) == []


def test_without_shrink_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words("--seeds", 20, "--out", tmp_path)) == 1
    assert "enough" not in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
