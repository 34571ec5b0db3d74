"""When a connection is taken for silent: decisions of `Silence` alone, which has no clock of its own; and the alarm that asks it."""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio
import pytest

from redisaq.environment import Environment
from redisaq.link.silence import LATE, Alarm, Silence

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


@pytest.mark.parametrize(("late", "again"), [(0.0, None), (0.499, None), (0.5, 12.5), (3.0, 12.5)])
def test_an_alarm_is_late_from_a_quarter_of_the_limit_on(late: float, again: float | None) -> None:
    assert heard_at(10.0).next_look(12.0, late) == again


# -- the alarm ------------------------------------------------------------------------------------------------------------------------


class Timers:
    """A clock that a test moves, and the timers that were set by it.

    Attributes:
        now: the time.
        set: for each timer, when it fires and what it calls.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.set: list[tuple[float, Callable[[], object]]] = []
        self.environment = Environment(monotonic=lambda: self.now, timers=lambda: self._call_later)

    def _call_later(self, seconds: float, function: Callable[[], object]) -> None:
        self.set.append((self.now + seconds, function))

    def fire(self, late: float = 0.0) -> None:
        """Fire the earliest one, so late."""
        self.set.sort(key=lambda timer: timer[0])
        at, function = self.set.pop(0)
        self.now = at + late
        function()


def test_an_alarm_says_how_late_it_is_and_is_set_again_as_long_as_it_is_wanted() -> None:
    timers, lates = Timers(), list[float]()

    def ring(late: float) -> float:
        lates.append(late)
        return timers.now + 5.0 if len(lates) < 3 else math.inf

    async def main() -> None:
        alarm = Alarm(timers.environment, ring)
        alarm.follow()
        assert timers.set == []  # nothing to follow
        alarm.set(110.0)
        alarm.follow()  # it is in this loop
        assert (alarm.at, [at for at, _ in timers.set]) == (110.0, [110.0])
        timers.fire()
        assert (alarm.at, [at for at, _ in timers.set]) == (115.0, [115.0])
        timers.fire(late=2.0)
        assert (alarm.at, [at for at, _ in timers.set]) == (122.0, [122.0])
        timers.fire()
        assert (alarm.at, timers.set) == (math.inf, [])
        alarm.set(timers.now - 1.0)
        assert [at for at, _ in timers.set] == [timers.now]  # what is due already is due at once

    anyio.run(main)
    assert lates == [0.0, 2.0, 0.0]


def test_an_alarm_that_is_set_again_does_not_ring_at_its_former_time() -> None:
    timers, rung = Timers(), list[float]()

    def ring(_: float) -> float:
        rung.append(timers.now)
        return math.inf

    async def main() -> None:
        alarm = Alarm(timers.environment, ring)
        for when in (110.0, 120.0, 105.0):
            alarm.set(when)
        while timers.set:
            timers.fire()

    anyio.run(main)
    assert rung == [105.0]


def test_an_alarm_follows_to_another_event_loop() -> None:
    timers = Timers()

    async def follow() -> None:
        alarm.follow()

    async def begin() -> None:
        alarm.set(110.0)

    alarm = Alarm(timers.environment, lambda _: math.inf)
    anyio.run(begin)
    anyio.run(follow)
    assert [at for at, _ in timers.set] == [110.0, 110.0]
