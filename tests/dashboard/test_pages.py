"""What pages show of a snapshot: every view, every state, and whatever users put into names."""

from __future__ import annotations

import re
from html import unescape

import httpx
import pytest
from msgspec import structs

from redisaq.admin import Admin
from redisaq.dashboard import showing
from redisaq.dashboard.application import Dashboard
from redisaq.dashboard.pages import visible
from redisaq.watching import Attention, RunningView, Screen, ServerView, Snapshot
from tests.dashboard.scenes import HERE, NORMAL, NOW, Scripted, group, member, partition, served, snapshot, topic

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no snapshot longer than is needed to see that a page would."""
    monkeypatch.setattr(showing, "FIRST", 0.05)


EVIL = "<script>alert(1)</script>\"'><b>&amp;"


def text_of(html: str) -> str:
    """Return what a reader sees of a page, approximately."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", html))


async def show(path: str, latest: Snapshot = NORMAL) -> tuple[int, str]:
    async with served(Scripted(latest)) as client:
        answer = await client.get(path)
        return answer.status_code, answer.text


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_it_is_mounted_in_asyncio_and_trio(backend: str) -> None:
    """Nothing in it belongs to one event loop; and where it is mounted, its links lead there."""
    import anyio.to_thread
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from redisaq import dashboard

    async def main() -> str:
        page = dashboard.app("memory://mounted", hosts=["example"])
        outer = Starlette(routes=[Mount("/ops", page)])
        async with (
            page.router.lifespan_context(page),
            httpx.AsyncClient(transport=httpx.ASGITransport(app=outer), base_url="http://example") as client,
        ):
            answer = await client.get("/ops/")
            assert (await client.get("/ops/static/style.css")).status_code == 200
            return answer.text

    html = await anyio.to_thread.run_sync(lambda: anyio.run(main, backend=backend))
    assert 'href="/ops/static/style.css"' in html
    assert 'data-root="/ops"' in html


async def test_the_overview_is_readable_without_a_script() -> None:
    status, html = await show("/")
    assert status == 200
    text = text_of(html)
    for words in ("In412 /s", "Backlog24", "orders › billing is 12 min behind and falling further back. 412/s come in."):
        assert words in text
    assert "4 partitions, 612 k kept, 214 delayed" in text
    assert '<a class="name" href="/t/orders/g/billing">' in html
    assert html.count('class="gap"') == 1


async def test_a_group_shows_owners_handlers_members_and_history() -> None:
    gone = member(5, gone=NOW - 9, went="taken for dead", heartbeat=9.0)
    one = structs.replace(group(partitions=4), gone=(gone,))
    one = structs.replace(one, partitions=(*one.partitions[:3], partition(3, None, 40, unowned=NOW - 9)))
    status, html = await show("/t/orders/g/billing?p=3", snapshot(topic("orders", one)))
    text = text_of(html)
    assert status == 200
    assert "nobody for 9 s" in text
    assert html.count('role="option"') == 4
    assert 'class="col none"' in html
    assert "Partition 3, 41 waiting, no owner" in html
    assert "4r8zq1mt6x0vckd3customer-88121B241 s" in text.replace(" ", "").replace("41s", "41 s")
    assert "ip-10-0-3-5:4005" in text
    assert "joined, took 1 and 3" in text


async def test_what_runs_is_shown_with_its_partition_and_its_member() -> None:
    running = (RunningView("4r8zq1mt6x0vckd3", 1, "1-9", "customer-8812", 2, NOW - 41, 50.0, 1),)
    latest = snapshot(topic("orders", structs.replace(group(), in_handlers=running)))
    _, html = await show("/t/orders/g/billing?p=1", latest)
    assert "4r8zq1mt6x0vckd3attempt 2, for 41 s of 50 s, key customer-8812" in text_of(html)
    assert html.count("/m/orders/4r8zq1mt6x0vckd3?p=1&amp;e=1-9") == 2
    _, html = await show("/t/orders/g/billing?p=0", latest)
    assert "Nothing, as far as members have reported" in text_of(html)
    _, html = await show("/t/orders/g/billing?m=inc-1", latest)
    assert "partition 1, attempt 2, for 41 s of 50 s" in text_of(html)
    _, html = await show("/t/orders/g/billing?m=inc-0", structs.replace(latest, topics=(topic("orders", group(in_handlers=None)),)))
    assert "Members have not reported yet." in text_of(html)


async def test_thousands_of_partitions_are_a_map_and_the_few_that_matter() -> None:
    one = structs.replace(group(partitions=1000), partitions=tuple(partition(n, None if n == 700 else 0, n) for n in range(1000)))
    latest = snapshot(topic("orders", one, partitions=1000))
    _, html = await show("/t/orders/g/billing", latest)
    assert "<canvas" in html
    assert 'role="option"' not in html
    assert html.count("<tr data-href") == 10
    assert re.findall(r'<td class="strong"><a [^>]*>(\d+)', html)[:3] == ["700", "999", "998"]
    async with served(Scripted(latest)) as client:
        cells = (await client.get("/api/t/orders/g/billing/cells")).json()
    assert len(cells["lag"]) == len(cells["owner"]) == 1336  # a byte each, in base64


async def test_a_name_is_text_wherever_it_stands() -> None:
    hostile = structs.replace(group("a/b?c#d%2F" + EVIL, EVIL), members=(member(0, host=EVIL, owns=(0,)),))
    name = hostile.topic
    attention = (Attention(EVIL, "bad", EVIL, EVIL, NOW, EVIL, EVIL, Screen("group", name, EVIL), EVIL),)
    latest = snapshot(topic(name, hostile), attention=attention, server=structs.replace(HERE, namespace=EVIL))
    async with served(Scripted(latest)) as client:
        overview = (await client.get("/")).text
        href = re.search(r'data-href="([^"]*)"', overview)
        assert href
        pages = [overview, (await client.get(href[1])).text, (await client.get(href[1].split("/g/")[0])).text]
        for html in pages:
            assert "<script>" not in html
            assert "<b>&amp;" not in html
            assert text_of(html).count("&lt;script&gt;alert(1)") > 1
        assert "a%2Fb%3Fc%23d%252F" in href[1]
        assert (await client.get(f"/api{href[1]}")).json()["topic"] == name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("pay\u202egnp.exe", "pay\\u202egnp.exe"),
        ("\udcff", "\\udcff"),
        ("a\nb\tc", "a\nb\tc"),
        ("ü 漢", "ü 漢"),
    ],
)
async def test_what_cannot_be_seen_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


async def test_lists_have_pages() -> None:
    topics = [topic(f"topic-{n:03}", group(f"topic-{n:03}")) for n in range(120)]
    busy = topic("a-busy-one", *(group("a-busy-one", f"g{n}") for n in range(60)))
    latest = snapshot(*topics, busy, attention=tuple(structs.replace(NORMAL.attention[0], key=str(n)) for n in range(70)))
    _, html = await show("/?order=name", latest)
    assert html.count("<tbody") == 50
    assert "1 to 50 of 121 topics" in html
    assert html.count('data-key="') < 110
    assert "20</span> more" in html
    _, last = await show("/?order=name&from=100", latest)
    assert last.count("<tbody") == 21
    assert "40 more groups" in last
    _, found = await show("/?q=topic-11", latest)
    assert found.count("<tbody") == 10


async def test_states() -> None:
    away = ServerView("redis://cache-1.prod:6379/0", "shop", "Valkey 9.1", "away", NOW - 14, "connection refused.")
    status, html = await show("/", structs.replace(NORMAL, server=away))
    assert status == 200
    assert "The server does not answer." in text_of(html)
    assert 'class="stale"' in html
    assert "orders › billing" in text_of(html)  # what was known stays
    assert "No topics yet" in (await show("/", snapshot(server=structs.replace(HERE, other_keys=41_212))))[1]
    assert "41,212" in (await show("/", snapshot(server=structs.replace(HERE, other_keys=41_212))))[1]
    assert "Nothing. All is well." in (await show("/", snapshot(topic("orders"))))[1]
    assert (await show("/t/orders/g/none"))[0] == 404
    assert (await show("/t/none"))[0] == 404
    assert (await show("/t/none", Snapshot(0, 0.0, ServerView("", ""))))[0] == 200  # it is not known yet


async def test_the_same_as_json_and_names_to_find() -> None:
    async with served() as client:
        assert (await client.get("/api/")).json()["attention"][0]["severity"] == "bad"
        assert (await client.get("/api/t/orders/g/billing")).json()["unread"] == 20
        assert (await client.get("/api/t/none")).status_code == 404
        assert [one["href"] for one in (await client.get("/api/places", params={"q": "bill"})).json()] == ["/t/orders/g/billing"]


async def test_the_first_page_waits_for_the_first_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Scripted(Snapshot(0, 0.0, ServerView("", "")))
    watch = sampler.watch

    def watch_and_learn(screen: Screen) -> object:
        sampler.show(NORMAL)  # the sampler looks while somebody watches
        return watch(screen)

    monkeypatch.setattr(sampler, "watch", watch_and_learn)
    async with served(sampler) as client:
        assert "4r8zq1mt6x0vckd3" in (await client.get("/t/orders/g/billing")).text


async def test_pages_that_are_kept_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody watches, the snapshot stays the same, and anybody who may look can ask for any address."""
    monkeypatch.setattr(showing, "RENDERED", 3)
    board = Dashboard(Admin("memory://nobody"), Scripted())  # type: ignore[arg-type] # of the same shape
    transport = httpx.ASGITransport(app=board.app)
    async with board.app.router.lifespan_context(board.app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for number in range(6):
            assert (await client.get(f"/?q={number}")).status_code == 200
    assert len(board._showing._rendered) == 3


async def test_names_in_commands_are_quoted() -> None:
    """Somebody pastes the command into a shell."""
    evil = structs.replace(group(), topic="$(reboot)", group="b; reboot")
    async with served(Scripted(snapshot(topic("$(reboot)", evil), server=HERE)), allow_changes=True) as client:
        html = (await client.get("/t/%24%28reboot%29/g/b%3B%20reboot")).text
    assert "redisaq pause '$(reboot)' 'b; reboot'" in unescape(html)
    assert "redisaq seek '$(reboot)' 'b; reboot' earliest --dry-run" in unescape(html)
