"""Decide whether an actor that failed may run again, and after how long.

The result depends only on the policy, the error, the given time and the given random numbers: there is no clock and no event loop here.
Only errors that the policy names are ever survived.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import cast

from redisaq.core.retry import full_jitter
from redisaq.errors import SettingsError
from redisaq.settings import is_number


@dataclass(frozen=True)
class RestartPolicy:
    """Which failures an actor survives, how many of them, and how long it waits before it runs again.

    The wait is exponential with full jitter: uniform between 0 and a bound that doubles with each failure.

    Args:
        on: errors that lead to a restart, subclasses included. An exception group counts if all its exceptions do. Any other error is a
            bug, or for you to handle, and leaves the supervisor.
        max_restarts: how many restarts are granted in `within` seconds; `math.inf` for no limit.
        within: seconds, see `max_restarts`.
        backoff: bound of the first wait, seconds; 0 for none.
        max_backoff: bound of every wait, seconds.
        reset_after: after this many seconds without a failure the bound is `backoff` again.
    """

    on: tuple[type[Exception], ...] = (ConnectionError,)
    max_restarts: float = 5
    within: float = 60.0
    backoff: float = 0.1
    max_backoff: float = 30.0
    reset_after: float = 60.0

    def __post_init__(self) -> None:
        """Check every value; SettingsError if one cannot work."""
        if not isinstance(self.on, tuple) or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in self.on):
            raise SettingsError(f"on: a tuple of exception classes, not {self.on!r}")
        if not (is_number(self.max_restarts) and self.max_restarts >= 0):
            raise SettingsError(f"max_restarts: 0 or more, not {self.max_restarts!r}")
        if not (is_number(self.within) and self.within > 0):
            raise SettingsError(f"within: seconds, more than 0, not {self.within!r}")
        for name in ("backoff", "max_backoff", "reset_after"):
            value: float = getattr(self, name)
            if not (is_number(value) and value >= 0) or (math.isinf(value) and name != "reset_after"):
                raise SettingsError(f"{name}: seconds, 0 or more, not {value!r}")

    def names(self, error: BaseException) -> bool:
        """Return True if this error leads to a restart."""
        return consists_of(error, self.on)


class RestartRecord:
    """The failures of one actor, as far as its policy counts them."""

    def __init__(self, policy: RestartPolicy) -> None:
        """Make an empty record.

        Args:
            policy: the actor's.
        """
        self._policy = policy
        self._times: deque[float] = deque()
        self._failures = 0

    def granted(self, now: float) -> int:
        """Return how many restarts were granted within the policy's window."""
        while self._times and self._times[0] <= now - self._policy.within:
            self._times.popleft()
        return len(self._times)

    def grant(self, now: float, up_since: float | None, random: Random) -> float | None:
        """Count a failure; return the seconds to wait before the restart, or None if no restart is left.

        Args:
            now: the loop's time.
            up_since: when the actor came up, None if it failed before.
            random: the source of the jitter.
        """
        if self.granted(now) >= self._policy.max_restarts:
            return None
        self._times.append(now)
        if math.isinf(self._policy.max_restarts):
            self._times.clear()
        if up_since is not None and now - up_since >= self._policy.reset_after:
            self._failures = 0
        self._failures += 1
        return full_jitter(self._failures, base=self._policy.backoff, most=self._policy.max_backoff, random=random)


def consists_of(error: BaseException, kinds: type[Exception] | tuple[type[Exception], ...]) -> bool:
    """Return True if the error is of one of these kinds, or a group that holds only such errors."""
    if isinstance(error, BaseExceptionGroup):
        return all(consists_of(one, kinds) for one in cast("tuple[BaseException, ...]", error.exceptions))
    return isinstance(error, kinds)
