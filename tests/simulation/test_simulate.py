"""Simulated groups: nothing lost, doubled, out of order or run by two at once, whatever befalls them.

One whole run takes 300 seeds, shared out over the scenarios; `REDISAQ_SEEDS` raises that. `python -m tests.simulation` takes thousands.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.catalogue import SCENARIOS, Backend
from tests.simulation.playing import play

SEEDS = int(os.environ.get("REDISAQ_SEEDS", "300"))

SHARES = {"orders": 4, "small": 3, "storm": 0.5}
"""How many times the usual share of seeds a scenario gets; the one named first is what most resembles real work."""

both = pytest.mark.parametrize("backend", ["trio", "asyncio"])


def seeds_of(scenario: str) -> range:
    """Return a scenario's share of the seeds, on each backend."""
    whole = sum(SHARES.get(name, 1) for name in SCENARIOS)
    return range(max(1, round(SEEDS / 2 * SHARES.get(scenario, 1) / whole)))


@both
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_invariant_is_broken(scenario: str, backend: Backend) -> None:
    for seed in seeds_of(scenario):
        report = play(scenario, backend, seed)
        again = f"python -m tests.simulation --scenario {scenario} --backend {backend} --first {seed} --replay"
        assert report.ok, f"{report.violations}\n{again}\n{report.timeline()}"
