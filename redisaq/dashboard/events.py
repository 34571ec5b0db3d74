"""Server-sent events: what of a page has changed, as often as its view wants it.

First comes the whole of the page's values, then those that have changed. A reader that is slow skips, since the newest snapshot wins. If
the shape of the page has changed (a row more, another word), the browser fetches it again.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import anyio
import msgspec
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from redisaq.admin import Whereabouts
from redisaq.dashboard.jobs import Jobs
from redisaq.dashboard.messages import Progress
from redisaq.dashboard.pages import Page
from redisaq.environment import current_environment
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.watching import Screen, Snapshot

STREAMS = 32
"""Streams at once; one more is refused, and its page asks every 10 s instead."""

LARGEST = 64 * 1024
"""Bytes of one event; a page whose changes are more is fetched again."""

SILENCE = 15.0
"""Seconds after which a comment shows that the stream is alive."""

JOBS = 0.2
"""Seconds between two events about jobs, at least."""

AGAIN = 1000, 5000
"""Milliseconds after which a browser connects again, at random between these: all of them lose a server that is started again at once."""

BREATH = 1.0
"""Seconds between two events, at least."""


class Streams:
    """Counts the open streams of one kind, and knows how many there may be."""

    def __init__(self, most: int = STREAMS) -> None:
        """Begin with none."""
        self.most = most
        self.open = 0


class Stream:
    """The answer to a request for events: an ASGI application for one request."""

    def __init__(self, streams: Streams) -> None:
        """Begin without an answer; `streams` counts those that are open."""
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until there are no more, or the browser has gone."""
        if self._streams.open >= self._streams.most:
            await PlainTextResponse("too many streams", HTTPStatus.SERVICE_UNAVAILABLE)(scope, receive, send)
            return
        self._streams.open += 1
        try:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(until_gone, receive, tasks.cancel_scope)
                await self.send_all(send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})  # else the browser takes it for a failure
                tasks.cancel_scope.cancel()
        except* OSError:  # the browser has gone
            pass
        finally:
            self._streams.open -= 1

    async def send_all(self, send: Send) -> None:
        """Send the events. It is cancelled when the browser has gone."""
        raise NotImplementedError


class EventStream(Stream):
    """What of a page changes."""

    def __init__(
        self,
        streams: Streams,
        watch: Callable[[Screen], Any],
        screen: Screen,
        page: Callable[[Snapshot], Page],
        shape: str,
        *,
        jobs: Jobs | None = None,
        prepare: Callable[[Snapshot], Awaitable[None]] | None = None,
    ) -> None:
        """Prepare a stream.

        Args:
            streams: counts it.
            watch: `Sampler.watch`.
            screen: what the page shows.
            page: renders the page.
            shape: the shape of the page that the browser has.
            jobs: the jobs whose progress it tells, too.
            prepare: asks for what the page shows besides a snapshot, before it is rendered.
        """
        super().__init__(streams)
        self._watch = watch
        self._screen = screen
        self._page = page
        self._shape = shape
        self._jobs = jobs
        self._prepare = prepare

    async def send_all(self, send: Send) -> None:
        """Send events until the page has another shape."""
        await _write(send, b"retry: %d\n\n" % current_environment().random.uniform(*AGAIN))
        async with anyio.create_task_group() as tasks:
            if self._jobs is not None:
                tasks.start_soon(self._send_jobs, send, self._jobs)
            await self._send_changes(send)
            tasks.cancel_scope.cancel()

    async def _send_jobs(self, send: Send, jobs: Jobs) -> None:
        """Send the jobs that run or have just ended, then each that has changed."""
        last: dict[int, dict[str, object]] = {}
        while True:
            changed = jobs.changed
            now = {number: job.as_json() for number, job in jobs.recent().items()}
            if told := [said for number, said in now.items() if last.get(number) != said]:
                await _write(send, b"event: jobs\ndata: %b\n\n" % msgspec.json.encode(told))
            last = now
            await changed.wait()
            await anyio.sleep(JOBS)

    async def _send_changes(self, send: Send) -> None:
        last: Page | None = None
        with self._watch(self._screen) as watching:
            while True:
                snapshot: Snapshot | None = None
                with anyio.move_on_after(SILENCE):
                    snapshot = await anext(watching)
                if snapshot is None:
                    await _write(send, b": still here\n\n")
                    continue
                if self._prepare is not None:
                    await self._prepare(snapshot)
                page = self._page(snapshot)
                event = _event(page, last, self._shape)
                if event is not None:
                    await _write(send, event)
                if page.shape != self._shape:  # the browser comes again, with the new shape
                    return
                last = page
                await anyio.sleep(BREATH)


class SearchStream(Stream):
    """How far a search is, and what it has found. If the browser has gone, the search ends."""

    def __init__(self, streams: Streams, search: AsyncGenerator[Progress], address: Callable[[Whereabouts], str]) -> None:
        """Prepare a stream.

        Args:
            streams: counts it.
            search: searches.
            address: returns the address of a message that was found.
        """
        super().__init__(streams)
        self._search = search
        self._address = address

    async def send_all(self, send: Send) -> None:
        """Search, and send `progress` as it is made; then `found` with an address, or `missing`."""
        async with aclosing(self._search) as search:
            try:
                async for one in search:
                    said = {"text": one.text} if one.found is None else {"href": self._address(one.found)}
                    kind = "found" if one.found is not None else "missing" if one.ended else "progress"
                    await _write(send, f"event: {kind}\ndata: {json.dumps(said)}\n\n".encode())
            except (ConnectionFailed, ServerError) as error:
                await _write(send, f"event: missing\ndata: {json.dumps({'text': str(error)})}\n\n".encode())


async def until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    """Wait until a browser has gone, then cancel what is for it."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _write(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


def _event(page: Page, last: Page | None, shape: str) -> bytes | None:
    if page.shape != shape:
        return b"event: refresh\ndata: {}\n\n"
    values = page.values if last is None else page.changes(last)
    if not values:
        return None
    data = msgspec.json.encode(values)
    if len(data) > LARGEST:  # at first the browser has just fetched them all
        return None if last is None else b"event: refresh\ndata: {}\n\n"
    return b"event: %b\ndata: %b\n\n" % (b"snapshot" if last is None else b"delta", data)
