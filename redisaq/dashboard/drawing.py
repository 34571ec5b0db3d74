"""Turns numbers into the paths of small pictures. Pure. A curve is as wide as it has steps, and y points downwards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Values = Sequence[float | None]

HEIGHT = 24
"""The height of a curve."""

FLAT = 10.0
"""A backlog of fewer seconds of work looks flat."""


def _y(value: float, top: float) -> float:
    return HEIGHT - 1 - value / top * (HEIGHT - 3)


def _runs(values: Values) -> Iterable[list[tuple[int, float]]]:
    """Yield the stretches without a gap."""
    run: list[tuple[int, float]] = []
    for place, value in enumerate(values):
        if value is None:
            if run:
                yield run
            run = []
        else:
            run.append((place, value))
    if run:
        yield run


def _points(run: Iterable[tuple[int, float]], top: float) -> list[str]:
    return [f"{place} {round(_y(value, top), 1):g}" for place, value in run]


def line(values: Values, top: float) -> str:
    """Return a path through the values, with gaps where they are not known."""
    return "".join("M" + "L".join(_points(run, top)) for run in _runs(values))


def area(values: Values, top: float) -> str:
    """Return the area below the values."""
    return "".join("M" + "L".join([f"{run[0][0]} {HEIGHT}", *_points(run, top), f"{run[-1][0]} {HEIGHT}"]) + "Z" for run in _runs(values))


def between(upper: Values, lower: Values, top: float) -> str:
    """Return the area between two curves where the upper one is clearly above the other: what comes in and is not handled."""
    both: list[float | None] = []
    for one, other in zip(upper, lower, strict=False):
        both.append(None if one is None or other is None or one - other <= 0.05 * top else other)
    shapes: list[str] = []
    for run in _runs(both):
        above = [(place, upper[place] or 0.0) for place, _ in run]
        shapes.append("M" + "L".join(_points(above, top) + _points(reversed(run), top)) + "Z")
    return "".join(shapes)


def highest(*curves: Values) -> float:
    """Return the top of a picture of these curves."""
    return max((value for curve in curves for value in curve if value is not None), default=0.0) * 1.05 or 1e-9


def nice(top: float, *, seconds: bool = False) -> float:
    """Return a round number of which about two fit below the top: where a line across the picture is drawn."""
    raw = max(top, 1.0) / 2.2
    unit = 10 ** math.floor(math.log10(raw))
    steps = [1 * unit, 2 * unit, 5 * unit, 10 * unit] if not seconds or raw < 60 else [60, 120, 300, 600, 1200, 3600, 7200, 21600, 86400]  # noqa: PLR2004 -- seconds of a minute
    return next((step for step in steps if step >= raw / 1.3), raw)
