"""The schedule on the page: cron jobs, what came of their last ticks, those to come, and delayed messages."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest
from msgspec import structs

from redisaq import App, Producer
from redisaq.admin import Admin, ScheduleInfo
from redisaq.cron import Tick
from redisaq.dashboard import schedule
from redisaq.dashboard.schedule import Window, ticks_of
from redisaq.watching import Snapshot
from tests.dashboard.scenes import HERE, NOW, Scripted, group, served, snapshot, topic
from tests.dashboard.test_dead_letters import EVIL, OURS
from tests.dashboard.test_pages import text_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("trio", {})], ids=["asyncio", "trio"])]


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(NOW + seconds, UTC)


def job(name: str, spec: str = "*/15 * * * *", **more: Any) -> ScheduleInfo:
    base = ScheduleInfo("shop", name, spec, "UTC", "latest", 60.0, at(700), at(-200), "done", at(-198.8), 1)
    return structs.replace(base, **more)


class Fake:
    """An Admin that knows these cron jobs and nothing else."""

    def __init__(self, *found: ScheduleInfo) -> None:
        self.found = found

    async def schedules(self) -> list[ScheduleInfo]:
        return list(self.found)


async def shown(*found: ScheduleInfo, window: str | None = None, latest: Snapshot | None = None) -> list[schedule.Job]:
    jobs, broken = await schedule.jobs(Fake(*found), latest or snapshot(), Window(window, NOW))  # type: ignore[arg-type] # of the same shape
    assert not broken
    return jobs


async def test_what_is_shown_of_a_job() -> None:
    jobs = await shown(
        job("fine"),
        job("missed", outcome="missed"),
        job("failed", outcome="failed", error="ValueError: no"),
        job("dead", outcome="dead"),
        job("runs", outcome="running", attempt=2),
        job("begun", outcome=""),
        job("new", last=None, since=None, outcome=""),
        job("nobody", next=None),
        job("rare", "30 2 1 * *", next=at(5 * 86_400)),
    )
    told = {one.info.name: (one.last, one.tone, one.next) for one in jobs}
    assert told["fine"] == ("20:44 done, 1 s after it was due", "", "11 min 40 s")
    assert told["missed"][:2] == ("20:44 missed: nobody was there", "warn")
    assert told["failed"][:2] == ("20:44 failed, is tried again", "warn")
    assert told["dead"][:2] == ("20:44 dead", "bad")
    assert told["runs"][0] == "20:44 runs, attempt 2"
    assert told["begun"][0] == "20:44 has begun"
    assert told["new"][0] == told["nobody"][2] == "–"
    fine, rare = jobs[0], jobs[-1]
    assert [tick.kind for tick in fine.ticks] == ["good", *["due"] * 40]
    assert fine.meaning == "Every 15th minute of every hour"
    assert (rare.ticks[1:], rare.beyond[-1]) == ([], "→")
    assert jobs[-2].ticks[1:] == []


async def test_expressions_that_are_none_or_many_are_bounded() -> None:
    strange = await shown(job("x", "rm -rf /"), job("y", tz="../../etc/passwd"), job("z", EVIL), job("often", "* * * * *"))
    assert [len(one.ticks) for one in strange] == [2, 2, 2, 1]
    assert strange[3].dense is not None
    assert len(ticks_of("* * * * *", "UTC", int(NOW), int(NOW) + 10**6)) == schedule.TICKS + 1
    assert Window("nonsense", NOW).name == "12h"
    hour = Window("1h", NOW)
    assert (hour(NOW), hour.end - hour.start, len(hour.lines())) == (16.67, 3600, 5)


async def test_a_paused_program_is_called_paused() -> None:
    paused = snapshot(topic("shop-cron", group("shop-cron", "scheduler", paused=True)))
    assert [one.paused for one in await shown(job("a"), latest=paused) + await shown(job("a"))] == [True, False]


@pytest.fixture
async def queue(request: pytest.FixtureRequest) -> tuple[str, list[str]]:
    """Return the URL of a queue with a cron job and two delayed messages, and their ids in the order of time."""
    url = f"memory://{re.sub(r'[^a-z]', '-', request.node.name)}"
    app = App(url, name="shop")

    @app.cron("0 3 * * *", tz="Europe/Berlin")
    async def nightly(_: Tick) -> None: ...

    async with anyio.create_task_group() as tasks:
        await tasks.start(app.serve)
        with anyio.fail_after(30):
            while not [one for one in await app.schedules() if one.next]:
                await anyio.sleep(0.02)
        await app.stop()
    async with Producer("orders", url) as producer:
        late = await producer.enqueue({"number": 1, "note": EVIL}, key=EVIL, delay=3600)
        return url, [await producer.enqueue({"number": 2}, delay=60), late]


async def test_the_page_shows_them_and_cancels(queue: tuple[str, list[str]]) -> None:
    url, ids = queue
    async with Admin(url) as admin:
        topics = [topic("orders", delayed=2, partitions=1), topic("shop-cron", delayed=1, partitions=1)]
        sampler = Scripted(structs.replace(snapshot(*topics, server=HERE), at=(await admin.server()).now.timestamp()))
    async with served(sampler, Admin(url), allow_changes=True) as client:
        html = (await client.get("/schedule")).text
        text = text_of(html)
        assert "nightly" in text
        assert "At 03:00 every day, Europe/Berlin" in text
        assert "2 in 1 topic, by when they are due" in text
        assert "<script>alert" not in html
        rows = re.findall(r"Cancel ([0-9a-z-]+)\?", html)
        assert rows == ids
        assert (await client.post("/api/t/orders/cancel", json={"id": rows[0]}, headers=OURS)).status_code == 200
        assert re.findall(r"Cancel ([0-9a-z-]+)\?", (await client.get("/schedule?window=7d")).text) == rows[1:]
        assert [one["name"] for one in (await client.get("/api/schedule")).json()] == ["nightly"]
    async with served(sampler, Admin(url)) as client:
        assert "data-post" not in (await client.get("/schedule")).text
    async with served(Scripted(snapshot(topic("orders", delayed=0)))) as client:
        assert "Nothing is scheduled" in (await client.get("/schedule")).text


async def test_a_job_is_run_now_by_a_button(queue: tuple[str, list[str]]) -> None:
    url, _ = queue
    async with (
        Admin(url) as admin,
        served(Scripted(snapshot()), Admin(url), allow_changes=True, producer=lambda topic: raw(topic, url)) as client,
    ):
        html = (await client.get("/schedule")).text
        where, body = re.findall(r'data-post="([^"]*run)" data-json=\'([^\']*)\'', html)[0]
        assert (where, msgspec.json.decode(body)) == ("/api/t/shop-cron/run", {"job": "nightly"})
        answer = await client.post(where, content=body, headers={**OURS, "content-type": "application/json"})
        assert answer.status_code == 200, answer.text
        (tick,) = await admin.peek("shop-cron")
        assert (tick.msg_id, tick.key, tick.payload["name"]) == (answer.json()["msg_id"], "nightly", "nightly")
        for path, wrong in ((where, {"job": "weekly"}), (where, {}), ("/api/t/shop/run", {"job": "nightly"})):
            assert (await client.post(path, json=wrong, headers=OURS)).status_code == 400
        await admin.pause("shop-cron", "cron")
        answer = await client.post(where, json={"job": "nightly"}, headers=OURS)
        assert (answer.status_code, "paused" in answer.json()["error"]) == (400, True)
    paused = snapshot(topic("shop-cron", group("shop-cron", "cron", paused=True)))
    async with served(Scripted(paused), Admin(url), allow_changes=True, producer=lambda topic: raw(topic, url)) as client:
        assert "Run now" not in (await client.get("/schedule")).text
    async with served(Scripted(snapshot()), Admin(url)) as client:
        assert "Run now" not in (await client.get("/schedule")).text
        assert (await client.post(where, json={"job": "nightly"}, headers=OURS)).status_code == 404


def raw(topic_name: str, url: str) -> Producer:
    return Producer(topic_name, url, serializer=bytes)


async def test_delayed_messages_are_listed_in_pages_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "memory://many-delayed"
    async with Producer("orders", url, init_partitions=3) as orders, Producer("mails", url, init_partitions=1) as mails:
        wanted = [await (mails if n % 4 == 0 else orders).enqueue(n, delay=60.0 + 20 * n, key=str(n)) for n in range(130)]
    async with Admin(url) as admin:
        now = (await admin.server()).now.timestamp()
    topics = [topic("mails", delayed=1, partitions=1), topic("orders", delayed=1, partitions=3)]  # of a while ago
    async with served(Scripted(structs.replace(snapshot(*topics), at=now)), Admin(url)) as client:
        found: list[str] = []
        place, pages, html = "/schedule?window=1h", 0, ""
        while place:
            html = (await client.get(place)).text
            assert "130 in 2 topics, by when they are due" in html
            found += re.findall(r'<tr data-key="(?:orders|mails) ([0-9a-z-]+)">', html)
            later = re.search(r'href="([^"]*)">Later<', html)
            place, pages = "" if later is None else later[1].replace("&amp;", "&"), pages + 1
        assert (found, pages) == (wanted, 3)
        # Of the hour, ten minutes are past: 50 columns of 50 s, and 2.5 messages in each.
        bars = re.findall(r'<rect x="(\d+)" width="0.9" y="[\d.]*" height="([\d.]+)"', html)
        assert len(bars) >= 50
        for wrong in ("nonsense", "2026-01-01/x", "2026-01-01T00:00:00+00:00/", "/"):
            assert "50 of 130" in text_of((await client.get("/schedule", params={"after": wrong})).text), wrong
        assert "No message is due later." in (await client.get("/schedule", params={"after": "2999-01-01T00:00:00+00:00/x"})).text
        monkeypatch.setattr(schedule, "DRAWN_PARTITIONS", 3)
        html = (await client.get("/schedule")).text
        assert "too many partitions to draw them" in html
        monkeypatch.setattr(schedule, "MOST_PARTITIONS", 2)
        assert "of topics with many partitions, the first ones" in (await client.get("/schedule")).text
