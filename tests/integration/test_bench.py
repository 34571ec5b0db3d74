"""The benchmarks run, and print a table and JSON. What they measure is not judged here: a loaded machine proves nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.bench.paired import ROOT

NO_HISTORY = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="there is no history here")


def run(*options: str) -> str:
    command = [sys.executable, "-m", "tests.bench", "--rounds", "1", "--messages", "1000", "--backend", "trio", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.parametrize("only", ["batch_enqueue of 100", "process", "latency"])
def test_one_case_as_a_table(only: str) -> None:
    table = run("--only", only)
    assert ("latency on an idle group, trio" in table) == (only == "latency")
    assert f"\n{only} " in table


@NO_HISTORY
def test_another_commit_is_measured_beside_what_is_here() -> None:
    """The commit that is checked out: whatever the figures, there is one for each, and the exit status says what the last line says."""
    command = [sys.executable, "-m", "tests.bench", "--against", "HEAD", "--rounds", "1", "--messages", "300", "--backend", "trio"]
    done = subprocess.run(
        [*command, "--only", "process", "--only", "enqueue, one task"], check=False, capture_output=True, text=True, timeout=120
    )
    *table, _, verdict = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in table[1:]] == ["enqueue, one task", "process"], done.stderr
    assert all(float(line.split()[-8]) > 0 for line in table[1:])
    assert (verdict == "over 2 % more CPU, and beyond A/A: nothing") == (done.returncode == 0)


@NO_HISTORY
def test_a_commit_that_is_none() -> None:
    command = [sys.executable, "-m", "tests.bench", "--against", "no-such-commit", "--rounds", "1", "--only", "process"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no-such-commit" in done.stderr


def test_all_cases_as_json() -> None:
    figures = json.loads(run("--json"))
    assert len(figures["rows"]) == 6
    assert all(row["redisaq"] > 0 and row["bare"] > 0 and row["ratio"] > 0 for row in figures["rows"])
    assert figures["latency"]["trio"][0] > 0
