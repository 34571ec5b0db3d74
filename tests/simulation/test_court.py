"""How the court of a simulation judges an owner that ends without giving its partition back."""

from __future__ import annotations

from redisaq.brokers.terms import GroupName
from redisaq.events import LeaseLost, PartitionAcquired
from redisaq.testing.record import Record
from tests.simulation.judges.court import Court
from tests.simulation.process import Told

GROUP = GroupName("orders", "billing")
PLACE = (GROUP, 0)


def test_an_owner_that_stands_still_may_have_counted_an_attempt_once_another_has_taken_its_partition() -> None:
    courts: list[Court] = []

    def court(record: Record) -> Court:
        courts.append(Court(record))
        return courts[-1]

    record = Record(lambda: 5.0, [court])
    first, second = Told("a", suspended=True), Told("b", suspended=True)
    record.event(first, GROUP, acquired(1))
    assert broken(courts[0]) == 0
    record.event(second, GROUP, acquired(2))
    assert broken(courts[0]) == 1
    lost = LeaseLost(topic="orders", group="billing", member="m", partition=0, token=1, reason="late", unsettled=0)
    record.event(first, GROUP, lost)
    assert broken(courts[0]) == 1  # not a second time when it notices
    record.mark(second, "crashes")
    assert broken(courts[0]) == 2
    assert record.violations == []


def acquired(token: int) -> PartitionAcquired:
    return PartitionAcquired(topic="orders", group="billing", member="m", partition=0, token=token)


def broken(court: Court) -> int:
    return court.histories._broken.get(PLACE, 0)
