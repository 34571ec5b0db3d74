"""How long the parts of a consumer rest after each failure in a row, and after how long without one they begin again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from redisaq.actors.actor import Actor
from redisaq.actors.restart import RestartRecord
from redisaq.consuming.coordinator import RebalanceCoordinator
from redisaq.consuming.doorbell import SignalListener
from redisaq.consuming.gate import Gate
from redisaq.consuming.growth_watch import GrowthWatch
from redisaq.consuming.lease import Lease
from redisaq.consuming.member import Member
from redisaq.consuming.reader import PartitionReader
from redisaq.environment import Environment
from tests.link_chance import Longest
from tests.unit.owning import owned_partition

ENVIRONMENT = Environment()
AROUND: Any = SimpleNamespace(environment=ENVIRONMENT, settings=None, gate=Gate())
NOBODY: Any = None


def listener() -> Actor[Any]:
    return SignalListener(NOBODY, NOBODY, NOBODY)


def reader() -> Actor[Any]:
    return PartitionReader(AROUND, owned_partition(lease=Lease("me", 60.0, ENVIRONMENT)), NOBODY, NOBODY, count=1)


def coordinator() -> Actor[Any]:
    return RebalanceCoordinator(AROUND, Member(None, 60.0, ENVIRONMENT), NOBODY, ready=NOBODY, left=NOBODY)


def growth_watch() -> Actor[Any]:
    return GrowthWatch(AROUND, Member(None, 60.0, ENVIRONMENT), NOBODY)


OFTEN = [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("actor", "rests", "calm"),
    [
        (listener, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0], 10.0),
        (reader, OFTEN, 1.0),
        (coordinator, OFTEN, 1.0),
        (growth_watch, OFTEN, 5.0),
    ],
)
def test_it_rests_longer_and_longer_until_it_has_worked_for_a_while(actor: Any, rests: list[float], calm: float) -> None:
    record = RestartRecord(actor().restart)
    assert [record.grant(0.0, None, Longest()) for _ in rests] == pytest.approx(rests)
    assert record.grant(100.0, 100.001 - calm, Longest()) == rests[-1]
    assert record.grant(200.0, 200.0 - calm, Longest()) == rests[0]
    assert [record.grant(201.0, None, Longest()) for _ in range(100)][-1] == rests[-1], "it is never the last time"
