"""How one run of the tests shares its seeds out over the scenarios and backends.

100 seeds, or as many as `REDISAQ_SEEDS` says. Seed 0 of each scenario is played by test_determinism.py on one backend, where its trace
is compared with that of another process; every other one by test_simulate.py.
"""

from __future__ import annotations

import itertools
import os

from redisaq.testing import Report
from tests.simulation.catalogue import SCENARIOS, Backend
from tests.simulation.playing import play
from tests.simulation.traces import changed, name_of, write

SEEDS = int(os.environ.get("REDISAQ_SEEDS", "100"))

SHARES = {"orders": 2.5, "small": 2.5, "storm": 0.25, "growing": 0.25, "scattered": 0.25} | dict.fromkeys(
    ("blocking", "parked", "rolling", "verdicts", "weather"), 0.75
)
"""How many times the usual share of seeds a scenario gets: "orders" is most like real work; those with less than one take long."""

BACKENDS: tuple[Backend, ...] = ("trio", "asyncio")

TURNS: dict[str, Backend] = dict(zip(SCENARIOS, itertools.cycle(BACKENDS), strict=False))
"""On which backend the trace of a scenario's first seed is compared with another process's: the backends take turns."""


def seeds_of(scenario: str, backend: Backend) -> range:
    """Return a scenario's share of the seeds on a backend, but for the one that test_determinism.py plays."""
    whole = sum(SHARES.get(name, 1) for name in SCENARIOS)
    share = max(1, round(SEEDS / 2 * SHARES.get(scenario, 1) / whole))
    return range(TURNS[scenario] == backend, share)


def play_well(scenario: str, backend: Backend, seed: int) -> Report:
    """Run one seed; AssertionError if an invariant is broken, or if its trace is another one than was recorded."""
    report = play(scenario, backend, seed)
    again = f"python -m tests.simulation --scenario {scenario} --backend {backend} --first {seed} --replay"
    assert report.ok, f"{report.violations}\n{again}\n{report.timeline()}"
    moved = changed(scenario, backend, seed, report.trace_hash)
    assert not moved, moved
    return report


def record() -> None:
    """Play the seeds of a whole run and record their traces; print the scenarios that have others than before."""
    seeds = {
        (scenario, backend, seed)
        for scenario in SCENARIOS
        for backend in BACKENDS
        for seed in (*seeds_of(scenario, backend), *([0] if TURNS[scenario] == backend else []))
    }
    traces = {name_of(*seed): play(*seed).trace_hash[:16] for seed in sorted(seeds)}
    print(f"{len(traces)} traces recorded; others than before: {', '.join(write(traces)) or 'none'}")
