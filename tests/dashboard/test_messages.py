"""One message's life on the page: where it is, in words and as a picture; its search; what is done with it. On the memory broker."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx
import msgspec
import pytest
from msgspec import structs

from redisaq import Consumer, Message, Producer, RetryPolicy
from redisaq.admin import Admin, DeadMessage, GroupStanding, RetryMessage, StreamMessage, Whereabouts
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.steps.topics import FORMAT
from redisaq.dashboard import message_pages, messages
from redisaq.dashboard.messages import Scale, lanes, place_of, search, story
from redisaq.dashboard.privacy import Privacy
from redisaq.errors import TopicMissingError
from redisaq.watching import RunningView
from tests.dashboard.scenes import HERE, NOW, Scripted, group, served, snapshot, topic
from tests.dashboard.test_dead_letters import EVIL, OURS
from tests.dashboard.test_pages import text_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("trio", {})], ids=["asyncio", "trio"])]

BORN = "1764362469882-3"


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(NOW + seconds, UTC)


def content(entry: str = BORN) -> dict[str, Any]:
    return {
        "topic": "orders", "partition": 17, "msg_id": "4r8zq1mt6x0vckd3-0", "entry_id": entry, "data": b'{"a":1}', "payload": {"a": 1},
        "unreadable": "", "key": "k", "headers": {"tenant": "shop"},
    }  # fmt: skip


def retried(**more: Any) -> RetryMessage:
    base = RetryMessage(
        **content(), group="billing", due=at(43), attempts=3, life=0, error_type="TimeoutError", error="no", traceback="",
        first_failed=at(-370), last_failed=at(-320), member="m",
    )  # fmt: skip
    return structs.replace(base, **more)


def died() -> DeadMessage:
    return DeadMessage(
        **content(), group="audit", dead_id="1-1", error_type="ValueError", error="no", traceback="", attempts=5, first_failed=at(-90),
        last_failed=at(-20), died_at=at(-20), member="m", life=1,
    )  # fmt: skip


def found(**groups: GroupStanding) -> Whereabouts:
    return Whereabouts("orders", "4r8zq1mt6x0vckd3-0", StreamMessage(**content()), None, groups)


async def test_what_has_become_of_it_in_words() -> None:
    one = found(
        billing=GroupStanding("retry", retry=retried()),
        audit=GroupStanding("dead", dead=died()),
        warehouse=GroupStanding("done"),
        search=GroupStanding("unknown"),
        mails=GroupStanding("unread"),
        stats=GroupStanding("pending", "inc", "host:1", at(-38), 2),
    )
    told = {told.subject: f"{told.before} {told.code}{told.after}" for told in story(one, snapshot())}
    assert told == {
        "billing": "failed three times, last with TimeoutError, and tries again in 43 s.",
        "audit": "gave it up after 5 attempts with ValueError, 20 s ago.",
        "warehouse": "is done with it, or was moved past it. ",
        "search": "is done with it, or it is a dead letter older than the newest 10,000. ",
        "mails": "has not begun it. ",
        "stats": "has had it delivered twice, last 38 s ago, and host:1 owns the partition. ",
    }
    running = RunningView("4r8zq1mt6x0vckd3-0", 17, BORN, None, 2, NOW - 41, 50.0, 1)
    view = snapshot(topic("orders", group(in_handlers=(running,))))
    (said,) = story(found(billing=GroupStanding("pending", deliveries=2)), view)
    assert said.before == "has had it in a handler for 41 s."
    assert story(found(), view)[0].subject == "No group"
    assert "trimmed" in story(structs.replace(one, entry=None), view)[-1].before


async def test_what_has_become_of_it_as_a_picture() -> None:
    one = found(billing=GroupStanding("retry", retry=retried()), audit=GroupStanding("dead", dead=died()), stats=GroupStanding("unread"))
    drawn, scale = lanes(one, snapshot())
    assert [(lane.name, lane.state) for lane in drawn] == [
        ("orders/17", "the topic"), ("billing", "retry"), ("audit", "dead"), ("stats", "waits")
    ]  # fmt: skip
    _, billing, audit, stats = drawn
    assert [pin.text for pin in billing.pins] == ["1", "3", "attempt 4 in 43 s"]
    assert [bar.text for bar in billing.bars] == ["1 more between", "waits"]
    assert billing.bars[1].x + billing.bars[1].width == pytest.approx(scale(NOW + 43), abs=0.02)
    assert [pin.text for pin in audit.pins][:2] == ["1", "5"]
    known = structs.replace(retried(), attempts=6, failed_between=(at(-100), at(-90)))
    (_, billing), scale = lanes(found(billing=GroupStanding("retry", retry=known)), snapshot())
    assert [(pin.text, pin.x) for pin in billing.pins[1:3]] == [("4", scale(NOW - 100)), ("5", scale(NOW - 90))]
    assert billing.bars[0].text == "2 more between"
    assert stats.bars[0].x + stats.bars[0].width == pytest.approx(scale(NOW), abs=0.02)
    for lane in drawn:
        assert all(0 <= pin.x <= 100 for pin in lane.pins)
        assert all(0 <= bar.x <= bar.x + bar.width <= 100 for bar in lane.bars)
    assert Scale([], NOW).ticks()
    assert place_of(one) == (17, BORN)
    assert [
        bool(messages.IS_ID.fullmatch(text)) for text in ("4r8zq1mt6x0vckd3-0", "4r8zq1mt6x0vckd3-1f", "orders", "4r8zq1mt6x0vckd3-")
    ] == [True, True, False, False]


async def test_a_search_looks_at_the_newest_of_every_topic_first() -> None:
    asked: list[tuple[str, int]] = []

    class Fake:
        async def topics(self) -> list[str]:
            return ["a", "b", "gone"]

        async def find(self, topic: str, msg_id: str, *, limit: int) -> Whereabouts:
            asked.append((topic, limit))
            if topic == "gone":
                raise TopicMissingError("gone")
            there = topic == "b" and limit > 10_000 and msg_id == "there"
            return Whereabouts(topic, msg_id, StreamMessage(**content()) if there else None, looked=limit, complete=topic == "a")

    steps = [one async for one in search(Fake(), "there")]  # type: ignore[arg-type] # of the same shape
    assert asked == [("a", 10_000), ("b", 10_000), ("gone", 10_000), ("b", 100_000)]
    assert steps[-1].found
    assert steps[2].text == "The newest 10,000 messages of 2 of 3 topics were looked at."
    steps = [one async for one in search(Fake(), "nowhere")]  # type: ignore[arg-type] # as above
    assert (steps[-1].found, steps[-1].ended, steps[-1].complete) == (None, True, False)
    assert steps[-1].text == "It is not among the newest 1,000,000 messages of each topic. Older ones were not looked at."


async def test_what_a_later_version_wrote_is_not_searched_and_named() -> None:
    url = "memory://searched"
    async with Producer("later", url, init_partitions=1) as later, Producer("orders", url, init_partitions=1) as producer:
        await later.enqueue(1)
        msg_id = await producer.enqueue(1)
    topics = MemoryBroker("searched", "redisaq").store.topics
    topics["later"] = structs.replace(topics["later"], format=FORMAT + 1)
    async with Admin(url) as admin:
        steps = [one async for one in search(admin, "0123456789abcdef-0")]
        assert steps[-1].text == "It was not found. 1 entries were looked at, but none of 1 topic of a later version of redisaq."
        assert (await messages.search_quickly(admin, msg_id, seconds=30)).found is not None
    async with served(admin=Admin(url)) as client:
        assert (await client.get("/m/later/x?p=0")).status_code == 404
        assert "later version" in (await client.get("/search/x?t=later")).text


class Bench:
    def __init__(self, client: httpx.AsyncClient, admin: Admin, ids: dict[str, str]) -> None:
        self.client = client
        self.admin = admin
        self.ids = ids

    async def post(self, where: str, body: Any) -> httpx.Response:
        return await self.client.post(where, json=body, headers=OURS)


@asynccontextmanager
async def bench(name: str, **options: Any) -> AsyncGenerator[Bench]:
    """Make a message that waits for a retry, one that is dead, one that is delayed, and one that is done."""
    url = f"memory://{name}"

    begun: list[str] = []
    all_begun = anyio.Event()

    async def handle(message: Message[Any]) -> None:
        begun.append(message.msg_id)
        if len(begun) == 3:
            all_begun.set()
        if message.payload["what"] == "dead":
            raise ValueError(EVIL)
        if message.payload["what"] == "retry":
            raise TimeoutError(EVIL)

    ids: dict[str, str] = {}
    async with Producer("orders", url, init_partitions=2) as producer:
        for what in ("done", "retry", "dead"):
            ids[what] = await producer.enqueue({"what": what, "note": EVIL, "card": "4711"}, key=EVIL, headers={"token": "s3cret"})
        ids["delayed"] = await producer.enqueue({"what": "delayed"}, delay=3600)
    policy = RetryPolicy(max_attempts=9, backoff=3600.0, jitter=False, give_up_on=(ValueError,))
    async with Consumer("orders", url, group_name="billing", retry=policy) as consumer, anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.process, handle)
        async with Admin(url) as admin:
            with anyio.fail_after(30):
                await all_begun.wait()
                while (info := await admin.group("orders", "billing")).retry + info.dead < 2 or info.pending or info.unread:
                    await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    async with Admin(url) as admin:
        sampler = Scripted(structs.replace(snapshot(topic("orders", group()), server=HERE), at=info.now.timestamp()))
        async with served(sampler, Admin(url), **{"allow_changes": True, **options}) as client:
            yield Bench(client, admin, ids)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a page wait for a search as long as a busy machine needs."""
    monkeypatch.setattr(messages, "QUICK", 10.0)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return re.sub(r"\W", "-", request.node.name)


async def test_messages_are_found_by_their_id_and_shown(name: str) -> None:
    async with bench(name) as one:
        wanted = {
            "retry": "billing failed once, last with TimeoutError, and tries again in",
            "dead": "billing gave it up after 1 attempt with ValueError",
            "delayed": "It is not in its stream yet: it is due in",
            "done": "billing is done with it, or was moved past it.",
        }
        for what, words in wanted.items():
            answer = await one.client.get(f"/m/{one.ids[what]}")
            assert answer.status_code == 303, what
            assert answer.headers["location"].startswith(f"/m/orders/{one.ids[what]}?p=")
            shown = (await one.client.get(answer.headers["location"])).text
            assert words in text_of(shown)
            assert "<script>alert" not in shown
            assert ("data-refresh" in shown) == (what in ("retry", "delayed"))
            if what != "delayed":
                assert "&lt;script&gt;alert" in shown
                assert "4711" in shown
        dead = (await one.client.get(f"/m/{one.ids['dead']}")).headers["location"]
        answer = await one.client.get(f"/api{dead}")
        assert answer.json()["groups"]["billing"]["dead"]["error_type"] == "ValueError"
        assert [one["kind"] for one in (await one.client.get("/api/places", params={"q": one.ids["dead"]})).json()] == ["message"]
        missing = await one.client.get("/m/0123456789abcdef-0")
        assert (missing.status_code, "No such message" in missing.text) == (404, True)
        for wrong in ("/m/orders/x?p=0", "/m/orders/x?p=9", "/m/none/x?p=0", "/m/orders/x?p=0&e=nonsense"):
            assert (await one.client.get(wrong)).status_code == 404
        assert (await one.client.get(f"/m/orders/{one.ids['dead']}")).headers["location"] == f"/m/{one.ids['dead']}?t=orders"


async def test_a_long_search_is_followed_as_events(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "QUICK", 0.0)
    async with bench(name) as one:
        shown = (await one.client.get(f"/m/{one.ids['done']}")).text
        assert f'data-search="/search/{one.ids["done"]}"' in shown
        heard = (await one.client.get(f"/search/{one.ids['done']}")).text
        assert heard.count("event: progress") >= 1
        assert re.search(r'event: found\ndata: \{"href": "/m/orders/[^"]*"\}\n\n$', heard)
        heard = (await one.client.get("/search/nothing?t=orders")).text
        assert "event: missing" in heard
        assert "No message of this id is kept." in heard
        assert "event: missing" in (await one.client.get("/search/nothing?t=none")).text


async def test_long_searches_without_a_script_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    begun, end = anyio.Event(), anyio.Event()

    async def search_quickly(_admin: Admin, _msg_id: str, _topic: str | None, seconds: float) -> messages.Progress:
        asked.append(seconds)
        if seconds > messages.QUICK:
            begun.set()
            await end.wait()
        return messages.Progress(ended=True)

    monkeypatch.setattr(message_pages, "SEARCHES", 1)
    monkeypatch.setattr(messages, "search_quickly", search_quickly)
    async with served() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.get, "/m/0123456789abcdef-0?wait=20")
        with anyio.fail_after(30):
            await begun.wait()
            await client.get("/m/0123456789abcdef-0?wait=30")
        end.set()
    assert asked == [20.0, messages.QUICK]


async def test_retrying_now_redriving_and_cancelling(name: str) -> None:
    async with bench(name) as one:

        async def buttons(what: str) -> list[tuple[str, Any]]:
            place = (await one.client.get(f"/m/{one.ids[what]}")).headers["location"]
            shown = (await one.client.get(place)).text
            pairs = re.findall(r"data-post=\"([^\"]*)\" data-json='([^']*)'", shown)
            return [(where, msgspec.json.decode(html.unescape(body))) for where, body in pairs]

        (retry, cancel) = await buttons("retry")
        assert (await one.post(*retry)).json()["text"] == "It is tried again now."
        assert (await one.post(*cancel)).json()["text"] == "Its retry in billing is cancelled."
        for again in (retry, cancel):
            assert (await one.post(*again)).status_code == 400
        (redrive,) = await buttons("dead")
        assert (await one.post(*redrive)).json()["done"] == 1
        (cancel,) = await buttons("delayed")
        assert (await one.post(*cancel)).json()["text"] == "The message is cancelled."
        assert (await one.post(*cancel)).status_code == 400
        assert (await one.admin.topic("orders")).delayed == 0
        for where, body in (("/api/t/orders/cancel", {}), ("/api/t/orders/g/billing/retry", {"id": "x", "entry": "1-1"})):
            assert (await one.post(where, body)).status_code == 400


async def test_nothing_to_change_it_with_and_nothing_that_is_private(name: str) -> None:
    async with bench(name, allow_changes=False, privacy=Privacy(redact="card|token")) as one:
        place = (await one.client.get(f"/m/{one.ids['retry']}")).headers["location"]
        for path in (place, f"/api{place}"):
            text = (await one.client.get(path)).text
            assert "data-post" not in text
            assert "4711" not in text
            assert "s3cret" not in text
        for where in ("/api/t/orders/cancel", "/api/t/orders/g/billing/retry", "/api/t/orders/g/billing/cancel"):
            assert (await one.post(where, {"id": one.ids["retry"]})).status_code == 404
