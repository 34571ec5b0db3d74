"""Numbers over time: rings of the last half hour and of the last day, in a few hundred bytes each.

Input: values with their moments. Output: Curves. A bin without a value is a gap, and stays one.
"""

from __future__ import annotations

import math
from array import array

from redisaq.watching.snapshot import GAP, Curve, Curves

NEAR, NEAR_STEP = 90, 20
FAR, FAR_STEP = 288, 300


class Ring:
    """The last values at equal distances in time."""

    def __init__(self, size: int, step: float) -> None:
        self._size = size
        self._step = step
        self._values = array("f", [GAP] * size)
        self._newest: int | None = None  # the number of the newest bin
        self._curve: Curve | None = None

    def put(self, at: float, value: float | None) -> None:
        """Set the value of the bin that ends at this moment. Bins that were skipped are gaps."""
        number = round(at / self._step)
        ahead = self._size if self._newest is None else min(number - self._newest, self._size)
        if ahead < 0:
            return  # another server, whose clock is behind: its values come when it has caught up
        if ahead:
            del self._values[:ahead]
            self._values.extend([GAP] * ahead)
        self._values[-1] = GAP if value is None else value
        self._newest, self._curve = number, None

    def newest(self, count: int) -> float | None:
        """Return the mean of the newest values, without the gaps; None if there are only gaps."""
        found = [value for value in self._values[-count:] if not math.isnan(value)]
        return sum(found) / len(found) if found else None

    @property
    def curve(self) -> Curve:
        """What to draw."""
        if self._curve is None:
            self._curve = Curve.of(self._step, (self._newest or 0) * self._step, self._values)
        return self._curve


class Series:
    """One number over time."""

    def __init__(self) -> None:
        self._near = Ring(NEAR, NEAR_STEP)
        self._far = Ring(FAR, FAR_STEP)
        self._curves: Curves | None = None

    def put(self, at: float, value: float | None) -> None:
        """Set the value for the 20 s that end at this moment."""
        self._near.put(at, value)
        far_at = math.ceil(at / FAR_STEP) * FAR_STEP
        self._far.put(far_at, self._near.newest(round((at - far_at + FAR_STEP) / NEAR_STEP)))
        self._curves = None

    @property
    def curves(self) -> Curves:
        """What to draw."""
        if self._curves is None:
            self._curves = Curves(self._near.curve, self._far.curve)
        return self._curves
