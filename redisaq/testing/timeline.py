"""Write a report's story as text, for debugging a failing seed.

Input: a Story, and the moments that matter. Output: first the violations; then the events in order of time, exact around those moments and
in outline elsewhere; then what was left out, and how to see it. There are no more event lines than asked for, and each event is on one
line.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from redisaq.testing.timeline_story import PAUSED, Place, Story, Violation, kind_of, printable

LIMIT = 120
"""Default number of event lines in a timeline."""

WITHIN = 2.0
"""Default number of seconds before and after a moment that matters in which the timeline is exact."""

TOGETHER = 1.0
"""Where the timeline is not exact, events of a member's leases within this many seconds share one line."""

ROUNDED = 0.0006
"""Seconds by which a violation's time may be wrong."""

LONGEST_NAME = 20
MOST_ENTRIES = 4

# Which lines are kept first if there is no room for all.
_VIOLATION, _STATE, _NEAR, _OUTLINE, _FAULT = range(5)

_WHAT = {_NEAR: "runs and settlements", _OUTLINE: "doings of members and leases", _FAULT: "faults", _STATE: "states of members"}


@dataclass(frozen=True)
class Line:
    """One thing that happened.

    Attributes:
        rank: the kind of thing, which decides what is left out.
    """

    time: float
    who: str
    what: str
    rank: int


@dataclass(frozen=True)
class Focus:
    """The moments that matter. Everything within `within` seconds of one of them is near.

    Attributes:
        places: the partitions that matter at these moments; empty: all.
    """

    moments: tuple[float, ...]
    within: float
    places: frozenset[Place]

    def distance(self, time: float) -> float:
        """Return the seconds to the nearest moment."""
        return min((abs(time - moment) for moment in self.moments), default=math.inf)

    def near(self, time: float) -> bool:
        """Return whether the timeline is exact at that time."""
        return self.distance(time) <= self.within

    def windows(self) -> list[tuple[float, float]]:
        """Return the times in which the timeline is exact; adjoining ones are merged."""
        windows: list[tuple[float, float]] = []
        for moment in self.moments:
            since, until = max(0.0, moment - self.within), moment + self.within
            if windows and since <= windows[-1][1]:
                since = windows.pop()[0]
            windows.append((since, until))
        return windows


def write(story: Story, *, around: float | None, within: float, limit: int | None, steps: int) -> str:
    """Return the timeline; see `Report.timeline`. `steps` is the number of lines of the trace."""
    focus = _focus(story, around, within)
    lines = sorted(_lines(story, focus), key=_order)
    shown = lines if limit is None else _chosen(lines, focus, limit)
    width = min(LONGEST_NAME, max((len(line.who) for line in shown), default=0))
    windows = " and ".join(f"{since:.3f} to {until:.3f}" for since, until in focus.windows())
    told = [story.title, story.figures]
    if story.violations:
        told += ["", "what must not have happened", *(_violated(violation) for violation in story.violations)]
    if story.known:
        told += ["", "what no rule can help", *(_violated(one) for one in story.known)]
    told += ["", "what happened" + (f", in detail from {windows} s" if windows else "")]
    told += _body(shown, lines, width) or ["  nothing"]
    told += _rest(story, focus, lines, shown, steps)
    return "\n".join(told)


def _focus(story: Story, around: float | None, within: float) -> Focus:
    if around is not None:
        return Focus((around,), within, frozenset())
    moments = {violation.time for violation in story.violations if violation.time is not None}
    texts = " ".join(violation.text for violation in story.violations if violation.time is not None)
    words = {word.strip(",.;:()") for word in texts.split()}
    places = {place for place in story.places if printable(f"{place[0]}/{place[2]}") in words}
    return Focus(tuple(sorted(moments)), within, frozenset(places))


# -- what happened ---------------------------------------------------------------------------------------------------------------------


def _lines(story: Story, focus: Focus) -> Iterable[Line]:
    for violation in story.violations:
        if violation.time is not None:
            yield Line(violation.time, ">>>", f"VIOLATION: {violation.text}", _VIOLATION)
    for since, _ in focus.windows():
        yield from _states(story, since)
    for mark in story.marks:
        yield Line(mark.time, _name(mark.member), printable(mark.what), _OUTLINE)
    for fault in story.faults:
        what = f"fault: {kind_of(fault)} ({printable(fault.detail)})"
        yield Line(fault.time, _name(fault.who), what, _FAULT)
    yield from _leases(story, focus)
    for run in story.deliveries:
        place = (run.topic, run.group, run.partition)
        if focus.near(run.started) and _about(place, focus):
            until = "forever" if run.ended is None else f"until {run.ended:.3f}"
            what = f"runs {story.name_of(place)} {run.entry_id}, attempt {run.attempt}, {until}: {run.outcome}"
            yield Line(run.started, _name(run.member), what, _NEAR)
    for settle in story.settles:
        place = (settle.topic, settle.group, settle.partition)
        if focus.near(settle.time) and _about(place, focus):
            answer = "" if settle.accepted else f": REFUSED under {settle.token}"
            what = f"settles {story.name_of(place)} {_some(settle.entry_ids)} as {settle.to}{answer}"
            yield Line(settle.time, _name(settle.member), what, _NEAR)


def _order(line: Line) -> float:
    """Sort by time; a violation, whose time is rounded, comes after the events that it is about."""
    return line.time + ROUNDED if line.rank == _VIOLATION else line.time


def _about(place: Place, focus: Focus) -> bool:
    return not focus.places or place in focus.places


def _states(story: Story, time: float) -> Iterable[Line]:
    """Return the state of each member at the time a window opens."""
    for member in story.members:
        if not any(one.member == member and one.since < time <= one.until for one in story.presences):
            continue
        held = [one for one in story.leases if one.member == member and one.since < time <= story.until(one)]
        what = "(owns " + (_listed(story, [(one.topic, one.group, one.partition) for one in held]) or "nothing")
        for one in story.absences:
            if one.member == member and one.what == PAUSED and one.since < time <= one.until:
                what += f"; stands still from {one.since:.3f} to {one.until:.3f}"
        yield Line(time, _name(member), f"{what})", _STATE)


def _leases(story: Story, focus: Focus) -> Iterable[Line]:
    ends = {"released": "gives back", "lost": "loses", "crashed": "leaves behind"}
    changes = [(one.since, one.member, "takes", one) for one in story.leases]
    changes += [(one.until, one.member, ends.get(one.end, one.end), one) for one in story.leases if one.until is not None]
    changes.sort(key=lambda change: change[0])
    together: dict[str, tuple[float, str, list[Place]]] = {}
    for time, member, verb, lease in changes:
        place = (lease.topic, lease.group, lease.partition)
        former = together.get(member)
        joins = former is not None and former[1] == verb and time - former[0] <= TOGETHER and not focus.near(time)
        if not joins:
            yield from _flush(story, member, together)
        if focus.near(time):
            under = f" under {lease.token}" if verb == "takes" else ""
            yield Line(time, _name(member), f"{printable(verb)} {story.name_of(place)}{under}", _OUTLINE)
        else:
            together.setdefault(member, (time, verb, []))[2].append(place)
    for member in list(together):
        yield from _flush(story, member, together)


def _flush(story: Story, member: str, together: dict[str, tuple[float, str, list[Place]]]) -> Iterable[Line]:
    if member in together:
        time, verb, places = together.pop(member)
        yield Line(time, _name(member), f"{printable(verb)} {_listed(story, places)}", _OUTLINE)


def _listed(story: Story, places: Sequence[Place]) -> str:
    """List partitions, each topic once: orders/1, 2, 5."""
    told: list[str] = []
    former: tuple[str, str] | None = None
    for topic, group, partition in sorted(places):
        name = story.name_of((topic, group, partition))
        told.append(str(partition) if (topic, group) == former and not name.endswith(")") else name)
        former = (topic, group)
    return ", ".join(told)


def _some(entry_ids: Sequence[str]) -> str:
    more = len(entry_ids) - MOST_ENTRIES
    return ", ".join(entry_ids[:MOST_ENTRIES]) + (f" and {more} more" if more > 0 else "")


def _name(who: str) -> str:
    return printable(who)


# -- how it is shown -------------------------------------------------------------------------------------------------------------------


def _chosen(lines: Sequence[Line], focus: Focus, limit: int) -> list[Line]:
    """Return as many lines as there is room for, in order. Prefer lines near the moments that matter, by kind, then by distance."""

    def worth(index: int) -> tuple[bool, int, float, int]:
        line = lines[index]
        distance = focus.distance(line.time)
        far = not focus.near(line.time) and line.rank != _VIOLATION
        return (far, line.rank, distance if math.isfinite(distance) else line.time, index)

    kept = sorted(range(len(lines)), key=worth)[: max(0, limit)]
    return [lines[index] for index in sorted(kept)]


def _body(shown: Sequence[Line], lines: Sequence[Line], width: int) -> list[str]:
    body: list[str] = []
    position = 0
    for line in shown:
        following = next(index for index in range(position, len(lines)) if lines[index] is line)
        if any(lines[index].rank not in (_FAULT, _STATE) for index in range(position, following)):
            body.append(f"{'...':>10}")
        position = following + 1
        who = line.who if len(line.who) <= width else line.who[: width - 1] + "…"
        body.append(f"{line.time:10.3f}  {who:<{width}}  {line.what}")
    if position < len(lines):
        body.append(f"{'...':>10}")
    return body


def _violated(violation: Violation) -> str:
    return f"{'' if violation.time is None else f'{violation.time:.3f}':>10}  {violation.text}"


def _rest(story: Story, focus: Focus, lines: Sequence[Line], shown: Sequence[Line], steps: int) -> list[str]:
    counted = Counter(line.rank for line in lines) - Counter(line.rank for line in shown)
    left = [f"{number} {_WHAT.get(rank, 'violations')}" for rank, number in sorted(counted.items())]
    told = sum(line.rank == _NEAR for line in lines)
    other = len(story.deliveries) + len(story.settles) - told
    if other:
        left.append(f"{other} runs and settlements elsewhere")
    rest = ["", f"left out: {', '.join(left)}"] if left else [""]
    moment = focus.moments[0] if focus.moments else story.end / 2
    rest.append(f"see more: timeline(around={moment:.3f}, within={focus.within:g}, limit=None); all {steps} steps are in report.trace")
    return rest
