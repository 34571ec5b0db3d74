"""Detect a run in virtual time that never ends: tasks that loop while time stands still, or time that advances forever.

`_trio.py` and `_asyncio.py` report each step of a task and each move of the clock. When a limit is exceeded, the run is cancelled and ends
with VirtualTimeExceeded, which names the tasks that take the steps. A single step that never ends cannot be detected: `while True: pass`
hangs here as it does anywhere.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass

from redisaq.errors import RedisaqError, SettingsError
from redisaq.testing.freezing import OWNER

SAMPLE = 1000
"""How many further steps are sampled to find out which tasks take them."""

GRACE = 50_000
"""How many further steps a run may take after it was cancelled."""

SHOWN = 3
"""How many tasks the error names."""


@dataclass(frozen=True)
class Limits:
    """How long a run may take. The limit that is reached first ends it.

    Attributes:
        steps_at_once: steps of tasks while virtual time stands still. More are treated as a loop that waits for nothing.
        steps: steps of tasks in total. A thousand take about 30 ms.
        seconds: seconds of virtual time.
    """

    steps_at_once: float = 200_000
    steps: float = 5_000_000
    seconds: float = 86_400.0

    def __post_init__(self) -> None:
        """Check the values. Raises SettingsError if one is not above 0."""
        for name in ("steps_at_once", "steps", "seconds"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} must be above 0, not {getattr(self, name)!r}")


NO_LIMITS = Limits(math.inf, math.inf, math.inf)


class VirtualTimeExceeded(RedisaqError):
    """A run in virtual time exceeded its limits: a task loops without waiting, or the run waits for something that never happens.

    Attributes:
        reason: the limit that was exceeded.
        busiest: maps "process: task" to how many of the last thousand steps it took, the busiest first.
    """

    def __init__(self, now: float, reason: str, busiest: dict[str, int]) -> None:
        self.reason = reason
        self.busiest = busiest
        named = ", ".join(f"{name} ({share} of the last {SAMPLE})" for name, share in list(busiest.items())[:SHOWN])
        super().__init__(f"at {now:g} s of virtual time: {reason}; who takes the steps: {named}")


class Pace:
    """Count the steps of a run, and end the run when it exceeds its limits."""

    def __init__(self, limits: Limits, fail: Callable[[RedisaqError], None]) -> None:
        """Start counting.

        Args:
            limits: the limits of the run.
            fail: ends the run with an error.
        """
        self._limits = limits
        self._fail = fail
        self._now = 0.0
        self._at_once = 0
        self._before = 0  # steps taken before the clock last moved
        self._most = min(limits.steps_at_once, limits.steps)
        self._reason = ""
        self._sampled: Counter[str] = Counter()
        self.exhausted = False  # it kept running after it had been cancelled

    def moved(self, now: float) -> None:
        """Note that the clock has moved."""
        self._now = now
        self._before += self._at_once
        self._at_once = 0
        self._most = min(self._limits.steps_at_once, self._limits.steps - self._before)
        if now >= self._limits.seconds and not self._reason:
            self._reason = f"more than {self._limits.seconds:g} s have passed"

    def step(self, context: Context | None, name: Callable[[], str]) -> None:
        """Note that a task is about to take a step. `name` is called only when the task's name is needed."""
        self._at_once += 1
        if self._at_once > self._most or self._reason:
            self._exceeded(context, name)

    def _exceeded(self, context: Context | None, name: Callable[[], str]) -> None:
        if not self._reason:
            self._reason = f"{self._at_once - 1:,} steps were taken while the time stood still"
            if self._limits.steps - self._before <= self._limits.steps_at_once:
                self._reason = f"more than {self._limits.steps:,} steps were taken"
        owner = context.get(OWNER) if context is not None else None
        process = getattr(owner, "name", "scenario")
        self._sampled[f"{process}: {name()}"] += 1
        taken = self._sampled.total()
        if taken == SAMPLE:
            self._fail(VirtualTimeExceeded(self._now, self._reason, dict(self._sampled.most_common())))
        elif taken > GRACE:
            self.exhausted = True
