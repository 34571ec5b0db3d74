"""What answers tell of the server's clock: never later than it is, exact although some answers are heard late, right again after a jump."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given, strategies as st

from redisaq.brokers.steps.coordination import Beat
from redisaq.consuming.member import Member
from redisaq.core.server_clock import SPEED, ServerClock
from redisaq.environment import Environment

delays = st.floats(0.0, 3.0)
moments = st.tuples(st.floats(0.0, 10.0), delays, delays)  # seconds since the last answer, until the server is asked, until it is heard
SLIP = 2e-6  # seconds: the server tells whole microseconds


@given(st.floats(-1e6, 1e6), st.floats(-SPEED, SPEED), st.lists(moments, min_size=1, max_size=8))
@example(1000.0, 0.0, [(0.0, 0.0, 0.001), (5.0, 0.0, 1.5)])
def test_it_is_never_ahead_and_as_near_as_the_best_answer(ahead: float, drift: float, asked: Sequence[tuple[float, float, float]]) -> None:
    clock, local, best = ServerClock(), 0.0, float("inf")
    for wait, to, back in asked:
        sent = local + wait
        local = sent + to + back
        read = ahead + (1 + drift) * (sent + to)  # the server's clock where the local one shows sent + to
        best = min(best + 2 * SPEED * (wait + to + back), back * (1 + SPEED))
        error = ahead + (1 + drift) * local - local - clock.tell(int(read * 1e6), sent=sent, heard=local)
        assert -SLIP - SPEED * back <= error <= best + SLIP


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), delays, delays)
@example(0.0, -1.0, 0.1, 0.1)
@example(0.0, 3600.0, 0.1, 0.1)
def test_after_a_jump_the_next_answer_is_right(before: float, after: float, to: float, back: float) -> None:
    clock = ServerClock()
    clock.tell(int(before * 1e6), sent=0.0, heard=0.0)
    told = clock.tell(int((after + 5.0 + to) * 1e6), sent=5.0, heard=5.0 + to + back)
    assert after - back - SLIP <= told <= max(after + to + SLIP, after - back)


def test_an_answer_allows_what_it_bounds() -> None:
    """The server may have read its clock the moment it was asked."""
    clock = ServerClock()
    clock.tell(0, sent=0.0, heard=0.0)
    assert clock.tell(0, sent=1.0, heard=1000.0) == -1000.0 * SPEED == -1.0


def test_a_new_incarnation_knows_what_the_last_one_has_learned() -> None:
    """M1: the first answer that it hears may be heard late, which alone would tell a time that is too early."""
    local = 100.0
    member = Member(None, 10.0, Environment(clock=lambda: local))
    member.lease.observe(local, Beat(alive=True, now=1_000_000_000))
    member.renew_incarnation()
    assert member.lease.server_now() == 1_000_000_000
    local = 105.0
    member.lease.observe(100.0, Beat(alive=True, now=1_002_000_000))
    assert abs(member.lease.server_now() - 1_005_000_000) <= 5 * SPEED * 1e6
