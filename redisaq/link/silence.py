"""How a connection finds out that the other side is silent, at no cost per call and without a task.

In: when something came to be owed, and when bytes came. Out: whether that is too long ago, asked by an alarm: an event loop's own timer,
which is set once and not moved with each call. When it rings, its owner says when it has to ring again; so a connection whose calls are
answered sets it once in as many seconds as it may be silent, however many calls there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from redisaq.environment import CallLater, Environment

LATE = 0.25
"""An alarm that comes later than this part of the limit says that this process was stalled, rather than the server."""


class Silence:
    """How long nothing may come while something is owed.

    Attributes:
        limit: seconds; infinite: for ever.
        heard: when the last byte came, or when something came to be owed.
        block: seconds for which the server may wait before it answers.
    """

    __slots__ = ("_spared", "block", "heard", "limit")

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.heard = self.block = 0.0
        self._spared = math.nan  # the `heard` for which an alarm that came too late was passed over

    def due(self) -> float:
        """Return when it will have been too long."""
        return self.heard + self.block + self.limit

    def next_look(self, now: float, late: float) -> float | None:
        """Return when to look again; None if it has been too long. An alarm that is `late` has seen nothing, but once only."""
        due = self.due()
        if now < due:
            return due
        if late < LATE * self.limit or self._spared == self.heard:
            return None
        self._spared = self.heard
        return now + LATE * self.limit

    def __str__(self) -> str:
        """Return why the connection broke."""
        return f"the server has been silent for {self.limit + self.block:g} s"


class Alarm:
    """Rings in an event loop. A connection may be used in one event loop after another: a timer that died with its loop is replaced.

    Attributes:
        at: when it rings; infinite if it does not.
    """

    def __init__(self, environment: Environment, ring: Callable[[float], float]) -> None:
        """Make one; it does not ring before `set` was called.

        Args:
            environment: gives the clock and the timers.
            ring: called in the event loop, outside of tasks, with the seconds by which it is late; returns when to ring again, which may
                be never (infinite).
        """
        self.at = math.inf
        self._environment = environment
        self._ring = ring
        self._number = 0

    def set(self, when: float) -> None:
        """Let it ring then, and not at the time that was set before. To be called from a task."""
        self._start(when, self._environment.timers())

    def _start(self, when: float, call_later: CallLater) -> None:
        self.at = when
        self._number += 1
        call_later(max(0.0, when - self._environment.monotonic()), partial(self._rang, self._number, call_later))

    def _rang(self, number: int, call_later: CallLater) -> None:
        if number != self._number:
            return
        late = self._environment.monotonic() - self.at
        self.at = math.inf
        again = self._ring(late)
        if again < self.at:
            self._start(again, call_later)
