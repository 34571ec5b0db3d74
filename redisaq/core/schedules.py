"""When the cron jobs of a program tick, and what is stored about that: pure, and without a clock.

Input: an expression and a time zone, what the server has stored of the job, the server's time. Output: which ticks to enqueue now, what to
store, and whether a tick that is about to begin still counts. The package cronsim knows what expressions mean; it is imported when the
first timetable is made.

Ticks are whole seconds since 1970. The server's clock decides everything, so replicas whose own clocks differ enqueue the same ticks.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import Literal

import msgspec

from redisaq.errors import SettingsError

CatchUp = Literal["none", "latest", "all"]
"""Which missed ticks are run: none of them, the newest, or all."""

TOPIC_ENDS_WITH = "-cron"
"""How the names of topics end that hold ticks, after the program's name."""

MOST_MISSED = 1000
"""How many missed ticks run with "all": the newest ones."""

LOOK = 60
"""Seconds between two looks at the schedules, if no tick comes before."""

LONGEST_FOLD = 3 * 3600
"""No clock that is set back regularly is set back by more than this many seconds."""


class Timetable:
    """The ticks of one expression in one time zone.

    Attributes:
        spec: the expression.
        tz: the zone's name.
        zone: the zone.
    """

    def __init__(self, spec: str, tz: str) -> None:
        """Read the expression and the zone.

        Raises:
            SettingsError: the expression has no meaning or never ticks, there is no such zone, or cronsim is not installed.
        """
        try:
            from cronsim import CronSim, CronSimError  # noqa: PLC0415 -- an extra: only those who use it need it
        except ImportError as error:
            raise SettingsError('cron jobs need the package cronsim: pip install "redisaq[cron]"') from error
        self.spec = spec
        self.tz = tz
        self.zone = _zone(tz)
        self._cronsim = CronSim
        try:
            first = self.after(0)
        except CronSimError as error:
            raise SettingsError(f"the cron expression {spec!r} has no meaning: {str(error)[:1].lower()}{str(error)[1:]}") from error
        if first is None:
            raise SettingsError(f"the cron expression {spec!r} never ticks")

    def after(self, moment: int) -> int | None:
        """Return the first tick after a moment; None if there is none within 50 years."""
        found = self._next(moment)
        if found is None or self._is_even(moment - LONGEST_FOLD, moment, found):
            return found
        # Where the clock is set by half an hour, cronsim may pass over a tick on its way forward, but not on its way back.
        for tick in self._ticks(found, back=True):
            if tick <= moment:
                break
            if self._next(tick - 1) == tick:
                found = tick
        return found

    def _is_even(self, *moments: int) -> bool:
        """Return whether the zone's clock is equally far from UTC at all these moments."""
        return len({self.at(moment).utcoffset() for moment in moments}) == 1

    def _next(self, moment: int) -> int | None:
        for tick in self._ticks(moment, back=False):
            if tick > moment:  # where the clock is set back, a time that comes once may come before the moment
                return tick
        return None

    def has(self, moment: int) -> bool:
        """Return whether there is a tick at this moment."""
        return self.after(moment - 1) == moment

    def between(self, after: int, until: int, most: int) -> list[int]:
        """Return the ticks after one moment and not after another, in order: the newest `most` of them."""
        found: list[int] = []
        # Where the clock is set back, a later time of day may be an earlier tick. Elsewhere, looking so far only takes long.
        beyond = 1 if self._is_even(until - LONGEST_FOLD, until, until + LONGEST_FOLD) else LONGEST_FOLD
        for tick in self._ticks(until + beyond, back=True):
            if tick <= after or len(found) == most:
                break
            if tick <= until and tick not in found[-1:] and self.has(tick):
                found.append(tick)
        return found[::-1]

    def at(self, tick: int) -> datetime:
        """Return a tick as a time in the zone."""
        return datetime.fromtimestamp(tick, self.zone)

    def _ticks(self, moment: int, *, back: bool) -> Iterator[int]:
        for one in self._cronsim(self.spec, datetime.fromtimestamp(moment, self.zone), reverse=back):
            yield int(one.timestamp())


def _zone(name: str) -> tzinfo:
    if name == "UTC":  # it is always there
        return UTC
    from zoneinfo import ZoneInfo  # noqa: PLC0415 -- as cronsim: not everybody needs it

    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise SettingsError(
            f"there is no time zone {name!r}: name one as the IANA database does, such as Europe/Berlin (a machine without that "
            "database needs the package tzdata)"
        ) from error


class Terms(msgspec.Struct, frozen=True):
    """A job's terms, as the program declares them.

    Attributes:
        spec: the expression.
        tz: the zone's name.
        catch_up: which missed ticks run.
        grace: seconds by which a tick may begin late without being missed.
        timeout: seconds that the handler may run; not set: no limit.
    """

    spec: str
    tz: str
    catch_up: CatchUp = "latest"
    grace: float = 60.0
    timeout: float | msgspec.UnsetType = msgspec.UNSET  # older versions neither write nor keep it


class TickRun(msgspec.Struct, frozen=True):
    """The outcome of a tick.

    Attributes:
        at: the tick.
        outcome: "running"; "done"; "failed" and to be tried again; "dead"; or "missed": it was due too long ago and did not run.
        since: since when that is so, by the server's clock, in seconds since 1970.
        attempt: the number of the attempt, from 1.
        error: the error's class and text, shortened; "" without one.
    """

    at: int
    outcome: Literal["running", "done", "failed", "dead", "missed"]
    since: float
    attempt: int = 1
    error: str = ""


class Schedule(msgspec.Struct, frozen=True):
    """What the server has stored of a job, for tools that do not have the program.

    Attributes:
        terms: the terms that the program declares.
        due: the newest tick that was enqueued: the next one while it is in the future.
        run: the newest known outcome of a tick; None before the first.
    """

    terms: Terms
    due: int
    run: TickRun | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Schedule).decode


def encode_schedule(schedule: Schedule) -> bytes:
    """Return it as JSON, so that a person can read it, too."""
    return _encode(schedule)


def decode_schedule(data: bytes | None) -> Schedule | None:
    """Return what was stored; None if there is nothing, or it cannot be read: then the job starts as if it were new."""
    try:
        return None if data is None else _decode(data)
    except (msgspec.MsgspecError, ValueError):
        return None


class Plan(msgspec.Struct, frozen=True):
    """What to do for a job.

    Attributes:
        ticks: the ticks to enqueue, in order.
        due: the newest tick that is enqueued then.
    """

    ticks: tuple[int, ...]
    due: int


def plan(terms: Terms, timetable: Timetable, kept: Schedule | None, *, now: int, since: int | None, own: int | None) -> Plan:
    """Return what to enqueue now: the missed ticks that are to run, and the coming tick.

    Args:
        terms: this program's terms of the job.
        timetable: the timetable of these terms.
        kept: what the server has stored.
        now: the server's time.
        since: the server's time when this program last did this; None at its start.
        own: the newest tick that this program has enqueued; None at its start.
    """
    if kept is None:  # a first start has nothing to catch up with; a server that lost its data has what came since
        begin = now if since is None else min(since, now)
    elif (kept.terms.spec, kept.terms.tz) == (terms.spec, terms.tz):
        begin = kept.due
    elif own is None:  # another version of the program stopped here
        begin = min(kept.due, now)
    else:  # another version of the program runs beside this one: each enqueues its own ticks
        begin = own
    coming = timetable.after(now)
    if begin > now:
        if coming is None or begin <= coming:
            return Plan((), begin)
        # The server's clock was ahead and has been set back since the last look. Ticks that were enqueued before are refused.
        begin = now - LOOK
    ticks = timetable.between(begin, now, MOST_MISSED)
    if terms.catch_up != "all":
        recent = [tick for tick in ticks if now - tick <= terms.grace]
        ticks = recent or (ticks[-1:] if terms.catch_up == "latest" else [])
    if coming is not None:
        ticks.append(coming)
    return Plan(tuple(ticks), max([begin, *ticks]))


def written(terms: Terms, kept: Schedule | None, due: int, run: TickRun | None, *, starting: bool) -> Schedule:
    """Return what the server is to store afterwards.

    The terms are those of the program that started last. Another program that runs at the same time, with other terms, changes only the
    outcome of a tick.
    """
    known = None if kept is None else kept.run
    newest = run if known is None or (run is not None and run.at >= known.at) else known
    if kept is None or starting or (kept.terms.spec, kept.terms.tz) == (terms.spec, terms.tz):
        standing = terms if kept is None or starting else kept.terms
        return Schedule(standing, due, newest)
    return Schedule(kept.terms, kept.due, newest)


def too_late(terms: Terms, timetable: Timetable, tick: int, now: float) -> bool:
    """Return whether a tick that has not begun yet is missed, and must not run any more."""
    if terms.catch_up == "all" or now - tick <= terms.grace:
        return False
    if terms.catch_up == "none":
        return True
    later = timetable.after(tick)
    return later is not None and later <= now
