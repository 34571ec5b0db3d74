"""A lease by its own clock: when it is over, and whether the event loop had stood still then (M5)."""

from __future__ import annotations

import math

import pytest

from redisaq.brokers.steps.coordination import Beat
from redisaq.consuming.lease import Lease
from redisaq.environment import Environment


def lease_at(now: list[float]) -> Lease:
    """Return a lease whose ttl is 12 s; 2 s of that are the margin for clocks that differ in speed."""
    return Lease("me", 12.0, Environment(clock=lambda: now[0]))


def test_it_lasts_until_its_deadline_and_not_at_that_instant() -> None:
    now = [100.0]
    lease = lease_at(now)
    assert (lease.born, lease.frozen_until) == (0, 0), "nothing is known yet"
    lease.begin(100.0)
    assert (lease.deadline, lease.left()) == (110.0, 10.0)
    now[0] = 109.5
    assert lease.alive()
    assert lease.left() == 0.5
    now[0] = 110.0
    assert (lease.alive(), lease.left()) == (False, 0.0)


def test_m5_what_has_ended_learns_and_does_not_revive() -> None:
    now = [100.0]
    lease = lease_at(now)
    lease.begin(100.0)
    now[0] = 104.0
    lease.renew(103.0, Beat(alive=True, now=0, born=3, frozen_until=4))
    assert (lease.deadline, lease.born, lease.frozen_until) == (113.0, 3, 4)
    lease.renew(102.0, Beat(alive=True, now=0))
    assert lease.deadline == 113.0, "an answer to an earlier heartbeat takes no time away"
    lease.end()
    lease.renew(104.0, Beat(alive=True, now=0, born=5, frozen_until=6))
    lease.begin(104.0)
    assert (lease.alive(), lease.deadline, lease.left()) == (False, 113.0, 0.0)
    assert (lease.born, lease.frozen_until) == (5, 6)


@pytest.mark.parametrize(("late", "stood_still"), [(-1.0, 0.0), (0.0, 0.0), (1.0, 0.0), (1.001, 8.001), (30.0, 37.0)])
def test_one_that_is_found_to_have_ended_long_ago_says_for_how_long_nobody_looked(late: float, stood_still: float) -> None:
    """More than a twelfth of its ttl too late: the event loop was blocked since it was last looked at."""
    now = [100.0]
    lease = lease_at(now)
    lease.begin(100.0)
    now[0] = 103.0
    assert lease.alive()
    now[0] = 110.0 + late
    lease.end()
    assert lease.stood_still == pytest.approx(stood_still)
    now[0] += 50.0
    lease.end()
    assert lease.stood_still == pytest.approx(stood_still), "it ends once"


def test_one_that_never_had_any_time_did_not_stand_still() -> None:
    lease = lease_at([100.0])
    assert lease.deadline == -math.inf
    lease.end()
    assert lease.stood_still == 0.0
