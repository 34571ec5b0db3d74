"""The stream of events: what it says of a page that changes, and what it costs."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec import structs

from redisaq.dashboard import events
from redisaq.dashboard.events import STREAMS, EventStream, Streams
from redisaq.dashboard.pages import Page
from redisaq.watching import Screen, Snapshot
from tests.dashboard.scenes import NORMAL, Scripted

pytestmark = pytest.mark.anyio

GROUP = Screen("group", "orders", "billing")


def page(snapshot: Snapshot) -> Page:
    """Render a page of one number; more topics are another shape."""
    return Page("skeleton", {"v0": str(snapshot.totals.backlog), "v1": "still"}, f"shape-{len(snapshot.topics)}")


class Browser:
    """What a browser hears of a stream."""

    def __init__(self) -> None:
        self.status = 0
        self.heard: list[str] = []
        self.gone = anyio.Event()
        self._news = anyio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["body"]:
            self.heard.append(message["body"].decode())
        self._news.set()
        self._news = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(30):
            while not condition():
                await self._news.wait()


@asynccontextmanager
async def streaming(sampler: Scripted, streams: Streams, *, shape: str = "shape-1") -> AsyncGenerator[Browser]:
    browser = Browser()
    stream = EventStream(streams, sampler.watch, GROUP, page, shape)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream, {"type": "http"}, browser.receive, browser.send)
        await browser.until(lambda: browser.status > 0)
        yield browser
        browser.gone.set()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BREATH", 0.0)


def with_backlog(backlog: int) -> Snapshot:
    return structs.replace(NORMAL, totals=structs.replace(NORMAL.totals, backlog=backlog))


async def test_first_all_values_then_those_that_changed() -> None:
    sampler, streams = Scripted(), Streams()
    async with streaming(sampler, streams) as browser:
        await browser.until(lambda: len(browser.heard) == 2)
        assert browser.heard[1] == 'event: snapshot\ndata: {"v0":"24","v1":"still"}\n\n'
        assert sampler.screens == [GROUP]
        sampler.show(with_backlog(25))
        await browser.until(lambda: len(browser.heard) == 3)
        assert browser.heard[2] == 'event: delta\ndata: {"v0":"25"}\n\n'
        sampler.show(with_backlog(25))  # nothing has changed
        sampler.show(with_backlog(26))
        await browser.until(lambda: len(browser.heard) == 4)
        assert json.loads(browser.heard[3].split("data: ")[1]) == {"v0": "26"}
    assert (sampler.screens, streams.open) == ([], 0)


async def test_a_page_of_another_shape_is_fetched_again() -> None:
    sampler, streams = Scripted(), Streams()
    async with streaming(sampler, streams) as browser:
        await browser.until(lambda: len(browser.heard) == 2)
        sampler.show(structs.replace(NORMAL, topics=()))
        await browser.until(lambda: len(browser.heard) == 3)
        assert browser.heard[2].startswith("event: refresh\n")
    async with streaming(Scripted(), streams, shape="of yesterday") as browser:
        await browser.until(lambda: len(browser.heard) == 2)
        assert browser.heard[1].startswith("event: refresh\n")


async def test_a_slow_reader_skips() -> None:
    sampler, streams = Scripted(), Streams()
    slow = anyio.Event()

    class Slow(Browser):
        async def send(self, message: Any) -> None:
            await super().send(message)
            if len(self.heard) == 2:
                await slow.wait()

    browser = Slow()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(EventStream(streams, sampler.watch, GROUP, page, "shape-1"), {"type": "http"}, browser.receive, browser.send)
        await browser.until(lambda: len(browser.heard) == 2)
        for backlog in range(100, 200):
            sampler.show(with_backlog(backlog))
        slow.set()
        await browser.until(lambda: len(browser.heard) == 3)
        assert json.loads(browser.heard[2].split("data: ")[1]) == {"v0": "199"}
        browser.gone.set()


async def test_it_says_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SILENCE", 0.01)
    async with streaming(Scripted(), Streams()) as browser:
        await browser.until(lambda: ": still here\n\n" in browser.heard)


async def test_a_browser_that_has_gone_is_no_error() -> None:
    """Servers raise an OSError then, by the specification of ASGI."""
    sampler, streams = Scripted(), Streams()

    class Gone(Browser):
        async def send(self, message: Any) -> None:
            await super().send(message)
            if self.heard:
                raise OSError("the connection is closed")

    browser = Gone()
    await EventStream(streams, sampler.watch, GROUP, page, "shape-1")({"type": "http"}, browser.receive, browser.send)
    assert (len(browser.heard), sampler.screens, streams.open) == (1, [], 0)


async def test_streams_are_limited() -> None:
    sampler, streams = Scripted(), Streams()
    streams.open = STREAMS
    async with streaming(sampler, streams) as browser:
        await browser.until(lambda: browser.status == 503)
    assert streams.open == STREAMS


async def test_too_large_an_event_is_a_page_to_fetch() -> None:
    sampler, streams = Scripted(), Streams()

    def large(snapshot: Snapshot) -> Page:
        return Page("skeleton", {"v0": str(snapshot.totals.backlog) * 70_000}, "shape-1")

    browser = Browser()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(EventStream(streams, sampler.watch, GROUP, large, "shape-1"), {"type": "http"}, browser.receive, browser.send)
        await browser.until(lambda: len(browser.heard) == 1)
        await watching(sampler)
        sampler.show(with_backlog(25))
        await browser.until(lambda: len(browser.heard) == 2)
        assert browser.heard[1].startswith("event: refresh\n")
        browser.gone.set()


async def watching(sampler: Scripted) -> None:
    with anyio.fail_after(30):
        while not sampler.screens:
            await anyio.lowlevel.checkpoint()
