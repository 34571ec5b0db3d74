"""What the ledger of a simulation allows, and what it does not."""

from __future__ import annotations

from dataclasses import dataclass, field

from redisaq.brokers.base import GroupName
from redisaq.events import LeaseLost, PartitionAcquired
from redisaq.settings import RetryPolicy
from redisaq.testing.ledger import Ledger

GROUP = GroupName("orders", "billing")
PLACE = (GROUP, 0)


@dataclass(eq=False)
class Stopped:
    """A process that stands still, so that it notices nothing."""

    name: str
    crashed: bool = False
    thawed_at: float = -100.0
    suspended: bool = True
    mode: str = "process"
    ordering: str = "partition"
    retry: RetryPolicy = field(default_factory=RetryPolicy)


def test_an_owner_that_stands_still_may_have_counted_an_attempt_once_another_has_taken_its_partition() -> None:
    ledger = Ledger(lambda: 5.0)
    first, second = Stopped("a"), Stopped("b")
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
