"""Counts a connection's failures in a row: how long to wait is `core.retry`'s to say.

Jitter comes from the Environment's Random, so that a seeded run repeats itself; redis' own back-off classes draw from the global one, and
overflow after a thousand failures.
"""

from __future__ import annotations

from random import Random

from redisaq.core.retry import full_jitter

BASE = 0.05
CAP = 2.0


class Backoff:
    """Counts failures in a row; each delay is drawn evenly from 0 to a limit that doubles with each failure up to a cap."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.failures = 0

    def failed(self) -> float:
        """Count one more failure; return the seconds to wait before the next attempt."""
        self.failures += 1
        return full_jitter(self.failures, base=BASE, most=CAP, random=self._random)

    def broke(self, stood: float) -> float:
        """Return the seconds to wait before connecting again, after a connection that stood for so many seconds.

        One that stood for longer than the longest wait was a success: 0, and the failures are forgotten. Otherwise it counts as one more
        failure: a server, or what stands before it, that lets everybody in and closes at once is not to be dialled in a busy loop.
        """
        if stood > CAP:
            self.failures = 0
            return 0.0
        return self.failed()
