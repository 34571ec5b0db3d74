"""Delays between attempts: full jitter, doubling, capped, repeatable."""

from __future__ import annotations

import random

from redisaq.link.switchboard import BASE, CAP, Backoff
from tests.link_chance import Longest


def test_limits_double_up_to_the_cap() -> None:
    backoff = Backoff(Longest())
    limits = [backoff.failed() for _ in range(5000)]  # so many that a plain power of two would overflow
    assert limits[:3] == [BASE, 2 * BASE, 4 * BASE] == [0.05, 0.1, 0.2]
    assert limits == sorted(limits)
    assert limits[-1] == CAP == 2.0


def test_jitter_is_full_and_seeded() -> None:
    first, second = Backoff(random.Random(7)), Backoff(random.Random(7))
    delays = [first.failed() for _ in range(500)]
    assert delays == [second.failed() for _ in range(500)]
    assert all(0 <= delay <= CAP for delay in delays)
    assert min(delays[10:]) < CAP / 20
    assert max(delays[10:]) > CAP * 19 / 20


def test_what_broke_soon_counts_as_a_failure_and_what_stood_long_forgives() -> None:
    backoff = Backoff(Longest())
    assert [backoff.broke(0.0), backoff.failed(), backoff.broke(CAP)] == [BASE, 2 * BASE, 4 * BASE]
    assert backoff.broke(CAP + 0.001) == 0.0
    assert backoff.broke(0.0) == BASE
