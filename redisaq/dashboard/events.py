"""Server-sent events: what of a page has changed, as often as its view wants it.

First comes the whole of the page's values, then those that have changed. A reader that is slow skips, since the newest snapshot wins. If
the shape of the page has changed (a row more, another word), the browser fetches it again.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import anyio
import msgspec
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from redisaq.dashboard.pages import Page
from redisaq.watching import Screen, Snapshot

STREAMS = 32
"""Streams at once; one more is refused, and its page asks every 10 s instead."""

LARGEST = 64 * 1024
"""Bytes of one event; a page whose changes are more is fetched again."""

SILENCE = 15.0
"""Seconds after which a comment shows that the stream is alive."""

BREATH = 1.0
"""Seconds between two events, at least."""


class Streams:
    """Counts the open streams."""

    def __init__(self) -> None:
        """Begin with none."""
        self.open = 0


class EventStream:
    """The answer to a request for events: an ASGI application for one request."""

    def __init__(
        self, streams: Streams, watch: Callable[[Screen], Any], screen: Screen, page: Callable[[Snapshot], Page], shape: str
    ) -> None:
        """Prepare a stream.

        Args:
            streams: counts it.
            watch: `Sampler.watch`.
            screen: what the page shows.
            page: renders the page.
            shape: the shape of the page that the browser has.
        """
        self._streams = streams
        self._watch = watch
        self._screen = screen
        self._page = page
        self._shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the browser has gone."""
        if self._streams.open >= STREAMS:
            await PlainTextResponse("too many streams", HTTPStatus.SERVICE_UNAVAILABLE)(scope, receive, send)
            return
        self._streams.open += 1
        try:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
                await self._send_all(send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})  # else the browser takes it for a failure
                tasks.cancel_scope.cancel()
        except* OSError:  # the browser has gone
            pass
        finally:
            self._streams.open -= 1

    async def _send_all(self, send: Send) -> None:
        last: Page | None = None
        await _write(send, b"retry: 2000\n\n")
        with self._watch(self._screen) as watching:
            while True:
                snapshot: Snapshot | None = None
                with anyio.move_on_after(SILENCE):
                    snapshot = await anext(watching)
                if snapshot is None:
                    await _write(send, b": still here\n\n")
                    continue
                page = self._page(snapshot)
                event = _event(page, last, self._shape)
                if event is not None:
                    await _write(send, event)
                if page.shape != self._shape:  # the browser comes again, with the new shape
                    return
                last = page
                await anyio.sleep(BREATH)


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
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
