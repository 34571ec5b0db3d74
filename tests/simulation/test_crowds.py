"""What only large groups do (deltas, waiting room, grants, spread looks: M10 to M12), in small groups that count as large, with faults."""

from __future__ import annotations

import pytest

from redisaq.consuming import coordinator
from redisaq.core import deltas, membership, waiting
from tests.simulation.judged import simulate
from tests.simulation.variants.crowd import STORM, crowd
from tests.simulation.variants.variant import BACKENDS, Backend


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "CROWD", 1)
    monkeypatch.setattr(deltas, "SMALL", 0)
    monkeypatch.setattr(waiting, "FEW", 0)
    monkeypatch.setattr(coordinator, "MANY_HELD", 0)


@pytest.mark.backends_take_turns
@pytest.mark.parametrize("backend", BACKENDS)
def test_order_and_ownership_hold_in_a_crowd(backend: Backend) -> None:
    for seed in range(4):
        report = simulate(crowd("abcde", partitions=8, messages=30), seed=seed, backend=backend, faults=STORM)
        assert report.ok, f"seed {seed}: {report.violations}"
