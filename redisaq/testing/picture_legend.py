"""Draw the legend of a timeline's picture: the meaning of each shape in it.

Input: a story, and where there is room. Output: the legend, and where it ends. It explains only what happened in the story.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from xml.etree.ElementTree import Element

from redisaq.testing import picture_shapes as shapes
from redisaq.testing.picture_layout import MARGIN
from redisaq.testing.timeline_story import CRASHED, PAUSED, Story, kind_of

LINE = 19.0
SAMPLE = 26.0

Draw = Callable[[Element, float, float], None]


def draw_legend(root: Element, story: Story, *, left: float, top: float, width: float) -> float:
    """Draw the legend from `top` downwards, in lines from `left` to the picture's width; return where it ends."""
    group = shapes.add(root, "g", class_="rq-legend")
    x, y = left, top + LINE / 2
    for text, sample in _items(story):
        needed = SAMPLE + len(text) * shapes.CHAR + 18.0
        if x > left and x + needed > width - MARGIN:
            x, y = left, y + LINE
        sample(group, x, y)
        shapes.write(group, x + SAMPLE, y + 4.0, text)
        x += needed
    return y + LINE / 2


def _items(story: Story) -> Iterable[tuple[str, Draw]]:
    yield from _items_of_leases(story)
    for what, text in ((PAUSED, "stands still"), (CRASHED, "gone")):
        if any(span.what == what for span in story.absences):
            yield text, _band(what)
    for what in shapes.MARKS:
        if any(mark.what.startswith(what) for mark in story.marks):
            yield what, _mark(what)
    known = {fault.kind: kind_of(fault) for fault in story.faults}
    for kind in sorted(known):
        yield known[kind], _fault(kind)
    if any(one.time is not None for one in story.violations):
        yield "violation", _violation


def _items_of_leases(story: Story) -> Iterable[tuple[str, Draw]]:
    ends = {_kind(one.end) for one in story.leases}
    for end, text in (("released", "lease, given back"), ("lost", "lease lost, or its owner crashed"), ("", "lease that had not ended")):
        if end in ends:
            yield text, _bar(end)
    outcomes = {run.outcome for run in story.deliveries}
    if "returned" in outcomes:
        yield "run of a handler", _run("rq-run", 5.0)
    if outcomes - {"returned"}:
        yield "run that raised, was cancelled or never ended", _run("rq-failed", 7.0)


def _kind(end: str) -> str:
    return "lost" if end == "crashed" else end


def _bar(end: str) -> Draw:
    return lambda group, x, y: shapes.bar(group, shapes.Box(x, y - 4.0, 18.0, 8.0), shapes.COLOURS[0], end, "")


def _run(class_: str, height: float) -> Draw:
    def draw(group: Element, x: float, y: float) -> None:
        shapes.add(group, "rect", class_=class_, x=x + 9.0, y=y - height / 2, width=2.0, height=height)

    return draw


def _band(what: str) -> Draw:
    return lambda group, x, y: shapes.band(group, shapes.Box(x, y - 6.0, 18.0, 12.0), 0.0, what, "")


def _mark(what: str) -> Draw:
    return lambda group, x, y: shapes.mark(group, x + 10.0, y, what, "")


def _fault(kind: str) -> Draw:
    return lambda group, x, y: shapes.fault(group, x + 10.0, y, kind, "")


def _violation(group: Element, x: float, y: float) -> None:
    shapes.add(group, "line", class_="rq-violation", x1=x + 10.0, x2=x + 10.0, y1=y - 7.0, y2=y + 7.0)
