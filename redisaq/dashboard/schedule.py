"""The schedule: cron jobs with their last and next ticks, and delayed messages, on one line of time.

In come Admin's reports and the page's window. Out come lanes and rows for the template. Of a job's past the server keeps its newest tick
alone. The ticks to come are computed from the expression, if the package cronsim is installed; otherwise only the next one is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from redisaq.admin import Admin, DelayedMessage, ScheduleInfo
from redisaq.core.schedules import TOPIC_ENDS_WITH, Timetable
from redisaq.errors import SettingsError, TopicMissingError, UnknownFormatError
from redisaq.watching import Snapshot, words

WINDOWS = {"1h": 3600.0, "12h": 43_200.0, "7d": 604_800.0}
"""Seconds that the picture may show."""

PAST = 1 / 6
"""How much of the picture is past."""

JOBS = 50
"""Jobs that are shown."""

TICKS = 60
"""Ticks of a job that are drawn one by one."""

MOST = 500
"""Delayed messages that are looked at. If there are more, only their number is shown."""

MOST_PARTITIONS = 64
"""Partitions that are asked for delayed messages; likewise."""

ROWS = 10
"""Delayed messages that are listed."""

BARS = 72
"""Columns of the picture of delayed messages."""

OUTCOMES = {"done": "good", "running": "run", "failed": "warn", "dead": "bad", "missed": "missed"}
"""How the last tick is drawn, by its outcome."""


class Tick(msgspec.Struct, frozen=True):
    """A tick in the picture: kind, place in hundredths, what a pointer shows."""

    kind: str
    x: float
    title: str


class Job(msgspec.Struct, frozen=True):
    """A cron job.

    Attributes:
        info: what the server keeps of it.
        meaning: its expression in words; "" if that is not known.
        ticks: the ticks in the window.
        dense: from where to where there are too many ticks to draw one by one; None if there are not.
        beyond: when it ticks next, if that is after the window.
        last: what came of its last tick, in words.
        next: when it ticks next, in words.
        tone: how serious that is.
        paused: whether nothing starts, since its group is paused.
    """

    info: ScheduleInfo
    meaning: str
    ticks: Sequence[Tick]
    dense: tuple[float, float] | None
    beyond: str
    last: str
    next: str
    tone: str
    paused: bool


class Delayed(msgspec.Struct, frozen=True):
    """Delayed messages.

    Attributes:
        total: how many there are.
        topics: in how many topics.
        listed: the next ones; None if there are too many to look at.
        bars: height of each column in hundredths; None likewise.
    """

    total: int
    topics: int
    listed: Sequence[DelayedMessage] | None
    bars: Sequence[float] | None


class Window:
    """The stretch of time that the picture shows."""

    def __init__(self, name: str | None, now: float) -> None:
        """Take the window's name in an address, and the present by the server's clock."""
        self.name = name if name in WINDOWS else "12h"
        seconds = WINDOWS[self.name]
        self.now, self.start = now, now - PAST * seconds
        self.end = self.start + seconds

    def __call__(self, moment: float) -> float:
        """Return the place of a moment, in hundredths."""
        return round(100 * (moment - self.start) / (self.end - self.start), 2)

    def has(self, moment: float) -> bool:
        """Return whether a moment is in the picture."""
        return self.start <= moment <= self.end

    def lines(self) -> list[tuple[float, str]]:
        """Return moments to mark, besides the present."""
        step = (self.end - self.start) / 6
        return [(self(at), words.day_and_clock(at, self.now)) for at in (self.now + n * step for n in (-1, 1, 2, 3, 4))]


async def jobs(admin: Admin, snapshot: Snapshot, window: Window) -> list[Job]:
    """Return the cron jobs of all programs."""
    found = await admin.schedules()
    return [_job(one, snapshot, window) for one in found[:JOBS]]


def _job(one: ScheduleInfo, snapshot: Snapshot, window: Window) -> Job:
    topic = snapshot.topic(one.app + TOPIC_ENDS_WITH)
    ticks: list[Tick] = []
    if one.last is not None and window.has(one.last.timestamp()):
        at = one.last.timestamp()
        ticks.append(Tick(OUTCOMES.get(one.outcome, "due"), window(at), f"{words.clock(at, seconds=False)} {one.outcome or 'due'}"))
    coming = [] if one.next is None else ticks_of(one.spec, one.tz, int(window.now), int(window.end)) or [int(one.next.timestamp())]
    dense = (window(coming[0]), window(window.end)) if len(coming) > TICKS else None
    ticks += [Tick("due", window(at), f"{words.clock(at, seconds=False)} due") for at in coming if window.has(at) and dense is None]
    beyond = "" if one.next is None or window.has(one.next.timestamp()) else f"{words.day_and_clock(one.next.timestamp(), window.now)} →"
    next_in = "–" if one.next is None else words.fine(one.next.timestamp() - window.now)
    tone = {"missed": "warn", "failed": "warn", "dead": "bad"}.get(one.outcome, "")
    paused = topic is not None and any(group.paused for group in topic.groups)
    return Job(one, meaning_of(one.spec), ticks, dense, beyond, _last(one, window.now), next_in, tone, paused)


def _last(one: ScheduleInfo, now: float) -> str:
    if one.last is None:
        return "–"
    at = words.day_and_clock(one.last.timestamp(), now)
    since = "" if one.since is None else words.duration(one.since.timestamp() - one.last.timestamp())
    told = {
        "": "has begun",
        "done": f"done, {since} after it was due",
        "running": f"runs, attempt {one.attempt}" if one.attempt > 1 else "runs",
        "failed": "failed, is tried again",
        "missed": "missed: nobody was there",
    }
    return f"{at} {told.get(one.outcome, one.outcome)}"


@lru_cache(maxsize=2 * JOBS)
def _timetable(spec: str, tz: str) -> Timetable | None:
    """Return the timetable; None if this program cannot read the expression, or has no cronsim."""
    try:
        return Timetable(spec[:200], tz[:100])
    except SettingsError:
        return None


def ticks_of(spec: str, tz: str, after: int, until: int) -> list[int]:
    """Return the ticks in a stretch of time, one more than can be drawn at most; none if they cannot be computed."""
    timetable = _timetable(spec, tz)
    found: list[int] = []
    while timetable is not None and len(found) <= TICKS:
        coming = timetable.after(found[-1] if found else after)
        if coming is None or coming > until:
            break
        found.append(coming)
    return found


@lru_cache(maxsize=2 * JOBS)
def meaning_of(spec: str) -> str:
    """Return an expression in words; "" if that cannot be told."""
    try:
        from cronsim import CronSim, CronSimError  # noqa: PLC0415 -- an extra: the page works without it
    except ImportError:
        return ""
    try:
        return str(CronSim(spec[:200], datetime.now(UTC)).explain())
    except (CronSimError, ValueError, LookupError):
        return ""


async def delayed(admin: Admin, snapshot: Snapshot, window: Window) -> Delayed:
    """Return the delayed messages, without the ticks of cron jobs."""
    topics = [one for one in snapshot.topics if one.delayed and not one.topic.endswith(TOPIC_ENDS_WITH)]
    total = sum(one.delayed for one in topics)
    if total > MOST or sum(one.partitions for one in topics) > MOST_PARTITIONS:
        return Delayed(total, len(topics), None, None)
    found: list[DelayedMessage] = []
    for topic in topics:
        try:
            async for one in admin.delayed(topic.topic):
                found.append(one)
                if len(found) == MOST:
                    break
        except (TopicMissingError, SettingsError, UnknownFormatError):
            continue
    found.sort(key=lambda one: one.due)
    counts = [0] * BARS
    for one in found:
        place = window(one.due.timestamp()) * BARS / 100
        if 0 <= place < BARS:
            counts[int(place)] += 1
    most = max(counts) or 1
    return Delayed(len(found), len({one.topic for one in found}), found[:ROWS], [round(100 * count / most, 1) for count in counts])


def as_json(found: Sequence[ScheduleInfo]) -> bytes:
    """Return the cron jobs for programs, as `redisaq schedule --json` does."""
    return msgspec.json.encode(found)


def values(query: Mapping[str, str], now: float) -> tuple[Window, dict[str, Any]]:
    """Return the window that an address asks for, and what the template needs of it."""
    window = Window(query.get("window"), now)
    return window, {"window": window.name, "windows": tuple(WINDOWS), "lines": window.lines(), "now": window(now), "at": now}
