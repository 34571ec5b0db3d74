"""Counters over time: what a number that only grows has grown by, and how fast."""

from __future__ import annotations

import math
from collections import deque

SHORTEST = 0.5
"""Seconds: over less, no rate is measured."""

KEPT = 130.0
"""Seconds of totals that a Counter keeps: twice the longest round over many partitions."""


class Counter:
    """A sum that grows by reports about its parts. The parts are reported at different times."""

    __slots__ = ("_gap", "_points", "_total", "at")

    def __init__(self) -> None:
        self._total = 0
        self._points: deque[tuple[float, int]] = deque()
        self._gap = -math.inf
        self.at = -math.inf

    def start(self, at: float) -> None:
        """Record that one more part is counted from now on."""
        if not self._points:
            self._points.append((at, 0))
        self.at = max(self.at, at)

    def grow(self, by: int, at: float) -> None:
        """Add what a part has grown by. A part that has shrunk was lost or moved: that is a gap."""
        if by < 0:
            self._gap, by = at, 0
        self._total += by
        if self._points and self._points[-1][0] >= at:
            self._points[-1] = self._points[-1][0], self._total
        else:
            self._points.append((at, self._total))
        self.at = max(self.at, at)
        while len(self._points) > 2 and self._points[1][0] < at - KEPT:  # noqa: PLR2004 -- one of before, and the newest
            self._points.popleft()

    def rate(self, at: float, over: float) -> float | None:
        """Return the growth per second in the last `over` seconds; None if that is not known."""
        if self._gap > at - over or not self._points or self.at < at - max(over, KEPT):
            return None
        first = self._points[0]
        for point in reversed(self._points):
            if point[0] <= self.at - over:
                first = point
                break
        last = self._points[-1]
        seconds = last[0] - first[0]
        return None if seconds < SHORTEST else (last[1] - first[1]) / seconds


class Lately:
    """What a number has grown by in the last seconds."""

    __slots__ = ("_added", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._added: deque[tuple[float, int]] = deque()

    def put(self, by: int, at: float) -> None:
        """Add what it has grown by."""
        if by > 0:
            if self._added and self._added[-1][0] >= at - 1:
                self._added[-1] = at, self._added[-1][1] + by
            else:
                self._added.append((at, by))

    def sum(self, at: float) -> int:
        """Return the growth."""
        while self._added and self._added[0][0] < at - self._seconds:
            self._added.popleft()
        return sum(by for _, by in self._added)
