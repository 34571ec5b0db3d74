"""What the views show: each function takes a snapshot and what the address asks for, and returns a View for a template.

Pure: no request, no server. Everything that a view lists is bounded, whatever the number of topics, groups, members and partitions.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from redisaq.admin import HistoryEntry, MessageSummary
from redisaq.dashboard import drawing
from redisaq.dashboard.messages import IS_ID
from redisaq.dashboard.newest import Newest
from redisaq.watching import Attention, Curves, GroupView, MemberView, PartitionView, Screen, Snapshot, TopicView, words
from redisaq.watching.history import named, sentence_of, spans_of

PAGE = 50
"""Rows of one page of a list."""

SKYLINE = 64
"""Partitions up to which each has a column; more are drawn as a map."""

GROUPS = 20
"""Groups of one topic in the list of all topics."""

LONGEST = 4 * PAGE
"""Changes of a group that its page lists."""

ENDED = 60.0
"""Seconds for which a member that was taken for dead is shown among the members."""

RANK = {"bad": 0, "warn": 1, "calm": 2, None: 3}


class View(msgspec.Struct, frozen=True):
    """What one page shows.

    Attributes:
        template: the name of its template.
        title: the page's title.
        section: which place of the bar it belongs to.
        screen: what the sampler should look at.
        values: what the template uses.
        moves: whether it changes with every snapshot.
        status: the HTTP status.
    """

    template: str
    title: str
    section: str
    screen: Screen
    values: Mapping[str, Any]
    moves: bool = True
    status: int = 200


class Links:
    """Addresses of views, wherever the application is mounted."""

    def __init__(self, root: str) -> None:
        """Begin with the path where the application is mounted; "" for the root."""
        self.root = root

    def __call__(self, *segments: object, **query: object) -> str:
        """Return the address of a view; queries of None are left out."""
        path = "/".join(quote(str(one), safe="") for one in segments)
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        return f"{self.root}/{path}{'?' + asked if asked else ''}"

    def at(self, here: str, query: Mapping[str, str], **changed: object) -> str:
        """Return the address of this view with other queries; None leaves one out."""
        asked = {name.rstrip("_"): value for name, value in {**query, **changed}.items() if value is not None}
        return f"{here}?{urlencode(asked)}" if asked else here

    def dead(self, topic: str, group: str) -> str:
        """Return the address of a group's dead letters."""
        return self("dead", g=f"{quote(topic, safe='')}/{quote(group, safe='')}")

    def to(self, screen: Screen) -> str:
        """Return the address of what a Screen names."""
        if screen.view == "message" and screen.msg_id:
            return self("m", screen.topic, screen.msg_id, p=screen.partition, e=screen.entry_id or None)
        if screen.view == "dead letters":
            return self.dead(screen.topic, screen.group) if screen.group else self("dead")
        if screen.view == "schedule":
            return self("schedule")
        if screen.group:
            return self("t", screen.topic, "g", screen.group, p=screen.partition)
        return self("t", screen.topic) if screen.topic else self()


class Curve(msgspec.Struct, frozen=True):
    """Two rates as paths: what comes in, what goes out, and the area between; and how wide they are."""

    arriving: str
    handled: str
    gap: str
    width: int


class Window(msgspec.Struct, frozen=True):
    """A stretch of time up to now: its name in addresses, its name on the page, and its seconds."""

    name: str
    words: str
    seconds: float


WINDOWS = (Window("30m", "30 min", 1800.0), Window("6h", "6 h", 21_600.0), Window("24h", "24 h", 86_400.0))
"""The stretches of time that a group's page shows."""


def window_of(query: Mapping[str, str]) -> Window:
    """Return the stretch of time that an address asks for."""
    return next((one for one in WINDOWS if one.name == query.get("window")), WINDOWS[0])


def rates(arriving: Curves | None, handled: Curves | None, window: Window = WINDOWS[0]) -> Curve | None:
    """Return the paths of a stretch of time; None if there are no curves."""
    if arriving is None:
        return None
    above = _values(arriving, window)
    below = above if handled is None else _values(handled, window)
    top = drawing.highest(above, below)
    out = "" if handled is None else drawing.line(below, top)
    return Curve(drawing.line(above, top), out, drawing.between(above, below, top), len(above) - 1)


def _values(curves: Curves, window: Window) -> Sequence[float | None]:
    """Return the values of a stretch of time: every 20 s of half an hour, every 5 minutes of more."""
    near = curves.near.values
    return near if window is WINDOWS[0] else curves.far.values[-round(window.seconds / curves.far.step) :]


def area(curves: Curves | None, per_second: float | None) -> tuple[str, str] | None:
    """Return area and edge of a backlog. What is done within seconds looks flat."""
    if curves is None:
        return None
    values = curves.near.values
    top = max(drawing.highest(values), (per_second or 0.0) * drawing.FLAT + 20)
    return drawing.area(values, top), drawing.line(values, top)


def colour(member: MemberView) -> str:
    """Return the classes that give a member its colour."""
    return f"m{member.slot % 8}{' hatch' if member.slot % 16 >= 8 else ''}"  # noqa: PLR2004 -- eight colours, each plain and hatched


def band(members: Sequence[MemberView], most: int = 12) -> list[tuple[str, float, float]]:
    """Return who owns how much, as rectangles: class, x, width."""
    owners = [(member, len(member.owns)) for member in members if member.owns][:most]
    total = sum(owned for _, owned in owners)
    found: list[tuple[str, float, float]] = []
    x = 0.0
    for member, owned in owners:
        width = 100 * owned / total
        found.append((f"m{member.slot % 8}", round(x, 2), round(max(1.0, width - 1.5), 2)))
        x += width
    return found


class Row(msgspec.Struct, frozen=True):
    """A group in a list of topics."""

    group: GroupView
    curve: Curve | None
    backlog: tuple[str, str] | None
    band: list[tuple[str, float, float]]


class TopicRow(msgspec.Struct, frozen=True):
    """A topic in a list."""

    topic: TopicView
    curve: Curve | None
    rows: Sequence[Row]
    more: int


def _row(group: GroupView) -> Row:
    return Row(group, rates(group.arriving_curve, group.handled_curve), area(group.backlog_curve, group.arriving), band(group.members))


def _topic_row(topic: TopicView, most: int) -> TopicRow:
    shown = topic.groups[:most]
    return TopicRow(topic, rates(topic.arriving_curve, None), [_row(one) for one in shown], len(topic.groups) - len(shown))


def _trouble(topic: TopicView) -> tuple[int, str]:
    return min((RANK[group.severity] for group in topic.groups), default=4), topic.topic


def overview(snapshot: Snapshot, query: Mapping[str, str]) -> View:
    """Show all topics: sums, what needs attention, topics and their groups."""
    if not snapshot.topics and snapshot.number and snapshot.server.state == "here":
        return View("empty.html", "Topics", "overview", Screen("overview"), {})
    wanted = query.get("q", "").strip()
    topics = [one for one in snapshot.topics if wanted in one.topic or any(wanted in group.group for group in one.groups)]
    by_name = query.get("order") == "name"
    if not by_name:
        topics.sort(key=_trouble)
    start = number_of(query.get("from"), len(topics))
    shown = topics[start : start + PAGE]
    values = {
        "rows": [_topic_row(one, GROUPS) for one in shown],
        "total": len(topics),
        "start": start,
        "by_name": by_name,
        "q": wanted,
        "attention": snapshot.attention[:PAGE],
        "more": len(snapshot.attention) - PAGE,
    }
    return View("overview.html", "Topics", "overview", Screen("overview"), values)


def number_of(text: str | None, limit: int) -> int:
    """Return a number of the address, 0 if it is none or too large."""
    number = int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else 0  # noqa: PLR2004 -- a billion
    return number if number < limit else 0


def topic(snapshot: Snapshot, name: str, query: Mapping[str, str], newest: Newest | None = None) -> View:
    """Show one topic: its groups, its newest messages, and what each partition keeps."""
    found = snapshot.topic(name)
    screen = Screen("topic", name)
    if found is None:
        return missing(f"No topic {name}", screen, snapshot)
    start = number_of(query.get("from"), len(found.groups))
    shown = found.groups[start : start + PAGE]
    most = max(found.lengths, default=0) or 1
    values = {
        "topic": found,
        "curve": rates(found.arriving_curve, None),
        "rows": [_row(one) for one in shown],
        "start": start,
        "newest": newest,
        "ago": partial(ago, snapshot.at),
        "lengths": [round(60 * one / most, 1) for one in found.lengths[:SKYLINE]],
    }
    return View("topic.html", name, "overview", screen, values)


class Column(msgspec.Struct, frozen=True):
    """A partition of a skyline."""

    view: PartitionView
    member: MemberView | None
    height: float
    label: str
    busy: str
    slow: bool


class Member(msgspec.Struct, frozen=True):
    """A member in the list of members."""

    view: MemberView
    silent: bool
    share: float


class Lane(msgspec.Struct, frozen=True):
    """A member's time as a line: from and width, in hundredths of the window; and its marks: sign, kind, place, what a pointer shows."""

    view: MemberView
    x: float
    width: float
    marks: Sequence[tuple[str, str, float, str]]


MARKS = {"joined": ("▸", ""), "left": ("◂", ""), "taken for dead": ("✕", "bad"), "takes over": ("○", "")}
"""Signs and kinds of what happened to a member, by the word of the history."""


class Line(msgspec.Struct, frozen=True):
    """A line of the history."""

    at: float
    member: MemberView | None
    sentence: str
    bad: bool


class Beside(msgspec.Struct, frozen=True):
    """What is shown of a group that no snapshot has.

    Attributes:
        past: its latest changes, for a window that is longer than what a snapshot knows.
        following: the messages that it gets next in the chosen partition.
    """

    past: Sequence[HistoryEntry] = ()
    following: Sequence[MessageSummary] = ()


def group(snapshot: Snapshot, topic_name: str, name: str, query: Mapping[str, str], beside: Beside = Beside()) -> View:  # noqa: B008 -- it is frozen
    """Show one group: its partitions and owners, what is in handlers, members, history.

    Args:
        snapshot: what is known.
        topic_name: the topic.
        name: the group.
        query: what else the address asks for.
        beside: what no snapshot has.
    """
    past = beside.past
    found, window = snapshot.group(topic_name, name), window_of(query)
    partition = partition_of(query)
    screen = Screen("group" if partition is None else "partition", topic_name, name, partition)
    if found is None:
        return missing(f"No group {name} of {topic_name}", screen, snapshot)
    member = next((one for one in found.members if one.incarnation == query.get("m")), None)
    by_slot = {one.slot: one for one in (*reversed(found.gone), *found.members)}
    aged, order = query.get("height") == "age", query.get("order", "number")
    silent = [one for one in found.gone if one.went == "taken for dead" and one.gone is not None and snapshot.at - one.gone <= ENDED]
    values: dict[str, Any] = {
        "topic": snapshot.topic(topic_name),
        "group": found,
        "curve": rates(found.arriving_curve, found.handled_curve, window),
        "caught_up": _caught_up(found),
        "by_slot": by_slot,
        "aged": aged,
        "order": order if order in ("owner", "lag") else "number",
        "chosen": next((one for one in found.partitions if one.partition == partition), None),
        "following": beside.following,
        "ago": partial(ago, snapshot.at),
        "running_there": [one for one in found.in_handlers or () if one.partition == partition][:GROUPS],
        "member": member,
        "running_here": [one for one in found.in_handlers or () if member is not None and one.member == member.slot][:GROUPS],
        "members": [_member(one, found.ttl, silent=True) for one in silent] + [_member(one, found.ttl) for one in found.members[:PAGE]],
        "handlers": [] if found.in_handlers is None else found.in_handlers[:PAGE],
        "lanes": _lanes(found, snapshot.at, window, past),
        "history": _history(found, by_slot, past),
        "window": window,
        "windows": WINDOWS,
    }
    if len(found.partitions) <= SKYLINE:
        values |= _skyline(found, by_slot, aged=aged, order=order)
    else:
        values |= _map(found)
    return View("group.html", f"{topic_name} › {name}", "overview", screen, values)


def partition_of(query: Mapping[str, str]) -> int | None:
    """Return the partition that an address asks for; None if it asks for none."""
    chosen = query.get("p")
    return int(chosen) if chosen is not None and chosen.isascii() and chosen.isdigit() and len(chosen) < 6 else None  # noqa: PLR2004 -- partitions


def _caught_up(found: GroupView) -> str:
    if not found.backlog:
        return "now"
    if found.caught_up_in is None:
        return "–"
    return "never" if math.isinf(found.caught_up_in) else words.duration(found.caught_up_in)


def _skyline(found: GroupView, by_slot: Mapping[int, MemberView], *, aged: bool, order: str) -> dict[str, Any]:
    value: Callable[[PartitionView], float] = (lambda one: one.oldest or 0.0) if aged else (lambda one: float(one.backlog))
    ordered = sorted(found.partitions, key=partial(_place, order))
    most = max((value(one) for one in ordered), default=0.0)
    line = drawing.nice(most, seconds=aged)
    top = max(most, line * 2, 1e-9) * 1.1
    since = {one.partition: one for one in reversed(found.in_handlers or ())}
    columns: list[Column] = []
    for one in ordered:
        running = since.get(one.partition)
        busy = None if running is None else max(0.0, one.looked - running.since)
        label = words.duration(one.oldest) if aged else words.short(one.backlog)
        slow = busy is not None and running is not None and busy > (30.0 if running.limit is None else 0.8 * running.limit)
        member = None if one.owner is None else by_slot.get(one.owner)
        height = round(100 * value(one) / top, 2)
        columns.append(Column(one, member, height, label.replace(" ", ""), "·" if busy is None else words.duration(busy), slow))
    text = words.duration if aged else words.short
    return {"columns": columns, "rules": [(round(100 * line * times / top, 2), text(line * times)) for times in (1, 2)], "cells": None}


def _place(order: str, one: PartitionView) -> tuple[float, int]:
    if order == "owner":
        return (math.inf if one.owner is None else one.owner), one.partition
    return (-one.backlog if order == "lag" else 0), one.partition


BINS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def _map(found: GroupView) -> dict[str, Any]:
    """Return the few partitions that matter of thousands, and how many have which lag. The rest is a picture that a script draws."""
    worst = heapq.nsmallest(10, found.partitions, key=lambda one: (one.owner is not None, -one.backlog, one.partition))
    counts = [0] * len(BINS)
    for one in found.partitions:
        counts[bisect_right(BINS, one.unread) - 1] += 1
    top = math.log10(1 + max(counts, default=0)) or 1.0
    return {
        "columns": None,
        "cells": len(found.partitions),
        "ownerless": sum(one.owner is None for one in found.partitions),
        "worst": worst,
        "most": max((one.backlog for one in worst), default=0) or 1,
        "bins": [(edge, number, round(74 * math.log10(1 + number) / top, 1)) for edge, number in zip(BINS, counts, strict=True)],
    }


def cells(found: GroupView) -> dict[str, Any]:
    """Return a byte for each partition, twice: the logarithm of what waits, and the owner's slot plus one (0: none), up to 255."""
    lag = bytes(min(255, round(16 * math.log2(1 + one.backlog))) for one in found.partitions)
    owner = bytes(0 if one.owner is None else 1 + one.owner % 255 for one in found.partitions)
    members = {one.slot: [one.tag, one.place] for one in found.members[:255]}
    return {"lag": lag, "owner": owner, "members": members, "partitions": [one.partition for one in found.partitions[:1]]}


def deliveries(counts: Mapping[int, int]) -> str:
    """Return how often pending entries were delivered, in words."""
    return ", ".join(f"{number} in the {_nth(times)}" for times, number in sorted(counts.items())[:5])


def _nth(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def _member(one: MemberView, ttl: float | None, *, silent: bool = False) -> Member:
    limit = one.ttl or ttl
    return Member(one, silent, 0.0 if limit is None or one.heartbeat is None else round(min(100.0, 100 * one.heartbeat / limit), 1))


def _lanes(found: GroupView, now: float, window: Window, past: Sequence[HistoryEntry]) -> list[Lane]:
    """Return the members' time lines: those of today's first, then of those that have gone."""
    start = now - window.seconds
    lanes: list[Lane] = []
    for one in (*found.members[:24], *found.gone[:8]):
        since, until = max(start, one.since or start), one.gone or now
        if until > start:
            lanes.append(_lane(one, (since, until, start), window, _marks(found, one, start, window)))
    known = {one.incarnation for one in (*found.members, *found.gone)}
    for span in [span for span in spans_of(past) if span.member not in known and span.until > start][:16]:
        gone = MemberView(0, "", span.name, span.member, "", None, "", span.since, (), None, None, gone=span.until, went=span.went)
        lanes.append(_lane(gone, (max(start, span.since or start), span.until, start), window, ()))
    return lanes


def _lane(one: MemberView, times: tuple[float, float, float], window: Window, marks: Sequence[tuple[str, str, float, str]]) -> Lane:
    """Return a member's lane. The times: since when, until when, and when the window begins."""
    since, until, start = times
    x, width = 100 * (since - start) / window.seconds, 100 * (until - since) / window.seconds
    return Lane(one, round(x, 2), round(max(0.3, width), 2), marks)


def _marks(found: GroupView, member: MemberView, start: float, window: Window) -> list[tuple[str, str, float, str]]:
    """Return what happened to a member within the window, as far as the history says: it came, left, was taken for dead, took over."""
    marks: list[tuple[str, str, float, str]] = []
    for one in found.history or ():
        if one.at >= start:
            at, said = round(100 * (one.at - start) / window.seconds, 2), f"{words.clock(one.at)} {one.sentence}"
            if one.member == member.slot and one.what in MARKS:
                marks.append((*MARKS[one.what], at, said))
            if any(slot == member.slot for slot, _ in one.takers):
                marks.append((*MARKS["takes over"], at, said))
    return marks


def _history(found: GroupView, by_slot: Mapping[int, MemberView], past: Sequence[HistoryEntry]) -> list[Line]:
    """Return the latest changes: those of the snapshot, then older ones."""
    near = (found.history or ())[:PAGE]
    lines = [
        Line(one.at, None if one.member is None else by_slot.get(one.member), one.sentence, one.what == "taken for dead") for one in near
    ]
    oldest = near[-1].at if near else math.inf
    older = [one for one in past if one.at.timestamp() < oldest][: LONGEST - len(lines)]
    return lines + [Line(one.at.timestamp(), None, sentence_of(one, named(one)), one.what == "taken for dead") for one in older]


def ago(now: float, moment: datetime) -> str:
    """Return how long ago a moment is."""
    return f"{words.duration(now - moment.timestamp())} ago"


def moment(moment: datetime | None) -> str:
    """Return a moment with its date, in UTC."""
    return "–" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def missing(what: str, screen: Screen, snapshot: Snapshot, search: str = "") -> View:
    """Show that there is no such thing, or that it is not known yet; and where it can be searched for, if it can."""
    unreadable = snapshot.unreadable(screen.topic, screen.group) if screen.topic and not search else ""
    values = {"what": what, "known_yet": snapshot.number > 0, "search": search, "unreadable": unreadable}
    return View("missing.html", what, "", screen, values, status=503 if unreadable else 404 if snapshot.number else 200)


def places(snapshot: Snapshot, wanted: str, links: Links) -> list[dict[str, str]]:
    """Return up to eight topics and groups whose names have this in them, and the message whose id it may be."""
    found: list[dict[str, str]] = []
    if IS_ID.fullmatch(wanted):
        found.append({"name": wanted, "kind": "message", "href": links("m", wanted)})
    for one in snapshot.topics:
        if wanted in one.topic:
            found.append({"name": one.topic, "kind": "topic", "href": links("t", one.topic)})
        found += [
            {"name": f"{one.topic} › {group.group}", "kind": "group", "href": links("t", one.topic, "g", group.group)}
            for group in one.groups
            if wanted in group.group
        ]
        if len(found) >= 8:  # noqa: PLR2004 -- a list that fits below the field
            break
    return found[:8]


def about(attention: Attention, links: Links, known: Callable[[Screen], bool]) -> str:
    """Return the address that a sentence leads to, or of the group if there is no such view."""
    screen = attention.screen
    return links.to(screen) if known(screen) else links.to(Screen("group" if screen.group else "topic", screen.topic, screen.group))
