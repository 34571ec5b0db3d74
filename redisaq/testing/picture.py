"""Draw a report's story as a picture: an SVG document that is complete in itself.

Input: a Story and the time to show. Output: the text of the document: numbered violations, then members as rows with time to the right,
leases as bars, faults as marks, runs of handlers as ticks, and a legend. The same story gives the same bytes, and XML parsers accept them.
The document refers to no external font, script or file. The picture of a long run has no more elements than its leases, faults and pixels
require.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from xml.etree.ElementTree import Element, tostring

from redisaq.testing import picture_shapes as shapes
from redisaq.testing.observed import Delivery, Lease
from redisaq.testing.picture_layout import HEAD, MARGIN, Layout, Row, lay_out, levels
from redisaq.testing.picture_legend import draw_legend
from redisaq.testing.timeline_story import CRASHED, OF_THE_SERVER, Place, Story, Violation, kind_of

WIDTH = 1280
"""Default width in pixels."""

LEAST_WIDTH = 600

LINE = 16.0
FLAG = 15.0
AXIS = 18.0
TOLD_RUNS = 5
NAMES_ROOM = (60.0, 170.0)


def draw(story: Story, *, window: tuple[float, float] | None, width: int) -> str:
    """Return the picture; see `Report.timeline_svg`. `window` is the time to show; None: all."""
    numbered = [(index + 1, one) for index, one in enumerate(story.violations)]
    flags = [(count, one) for count, one in numbered if one.time is not None and _within(one.time, window)]
    flags.sort(key=lambda flag: flag[1].time or 0.0)
    left, lane_names = _names(story)
    head = MARGIN + 2 * LINE + LINE * len(numbered) + 8.0
    probe = lay_out(story, window, left=left, width=float(width), top=0.0).scale
    heights = levels([probe.x(one.time or 0.0) for _, one in flags], FLAG)
    top = head + FLAG * (max(heights, default=-1) + 1) + AXIS
    layout = lay_out(story, window, left=left, width=float(width), top=top)

    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "class": "rq", "role": "img", "width": str(width)})
    shapes.add(root, "title").text = story.title
    shapes.add(root, "style").text = shapes.STYLE
    shapes.hatches(shapes.add(root, "defs"))
    paper = shapes.add(root, "rect", class_="rq-paper", x=0.0, y=0.0, width=float(width))
    _draw_head(root, story, numbered, float(width))
    _draw_grid(root, layout)
    for row in layout.rows.values():
        _draw_row(root, story, layout, row, lane_names)
    _draw_losses(root, story, layout)
    _draw_flags(root, layout, flags, heights)
    height = draw_legend(root, story, left=left, top=layout.bottom + AXIS + 14.0, width=float(width)) + MARGIN
    paper.set("height", shapes.number(height))
    root.set("height", shapes.number(height))
    root.set("viewBox", f"0 0 {width} {shapes.number(height)}")
    return tostring(root, encoding="unicode") + "\n"


def _within(time: float, window: tuple[float, float] | None) -> bool:
    return window is None or window[0] <= time <= window[1]


def _names(story: Story) -> tuple[float, dict[Place, str]]:
    """Return the width of the names, and the labels of lanes: numbers if there is one topic with one group."""
    alone = len({place[:2] for place in story.places}) == 1
    names = {place: str(place[2]) if alone else story.name_of(place) for place in story.places}
    longest = max((len(name) for name in (*story.rows, *names.values())), default=0)
    least, most = NAMES_ROOM
    return MARGIN + min(most, max(least, longest * 7.5 + 12.0)), names


# -- around the rows -------------------------------------------------------------------------------------------------------------------


def _draw_head(root: Element, story: Story, numbered: Sequence[tuple[int, Violation]], width: float) -> None:
    room = width - 2 * MARGIN
    shapes.write(root, MARGIN, MARGIN + 12.0, story.title, "rq-title", room=room, char=8.5)
    shapes.write(root, MARGIN, MARGIN + 12.0 + LINE, story.figures, "rq-soft", room=room)
    for count, one in numbered:
        y = MARGIN + 12.0 + LINE * (count + 1)
        when = "" if one.time is None else f"{one.time:.3f} s: "
        shapes.write(root, MARGIN, y, f"{count}.  {when}{one.text}", "rq-told", room=room)


def _draw_grid(root: Element, layout: Layout) -> None:
    grid = shapes.add(root, "g", class_="rq-axis")
    left, width = layout.scale.left, layout.scale.right - layout.scale.left
    for row in layout.rows.values():
        shapes.add(grid, "rect", class_="rq-row", x=left, y=row.top, width=width, height=row.bottom - row.top)
    times, decimals = layout.scale.ticks()
    for time in times:
        x = layout.scale.x(time)
        shapes.add(grid, "line", class_="rq-grid", x1=x, x2=x, y1=layout.top - 4.0, y2=layout.bottom + 4.0)
        for y in (layout.top - 7.0, layout.bottom + 14.0):
            shapes.write(grid, x, y, f"{time:.{decimals}f} s", "rq-soft", anchor="middle")


def _draw_losses(root: Element, story: Story, layout: Layout) -> None:
    """Draw a line through all rows where the server lost something."""
    for fault in story.faults:
        if fault.kind in OF_THE_SERVER and layout.scale.shows(fault.time):
            x = layout.scale.x(fault.time)
            title = f"{fault.time:.3f} s: {kind_of(fault)} ({fault.detail})"
            shapes.add(root, "line", title, class_="rq-loss", x1=x, x2=x, y1=layout.top - 4.0, y2=layout.bottom + 4.0)


def _draw_flags(root: Element, layout: Layout, flags: Sequence[tuple[int, Violation]], heights: Sequence[int]) -> None:
    for (count, one), level in zip(flags, heights, strict=True):
        x, y = layout.scale.x(one.time or 0.0), layout.top - AXIS - FLAG * level - FLAG / 2
        group = shapes.add(root, "g", f"{one.time:.3f} s: {one.text}", class_="rq-broken")
        shapes.add(group, "line", class_="rq-violation", x1=x, x2=x, y1=y, y2=layout.bottom + 4.0)
        shapes.add(group, "circle", class_="rq-flag", cx=x, cy=y, r=6.5)
        shapes.write(group, x, y + 3.2, str(count), "rq-number", anchor="middle")


# -- a row -----------------------------------------------------------------------------------------------------------------------------


def _draw_row(root: Element, story: Story, layout: Layout, row: Row, lane_names: dict[Place, str]) -> None:
    scale = layout.scale
    group = shapes.add(root, "g", class_="rq-member")
    shapes.write(group, MARGIN, row.head + 4.0, row.name, "rq-name", room=scale.left - MARGIN - 6.0, char=7.5)
    for span in story.presences:
        if span.member == row.name and scale.shows(span.since, span.until):
            x, width = _extent(layout, span.since, span.until)
            shapes.add(group, "rect", class_="rq-present", x=x, y=row.head - 6.0, width=width, height=12.0)
    for place, y in row.lanes.items():
        shapes.write(group, scale.left - 6.0, y + layout.bar - 1.0, lane_names[place], "rq-small", room=scale.left - MARGIN, anchor="end")
    for lease in story.leases:
        if lease.member == row.name and scale.shows(lease.since, story.until(lease)):
            place = (lease.topic, lease.group, lease.partition)
            _draw_lease(group, story, layout, lease, row.lanes[place])
    _draw_runs(group, story, layout, row)
    _draw_absences(group, story, layout, row)
    for fault in story.faults:
        if fault.who == row.name and scale.shows(fault.time):
            title = f"{fault.time:.3f} s: {fault.who}: {kind_of(fault)} ({fault.detail})"
            shapes.fault(group, scale.x(fault.time), row.head, fault.kind, title)
    for mark in story.marks:
        if mark.member == row.name and scale.shows(mark.time):
            shapes.mark(group, scale.x(mark.time), row.head, mark.what, f"{mark.time:.3f} s: {mark.member} {mark.what}")


def _draw_absences(group: Element, story: Story, layout: Layout, row: Row) -> None:
    for span in story.absences:
        if span.member != row.name or not layout.scale.shows(span.since, span.until):
            continue
        x, width = _extent(layout, span.since, span.until)
        what, seconds = "is gone" if span.what == CRASHED else "stands still", span.until - span.since
        title = f"{row.name} {what} for {seconds:.3f} s, from {span.since:.3f} to {span.until:.3f} s"
        shapes.band(group, shapes.Box(x, row.top, width, row.bottom - row.top), HEAD, span.what, title)
        shown = f"{what} {seconds:.1f} s"
        if width > len(shown) * shapes.CHAR + 24.0:
            shapes.write(group, x + 14.0, row.head + 4.0, shown)


def _draw_lease(group: Element, story: Story, layout: Layout, lease: Lease, y: float) -> None:
    place = (lease.topic, lease.group, lease.partition)
    colour = shapes.COLOURS[story.places.index(place) % len(shapes.COLOURS)]
    x, width = _extent(layout, lease.since, story.until(lease))
    ended = "and has it still" if lease.until is None else f"until {lease.until:.3f} s: {lease.end}"
    title = f"{lease.member} owns {story.name_of(place)} from {lease.since:.3f} s {ended}, token {lease.token}"
    shapes.bar(group, shapes.Box(x, y, width, layout.bar), colour, _end(layout, lease), title)
    name = next((one for one in (story.name_of(place), str(lease.partition)) if len(one) * shapes.CHAR + 8.0 < width), "")
    if name and layout.bar > 9.0:  # noqa: PLR2004 -- the taller of the two bars
        class_ = "rq-small rq-on-dark" if colour in shapes.DARK_COLOURS else "rq-small rq-on-light"
        shapes.write(group, x + 4.0, y + layout.bar - 2.5, name, class_)


def _end(layout: Layout, lease: Lease) -> str:
    """Return how the bar ends: a bar that continues beyond the time shown has no end in it."""
    if lease.until is None:
        return ""
    return lease.end if lease.until <= layout.scale.until else "released"


def _draw_runs(group: Element, story: Story, layout: Layout, row: Row) -> None:
    """Draw runs of handlers. Those that begin and end in one pixel of a lane are drawn as one tick."""
    scale = layout.scale

    def pixel(run: Delivery) -> tuple[Place, bool, int, int]:
        x, width = _extent(layout, run.started, story.until(run))
        return (run.topic, run.group, run.partition), run.outcome != "returned", round(x), round(width)

    runs = [run for run in story.deliveries if run.member == row.name and scale.shows(run.started, story.until(run))]
    for (place, failed, x, width), together in groupby(sorted(runs, key=pixel), key=pixel):
        told = [_told(story, run) for run in together]
        more = [f"and {len(told) - TOLD_RUNS} more"] if len(told) > TOLD_RUNS else []
        class_ = "rq-failed" if failed else "rq-run"
        y, height = row.lanes[place] + layout.bar + 0.5, layout.strip
        if failed:  # taller, too, so that colour is not the only difference
            y, height = y - 2.0, height + 2.0
        shapes.add(group, "rect", "; ".join(told[:TOLD_RUNS] + more), class_=class_, x=float(x), y=y, width=max(1.0, width), height=height)


def _told(story: Story, run: Delivery) -> str:
    until = "forever" if run.ended is None else f"to {run.ended:.3f} s"
    place = story.name_of((run.topic, run.group, run.partition))
    return f"{run.member} runs {place} {run.entry_id}, attempt {run.attempt}, from {run.started:.3f} {until}: {run.outcome}"


def _extent(layout: Layout, since: float, until: float) -> tuple[float, float]:
    """Return where a span begins, and its width: at least one pixel."""
    x = layout.scale.x(since)
    return x, max(1.0, layout.scale.x(until) - x)
