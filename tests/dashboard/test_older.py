"""What the page shows beyond the newest: hours of a group, older dead letters, counts of all of them, messages of many partitions."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest
from msgspec import structs

from redisaq import Producer
from redisaq.admin import Admin, DeadKinds, HistoryEntry
from redisaq.dashboard import letters, past, views
from redisaq.dashboard.letters import look
from redisaq.dashboard.newest import block, liveliest
from redisaq.dashboard.views import WINDOWS, Beside, group as group_view
from redisaq.errors import SettingsError
from redisaq.watching import HistoryView
from tests.dashboard.scenes import NOW, Scripted, curves, group, member, partition, served, snapshot, topic
from tests.dashboard.test_dead_letters import bench, names_of
from tests.dashboard.test_pages import text_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])]


def entry(what: str, ago: float, incarnation: str = "", **more: Any) -> HistoryEntry:
    values: dict[str, Any] = {"member": incarnation, "name": incarnation, "by": "", "partitions": (), "count": None, "to": "", **more}
    return HistoryEntry(f"{int((NOW - ago) * 1000)}-0", datetime.fromtimestamp(NOW - ago, UTC), what, **values)


PAST = (
    entry("paused", 30, by="mara"),
    entry("taken for dead", 7200, "old-1"),
    entry("left", 40_000, "old-2"),
    entry("joined", 50_000, "old-1"),
    entry("joined", 80_000, "old-2"),
)


async def test_a_group_over_hours() -> None:
    """The window changes curves and lanes; those who went long ago have a lane, and older changes are listed."""
    near = (HistoryView(NOW - 30, "paused", None, "mara", (), None, "paused by mara"),)
    shown = snapshot(topic("orders", group(history=near, members=(member(0, since=NOW - 10_000),))))

    def values(window: str) -> dict[str, Any]:
        return dict(group_view(shown, "orders", "billing", {"window": window}, Beside(() if window == "30m" else PAST)).values)

    half, six, day = values("30m"), values("6h"), values("24h")
    assert [one["curve"].width for one in (half, six, day)] == [89, 71, 287]
    assert [[(lane.view.name, lane.x) for lane in one["lanes"]] for one in (half, six, day)] == [
        [("m0", 0.0)],
        [("m0", 53.7), ("old-1", 0.0)],
        [("m0", 88.43), ("old-1", 42.13), ("old-2", 7.41)],
    ]
    assert [line.sentence for line in half["history"]] == ["paused by mara"]
    assert [line.sentence for line in day["history"]] == [
        "paused by mara",  # once
        "old-1 was taken for dead",
        "old-2 left",
        "old-1 joined",
        "old-2 joined",
    ]
    assert values("a year")["window"] == WINDOWS[0]


async def test_the_past_is_asked_for_by_those_who_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, int]] = []

    async def history(_: Admin, topic: str, group: str, *, count: int) -> list[HistoryEntry]:
        asked.append((topic, group, count))
        return list(PAST)

    monkeypatch.setattr(Admin, "history", history)
    sampler = Scripted(snapshot(topic("orders", group())))
    async with served(sampler) as client:
        assert "old-1" not in (await client.get("/t/orders/g/billing")).text
        assert asked == []
        for _ in range(2):  # within a while it is known
            html = (await client.get("/t/orders/g/billing?window=24h")).text
            assert re.search(r'<a href="[^"]*window=24h" aria-current="true">24 h</a>', html)
            assert "24 h: in and out" in text_of(html)
            assert html.count("old-1") > 1
        assert asked == [("orders", "billing", past.MOST)]
        sampler.show(structs.replace(sampler.latest, at=NOW + past.FRESH))
        await client.get("/t/orders/g/billing?window=6h&p=1")
        assert len(asked) == 2
        assert (await client.get("/t/orders/g/nobody?window=6h")).status_code == 404
        assert len(asked) == 2


async def test_older_letters_of_a_kind_come_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "MOST", 8)  # of each of two partitions four
    monkeypatch.setattr(views, "PAGE", 5)
    async with bench("older", letters=40) as one:
        place, found, pages, html = "/dead?g=orders/billing", list[str](), 0, ""
        kinds = re.findall(r'class="err" href="(/dead/[^"]*)"', (await one.client.get(place)).text)
        place = kinds[0].replace("&amp;", "&")
        while place:
            html = (await one.client.get(place)).text
            found += names_of(html)
            older = re.search(r'href="([^"]*)">Older<', html)
            place, pages = "" if older is None else older[1].replace("&amp;", "&"), pages + 1
            assert pages < 30
        assert "there are no older ones" in html
        dead = [letter async for letter in one.admin.dead_letters("orders", "billing") if letter.error_type == "TimeoutError"]
        assert set(found) == {letters.name_of(letter) for letter in dead}
        assert (await one.client.get(f"{kinds[0].replace('&amp;', '&')}&before=nonsense")).status_code == 200


async def test_down_to_where_all_letters_were_looked_at() -> None:
    """What is older than that id comes in pages: it must be nothing that was passed by."""

    class Letters:
        def __init__(self, *ids: tuple[int, str]) -> None:
            self.ids = ids

        async def dead_summaries(self, topic: str, group: str, *, partitions: list[int], count: int) -> list[Any]:
            async with bench("cut") as one:
                (letter, *_) = await one.admin.dead_summaries("orders", "billing", partitions=[0, 1])
            return [structs.replace(letter, partition=number, dead_id=dead_id) for number, dead_id in self.ids]

    busy = structs.replace(group(partitions=2), dead=1003, partitions=(partition(0, 0, dead=3), partition(1, 0, dead=1000)))
    some = [(0, "90-0"), (0, "8-0"), (0, "7-0")]
    many = [(1, f"{number}-0") for number in range(600, 100, -1)]
    assert (await look(Letters(*some, *many), [busy], NOW)).older == "101-0"  # type: ignore[arg-type] # of the same shape
    assert (await look(Letters(*many), [busy], NOW)).older == ""  # type: ignore[arg-type] # as above
    few = structs.replace(busy, dead=3, partitions=(partition(0, 0, dead=3), partition(1, 0)))
    assert (await look(Letters(*some), [few], NOW)).older is None  # type: ignore[arg-type] # as above


async def test_all_letters_are_counted_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "MOST", 2)
    async with bench("count", letters=30) as one:
        html = (await one.client.get("/dead?g=orders/billing")).text
        assert "the newest of 30" in text_of(html)
        counting = re.search(r'href="([^"]*count=0[^"]*)">Count all', html)
        assert counting is not None
        place = counting[1].replace("&amp;", "&")
        with anyio.fail_after(60):
            while "all 30 counted" not in text_of(html):
                html = (await one.client.get(place)).text
                await anyio.sleep(0.01)
        assert re.findall(r'<span class="n[^"]*">(\d+)</span>', html)[:2] == ["20", "10"]
        for kind in re.findall(r'class="err" href="(/dead/[^"]*)"', html):  # also one of which none was looked at
            assert names_of((await one.client.get(kind.replace("&amp;", "&"))).text) or "before=" in kind
        await one.post("redrive", {"all": True, "expected": 30})
        with anyio.fail_after(60):
            while await one.dead():
                await anyio.sleep(0.01)
        assert "all 30 counted" not in text_of((await one.client.get("/dead?g=orders/billing")).text), "it is not true any more"


async def test_a_stopped_count_is_begun_again_by_a_click_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The browser shows the page again when a job has ended. A count whose page is shown again would never end."""
    going = anyio.Event()

    async def kinds(*_: str) -> AsyncGenerator[DeadKinds]:
        yield DeadKinds((), 1, 30, complete=False)
        await going.wait()
        raise ValueError("a letter from elsewhere")

    monkeypatch.setattr(letters, "MOST", 2)
    async with bench("stopped", letters=30) as one:
        monkeypatch.setattr(Admin, "dead_kinds", lambda _, *name: kinds(*name))

        async def click() -> str:
            html = (await one.client.get("/dead?g=orders/billing")).text
            (place,) = re.findall(r'href="([^"]*)">Count all', html)
            html = (await one.client.get(place.replace("&amp;", "&"))).text
            assert "a count is under way" in html
            assert "Count all" not in html
            return str(place.replace("&amp;", "&"))

        async def end(number: int) -> str:
            with anyio.fail_after(30):
                while (said := (await one.client.get(f"/api/jobs/{number}")).json())["state"] == "running":
                    await anyio.lowlevel.checkpoint()
            return str(said["text"])

        place = await click()
        assert (await one.post("stop", {}, "/api/jobs/1")).status_code == 200
        assert (await end(1)).endswith(", then stopped")
        assert "Count all" in (await one.client.get(place)).text
        await click()
        going.set()  # what nobody foresaw ends the count, and not the page
        assert (await end(2)).endswith(", then failed: ValueError: a letter from elsewhere")
        assert (await one.client.get("/api/jobs/3")).status_code == 404
    async with served(Scripted(snapshot())) as client:  # the path exists for those who may only look, too
        assert (await client.get("/api/jobs/1")).json() == {"error": "there is no such job"}


async def test_older_letters_are_treated_as_they_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind's newest letters are others; and it may have none among those that were looked at."""
    async with bench("shown", letters=12) as one:
        kinds = re.findall(r'class="err" href="(/dead/[^"]*)"', (await one.client.get("/dead?g=orders/billing")).text)
        last = [letter.dead_id async for letter in one.admin.dead_letters("orders", "billing", newest=True)][2]
        monkeypatch.setattr(letters, "MOST", 2)
        monkeypatch.setattr(letters, "LOOKED", 2)
        empty = (await one.client.get("/dead/none", params={"g": "orders/billing", "before": last})).text
        assert "0 of this kind among" in text_of(empty)
        assert ">Older<" in empty
        assert "left out" not in empty
        with monkeypatch.context() as few:
            few.setattr(letters, "OLDER_PARTITIONS", 1)
            html = (await one.client.get("/dead/none", params={"g": "orders/billing", "before": last})).text
            assert "; 1 partition with fewer letters left out" in text_of(html)
        monkeypatch.setattr(letters, "LOOKED", 100)
        treated = 0
        for kind in kinds:
            html = (await one.client.get(kind.replace("&amp;", "&"), params={"g": "orders/billing", "before": last})).text
            (said,) = re.findall(r'<dialog id="redrive-dialog".*?data-json=\'([^\']*)\'', html)
            assert sorted(msgspec.json.decode(said)["letters"]) == sorted(names_of(html))
            assert "Redrive these" in html
            await one.post("redrive", msgspec.json.decode(said))
            treated += len(names_of(html))
            assert await one.dead() == 12 - treated


async def test_all_kinds_are_treated_together() -> None:
    async with bench("all-kinds") as one:
        html = (await one.client.get("/dead?g=orders/billing")).text
        (said,) = re.findall(r'<dialog id="all-redrive-dialog".*?data-json=\'([^\']*)\'', html)
        await one.job(await one.post("redrive", msgspec.json.decode(said)))
        assert await one.dead() == 0
        assert "all-purge-dialog" in html
        assert "all-redrive-dialog" not in (await one.client.get("/dead")).text


async def test_of_many_partitions_those_are_looked_at_in_which_messages_arrive() -> None:
    many = topic("orders", group(), partitions=1000, lately=(700, 3))
    assert liveliest(many)[:4] == [700, 3, 0, 1]
    assert len(liveliest(many)) == 64
    assert list(block(many, 960)) == list(range(960, 1000))
    assert liveliest(topic("orders", partitions=2, lately=(1,))) == [1, 0]
    async with served(Scripted(snapshot(many))) as client:
        html = (await client.get("/t/orders/messages?first=64")).text
        assert "of partitions 64–127 of 1,000" in text_of(html)
        assert 'href="/t/orders/messages?first=0">Partitions before' in html
        assert 'href="/t/orders/messages?first=128">Partitions after' in html


async def test_how_old_numbers_may_be_is_said() -> None:
    shapes: set[str] = set()
    for within, said in ((2.0, False), (26.0, True)):
        latest = snapshot(topic("orders", group(within=within, arriving_curve=curves(1.0)), within=within), within=within)
        async with served(Scripted(latest)) as client:
            assert ("Every number is at most 26 s old." in text_of((await client.get("/")).text)) is said
            html = (await client.get("/t/orders/g/billing")).text
            assert ("each read within the last 26 s" in text_of(html)) is said
            shapes |= set(re.findall(r'data-shape="([^"]*)"', html))
    assert len(shapes) == 1, "a number that comes and goes would let the browser fetch the page again"


async def test_what_comes_next_in_a_partition() -> None:
    url = "memory://following"
    async with Producer("orders", url) as producer:
        ids = [await producer.enqueue({"n": n}, key=f"k{n}") for n in range(9)]
    async with Admin(url) as admin:
        entries = [one.entry_id for one in await admin.message_summaries("orders", partitions=[0], after="0-0")]
        assert len(entries) == 9
        with pytest.raises(SettingsError):
            await admin.message_summaries("orders", partitions=[0], before="1-1", after="1-1")
    share = partition(0, 0, unread=7, last_delivered=entries[1])
    shown = group(partitions=1, in_handlers=())
    latest = snapshot(topic("orders", structs.replace(shown, partitions=(share,)), partitions=1))
    async with served(Scripted(latest), Admin(url)) as client:
        html = (await client.get("/t/orders/g/billing?p=0")).text
        assert re.findall(r'href="/m/orders/([^?"]*)\?p=0&amp;e=[-0-9]*">', html) == ids[2:7]
        assert "key k2, " in text_of(html)
        assert ids[2] not in (await client.get("/t/orders/g/billing")).text
