"""Compute the positions of everything in a timeline's picture.

Input: a story, the time to show and a width. Output: coordinates. Every participant has a row, in the story's order. Each partition that a
member owned or handled in that time has a lane in its row, and lanes are in the same order in every row. Time runs linearly to the right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from redisaq.testing.timeline_story import Place, Story

MARGIN = 16.0
HEAD = 18.0
"""Height of the strip on top of each row that holds the marks."""

GAP = 6.0
MANY_LANES = 40
"""With more lanes than this, each lane is drawn lower."""

TICK_ROOM = 90.0
"""The least number of pixels between two ticks of the axis."""


@dataclass(frozen=True)
class Scale:
    """Convert time to pixels. Times outside of the time shown are moved to its border."""

    since: float
    until: float
    left: float
    right: float

    def x(self, time: float) -> float:
        """Return the position of a time."""
        inside = min(max(time, self.since), self.until)
        return self.left + (inside - self.since) / (self.until - self.since) * (self.right - self.left)

    def shows(self, since: float, until: float | None = None) -> bool:
        """Return whether any part of a span is shown."""
        return since <= self.until and (since if until is None else until) >= self.since

    def ticks(self) -> tuple[list[float], int]:
        """Return round times for the axis, and how many decimals they need."""
        most = max(1.0, (self.right - self.left) / TICK_ROOM)
        rough = (self.until - self.since) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1.0, 2.0, 5.0, 10.0) if power * factor >= rough * 0.999999)
        first, last = math.ceil(self.since / step - 1e-9), math.floor(self.until / step + 1e-9)
        return [count * step for count in range(first, last + 1)], max(0, -math.floor(math.log10(step) + 1e-9))


@dataclass(frozen=True)
class Row:
    """The row of one participant.

    Attributes:
        top: where the row begins; its marks are at `head`.
        lanes: where each partition's lane begins.
    """

    name: str
    top: float
    bottom: float
    head: float
    lanes: dict[Place, float]


@dataclass(frozen=True)
class Layout:
    """The positions of rows and lanes, and the scale of time."""

    scale: Scale
    rows: dict[str, Row]
    lane: float
    top: float
    bottom: float

    @property
    def bar(self) -> float:
        """Height of a lease's bar. The runs of handlers are below it, in its lane."""
        return self.lane - self.strip - 1.0

    @property
    def strip(self) -> float:
        """Height of a handler's run."""
        return 4.0 if self.lane > 12.0 else 3.0  # noqa: PLR2004 -- the lower of the two lanes


def lay_out(story: Story, window: tuple[float, float] | None, *, left: float, width: float, top: float) -> Layout:
    """Return the layout, starting at `top`; `left` is the width of the names."""
    since, until = (0.0, story.end) if window is None else window
    scale = Scale(since, max(until, since + 0.001), left, width - 1.5 * MARGIN)
    lanes = {name: _lanes(story, name, scale) for name in story.rows}
    lane = 16.0 if sum(len(places) for places in lanes.values()) <= MANY_LANES else 12.0
    rows: dict[str, Row] = {}
    y = top
    for name in story.rows:
        starts = {place: y + HEAD + index * lane for index, place in enumerate(lanes[name])}
        bottom = y + HEAD + len(starts) * lane + 3.0
        rows[name] = Row(name, y, bottom, y + HEAD / 2, starts)
        y = bottom + GAP
    return Layout(scale, rows, lane, top, max(y - GAP, top + HEAD))


def _lanes(story: Story, name: str, scale: Scale) -> Sequence[Place]:
    held = {
        (one.topic, one.group, one.partition) for one in story.leases if one.member == name and scale.shows(one.since, story.until(one))
    }
    run = {
        (one.topic, one.group, one.partition)
        for one in story.deliveries
        if one.member == name and scale.shows(one.started, story.until(one))
    }
    return sorted(held | run)


def levels(xs: Sequence[float], room: float) -> list[int]:
    """Return a level for each label so that no label covers another; `xs` ascend."""
    taken: list[float] = []
    found: list[int] = []
    for x in xs:
        level = next((index for index, last in enumerate(taken) if x - last >= room), len(taken))
        if level == len(taken):
            taken.append(x)
        taken[level] = x
        found.append(level)
    return found
