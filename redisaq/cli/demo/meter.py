"""The rate of a growing count, over the last moments. Pure: times are given, in seconds."""

from __future__ import annotations

from collections import deque

WINDOW = 1.5
"""Seconds over which a rate is taken: short enough to show a stop, long enough not to flicker."""


class Meter:
    """Takes samples of a count; `rate` is what it grows by in a second."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self.rate = 0.0

    def sample(self, now: float, count: int) -> None:
        """Note the count, and take the rate anew."""
        samples = self._samples
        samples.append((now, count))
        while samples[0][0] < now - WINDOW:
            samples.popleft()
        first_at, first = samples[0]
        self.rate = (count - first) / (now - first_at) if now > first_at else 0.0
