"""When cron jobs tick: expressions, time zones, what is enqueued, what is missed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from redisaq.admin_views import ScheduleInfo
from redisaq.core.schedules import (
    CatchUp,
    Schedule,
    Terms,
    TickRun,
    Timetable,
    decode_schedule,
    encode_schedule,
    plan,
    too_late,
    written,
)
from redisaq.errors import SettingsError
from redisaq.watching.words import day_and_clock

NIGHTLY = Timetable("0 3 * * *", "Europe/Berlin")
HOUR, DAY = 3600, 86_400


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def ticks(spec: str, tz: str, day: str) -> list[datetime]:
    """Return the ticks of a day, as times of the zone."""
    table, found = Timetable(spec, tz), list[datetime]()
    midnight = datetime.fromisoformat(day).replace(tzinfo=table.zone)
    moment, end = int(midnight.timestamp()) - 1, (midnight + timedelta(days=1)).timestamp()
    while (tick := table.after(moment)) is not None and tick < end:
        found.append(table.at(tick))
        assert tick > moment
        assert table.has(tick)
        moment = tick
    return found


# -- daylight saving time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "tz", "day", "expected"),
    [
        # Berlin: 02:00 becomes 03:00, so 02:30 is right after the gap; and 03:00 becomes 02:00, where fixed times come once.
        ("30 2 * * *", "Europe/Berlin", "2026-03-29", ["03:00:00+02:00"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25", ["02:30:00+02:00"]),
        ("0 3 * * *", "Europe/Berlin", "2026-03-29", ["03:00:00+02:00"]),
        ("0 3 * * *", "Europe/Berlin", "2026-10-25", ["03:00:00+01:00"]),
        ("0,30 2 * * *", "Europe/Berlin", "2026-03-29", ["03:00:00+02:00"]),
        ("15,45 1-3 * * *", "Europe/Berlin", "2026-10-25", ["01:15:00+02:00", "01:45:00+02:00", "02:15:00+02:00", "02:45:00+02:00",
                                                           "03:15:00+01:00", "03:45:00+01:00"]),
        # Lord Howe: half an hour.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-04", ["02:30:00+11:00"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-05", ["01:45:00+11:00"]),
    ],
)  # fmt: skip
def test_a_fixed_time_comes_once_a_day(spec: str, tz: str, day: str, expected: list[str]) -> None:
    assert [one.isoformat().removeprefix(f"{day}T") for one in ticks(spec, tz, day)] == expected


@pytest.mark.parametrize(
    ("spec", "tz", "day", "count"),
    [
        ("*/15 * * * *", "Europe/Berlin", "2026-03-29", 23 * 4),
        ("*/15 * * * *", "Europe/Berlin", "2026-10-25", 25 * 4),
        ("*/15 * * * *", "Australia/Lord_Howe", "2026-10-04", 94),
        ("*/15 * * * *", "Australia/Lord_Howe", "2026-04-05", 98),
    ],
)
def test_what_repeats_goes_on_with_the_time_that_passes(spec: str, tz: str, day: str, count: int) -> None:
    found = [one.timestamp() for one in ticks(spec, tz, day)]
    assert len(found) == count
    assert {later - earlier for earlier, later in itertools.pairwise(found)} == {900.0}


SPECS = ["30 2 * * *", "0,30 2 * * *", "*/20 * * * *", "15 */2 * * *", "45 1 * * sun", "0 0 * * *", "5 4 1 * *", "30 30 2 * * *"]
ZONES = ["Europe/Berlin", "Australia/Lord_Howe", "UTC", "America/Santiago", "Africa/Cairo"]  # the last two jump at midnight


@given(
    st.sampled_from(SPECS),
    st.sampled_from(ZONES),
    st.sampled_from(["2026-03-29", "2026-10-25", "2026-10-04", "2026-04-05", "2026-09-06", "2026-04-24", "2026-10-30"]),
    st.integers(-2 * DAY, 2 * DAY),
    st.integers(0, 2 * DAY),
)
@example("0 */5 * * *", "Australia/Lord_Howe", "2026-04-05", -DAY, 2 * DAY)  # cronsim alone passes over 05:00 after the half hour
@example("15 */2 * * *", "Australia/Lord_Howe", "2026-04-04", 15 * 3600, DAY)
@example("17 */3 * * *", "Australia/Lord_Howe", "2026-10-03", 15 * 3600 + 1800, DAY)
def test_looking_back_finds_what_looking_ahead_does(spec: str, tz: str, day: str, begin: int, lasts: int) -> None:
    table, first = Timetable(spec, tz), at(f"{day}T00:00:00+00:00") + begin
    ahead, moment = list[int](), first
    while (tick := table.after(moment)) is not None and tick <= first + lasts:
        ahead.append(tick)
        moment = tick
    assert table.between(first, first + lasts, 1000) == ahead
    assert table.between(first, first + lasts, 1) == ahead[-1:]


@pytest.mark.parametrize("tz", ["UTC", "Europe/Berlin"])
def test_looking_back_over_a_moment_is_cheap(tz: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that ticks every second looks back every second."""
    looked, whole = list[int](), Timetable._ticks

    def counting(self: Timetable, moment: int, *, back: bool) -> Iterator[int]:
        for tick in whole(self, moment, back=back):
            looked.append(tick)
            yield tick

    monkeypatch.setattr(Timetable, "_ticks", counting)
    table, now = Timetable("* * * * * *", tz), at("2026-05-05T12:00:00+00:00")
    looked.clear()
    assert table.between(now - 3, now, 1000) == [now - 2, now - 1, now]
    assert len(looked) < 20


# -- mistakes --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "tz", "reason"),
    [
        ("61 * * * *", "UTC", "the cron expression '61 \\* \\* \\* \\*' has no meaning: bad minute"),
        ("* * * *", "UTC", "'\\* \\* \\* \\*' has no meaning: wrong number of fields"),
        ("* * * foo *", "UTC", "bad month"),
        ("0 0 30 feb *", "UTC", "'0 0 30 feb \\*' has no meaning: bad day-of-month"),
        ("0 3 * * *", "Europe/Berln", "there is no time zone 'Europe/Berln'"),
        ("0 3 * * *", "../etc/passwd", "there is no time zone"),
        ("0 3 * * *", "", "there is no time zone ''"),
    ],
)
def test_a_mistake_is_named(spec: str, tz: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        Timetable(spec, tz)


# -- what is enqueued ------------------------------------------------------------------------------------------------------------------


def terms(catch_up: CatchUp = "latest", grace: float = 60.0, spec: str = "0 3 * * *") -> Terms:
    return Terms(spec, "Europe/Berlin", catch_up, grace)


DUE = [at(f"2026-05-{day:02}T03:00:00+02:00") for day in range(1, 10)]


def planned(kept: Schedule | None, now: int, catch_up: CatchUp = "latest", since: int | None = None, own: int | None = None) -> list[int]:
    found = plan(terms(catch_up), NIGHTLY, kept, now=now, since=since, own=own)
    assert found.due == max([*found.ticks, found.due])
    return list(found.ticks)


def test_a_first_start_has_nothing_to_catch_up_with() -> None:
    for catch_up in ("none", "latest", "all"):
        assert planned(None, DUE[3] + 5, catch_up) == [DUE[4]]


def test_nothing_is_to_be_done_before_the_tick_that_is_enqueued() -> None:
    assert planned(Schedule(terms(), DUE[3]), DUE[3] - 1) == []
    assert planned(Schedule(terms(), DUE[3]), DUE[3]) == [DUE[4]]


def test_a_server_clock_that_was_ahead_and_is_set_back_silences_no_job() -> None:
    ahead, back = Schedule(terms(), DUE[7]), DUE[2] + 30
    for catch_up in ("none", "latest", "all"):  # also what came since the last look: the server knows whether it was enqueued
        assert planned(ahead, back, catch_up) == DUE[2:4]
        assert planned(ahead, back + 60, catch_up) == [DUE[3]]
        assert planned(ahead, DUE[2] + 59, catch_up) == DUE[2:4]
        assert planned(ahead, DUE[2] + 60, catch_up) == [DUE[3]], "the last look was a minute ago"
    assert plan(terms(), NIGHTLY, ahead, now=back, since=DUE[7], own=DUE[7]).due == DUE[3]  # so that the next round goes on from there


def test_what_is_caught_up_with() -> None:
    kept = Schedule(terms(), DUE[0])
    assert planned(kept, DUE[3] + HOUR, "all") == DUE[1:5]
    assert planned(kept, DUE[3] + HOUR, "latest") == DUE[3:5]
    assert planned(kept, DUE[3] + HOUR, "none") == [DUE[4]]
    for catch_up in ("none", "latest"):  # within the grace it is not missed
        assert planned(kept, DUE[3] + 60, catch_up) == DUE[3:5]
    minutely = plan(terms("all"), Timetable("* * * * *", "UTC"), Schedule(terms(), 0), now=10_000_000, since=None, own=None)
    assert len(minutely.ticks) == 1001  # the newest 1,000, and the coming one
    assert minutely.ticks[-1] > 10_000_000 >= minutely.ticks[-2]


def test_a_server_that_lost_its_data_gets_what_came_since() -> None:
    assert planned(None, DUE[3] + 5, since=DUE[3] - 30, own=DUE[3]) == DUE[3:5]


def test_other_times_count_from_now_and_two_versions_each_tick_as_they_say() -> None:
    other = Schedule(terms(spec="0 5 * * *"), DUE[3] + 2 * HOUR)
    assert planned(other, DUE[3] - HOUR) == [DUE[3]]  # the coming one of the other version is later than ours
    assert planned(other, DUE[3] + HOUR, own=DUE[3]) == [DUE[4]]
    assert written(terms(), other, DUE[4], None, starting=False) == other
    assert written(terms(), other, DUE[4], None, starting=True) == Schedule(terms(), DUE[4])


def test_the_terms_of_the_program_that_started_last_are_kept() -> None:
    kept = Schedule(terms("all"), DUE[3])
    assert written(terms("latest"), kept, DUE[4], None, starting=False) == Schedule(terms("all"), DUE[4])
    assert written(terms("latest"), kept, DUE[4], None, starting=True) == Schedule(terms("latest"), DUE[4])
    for starting in (True, False):
        assert written(terms(), None, DUE[4], None, starting=starting) == Schedule(terms(), DUE[4])


def test_what_came_of_the_newest_tick_is_kept() -> None:
    old, new = TickRun(DUE[1], "dead", DUE[2] + 1.0), TickRun(DUE[2], "done", DUE[2] + 1.0)
    assert written(terms(), Schedule(terms(), DUE[3], new), DUE[3], old, starting=False).run == new
    kept = written(terms(), Schedule(terms(), DUE[3], old), DUE[3], new, starting=False)
    assert kept.run == new
    assert decode_schedule(encode_schedule(kept)) == kept
    assert decode_schedule(b"{}") is decode_schedule(None) is None
    again = TickRun(DUE[2], "failed", DUE[2] + 2.0)
    assert written(terms(), kept, DUE[3], again, starting=False).run == again, "the same tick, later"
    assert written(terms(), kept, DUE[3], None, starting=False).run == new


def test_what_a_stored_job_does_not_say_is_as_it_was_declared_first() -> None:
    """Older versions say less."""
    stored = b'{"terms":{"spec":"0 3 * * *","tz":"UTC"},"due":5,"run":{"at":4,"outcome":"done","since":4.5}}'
    assert decode_schedule(stored) == Schedule(
        Terms("0 3 * * *", "UTC", "latest", 60.0, msgspec.UNSET), 5, TickRun(4, "done", 4.5, attempt=1, error="")
    )


def test_times_that_redisaq_did_not_write_are_shown_as_the_last_there_is() -> None:
    kept = Schedule(terms(), 10**14, TickRun(10**14, "done", 1e300))
    found = ScheduleInfo.of("shop", "job", kept, 0.0)
    assert {found.next, found.last, found.since} == {datetime.max.replace(microsecond=0, tzinfo=UTC)}
    assert [day_and_clock(one.timestamp(), 0.0) for one in (found.next, found.last, found.since) if one] == ["31 Dec 23:59"] * 3


def test_too_late() -> None:
    cases: list[tuple[CatchUp, bool]] = [("none", True), ("latest", False), ("all", False)]
    for catch_up, late in cases:
        asked = terms(catch_up)
        assert not too_late(asked, NIGHTLY, DUE[1], DUE[1] + 60.0)
        assert too_late(asked, NIGHTLY, DUE[1], DUE[1] + 61.0) is late
        assert too_late(asked, NIGHTLY, DUE[1], DUE[2]) is (catch_up != "all")


def test_utc_needs_no_database() -> None:
    assert Timetable("0 3 * * *", "UTC").zone is UTC
