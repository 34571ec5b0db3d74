"""The benchmarks run, and print a table and JSON. What they measure is not judged here: a loaded machine proves nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def run(*options: str) -> str:
    command = [sys.executable, "-m", "tests.bench", "--rounds", "1", "--messages", "1000", "--backend", "trio", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.parametrize("only", ["batch_enqueue of 100", "process", "latency"])
def test_one_case_as_a_table(only: str) -> None:
    table = run("--only", only)
    assert ("latency on an idle group, trio" in table) == (only == "latency")
    assert f"\n{only} " in table


def test_all_cases_as_json() -> None:
    figures = json.loads(run("--json"))
    assert len(figures["rows"]) == 6
    assert all(row["redisaq"] > 0 and row["bare"] > 0 and row["ratio"] > 0 for row in figures["rows"])
    assert figures["latency"]["trio"][0] > 0
