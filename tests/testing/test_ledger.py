"""What the ledger of a simulation allows, and what it does not."""

from __future__ import annotations

from redisaq.brokers.base import GroupName
from redisaq.events import LeaseLost, PartitionAcquired
from redisaq.testing.ledger import Ledger
from tests.testing.process import Told

GROUP = GroupName("orders", "billing")
PLACE = (GROUP, 0)


def test_an_owner_that_stands_still_may_have_counted_an_attempt_once_another_has_taken_its_partition() -> None:
    ledger = Ledger(lambda: 5.0, ())
    first, second = Told("a", suspended=True), Told("b", suspended=True)
    ledger.event(first, GROUP, acquired(1))
    assert broken(ledger) == 0
    ledger.event(second, GROUP, acquired(2))
    assert broken(ledger) == 1
    lost = LeaseLost(topic="orders", group="billing", member="m", partition=0, token=1, reason="late", unsettled=0)
    ledger.event(first, GROUP, lost)
    assert broken(ledger) == 1  # not a second time when it notices
    ledger.crashed(second)
    assert broken(ledger) == 2
    assert ledger.violations == []


def acquired(token: int) -> PartitionAcquired:
    return PartitionAcquired(topic="orders", group="billing", member="m", partition=0, token=token)


def broken(ledger: Ledger) -> int:
    return ledger.histories._broken.get(PLACE, 0)
