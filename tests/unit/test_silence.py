"""When a connection is taken for silent: decisions of `Silence` alone, which has no clock of its own."""

from __future__ import annotations

from redisaq.link.silence import LATE, Silence

LIMIT = 2.0


def heard_at(now: float) -> Silence:
    silence = Silence(LIMIT)
    silence.heard = now
    return silence


def test_before_it_is_due_it_is_looked_at_again_when_it_is() -> None:
    assert heard_at(10.0).next_look(11.5, late=0.0) == 12.0


def test_an_alarm_in_time_shows_that_the_server_is_silent() -> None:
    assert heard_at(10.0).next_look(12.0, late=0.0) is None


def test_an_alarm_that_is_late_gives_what_has_come_meanwhile_a_moment_to_be_read() -> None:
    """The process was stalled, not the server: its replies may be waiting in the socket. But only once."""
    silence = heard_at(10.0)
    late = 1.5 * LATE * LIMIT
    again = silence.next_look(12.0 + late, late)
    assert again == 12.0 + late + LATE * LIMIT
    assert silence.next_look(again, late) is None


def test_what_was_heard_since_makes_the_next_late_alarm_prove_nothing_again() -> None:
    silence = heard_at(10.0)
    assert silence.next_look(20.0, late=8.0) is not None
    silence.heard = 20.5
    assert silence.next_look(30.0, late=7.5) is not None
    assert silence.next_look(31.0, late=7.5) is None
