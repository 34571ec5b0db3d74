"""What the simulation says of a message that died without a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from redisaq import Message, RetryPolicy
from redisaq.brokers.base import GroupName
from redisaq.testing.histories import Histories, Run

GROUP = GroupName("orders", "billing")


@dataclass
class Member:
    """A process, as the simulation sees it."""

    name: str = "a"
    crashed: bool = False
    thawed_at: float = 0.0
    ordering: str = "none"
    mode: str = "process"
    suspended: bool = False
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(max_attempts=2))


def test_owners_that_broke_off_may_have_used_up_its_attempts() -> None:
    """Each may have counted it just before its handler would have begun; fewer than its attempts cannot."""
    told: list[str] = []
    histories = Histories(told.append)
    other: Message[Any] = Message(topic="orders", payload={}, entry=b"1-0", partition=0, attempt=1, token=1)
    histories.begin(Run(Member(), GROUP, other, object(), 0.0), cast("Any", None))
    for violations in (1, 2, 2):
        histories.check_dead("a", (GROUP, 0), (2, 0))
        assert len(told) == violations, told
        histories.broken_off((GROUP, 0))
    assert "after 0 runs" in told[0]
