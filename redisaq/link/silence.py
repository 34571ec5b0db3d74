"""Detect that the other side is silent, at no cost per call and without a task.

The input is the time when replies came to be owed and the times when bytes arrived. The output is whether that is too long ago. An alarm
asks for it: a timer of the event loop, which is set once and not moved with each call. When it fires, its owner returns when it has to fire
again. So a connection whose calls are answered sets it only once per silence limit, however many calls there are.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from functools import partial

from redisaq.environment import CallLater, Environment, this_loop

LATE = 0.25
"""An alarm that fires later than this fraction of the limit means that this process was stalled, rather than the server."""

DOUBT = 1.0
"""Seconds of silence after which a link that can ask others asks whether this is still the server to talk to (C6)."""


class Silence:
    """How long nothing may arrive while something is owed.

    Attributes:
        limit: seconds; infinite: forever.
        heard: when the last byte arrived, or when something came to be owed.
        block: seconds for which the server may wait before it answers.
    """

    __slots__ = ("_spared", "block", "heard", "limit")

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.heard = self.block = 0.0
        self._spared = math.nan  # the `heard` for which an alarm that fired too late was ignored

    def due(self) -> float:
        """Return the time when it will have been too long."""
        return self.heard + self.block + self.limit

    def next_look(self, now: float, late: float) -> float | None:
        """Return when to check again; None if it has been too long. An alarm that is `late` proves nothing, but only once."""
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
    """A timer in an event loop.

    A connection may be used in one event loop after another. A timer ends with its loop: a task that waits in another one calls `follow`.

    Attributes:
        at: when it fires; infinite if it does not.
    """

    def __init__(self, environment: Environment, ring: Callable[[float], float]) -> None:
        """Make an alarm; it does not fire before `set` was called.

        Args:
            environment: gives the clock and the timers.
            ring: called in the event loop, outside of tasks, with the seconds by which it is late. It returns when to fire again, which may
                be never (infinite).
        """
        self.at = math.inf
        self._environment = environment
        self._ring = ring
        self._number = 0
        self._loop: Callable[[], object] = lambda: None  # the event loop of its timer, as long as that is there

    def set(self, when: float) -> None:
        """Make it fire at `when`, instead of the time set before. Call it from a task."""
        self._loop = weakref.ref(this_loop())
        self._start(when, self._environment.timers())

    def follow(self) -> None:
        """Make it fire at its time in the running event loop, if it was set in another one. Call it from a task."""
        if self._loop() is not this_loop() and self.at < math.inf:
            self.set(self.at)

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
