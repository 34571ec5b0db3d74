"""The newest messages of a topic, and downloads: of messages and of dead letters."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import msgspec
import pytest
from msgspec import structs

from redisaq import Producer
from redisaq.admin import Admin, MessageSummary, StreamMessage
from redisaq.dashboard import exports
from redisaq.dashboard.exports import Export, StoppedError
from redisaq.dashboard.jobs import RUNNING, Jobs
from redisaq.dashboard.letters import of_now
from redisaq.dashboard.newest import PREVIEW, look
from redisaq.dashboard.privacy import Privacy
from redisaq.errors import ConnectionFailed, ServerError
from tests.dashboard.scenes import Scripted, group, served, snapshot, topic
from tests.dashboard.test_dead_letters import EVIL, bench
from tests.dashboard.test_pages import text_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("trio", {})], ids=["asyncio", "trio"])]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return re.sub(r"\W", "-", request.node.name)


@asynccontextmanager
async def filled(name: str, **options: Any) -> AsyncGenerator[tuple[httpx.AsyncClient, Scripted, list[str], Producer]]:
    """Serve the page about a topic with 120 messages in two partitions."""
    url = f"memory://{name}"
    async with Producer("orders", url, init_partitions=2) as producer:
        ids = [
            await producer.enqueue({"n": n, "card": "4711", "note": EVIL}, key=f"k{n % 5}", headers={"token": "s3cret"}) for n in range(120)
        ]
        async with Admin(url) as admin:
            now = (await admin.server()).now.timestamp()
            newest = [one.msg_id for one in await admin.message_summaries("orders", partitions=(0, 1), count=200)]
            assert sorted(newest) == sorted(ids)
        shown = topic("orders", group(partitions=2), partitions=2, length=120)
        sampler = Scripted(structs.replace(snapshot(shown), at=now))
        async with served(sampler, Admin(url), **options) as client:
            yield client, sampler, newest, producer


def messages_of(html: str) -> list[str]:
    return re.findall(r'href="/m/orders/([0-9a-z-]+)\?', html)


async def test_the_newest_messages_of_a_topic(name: str) -> None:
    async with filled(name) as (client, sampler, ids, producer):
        html = (await client.get("/t/orders")).text
        assert messages_of(html) == ids[:10]
        assert "<script>" not in html.replace('<script src="/static/theme.js">', "").replace("<script defer", "")
        assert "&lt;script&gt;alert" in html
        assert (await client.get(re.findall(r'href="(/m/orders/[^"]*)"', html)[0].replace("&amp;", "&"))).status_code == 200
        shape = re.search(r'data-shape="([^"]*)"', html)
        late = await producer.enqueue({"n": 120})
        assert messages_of((await client.get("/t/orders?from=0")).text)[0] == ids[0], "asked once for each snapshot, however many look"
        sampler.show(sampler.latest)
        html = (await client.get("/t/orders")).text
        assert messages_of(html)[:2] == [late, ids[0]]
        assert shape is not None
        assert f'data-shape="{shape[1]}"' in html, "rows move in place"


async def test_all_messages_come_in_pages(name: str) -> None:
    async with filled(name) as (client, _, ids, _producer):
        place, found, pages = "/t/orders/messages", list[str](), 0
        while place:
            html = (await client.get(place)).text
            found += messages_of(html)
            assert ("data-refresh" in html) == (pages == 0)
            older = re.search(r'href="([^"]*)">Older<', html)
            place, pages = "" if older is None else older[1].replace("&amp;", "&"), pages + 1
        assert (found, pages >= 3) == (ids, True)
        first = messages_of((await client.get("/t/orders/messages?p=1")).text)
        assert 0 < len(first) <= 50
        assert set(first) < set(ids)
        assert "p=1" in (await client.get("/t/orders/messages?p=1")).text
        assert (await client.get("/t/orders/messages?before=nonsense")).text.count("They cannot be read") == 1
        assert (await client.get("/t/nothing/messages")).status_code == 404


async def test_payloads_are_shown_as_far_as_they_may_be(name: str) -> None:
    for options, there, gone in (
        ({"payloads": False}, "not shown", "card"),
        ({"redact": "card|token"}, "too long to leave parts of it out", "4711"),
    ):
        async with filled(f"{name}{len(there)}", privacy=Privacy(**options)) as (client, _, ids, _producer):
            for place in ("/t/orders", "/t/orders/messages"):
                html = (await client.get(place)).text
                assert there in html or "…" in html
                assert gone not in html
            lines = (await client.get("/api/t/orders/export")).text.splitlines()
            assert len(lines) == len(ids)
            assert "s3cret" not in "".join(lines)
            assert gone not in "".join(lines)
    privacy = Privacy(redact="card")
    assert privacy.preview(b'{"card": 1, "n": 2}', 19) == '{ "card": "…", "n": 2 }'
    assert privacy.preview(b'{"card": 1, "n"', 100) == "not shown: too long to leave parts of it out"
    assert "not JSON" in privacy.preview(b"card", 4)
    assert "not JSON" in privacy.payload(b'"\xff"').what, "such a payload must not end the page"
    assert privacy.value(b"card", None, readable=False) is None
    deep = b"[" * 900 + b"]" * 900
    assert privacy.value(deep, msgspec.json.decode(deep), readable=True) is None, "one message must not end an export"
    plain = Privacy()
    assert plain.preview("Grüße\n\tü".encode()[:-1], 100) == "Grüße…"
    assert plain.preview(b"\xff\xfe", 2) == "ff fe"
    assert plain.preview(b"[1]", 3) == "[1]"


async def test_messages_are_exported_as_lines(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "CHUNK", 1000)
    async with filled(name) as (client, _, ids, _producer):
        answer = await client.get("/api/t/orders/export")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == 'attachment; filename="messages.jsonl"'
        lines = [msgspec.json.decode(line) for line in answer.content.splitlines()]
        assert sorted(one["msg_id"] for one in lines) == sorted(ids)
        assert lines[0]["payload"] == {"n": lines[0]["payload"]["n"], "card": "4711", "note": EVIL}
        assert lines[0]["headers"] == {"token": "s3cret"}
        assert lines[0]["enqueued_at"]
        assert (await client.get("/api/t/nothing/export")).status_code == 404


async def test_dead_letters_are_exported_as_lines(name: str) -> None:
    async with bench(name) as one:
        assert "/api/dead/export?g=orders%2Fbilling" in (await one.client.get("/dead?g=orders/billing")).text
        answer = await one.client.get("/api/dead/export?g=orders/billing")
        assert answer.headers["content-disposition"] == 'attachment; filename="dead-letters.jsonl"'
        lines = [msgspec.json.decode(line) for line in answer.content.splitlines()]
        assert sorted(line["payload"]["number"] for line in lines) == list(range(6))
        assert {line["error_type"] for line in lines} == {"TimeoutError", "ValueError"}
        assert all("Traceback" in line["traceback"] for line in lines)
        assert await one.dead() == 6
        info = await one.admin.group("orders", "billing")
        before = structs.replace(info, partitions=tuple(structs.replace(share, dead=min(1, share.dead)) for share in info.partitions))
        found = [letter.partition async for letter in of_now(one.admin, before)]
        assert found == [share.partition for share in info.partitions if share.dead], "others have died since"
        for wrong in ("", "?g=orders", "?g=orders/nothing"):
            assert (await one.client.get(f"/api/dead/export{wrong}")).status_code == 404


class Answers:
    """An Admin that answers so."""

    def __init__(self, found: list[MessageSummary] | Exception) -> None:
        self._found = found
        self.asked: tuple[object, ...] = ()

    async def message_summaries(
        self, name: str, *, partitions: Iterable[int], count: int, before: str | None, size: int
    ) -> list[MessageSummary]:
        self.asked = name, [*partitions], count, before, size
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


async def test_a_page_of_messages_ends_behind_all_that_have_one_entry_id() -> None:
    """The next page begins below an id. There is one, if the server knows of more."""
    ids = [("9-0", 0), ("8-0", 0), ("8-0", 1), ("7-0", 0)]
    admin = Answers([MessageSummary("orders", partition, "m", entry_id, None, b"1", 1) for entry_id, partition in ids])
    for count, shown, older in ((1, 1, "9-0"), (2, 3, "8-0"), (3, 3, "8-0"), (4, 4, ""), (5, 4, "")):
        found = await look(admin, topic("orders", partitions=2), Privacy(), count=count, partitions=[0, 1], before="")  # type: ignore[arg-type] # of the same shape
        assert (len(found.rows), found.older, found.looked, found.error) == (shown, older, [0, 1], "")
        assert admin.asked == ("orders", [0, 1], count + 1, None, PREVIEW)
    found = await look(admin, topic("orders", partitions=2), Privacy(), count=2, partitions=[1], before="9-9")  # type: ignore[arg-type] # likewise
    assert (found.looked, admin.asked[1:4]) == ([1], ([1], 3, "9-9"))


async def test_messages_that_cannot_be_read_leave_a_page() -> None:
    """Where the server is away, the page says that already."""
    for error, said in ((ConnectionFailed("redis://x", "away"), ""), (ServerError("NOPERM no"), "NOPERM no")):
        found = await look(Answers(error), topic("orders", partitions=2), Privacy(), count=2, partitions=[0, 1])  # type: ignore[arg-type] # of the same shape
        assert (found.rows, found.looked, found.older, found.error) == ((), [0, 1], "", said)


def message(n: int) -> StreamMessage:
    return StreamMessage(
        topic="orders", partition=0, msg_id=str(n), entry_id=f"{n}-1", data=b"1", payload=1, unreadable="", key=None, headers={}
    )


async def test_a_download_that_ends_early_is_broken_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "CHUNK", 1)
    jobs = Jobs(Admin("memory://nobody"))

    closed = list[bool]()

    async def source(failing: bool) -> AsyncGenerator[StreamMessage]:
        try:
            for n in range(3):
                yield message(n)
            if failing:
                raise ServerError("NOPERM no")
            yield message(3)
        finally:
            closed.append(True)

    for failing, error, state in ((True, ServerError, "failed"), (False, StoppedError, "stopped")):
        export = jobs.add(lambda number: Export(number, "orders", total=4))
        assert export.as_json()["state"] == "running"
        if not failing:
            jobs.running()[export.number].stop()
        with pytest.raises(error):
            _ = [one async for one in export.lines(source(failing), Privacy(), jobs)]
        assert export.as_json()["state"] == state
        assert export.number in jobs.recent()
    export = jobs.add(lambda number: Export(number, "orders", total=4))
    lines = [one async for one in export.lines(source(failing=False), Privacy(), jobs)]
    assert [line.count(b"\n") for line in lines] == [1, 1, 1, 1, 0]
    assert export.as_json()["text"] == "orders: exported 4 of 4"
    more = jobs.add(lambda number: Export(number, "orders", total=3))
    monkeypatch.setattr(exports, "CHUNK", 1 << 20)
    assert [line.count(b"\n") async for line in more.lines(source(failing=False), Privacy(), jobs)] == [4]
    assert more.as_json()["text"] == "orders: exported 4 of 4", "others were added meanwhile"
    monkeypatch.setattr(exports, "CHUNK", 1)
    left = jobs.add(lambda number: Export(number, "orders", total=4))
    leaving = left.lines(source(failing=False), Privacy(), jobs)
    await anext(leaving)
    changed = jobs.changed
    await anext(leaving)
    assert changed.is_set(), "pages show how far it is"
    closed.clear()
    await leaving.aclose()  # the browser has gone
    assert closed == [True], "and nobody reads on"
    assert (left.as_json()["state"], jobs.running()) == ("stopped", {})


async def test_a_browser_that_leaves_ends_its_download(name: str) -> None:
    async with filled(name) as (client, _, _ids, _producer):
        app = client._transport.app  # type: ignore[attr-defined]
        begun, sent = anyio.Event(), list[str]()

        async def receive() -> dict[str, Any]:
            await begun.wait()
            return {"type": "http.disconnect"}

        async def send(event: dict[str, Any]) -> None:
            if event["type"] == "http.response.body":
                begun.set()
                await anyio.sleep_forever()
            sent.append(event["type"])

        path = "/api/t/orders/export"
        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "scheme": "http", "headers": [(b"host", b"localhost")], "server": ("localhost", 80), "http_version": "1.1",
        }  # fmt: skip
        with anyio.fail_after(30):
            await app(scope, receive, send)
        assert sent == ["http.response.start"]

        async def gone(event: dict[str, Any]) -> None:
            raise BrokenPipeError(event["type"])

        for _ in range(2 * RUNNING):  # they count no more once they have ended, before the first line, too
            await app(scope, receive, gone)
            head = await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
        assert (await client.get(path)).status_code == 200


async def test_marks_of_what_happened_to_members_and_buttons_to_copy(name: str) -> None:
    from redisaq.watching import HistoryView
    from tests.dashboard.scenes import NOW, member

    history = (
        HistoryView(NOW - 30, "taken for dead", 2, "", (1,), 1, "h2 was taken for dead: partition 1 lost its owner", ((0, (1,)),)),
        HistoryView(NOW - 60, "joined", 1, "", (1, 3), None, f"h1 joined {EVIL}"),
        HistoryView(NOW - 7200, "joined", 0, "", (), None, "too long ago"),
        HistoryView(NOW - 10, "paused", None, "mara", (), None, "paused by mara"),
    )
    gone = (member(2, gone=NOW - 30, went="taken for dead"),)
    async with served(Scripted(snapshot(topic("orders", group(history=history, gone=gone))))) as client:
        html = (await client.get("/t/orders/g/billing")).text
        marks = re.findall(r'<text([^>]*?) y="18" text-anchor="middle"[^>]* x="([-\d.]+%)"[^>]*>(.)<title>([^<]*)</title>', html)
        assert [(kind.strip(), x, sign) for kind, x, sign, _ in marks] == [
            ("", "98.33%", "○"),  # of the member that takes over
            ("", "96.67%", "▸"),
            ('class="bad"', "98.33%", "✕"),
        ]
        assert "&lt;script&gt;" in marks[1][3]
    async with bench(name) as one:
        (letter, *_) = await one.admin.dead_summaries("orders", "billing", partitions=[0, 1])
        html = (await one.client.get(f"/m/orders/{letter.msg_id}?p={letter.partition}&e={letter.entry_id}")).text
        assert f'data-copy="{letter.msg_id}"' in html
        assert 'aria-label="Copy the command"' in (await one.client.get("/dead?g=orders/billing")).text
    assert "orders" in text_of(html)
