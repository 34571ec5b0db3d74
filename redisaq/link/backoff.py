"""How long to wait before trying again: exponential back-off with full jitter.

The source of the idea is "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015). Jitter comes from the Environment's Random, so
that a seeded run repeats itself; redis' own back-off classes draw from the global one, and overflow after a thousand failures.
"""

from __future__ import annotations

from random import Random

BASE = 0.05
CAP = 2.0
_GREATEST_EXPONENT = 16


class Backoff:
    """Counts failures in a row; each delay is drawn evenly from 0 to a limit that doubles with each failure up to a cap."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.failures = 0

    def failed(self) -> float:
        """Count one more failure; return the seconds to wait before the next attempt."""
        limit = min(CAP, BASE * 2 ** min(self.failures, _GREATEST_EXPONENT))
        self.failures += 1
        return self._random.uniform(0.0, limit)

    def succeeded(self) -> None:
        """Forget the failures."""
        self.failures = 0
