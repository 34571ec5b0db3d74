"""Dead letters on the page: kinds, one in full, and what is done with them; on the memory broker."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import msgspec
import pytest
from msgspec import structs

from redisaq import Consumer, Message, Producer, RetryPolicy
from redisaq.admin import Admin
from redisaq.dashboard.letters import MOST, MOST_PARTITIONS, lines_of, look, parts_of
from redisaq.dashboard.privacy import LARGEST, Privacy
from redisaq.errors import SettingsError
from tests.dashboard.scenes import HERE, Scripted, group, partition, served, snapshot, topic

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("trio", {})], ids=["asyncio", "trio"])]

OURS = {"sec-fetch-site": "same-origin", "x-redisaq": "1"}
EVIL = '</pre><script>alert("hello")</script>'


class Bench:
    """A group with dead letters, and the page about it."""

    def __init__(self, client: httpx.AsyncClient, admin: Admin, url: str) -> None:
        self.client = client
        self.admin = admin
        self.url = url

    async def post(self, what: str, body: Any, where: str = "/api/t/orders/g/billing") -> httpx.Response:
        return await self.client.post(f"{where}/{what}", json=body, headers=OURS)

    async def dead(self) -> int:
        return (await self.admin.group("orders", "billing")).dead

    async def job(self, answer: httpx.Response, state: str = "done") -> dict[str, Any]:
        assert answer.status_code == 202, answer.text
        with anyio.fail_after(30):
            while True:
                said = (await self.client.get(f"/api/jobs/{answer.json()['job']}")).json()
                if said["state"] != "running":
                    assert said["state"] == state
                    return dict(said)
                await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def bench(name: str, *, letters: int = 6, **options: Any) -> AsyncGenerator[Bench]:
    url = f"memory://{name}"

    async def handle(message: Message[Any]) -> None:
        number = message.payload["number"]
        if number % 3:
            raise TimeoutError(f"bank did not answer within {number}.0 s")
        raise ValueError(f"no customer '{EVIL}'")

    async with Producer("orders", url, init_partitions=2) as producer:
        await producer.batch_enqueue(
            [{"number": n, "card": {"number": "4711"}, "note": EVIL} for n in range(letters)], headers={"token": "s3cret"}
        )
    await Consumer("orders", url, group_name="billing", retry=RetryPolicy(max_attempts=1)).process(handle, until_empty=True)
    async with Admin(url) as admin:
        info = await admin.group("orders", "billing")
        shares = tuple(partition(one.partition, None, 0, dead=one.dead) for one in info.partitions)
        shown = structs.replace(group(partitions=2), dead=info.dead, partitions=shares)
        sampler = Scripted(structs.replace(snapshot(topic("orders", shown, partitions=2), server=HERE), at=info.now.timestamp()))
        async with served(sampler, Admin(url), allow_changes=True, **options) as client:
            yield Bench(client, admin, url)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return re.sub(r"\W", "-", request.node.name)


def names_of(html: str) -> list[str]:
    return re.findall(r'name="letter" value="([^"]*)"', html)


async def test_kinds_and_a_letter(name: str) -> None:
    async with bench(name) as one:
        html = (await one.client.get("/dead?g=orders/billing")).text
        assert "6 in 2 kinds" in html
        assert 'bank did not answer within <span class="hole">number</span> s' in html
        assert " in handle" in html
        names = names_of(html)
        assert len(names) == 4
        html = (await one.client.get("/dead", params={"g": "orders/billing", "m": names[0]})).text
        assert "Traceback" in html
        assert '<span class="own">' in html
        assert "4711" in html
        assert "s3cret" in html
        assert "<script>alert" not in html
        assert "&lt;script&gt;alert" in html
        kinds = re.findall(r'href="(/dead/[^"]*)"', html)
        other = (await one.client.get(kinds[1].replace("&amp;", "&"))).text
        assert len(names_of(other)) == 2
        assert (await one.client.get("/dead/nothing")).status_code == 404
        everywhere = (await one.client.get("/dead")).text
        assert "orders › billing" in everywhere
        assert names_of(everywhere) == []  # a group must be chosen before anything is changed
        assert len((await one.client.get("/api/dead")).json()) == 6
        payload = await one.client.get("/api/dead/payload", params={"m": names[0]})
        assert payload.headers["content-type"] == "application/octet-stream"
        assert payload.headers["content-disposition"] == 'attachment; filename="payload.bin"'
        assert msgspec.json.decode(payload.content)["note"] == EVIL
        for wrong in ("", "x", "orders/billing/0/1-1", "orders/billing/x/1-1", "a/b/0/no id", "/".join("abcde")):
            assert (await one.client.get("/api/dead/payload", params={"m": wrong})).status_code == 404
            assert (await one.client.get("/dead", params={"m": wrong})).status_code == 200


async def test_no_dead_letters() -> None:
    async with served(Scripted(snapshot(topic("orders", structs.replace(group(), dead=0))))) as client:
        assert "No dead letters" in (await client.get("/dead")).text


async def test_redriving_some_a_kind_and_all(name: str) -> None:
    async with bench(name, letters=30) as one:
        html = (await one.client.get("/dead?g=orders/billing")).text
        some = names_of(html)[:2]
        answer = await one.post("redrive", {"letters": some})
        assert (answer.status_code, answer.json()["done"]) == (200, 2)
        assert (await one.post("redrive", {"letters": some})).status_code == 400  # they are not there any more
        assert await one.dead() == 28
        left = names_of((await one.client.get("/dead?g=orders/billing")).text)  # of the same snapshot
        assert (len(left), set(left) & set(some)) == (18, set())
        kind = re.findall(r'class="err" href="/dead/([0-9a-f]+)', html)[1]
        done = await one.job(await one.post("redrive", {"kind": kind, "expected": 10}))
        assert (done["done"], done["total"]) == (10, 10)
        assert await one.dead() == 18
        done = await one.job(await one.post("redrive", {"all": True, "expected": 18, "rate": 1000}))
        assert done["text"] == "orders › billing: redriven 18 of 18"
        assert (await one.admin.group("orders", "billing")).retry == 30


async def test_purging_asks_for_the_name(name: str) -> None:
    async with bench(name) as one:
        assert (await one.post("purge", {"all": True, "expected": 6})).status_code == 400
        assert await one.dead() == 6
        assert (await one.job(await one.post("purge", {"all": True, "expected": 6, "name": "billing"})))["done"] == 6
        assert await one.dead() == 0


async def test_a_job_can_be_stopped(name: str) -> None:
    async with bench(name, letters=20) as one:
        answer = await one.post("redrive", {"all": True, "expected": 20, "rate": 1})
        number = answer.json()["job"]
        with anyio.fail_after(30):
            while (await one.client.get(f"/api/jobs/{number}")).json()["done"] < 1:
                await anyio.lowlevel.checkpoint()
        await one.post("stop", {}, f"/api/jobs/{number}")
        said = await one.job(answer, "stopped")
        assert said["done"] == 1
        assert await one.dead() == 19
        assert (await one.client.get("/api/jobs/99")).status_code == 404


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("redrive", {}),
        ("redrive", []),
        ("redrive", {"all": True}),
        ("redrive", {"all": True, "expected": 0.5}),
        ("redrive", {"all": True, "expected": 6, "rate": -1}),
        ("redrive", {"letters": []}),
        ("redrive", {"letters": ["x"]}),
        ("redrive", {"letters": ["other/billing/0/1-1"]}),
        ("redrive", {"letters": [7]}),
        ("seek", {"to": "nowhere"}),
        ("seek", {"to": "time", "at": "2026-01-31T12:00:00"}),
        ("seek", {"to": "time", "at": "yesterday"}),
    ],
)
async def test_requests_that_are_none(what: str, body: Any, name: str) -> None:
    async with bench(name, letters=1) as one:
        answer = await one.post(what, body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]


async def test_a_body_that_is_too_deep_is_none(name: str) -> None:
    async with bench(name, letters=1) as one:
        headers = {**OURS, "content-type": "application/json"}
        answer = await one.client.post("/api/t/orders/g/billing/pause", content=b"[" * 100_000, headers=headers)
        assert answer.status_code == 400


async def test_what_has_grown_is_looked_at_again(name: str) -> None:
    async with bench(name, letters=12) as one:
        assert "look again" in (await one.post("redrive", {"all": True, "expected": 1})).json()["error"]


async def test_pausing_resuming_and_seeking(name: str) -> None:
    async with bench(name) as one:
        assert (await one.post("pause", {})).json()["text"].startswith("billing is paused")
        assert (await one.admin.group("orders", "billing")).paused
        assert (await one.post("resume", {})).status_code == 200
        assert not (await one.admin.group("orders", "billing")).paused
        assert (await one.post("seek", {"to": "earliest", "pause": True})).status_code == 200
        info = await one.admin.group("orders", "billing")
        assert (info.paused, info.unread) == (True, 6)
        assert (await one.post("seek", {"to": "time", "at": "2100-01-01T00:00:00Z"})).status_code == 200
        assert (await one.admin.group("orders", "billing")).unread == 0
        assert (await one.post("pause", {}, "/api/t/orders/g/none")).status_code == 404


@pytest.mark.parametrize("missing", ["sec-fetch-site", "x-redisaq", "content-type"])
async def test_a_foreign_page_changes_nothing(missing: str, name: str) -> None:
    async with bench(name) as one:
        headers = {**OURS, "content-type": "application/json"}
        del headers[missing]
        content = b'{"all": true, "expected": 6}'
        answer = await one.client.post("/api/t/orders/g/billing/redrive", content=content, headers=headers)
        assert answer.status_code == 403
        answer = await one.client.post(
            "/api/t/orders/g/billing/redrive", content=content, headers=headers | {"sec-fetch-site": "cross-site"}
        )
        assert answer.status_code == 403
        same = headers | {"origin": "http://localhost:8787"} if missing == "sec-fetch-site" else None
        if same:
            assert (await one.client.post("/api/t/orders/g/billing/pause", json={}, headers=same)).status_code == 200
            other = same | {"origin": "http://evil.example"}
            assert (await one.client.post("/api/t/orders/g/billing/pause", json={}, headers=other)).status_code == 403
        assert await one.dead() == 6


async def test_where_nothing_may_be_changed_there_is_nothing_to_change_it_with() -> None:
    """The routes do not exist, and the page has no button for them."""
    async with served() as client:
        for what in ("pause", "resume", "seek", "redrive", "purge", "delete"):
            answer = await client.post(f"/api/t/orders/g/billing/{what}", json={}, headers=OURS)
            assert answer.status_code == 404
        for what in ("grow", "enqueue", "delete", "cancel"):
            assert (await client.post(f"/api/t/orders/{what}", json={}, headers=OURS)).status_code == 404
        assert (await client.get("/api/t/orders/grow?partitions=9")).status_code == 404
        assert "data-post" not in (await client.get("/t/orders")).text
        html = (await client.get("/t/orders/g/billing")).text
        assert "data-post" not in html
    async with served(allow_changes=True) as client:
        assert "data-post" in (await client.get("/t/orders/g/billing")).text


async def test_what_is_not_to_be_shown(name: str) -> None:
    async with bench(name, privacy=Privacy(redact=r"card|token")) as one:
        html = (await one.client.get("/dead?g=orders/billing")).text
        html = (await one.client.get("/dead", params={"g": "orders/billing", "m": names_of(html)[0]})).text
        assert "4711" not in html
        assert "s3cret" not in html
        assert (await one.client.get("/api/dead/payload", params={"m": names_of(html)[0]})).status_code == 404
    hidden = Privacy(payloads=False)
    assert (hidden.payload(b"x").text, hidden.headers({"a": "b"}), hidden.raw) == ("", {}, False)
    with pytest.raises(SettingsError):
        Privacy(redact="(")


@pytest.mark.parametrize(
    ("data", "begins", "what"),
    [
        (b'{"a":1}', '{\n  "a": 1', "7 bytes of JSON"),
        (b"plain", "plain", "5 bytes"),
        (b"\xff\x00", "ff 00", "2 bytes"),
        (b"[" * 5000 + b"]" * 5000, "[", "10,000 bytes"),
        (b"[" + b"1," * 3000 + b"1]", "[1,1", "6,003 bytes of JSON"),
        (b"x" * 200_000, "xxx", "200,000 bytes"),
        (b"\xff" * 50_000, "ff ff", "50,000 bytes"),
    ],
)
async def test_payloads(data: bytes, begins: str, what: str) -> None:
    shown = Privacy().payload(data)
    assert shown.text.startswith(begins)
    assert shown.what.startswith(what)
    assert len(shown.text) <= LARGEST
    assert shown.whole == (len(data) < 50_000)


async def test_a_payload_that_is_too_deep_to_leave_something_out_is_not_shown() -> None:
    """How deep that is depends on the interpreter."""
    shown = [Privacy(redact="a").payload(b"[" * depth + b"]" * depth).text[:1] for depth in (10, 600, 990, 5000)]
    assert (shown[0], {*shown[1:3]} <= {"[", ""}, shown[3]) == ("[", True, "")


async def test_a_million_letters_are_not_looked_at() -> None:
    """However many there are, so many of so many partitions are asked for, in as many steps as there are groups."""
    asked: list[tuple[int, int]] = []

    class Counting:
        async def dead_summaries(self, topic: str, group: str, *, partitions: list[int], count: int) -> list[Any]:
            asked.append((len(partitions), count))
            return []

    million = structs.replace(group(partitions=10_000), dead=1_000_000, partitions=tuple(partition(n, 0, dead=100) for n in range(10_000)))
    few = structs.replace(group(name="few"), dead=1, partitions=(partition(0, 0, dead=1),))
    found = await look(Counting(), [million, few], 0.0)  # type: ignore[arg-type] # of the same shape
    assert asked == [(MOST_PARTITIONS, MOST // MOST_PARTITIONS)]
    assert found.dead == 1_000_001
    asked.clear()
    await look(Counting(), [few, structs.replace(few, group="other")], 0.0)  # type: ignore[arg-type] # as above
    assert asked == [(1, MOST // 2)] * 2


async def test_lines_of_a_traceback() -> None:
    own, library = '  File "/srv/bank.py", line 1, in a\n    b()', '  File "/x/site-packages/y.py", line 2, in z'
    text = f"Traceback (most recent call last):\n{own}\n{library}\nValueError: no"
    assert [line.kind for line in lines_of(text)] == ["", "own", "own", "lib", "e"]
    assert parts_of("a%2Fb/c/3/1-1") == ("a/b", "c", 3, "1-1")
