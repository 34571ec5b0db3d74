"""What the simulation reports about runs, and about a message that died without one."""

from __future__ import annotations

from typing import Any, cast

import pytest

from redisaq import Message, RetryPolicy
from redisaq.brokers.terms import GroupName
from redisaq.testing.observing import Run
from tests.simulation.judges.histories import Histories
from tests.simulation.process import Told

GROUP = GroupName("orders", "billing")


def test_owners_that_broke_off_may_have_used_up_its_attempts() -> None:
    """Each may have counted it just before its handler would have begun; fewer than its attempts cannot."""
    told: list[str] = []
    histories = Histories(told.append)
    other: Message[Any] = Message(topic="orders", payload={}, entry=b"1-0", partition=0, attempt=1, token=1)
    histories.begin(Run(Told("a", ordering="none", retry=RetryPolicy(max_attempts=2)), GROUP, other, object(), 0.0), cast("Any", None))
    for violations in (1, 2, 2):
        histories.check_dead("a", (GROUP, 0), (2, 0))
        histories.close(lambda _place: False)
        assert len(told) == violations, told
        histories.broken_off((GROUP, 0))
    assert "after 0 runs" in told[0]


class Nothing:
    """A store without the group, in which nothing waits for its turn."""

    def cursor(self, *_: object) -> None:
        """Return that there is none."""


@pytest.mark.parametrize("settled", [True, False])
def test_what_an_owner_settled_whose_acquisition_is_forgotten_has_had_its_first_turn(settled: bool) -> None:
    """Its run is asked nothing; but once the server has accepted it, a failover lets the entry run again, and not for the first time."""
    told: list[str] = []
    histories = Histories(told.append)
    owner, store = Told("a"), cast("Any", Nothing())

    def run(entry: bytes, token: int) -> Run:
        message: Message[Any] = Message(topic="orders", payload={}, entry=entry, partition=0, attempt=1, token=token)
        return Run(owner, GROUP, message, object(), 0.0, outcome="returned")

    histories.stray(run(b"1-0", 1))
    if settled:
        histories.check_done("a", (GROUP, 0), 1, (1, 0))
    histories.begin(run(b"2-0", 2), store)
    assert told == []
    histories.set_back((GROUP, 0), (1, 0))
    histories.begin(run(b"1-0", 3), store)
    assert bool(told) is not settled
    assert all("for the first time after 2-0" in text for text in told)
