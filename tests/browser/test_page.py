"""The live page in Debian's Chromium: what people click, what moves, and that what users sent is text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest

from redisaq import Consumer, Message, Producer, RetryPolicy, dashboard
from redisaq.admin import Admin

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from tests.browser.serving import CHROMIUM, Looker, browsing, call, looking, looping, serving  # noqa: E402 -- needs what was just looked for

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no program `chromium` on PATH")

URL = "memory://browser"
EVIL = "</pre><script>document.title = 'hacked'; alert(1)</script><img src=x onerror=alert(2)> \u202eevil"
TOPIC = "orders<b>/ü?"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as one:
        yield one


@pytest.fixture(scope="module")
def portal() -> Iterator[Any]:
    with looping() as one:
        yield one


async def fill() -> None:
    """Make a topic with dead letters, and another one on which nobody works."""

    async def handle(message: Message[Any]) -> None:
        raise TimeoutError(f"bank did not answer within {message.payload['number']}.0 s {EVIL}")

    async with Producer(TOPIC, URL, init_partitions=4) as producer:
        payloads = [{"number": n, "note": EVIL} for n in range(5)]
        await producer.batch_enqueue(payloads, key=EVIL, headers={"tenant": EVIL})
    consumer = Consumer(TOPIC, URL, group_name="billing", retry=RetryPolicy(max_attempts=1))
    await consumer.process(handle, until_empty=True)
    async with Producer("large", URL, init_partitions=66) as producer:
        await producer.batch_enqueue([{"number": n} for n in range(300)])
    async with Consumer("large", URL, group_name="indexer", batch_size=1) as waiting, waiting.messages():
        pass  # joined, and left


@pytest.fixture(scope="module")
def address(portal: Any) -> Iterator[str]:
    call(portal, fill)
    with serving(portal, dashboard.app(URL, allow_changes=True)) as one:
        yield one


@pytest.fixture
def looker(browser: Any) -> Iterator[Looker]:
    with looking(browser) as one:
        yield one
        assert one.complaints == []


@contextmanager
def held(page: Any, address: str) -> Iterator[Callable[[], None]]:
    """Hold what the page asks for at an address until the end of the block; give a function that waits until it has asked."""
    routes: list[Any] = []
    page.route(address, lambda route: routes.append(route))  # noqa: PLW0108 -- playwright needs a function of its own kind

    def asked() -> None:
        while not routes:
            page.wait_for_timeout(10)

    yield asked
    for route in routes:
        route.continue_()
    page.unroute(address)


async def retries() -> tuple[int, int]:
    async with Admin(URL) as admin:
        found = await admin.group(TOPIC, "billing")
        return found.retry, found.dead


def test_a_letter_is_shown_as_text_and_redriven_by_clicking(looker: Looker, address: str, portal: Any) -> None:
    page = looker.page
    page.goto(address)
    page.click("text=Dead letters >> nth=0")
    page.click("details.choose summary")
    page.click("details.choose li:nth-child(2) a")
    page.click("table.letters tbody tr:first-child a")
    shown = page.text_content("#payload") or ""
    assert "</pre><script>document.title = 'hacked'; alert(1)</script><img src=x onerror=alert(2)> \\u202eevil" in shown
    assert page.title() == "Dead letters – redisaq"
    assert page.locator("img, main script").count() == 0
    page.check("input[name=letter] >> nth=0")
    page.check("input[name=letter] >> nth=1")
    assert page.text_content("#redrive") == "Redrive 2"
    page.click("#redrive")
    page.click("#redrive-dialog button[value=ok]")
    looker.hear("Redriven: 2")
    looker.until("document.querySelectorAll('input[name=letter]').length === 3")
    assert call(portal, retries) == (2, 3)
    page.click("#redrive")
    page.click("#redrive-dialog button[value=ok]")
    looker.hear("redriven 3 of 3")
    assert call(portal, retries) == (5, 0)


async def enqueue_late() -> str:
    async with Producer(TOPIC, URL) as producer:
        return await producer.enqueue({"number": 7, "note": EVIL}, key=EVIL, delay=3600)


def test_a_message_is_found_by_its_id_and_cancelled_by_clicking(looker: Looker, address: str, portal: Any) -> None:
    msg_id = call(portal, enqueue_late)
    page = looker.page
    page.goto(address)
    page.keyboard.press("/")
    with held(page, "**/api/places*") as asked:
        page.keyboard.insert_text(msg_id)
        page.keyboard.press("Enter")  # before there is an answer: it waits for that
        asked()
    page.wait_for_url("**/m/**p=*")
    assert page.text_content("h1") == msg_id
    assert "is due in" in (page.text_content(".story") or "")
    assert "<script>document.title = 'hacked'" in (page.text_content("#payload") or "")
    page.click("text=Cancel…")
    page.click("#cancel-dialog button[value=ok]")
    looker.hear("The message is cancelled.")
    looker.until("document.querySelector('h1').textContent.startsWith('No message')")
    assert all("404" in one for one in looker.complaints)
    looker.complaints.clear()


def test_numbers_move_and_nothing_is_rebuilt(looker: Looker, address: str, portal: Any) -> None:
    page = looker.page
    page.goto(f"{address}/t/large")
    kept = "[...document.querySelectorAll('.facts div')].find((one) => one.textContent.startsWith('Kept')).querySelector('dd span')"
    before = page.evaluate(f"({kept}).textContent")
    page.evaluate(f"({kept}).mine = 1; document.getElementById('find-input').focus()")

    async def more() -> None:
        async with Producer("large", URL) as producer:
            await producer.batch_enqueue([{"number": n} for n in range(50)])

    call(portal, more)
    looker.until(f"({kept}).textContent === '{int(before) + 50}'")  # by and by: partitions are looked at one after the other
    assert page.evaluate(f"({kept}).mine") == 1
    assert page.evaluate("document.activeElement.id") == "find-input"
    moved = (  # attributes move like texts
        "() => { const node = document.querySelector('svg.bars rect'), [attribute, name] = node.dataset.a.split(' ')[0].split(':');"
        " apply({ [name]: '7' }); return node.getAttribute(attribute); }"
    )
    assert page.evaluate(moved) == "7"


def test_pausing_by_clicking(looker: Looker, address: str) -> None:
    page = looker.page
    page.goto(f"{address}/t/large/g/indexer")
    page.click("text=Pause >> nth=0")
    page.click("#pause-dialog button[value=ok]")
    looker.until("document.querySelector('.head .tools button').textContent === 'Resume'")
    assert "paused" in (page.text_content(".title") or "")


def test_what_a_change_would_do_is_shown_before(looker: Looker, address: str) -> None:
    page = looker.page
    page.goto(f"{address}/t/large/g/indexer")
    page.click("text=Seek…")
    looker.until("document.querySelector('#seek-dialog .preview').textContent === 'Say a time.'")
    with held(page, "**/seek?*to=earliest*") as asked:
        page.check("#seek-dialog input[value=earliest]")
        asked()
        page.check("#seek-dialog input[value=latest]")
        looker.until("document.querySelector('#seek-dialog .preview').textContent.includes('unread messages would be skipped')")
    page.evaluate("new Promise((done) => setTimeout(done, 100))")  # the answer to the first comes late, and changes nothing
    looker.until("document.querySelector('#seek-dialog [data-command]').textContent.includes('seek large indexer latest --dry-run --url')")
    page.keyboard.press("Escape")
    looker.until("!document.getElementById('seek-dialog').open")


def test_a_topic_is_filled_grown_and_deleted_by_clicking(looker: Looker, address: str, portal: Any) -> None:
    async def make() -> None:
        async with Producer("small", URL) as producer:
            await producer.enqueue(1)

    call(portal, make)
    page = looker.page
    page.goto(address)
    looker.until("document.querySelector('a[href=\"/t/small\"]')")  # the sampler has seen it
    page.goto(f"{address}/t/small")
    page.click("text=Enqueue…")
    page.fill("#enqueue-dialog textarea", '{"number": 17}')
    page.click("#enqueue-dialog button[value=ok]")
    looker.hear("Enqueued: ")
    page.click("text=Grow…")
    looker.until("document.querySelector('#grow-dialog .preview').textContent.includes('From 1 to 2 partitions. 50% of the keys move')")
    page.click("#grow-dialog button[value=ok]")
    looker.hear("small has 2 partitions.")
    page.click("text=Delete…")
    page.fill("#delete-dialog input", "small")
    page.click("#delete-dialog button[value=ok]")
    page.wait_for_url(f"{address}/")


def test_the_keyboard(looker: Looker, address: str) -> None:
    page = looker.page
    page.goto(address)
    page.keyboard.press("/")
    page.keyboard.type("index")
    looker.until("document.querySelectorAll('#find-list li').length === 1")
    page.keyboard.press("Enter")
    page.wait_for_url("**/t/large/g/indexer")
    page.click("#live")
    looker.until("document.getElementById('live-text').textContent === 'Frozen'")
    page.keyboard.press("?")
    looker.until("document.getElementById('help-dialog').open")
    page.click("#help-dialog button")
    looker.until("!document.getElementById('help-dialog').open")
    one_after_the_other = "for (const key of 'gd') document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }))"
    page.evaluate(f"() => {{ {one_after_the_other} }}")  # at once: the second key counts for 0.9 s, which a busy machine may take
    page.wait_for_url("**/dead")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_escape_closes_then_goes_up_and_space_freezes(looker: Looker, address: str) -> None:
    """At whatever speed: an Escape that closes a dialog does nothing else, and the next one counts at once."""
    page = looker.page
    page.goto(f"{address}/t/large/g/indexer")
    page.keyboard.press("?")
    looker.until("document.getElementById('help-dialog').open")
    page.keyboard.press("Escape")
    looker.until("!document.getElementById('help-dialog').open")
    assert page.url.endswith("/g/indexer")
    page.keyboard.press("Escape")
    page.wait_for_url(f"{address}/t/large")
    page.keyboard.press(" ")
    looker.until("document.getElementById('live-text').textContent === 'Frozen'")
    page.keyboard.press(" ")
    looker.until("document.getElementById('live-text').textContent === 'Live'")
    page.focus("#live")
    page.keyboard.press(" ")  # the button's own: once, not twice
    looker.until("document.getElementById('live-text').textContent === 'Frozen'")
    page.keyboard.press("Escape")
    page.wait_for_url(f"{address}/")


def test_arrow_keys_go_along_partitions(looker: Looker, address: str) -> None:
    page = looker.page
    page.goto(f"{address}/t/{quote(TOPIC, safe='')}/g/billing")
    page.focus(".sky .col")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_url("**?p=1")
    assert page.text_content(".drawer h2") == "Partition 1"
    page.focus(".sky .col")
    page.keyboard.press("ArrowLeft")  # there is none to the left
    page.keyboard.press("Enter")
    page.wait_for_url("**?p=0")


def test_a_table_is_filtered_and_its_rows_are_walked_by_keys(looker: Looker, address: str) -> None:
    page = looker.page
    page.goto(address)
    page.keyboard.press("f")
    page.keyboard.type("indexer")
    looker.until("[...document.querySelectorAll('tbody[data-name]')].filter((one) => !one.hidden).length === 1")
    page.keyboard.press("Escape")  # leaves the field, and the filter as it is
    assert page.url == f"{address}/"
    for key, row in (("j", 0), ("k", 0)):  # there is one row alone: none is hidden
        page.keyboard.press(key)
        marked = page.evaluate("[...document.querySelectorAll('tbody:not([hidden]) tr[data-href]')].findIndex((one) => one.dataset.mine)")
        assert marked == row
    page.keyboard.press("Enter")
    page.wait_for_url("**/t/large/g/indexer")


def test_the_map_tells_of_a_partition(looker: Looker, address: str) -> None:
    page = looker.page
    page.goto(f"{address}/t/large/g/indexer")
    looker.until("document.querySelector('canvas').width > 300")
    before = page.evaluate("document.querySelector('canvas').toDataURL()")
    page.fill("#go-to", "65")
    looker.until("document.getElementById('cell').textContent.startsWith('Partition 65: about')")
    assert page.evaluate("document.querySelector('canvas').toDataURL()") != before
    page.hover("canvas", position={"x": 3, "y": 3})
    looker.until("document.getElementById('cell').textContent.startsWith('Partition 0: about')")
    page.click("[data-colour=owner]")
    looker.until("document.querySelector('[data-colour=owner]').getAttribute('aria-pressed') === 'true'")
    assert page.get_attribute("[data-colour=lag]", "aria-pressed") == "false"


def test_an_id_is_copied(looker: Looker, address: str, portal: Any) -> None:
    async def enqueue() -> str:
        async with Producer("large", URL) as producer:
            return await producer.enqueue(1)

    msg_id = call(portal, enqueue)
    page = looker.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{address}/m/{msg_id}")
    page.click("h1 + [data-copy]")
    looker.hear("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == msg_id


def test_no_news_are_asked_for_by_a_page_that_is_frozen_or_hidden(looker: Looker, address: str) -> None:
    page = looker.page
    page.goto(f"{address}/t/large")
    looker.until("stream !== null")
    page.keyboard.press(" ")
    looker.until("stream === null")
    page.keyboard.press(" ")
    looker.until("stream !== null")
    hide = (
        "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); return stream === null; }"
    )
    assert page.evaluate(hide, True)  # at once
    page.evaluate(hide, False)
    looker.until("stream !== null")


def test_a_page_whose_server_is_gone_says_from_when_it_is(browser: Any, portal: Any) -> None:
    with looking(browser) as looker:
        with serving(portal, dashboard.app("memory://gone")) as address:
            looker.page.goto(address)
            looker.until("stream !== null && document.getElementById('live-text').textContent === 'Live'")
        looker.until("document.getElementById('live-text').textContent.startsWith('From ')")
        assert all("ERR_" in one for one in looker.complaints)


@pytest.mark.parametrize(("theme", "width"), [("dark", 1440), ("light", 390)], ids=["dark", "phone"])
def test_every_view_fits(browser: Any, address: str, theme: str, width: int) -> None:
    with looking(browser, theme=theme, width=width) as looker:
        for path in ("/", "/t/large", "/t/large/g/indexer", "/dead"):
            looker.page.goto(address + path)
            looker.until(
                "document.documentElement.dataset.theme === (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')"
            )
            looker.until("document.documentElement.scrollWidth <= window.innerWidth")
            if path.endswith("indexer"):
                looker.until("document.querySelector('canvas').width > 300")
        assert looker.complaints == []


def test_what_the_token_opens(browser: Any, portal: Any) -> None:
    token = "a token that nobody guesses"  # noqa: S105 -- of this test
    with serving(portal, dashboard.app("memory://guarded", token=token)) as address, looking(browser) as looker:
        looker.page.goto(address)
        assert "A token is needed" in (looker.page.text_content("h1") or "")
        looker.page.goto(f"{address}/#token={token.replace(' ', '%20')}")
        looker.page.reload()
        looker.until("document.querySelector('nav') !== null")
        assert token not in looker.page.url
        assert all(one.startswith("401") or "401" in one for one in looker.complaints)
