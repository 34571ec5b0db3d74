"""The schedule: cron jobs with their last and next ticks, and delayed messages, on one line of time.

Input: Admin's reports and the page's window. Output: lanes and rows for the template. Of a job's past the server keeps its newest tick
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
from redisaq.errors import ServerError, SettingsError, TopicMissingError, UnknownFormatError
from redisaq.watching import Snapshot, words

WINDOWS = {"1h": 3600.0, "12h": 43_200.0, "7d": 604_800.0}
"""Seconds that the picture may show."""

PAST = 1 / 6
"""How much of the picture is past."""

JOBS = 50
"""Jobs that are shown."""

TICKS = 60
"""Ticks of a job that are drawn one by one."""

MOST_PARTITIONS = 1000
"""Partitions that are asked for delayed messages."""

DRAWN_PARTITIONS = 64
"""Partitions up to which delayed messages are counted by when they are due: each takes the server about 50 µs."""

ROWS = 50
"""Delayed messages of one page."""

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
        listed: those of this page.
        bars: height of each column in hundredths; None if there are too many partitions to count them.
        after: where the next page begins; "" if this is the last one.
        first: whether this is the first page.
        complete: whether all partitions were looked at.
        broken: topics whose messages cannot be read, with the reasons.
    """

    total: int
    topics: int
    listed: Sequence[DelayedMessage]
    bars: Sequence[float] | None
    after: str = ""
    first: bool = True
    complete: bool = True
    broken: Mapping[str, str] = {}


class Window:
    """The stretch of time that the picture shows."""

    def __init__(self, name: str | None, now: float) -> None:
        """Compute the stretch from the window's name, as in an address, and the present by the server's clock."""
        self.name = name if name in WINDOWS else "12h"
        seconds = WINDOWS[self.name]
        self.now, self.start = now, now - PAST * seconds
        self.end = self.start + seconds

    def __call__(self, moment: float) -> float:
        """Return the place of a moment, in hundredths."""
        return round(100 * (moment - self.start) / (self.end - self.start), 2)

    def edges(self, columns: int) -> list[datetime]:
        """Return the moments that part the picture into columns, and one after all others."""
        width = (self.end - self.start) / columns
        return [*(datetime.fromtimestamp(self.start + width * n, UTC) for n in range(columns + 1)), datetime.max.replace(tzinfo=UTC)]

    def has(self, moment: float) -> bool:
        """Return whether a moment is in the picture."""
        return self.start <= moment <= self.end

    def lines(self) -> list[tuple[float, str]]:
        """Return moments to mark, besides the present."""
        step = (self.end - self.start) / 6
        return [(self(at), words.day_and_clock(at, self.now)) for at in (self.now + n * step for n in (-1, 1, 2, 3, 4))]


async def jobs(admin: Admin, snapshot: Snapshot, window: Window) -> tuple[list[Job], dict[str, str]]:
    """Return the cron jobs of all programs; and of those that cannot be read, the reason."""
    found = await admin.schedules()
    broken = {words.group_name(one.app, one.name) if one.name else one.app: one.unreadable for one in found if one.unreadable}
    return [_job(one, snapshot, window) for one in found if not one.unreadable][:JOBS], broken


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
    """Return an expression in words; "" if it cannot be put into words."""
    try:
        from cronsim import CronSim, CronSimError  # noqa: PLC0415 -- an extra: the page works without it
    except ImportError:
        return ""
    try:
        return str(CronSim(spec[:200], datetime.now(UTC)).explain())
    except (CronSimError, ValueError, LookupError):
        return ""


async def delayed(admin: Admin, snapshot: Snapshot, window: Window, after: str | None = None) -> Delayed:
    """Return a page of the delayed messages of all topics, the earliest due first, without the ticks of cron jobs.

    Args:
        admin: asks the server.
        snapshot: says which topics have some.
        window: the picture.
        after: where the page begins: `Delayed.after` of the page before it; None: with the first one.
    """
    topics = [one for one in snapshot.topics if one.delayed and not one.topic.endswith(TOPIC_ENDS_WITH)]
    left, start, drawn = MOST_PARTITIONS, _place(after), sum(one.partitions for one in topics) <= DRAWN_PARTITIONS
    rows: list[DelayedMessage] = []
    broken: dict[str, str] = {}
    total, counts, seen = 0, [0] * BARS, 0
    for topic in sorted(topics, key=lambda one: -one.delayed):
        numbers = range(min(topic.partitions, left))
        left -= len(numbers)
        try:
            rows += await admin.next_delayed(topic.topic, count=ROWS + 1, after=start, partitions=numbers)
            earlier = await admin.count_delayed(topic.topic, window.edges(BARS), partitions=numbers) if drawn else []
        except TopicMissingError:
            continue
        except (SettingsError, UnknownFormatError, ServerError) as error:  # those of the other topics are shown
            broken[topic.topic] = str(error)
            continue
        seen += 1
        total += earlier[-1] if drawn else topic.delayed
        counts = [count + later - before for count, before, later in zip(counts, earlier, earlier[1:], strict=False)] if drawn else counts
    rows.sort(key=lambda one: (one.due, one.msg_id))
    most = max(counts) or 1
    return Delayed(
        total,
        seen,
        rows[:ROWS],
        [round(100 * count / most, 1) for count in counts] if drawn else None,
        f"{rows[ROWS - 1].due.isoformat()}/{rows[ROWS - 1].msg_id}" if len(rows) > ROWS else "",
        first=start is None,
        complete=sum(one.partitions for one in topics) <= MOST_PARTITIONS,
        broken=broken,
    )


def _place(after: str | None) -> tuple[datetime, str] | None:
    """Return the due time and the id after which a page begins; None if the address names none."""
    due, _, msg_id = (after or "").partition("/")
    try:
        moment = datetime.fromisoformat(due)
    except ValueError:
        return None
    return (moment, msg_id) if moment.tzinfo is not None and msg_id else None


def values(query: Mapping[str, str], now: float) -> tuple[Window, dict[str, Any]]:
    """Return the window that an address asks for, and what the template needs of it."""
    window = Window(query.get("window"), now)
    return window, {"window": window.name, "windows": tuple(WINDOWS), "lines": window.lines(), "now": window(now), "at": now}
