"""Cron jobs of an App: declared, ticking, missed, removed; in virtual time, on the memory broker."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, cast

import anyio
import pytest

from redisaq import Admin, App, DeadLetter, Message, Producer, RetryAfter, RetryPolicy, Tick, events
from redisaq.brokers.memory.store import MemoryStore
from redisaq.cron import run_now
from redisaq.environment import current_environment, use_environment
from redisaq.errors import SettingsError
from redisaq.middleware import Next
from redisaq.testing import virtual_run
from redisaq.testing.virtual import EPOCH
from tests.app.calm import CalmApp, long_waits

Run: TypeAlias = Callable[[Callable[[], Awaitable[None]]], None]

BEGIN = datetime.fromtimestamp(EPOCH, UTC)  # 22:13:20
MINUTE = timedelta(minutes=1)


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a coroutine function in virtual time."""
    with long_waits():
        yield lambda main: virtual_run(main, backend=request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"memory://{request.node.name}"


def now() -> datetime:
    return datetime.fromtimestamp(current_environment().wall_clock(), UTC)


def clock(text: str) -> datetime:
    """Return a time of the first night."""
    hour, minute = map(int, text.split(":"))
    return BEGIN.replace(hour=hour, minute=minute, second=0) + timedelta(days=hour < 22)


@asynccontextmanager
async def served(app: App[Any]) -> Any:
    """Serve it within the block."""
    async with anyio.create_task_group() as tasks:
        await tasks.start(app.serve)
        yield
        await app.stop()


def test_a_job_ticks_when_it_is_due(run: Run, url: str) -> None:
    app, came = CalmApp(url), list[tuple[str, datetime, datetime]]()

    @app.cron("*/2 * * * *")
    async def often(tick: Tick) -> None:
        came.append((tick.name, tick.at, now()))

    @app.cron("20 23 * * *", tz="Europe/Berlin", name="in Berlin")
    def seldom(tick: Tick) -> None:
        came.append((tick.name, tick.at, now()))

    async def main() -> None:
        async with served(app):
            await anyio.sleep(600)
            (schedule,) = [one for one in await app.schedules() if one.name == "often"]
            assert (schedule.next, schedule.last, schedule.outcome) == (clock("22:24"), clock("22:22"), "done")
        await anyio.sleep(600)  # nobody serves it

    run(main)
    assert sorted((at, name) for name, at, _ in came) == [
        (clock("22:14"), "often"),
        (clock("22:16"), "often"),
        (clock("22:18"), "often"),
        (clock("22:20"), "in Berlin"),
        (clock("22:20"), "often"),
        (clock("22:22"), "often"),
    ]
    assert all(timedelta() <= began - at < timedelta(seconds=1) for _, at, began in came)
    assert {at.isoformat() for name, at, _ in came if name == "in Berlin"} == {"2023-11-14T23:20:00+01:00"}
    assert [(job.name, job.terms.spec, job.terms.tz) for job in app.crons] == [
        ("often", "*/2 * * * *", "UTC"),
        ("in Berlin", "20 23 * * *", "Europe/Berlin"),
    ]
    assert callable(often)
    assert callable(seldom)


def test_a_server_clock_that_jumps_ahead_and_back_silences_no_job(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app, came, ahead = CalmApp(url), list[tuple[datetime, datetime]](), 0.0
    app.interval = 5.0

    @app.cron("*/2 * * * *")
    async def often(tick: Tick) -> None:
        came.append((tick.at, now()))

    monkeypatch.setattr(MemoryStore, "now", lambda store: round((store.environment.wall_clock() + ahead) * 1_000_000))

    async def main() -> None:
        nonlocal ahead
        async with served(app):
            await anyio.sleep(100)
            ahead = 3600.0
            await anyio.sleep(150)
            ahead = 0.0
            await anyio.sleep(600)

    run(main)
    after = [(at, began) for at, began in came if began > clock("22:17") + timedelta(seconds=30)]
    assert [at for at, _ in after] == [clock(text) for text in ("22:18", "22:20", "22:22", "22:24", "22:26")]
    assert all(timedelta() <= began - at < timedelta(seconds=1) for at, began in after[1:])
    assert len({at for at, _ in came}) == len(came)
    assert {at.hour for at, _ in came} == {22, 23}


def test_a_tick_goes_through_middleware_state_events_and_retries(run: Run, url: str) -> None:
    said = list[str]()

    @asynccontextmanager
    async def resources(_: App[str]) -> Any:
        yield "state"

    async def around(messages: tuple[Message[Any], ...], call_next: Next) -> None:
        said.append(f"around {messages[0].payload.name}")
        await call_next()

    def note(event: events.Event) -> None:
        if isinstance(event, events.MessageEvent):
            said.append(type(event).__name__)

    app = CalmApp(url, lifespan=resources, middleware=[around], on_event=note)

    @app.cron("15 22 * * *", timeout=5)
    async def nightly(_: Tick) -> None:
        said.append(app.state)
        if len(said) < 4:
            await anyio.sleep(60)
        if len(said) < 10:
            raise ValueError("no luck")

    async def main() -> None:
        async with served(app):
            await anyio.sleep(110)
            (schedule,) = await app.schedules()
            assert (schedule.outcome, schedule.attempt, schedule.error) == ("done", 3, "")

    run(main)
    once = ["MessageStarted", "around nightly", "state"]
    assert said == [*once, "MessageFailed", "MessageRetried", *once, "MessageFailed", "MessageRetried", *once, "MessageSucceeded"]


def test_each_job_has_its_own_retry_policy(run: Run, url: str) -> None:
    came = list[tuple[str, int, int]]()
    app = CalmApp(url)

    async def fail(tick: Tick) -> None:
        came.append((tick.name, tick.at.minute, round((now() - tick.at).total_seconds())))
        raise ValueError(tick.name)

    app.cron("15 22 * * *", name="once", retry=RetryPolicy(max_attempts=1))(fail)
    app.cron("15 22 * * *", name="thrice", retry=RetryPolicy(max_attempts=3, backoff=10.0, factor=1.0, jitter=False))(fail)
    app.cron("15,16 22 * * *", name="in order", retry=RetryPolicy(max_attempts=2, backoff=90.0, jitter=False, blocking=True))(fail)
    app.cron("15 22 * * *", name="hopeless", retry=RetryPolicy(give_up_on=(ValueError,)))(fail)

    async def main() -> None:
        async with served(app), Admin(url) as admin:
            await anyio.sleep(100 + 300)
            assert [one.error_type async for one in admin.dead_letters("app-cron", "cron")] == ["ValueError"] * 5

    run(main)
    by_job = {name: [(minute, seconds) for other, minute, seconds in came if other == name] for name, _, _ in came}
    assert by_job == {
        "once": [(15, 0)],
        "thrice": [(15, 0), (15, 10), (15, 20)],
        "in order": [(15, 0), (15, 90), (16, 30), (16, 120)],
        "hopeless": [(15, 0)],
    }


def test_what_became_of_a_tick_is_kept(run: Run, url: str) -> None:
    came = list[datetime]()
    app, ways = CalmApp(url, name="shop"), iter([ValueError("secret of the trade"), DeadLetter("hopeless"), None, None])

    @app.cron("*/5 * * * *")
    async def job(tick: Tick) -> None:
        came.append(tick.at)
        await anyio.sleep(1)
        if clock("22:15") < tick.at and (error := next(ways)):
            raise error

    async def main() -> None:
        async with served(app), Admin(url) as admin:
            await anyio.sleep(60)
            assert [one.outcome for one in await admin.schedules("shop")] == [""]
            assert await admin.schedules("another") == []
            await anyio.sleep(60 * 5 + 40.1)  # at 22:20:00
            found, one = list[tuple[str, str, int]](), (await admin.schedules())[0]
            for _ in range(600):
                (one,) = await admin.schedules()
                if (one.outcome, one.error, one.attempt) not in found[-1:]:
                    found.append((one.outcome, one.error, one.attempt))
                await anyio.sleep(0.2)
            assert found == [
                ("running", "", 1),
                ("failed", "ValueError: secret of the trade", 1),
                ("running", "", 2),
                ("dead", "DeadLetter: hopeless", 2),
            ]
            assert one.since is not None
            assert (one.app, one.name, one.last, one.next) == ("shop", "job", clock("22:20"), clock("22:25"))
            await anyio.sleep(300)
            assert [(one.outcome, one.last) for one in await admin.schedules()] == [("done", clock("22:25"))]
            assert await admin.redrive("shop-cron", "cron") == 1  # it is not too late
            await anyio.sleep(3)
            assert came == [clock(text) for text in ("22:15", "22:20", "22:20", "22:25", "22:20")]

    run(main)


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("none", ["22:18"]),
        ("latest", ["22:17", "22:18"]),
        ("all", ["22:15", "22:16", "22:17", "22:18"]),
    ],
)
def test_ticks_that_nobody_was_there_for(run: Run, url: str, catch_up: str, expected: list[str]) -> None:
    app, came = CalmApp(url), list[datetime]()

    @app.cron("* * * * *", catch_up=cast("Any", catch_up), grace=10)
    async def job(tick: Tick) -> None:
        came.append(tick.at)

    async def main() -> None:
        async with served(app):
            await anyio.sleep(60)  # until 22:14:20
        assert came == [clock("22:14")]
        await anyio.sleep(180 + 30)  # until 22:17:50
        async with served(app):
            await anyio.sleep(30)
            assert [one.outcome for one in await app.schedules()] == ["done"]

    run(main)
    assert came[1:] == [clock(text) for text in expected]


def test_a_job_never_overlaps_itself_and_what_it_missed_meanwhile_is_dropped(run: Run, url: str) -> None:
    app, came, running = CalmApp(url), list[datetime](), 0

    @app.cron("* * * * *")
    async def slow(tick: Tick) -> None:
        nonlocal running
        running += 1
        assert running == 1
        came.append(tick.at)
        await anyio.sleep(250 if len(came) == 1 else 1)
        running -= 1

    @app.cron("* * * * *")
    async def quick(tick: Tick) -> None:
        quick_ones.append(tick.at)

    quick_ones = list[datetime]()

    async def main() -> None:
        async with served(app):
            await anyio.sleep(360)

    run(main)
    # 22:14 ran until 22:18:10: 22:17 began later than its grace of a minute, 22:18 did not.
    assert came == [clock("22:14"), clock("22:18"), clock("22:19")]
    assert quick_ones == [clock(f"22:{minute}") for minute in range(14, 20)]


def test_a_job_that_was_removed_stops_and_says_so(run: Run, url: str, caplog: pytest.LogCaptureFixture) -> None:
    before, after, came = CalmApp(url), CalmApp(url), list[str]()

    @before.cron("30 * * * *")
    async def old(_: Tick) -> None:
        came.append("old")

    @after.cron("0 * * * *")
    async def new(_: Tick) -> None:
        came.append("new")

    async def main() -> None:
        async with served(before):
            await anyio.sleep(60)
        async with served(after):
            await anyio.sleep(3600)
            assert [one.name for one in await after.schedules()] == ["new", "old"]
            await anyio.sleep(3600)
            assert [one.name for one in await after.schedules()] == ["new"]
            assert (await after.admin.group("app-cron", "cron")).retry == 0
            await anyio.sleep(3 * 3600)

    with caplog.at_level(logging.WARNING, "redisaq.cron"):
        run(main)
    assert came == ["new"] * 5
    said = [one.message for one in caplog.records if one.name == "redisaq.cron"]
    assert said == [
        "a tick of the cron job 'old' is discarded: the job is not in the program any more (it was due at 2023-11-14T22:30:00+00:00)"
    ]


def test_two_versions_of_a_program_side_by_side(run: Run, url: str) -> None:
    """A rolling deploy: the old replica owns the ticks, and does not know the new job, nor the new times of another."""
    before, after, came = CalmApp(url), CalmApp(url), list[tuple[str, str, datetime]]()

    @before.cron("30 * * * *")
    async def job(tick: Tick) -> None:
        came.append(("before", tick.name, tick.at))

    @after.cron("40 * * * *", name="job", catch_up="all")
    @after.cron("20 * * * *", name="new", catch_up="all")
    @after.cron("25 * * * *", name="strict", catch_up="none")
    async def other(tick: Tick) -> None:
        came.append(("after", tick.name, tick.at))

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(before.serve)
            await anyio.sleep(60)
            await tasks.start(after.serve)
            await anyio.sleep(60 * 60)  # 23:14:20
            await before.stop()
            await anyio.sleep(120)
            assert {(one.name, one.spec) for one in await after.schedules()} == {
                ("job", "40 * * * *"),
                ("new", "20 * * * *"),
                ("strict", "25 * * * *"),
            }
            await anyio.sleep(45 * 60)
            await after.stop()

    run(main)
    assert came == [
        ("before", "job", clock("22:30")),  # the old times, as long as a program has them
        ("after", "new", clock("22:20")),  # put off until a program took them that knows them
        ("after", "job", clock("22:40")),
        ("after", "new", clock("23:20")),
        ("after", "strict", clock("23:25")),  # what nobody took in time is dropped
        ("after", "job", clock("23:40")),
    ]


@pytest.mark.parametrize("wrong_by", [7200.0, -7200.0])
def test_a_replica_whose_clock_is_off_changes_nothing(run: Run, url: str, wrong_by: float) -> None:
    came = list[tuple[datetime, float]]()

    def replica() -> App[Any]:
        app = CalmApp(url)

        @app.cron("*/5 * * * *")
        async def job(tick: Tick) -> None:
            came.append((tick.at, server.wall_clock()))

        return app

    server = cast("Any", None)

    async def main() -> None:
        nonlocal server
        server = current_environment()
        right = server.wall_clock
        async with Admin(url) as admin, anyio.create_task_group() as tasks:
            await admin.topics()  # the server's own clock is right
            wrong = replace(server, wall_clock=lambda: right() + wrong_by)
            apps = [replica(), replica()]
            with use_environment(wrong):
                await tasks.start(apps[0].serve)
            await tasks.start(apps[1].serve)
            await anyio.sleep(3600)
            for app in apps:
                await app.stop()

    run(main)
    begin = clock("22:15").timestamp()
    assert [at.timestamp() for at, _ in came] == [begin + 300 * n for n in range(12)]
    assert all(0 <= began - at.timestamp() < 1 for at, began in came)


def test_a_lost_server_gets_its_schedules_again(run: Run, url: str) -> None:
    app, came = CalmApp(url), list[datetime]()

    @app.cron("*/5 * * * *")
    async def job(tick: Tick) -> None:
        came.append(tick.at)

    async def main() -> None:
        async with served(app):
            await anyio.sleep(100 + 290)  # until 22:19:50
            cast("Any", app.admin)._broker.store.flush()
            await anyio.sleep(250)
            assert came == [clock("22:15"), clock("22:20")]
            assert [one.next for one in await app.schedules()] == [clock("22:25")]

    run(main)


def test_stopped_from_within(run: Run, url: str) -> None:
    app = CalmApp(url)

    @app.cron("* * * * *")
    async def job(_: Tick) -> None:
        await app.stop()

    async def main() -> None:
        with anyio.fail_after(120):
            await app.serve()
        await app.admin.connect()
        (one,) = await app.schedules()
        assert (one.last, one.outcome) == (clock("22:14"), "done")

    run(main)


def test_a_job_may_put_itself_off(run: Run, url: str) -> None:
    app, came = CalmApp(url), list[datetime]()

    @app.cron("15 22 * * *", catch_up="none")
    async def job(_: Tick) -> None:
        came.append(now())
        if len(came) < 3:
            raise RetryAfter(100.0)

    async def main() -> None:
        async with served(app):
            await anyio.sleep(400)

    run(main)
    assert len(came) == 3


def job(_: Tick) -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"spec": "61 * * * *"}, "the cron expression '61 \\* \\* \\* \\*' has no meaning: bad minute"),
        ({"tz": "Europe/Berln"}, "there is no time zone 'Europe/Berln'"),
        ({"catch_up": "some"}, "catch_up must be 'none', 'latest' or 'all', not 'some'"),
        ({"grace": -1}, "grace must be at least 0"),
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"retry": 3}, "retry must be a RetryPolicy, not int"),
        ({"name": "taken"}, "a cron job 'taken' already"),
        ({"name": "n" * 201}, "at most 200 characters"),
        ({"name": "{x}"}, "braces"),
        ({"handler": functools.partial(job)}, "no name of its own"),
        ({"handler": lambda: None}, "the handler"),
        ({"spec": 3}, "must be"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_declared(options: dict[str, Any], reason: str, url: str) -> None:
    app = CalmApp(url)
    app.cron("* * * * *", name="taken")(job)
    handler, spec = options.pop("handler", job), options.pop("spec", "* * * * *")
    with pytest.raises(SettingsError, match=reason):
        app.cron(spec, **options)(handler)
    assert [one.name for one in app.crons] == ["taken"]


def test_no_job_is_added_while_it_serves(run: Run, url: str) -> None:
    app = CalmApp(url)
    app.cron("* * * * *")(job)

    async def main() -> None:
        async with served(app):
            with pytest.raises(RuntimeError, match="declare its cron jobs before"):
                app.cron("* * * * *", name="late")(job)

    run(main)


def test_a_job_is_run_now_when_somebody_asks(run: Run, url: str) -> None:
    """Once for one second, whatever its schedule says; its own ticks stay. What cannot run says so."""
    app, came = CalmApp(url, name="shop"), list[tuple[datetime, datetime]]()

    @app.cron("0 3 * * *", tz="Europe/Berlin", catch_up="none", grace=0, timeout=20)
    async def nightly(tick: Tick) -> None:
        came.append((tick.at, now()))
        if len(came) >= 3:
            await anyio.sleep(30)

    def producer(topic: str) -> Producer:
        return Producer(topic, url, serializer=bytes)

    async def main() -> None:
        async with Admin(url) as admin:
            with pytest.raises(SettingsError, match="shop has no cron job nightly"):
                await run_now(admin, producer, "shop", "nightly")
            async with served(app):
                await anyio.sleep(10.25)
                ids = {await run_now(admin, producer, "shop", "nightly") for _ in range(3)}
                assert len(ids) == 1
                await anyio.sleep(5)
                asked = BEGIN + timedelta(seconds=10)
                assert [at for at, _ in came] == [asked]
                assert came[0][0].isoformat() == "2023-11-14T23:13:30+01:00"
                (known,) = await app.schedules()
                assert (known.last, known.outcome, known.next, known.timeout) == (asked, "done", clock("02:00"), 20.0)
                with pytest.raises(SettingsError, match="shop has no cron job weekly"):
                    await run_now(admin, producer, "shop", "weekly")
                await admin.pause("shop-cron", "cron")
                with pytest.raises(SettingsError, match="are paused: resume the group cron of shop-cron first"):
                    await run_now(admin, producer, "shop", "nightly")
                await admin.resume("shop-cron", "cron")
                await anyio.sleep((clock("02:00") - now()).total_seconds())
                await run_now(admin, producer, "shop", "nightly")  # its own tick is due now, and the program has not planned the next one
                await anyio.sleep(3600)
                assert [at for at, _ in came] == [asked, clock("02:00")]
                await run_now(admin, producer, "shop", "nightly")
                await anyio.sleep(25)
                (known,) = await app.schedules()
                assert (known.outcome, known.attempt) == ("running", 2), "its time limit ended the first attempt"
            await anyio.sleep(26 * 3600)
            with pytest.raises(SettingsError, match="no program that has the cron job nightly is running"):
                await run_now(admin, producer, "shop", "nightly")

    run(main)
