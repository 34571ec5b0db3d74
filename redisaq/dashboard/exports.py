"""Exports: messages or dead letters as lines of JSON, while they are read, so that a million of them need no more memory than a page.

An export is a job: every page shows how far it is. If it breaks, so does the download, so that nobody takes a part for the whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Literal

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from redisaq.admin import DeadMessage, StoredMessage
from redisaq.dashboard.events import until_gone
from redisaq.dashboard.jobs import Jobs, RefusedError
from redisaq.dashboard.privacy import Privacy
from redisaq.environment import current_environment
from redisaq.watching import words

CHUNK = 64 * 1024
"""Bytes of lines that are sent together."""


class Export:
    """One download.

    Attributes:
        number: its number among the jobs.
        state: whether it runs, or how it ended.
        ended: when it ended, by the monotonic clock.
    """

    def __init__(self, number: int, name: str, *, total: int) -> None:
        """Begin with nothing done.

        Args:
            number: its number.
            name: what is exported, in words.
            total: about how many lines there will be.
        """
        self.number = number
        self.state: Literal["running", "done", "stopped", "failed"] = "running"
        self.ended = 0.0
        self._name = name
        self._total = total
        self._done = 0
        self._stopping = False

    def as_json(self) -> dict[str, object]:
        """Return its state."""
        text = f"{self._name}: exported {words.count(self._done)} of {words.count(max(self._total, self._done))}"
        if self.state in ("stopped", "failed"):
            text += f", then {self.state}"
        return {"job": self.number, "done": self._done, "total": self._total, "state": self.state, "text": text}

    def stop(self) -> None:
        """Let it end after the line that it is at."""
        self._stopping = True

    async def lines(self, source: AsyncIterator[StoredMessage | DeadMessage], privacy: Privacy, jobs: Jobs) -> AsyncGenerator[bytes]:
        """Yield the lines, several together.

        Raises:
            RedisaqError: the server did not answer, or refused. What was yielded is a part.
            StoppedError: somebody has stopped it; likewise.
        """
        chunk = bytearray()
        try:
            async for one in source:
                self._go_on()
                chunk += line_of(one, privacy)
                self._done += 1
                if len(chunk) >= CHUNK:
                    yield bytes(chunk)
                    chunk.clear()
                    jobs.report()
            yield bytes(chunk)
            self.state = "done"
        except Exception:
            self.state = "failed" if self.state == "running" else self.state
            raise
        finally:
            if isinstance(source, AsyncGenerator):
                await source.aclose()
            self.end(jobs)

    def end(self, jobs: Jobs) -> None:
        """Let it be over, if it is not: the browser has gone, perhaps before the first line."""
        if self.state == "running":
            self.state = "stopped"
        self.ended = self.ended or current_environment().monotonic()
        jobs.report()

    def _go_on(self) -> None:
        if self._stopping:
            self.state = "stopped"
            raise StoppedError


class Download:
    """The answer to a request for an export: an ASGI application for one request. If the browser has gone, the export ends."""

    def __init__(self, export: Export, lines: AsyncGenerator[bytes], headers: Mapping[str, str], jobs: Jobs) -> None:
        """Prepare an answer.

        Args:
            export: the job, which ends with the request.
            lines: what it contains.
            headers: its headers.
            jobs: those that the job is one of.
        """
        self._export = export
        self._lines = lines
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._jobs = jobs

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the lines. It ends with an error if they do."""
        try:
            async with aclosing(self._lines) as lines, anyio.create_task_group() as tasks:
                await send({"type": "http.response.start", "status": 200, "headers": self._headers})
                tasks.start_soon(until_gone, receive, tasks.cancel_scope)
                async for chunk in lines:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                tasks.cancel_scope.cancel()
        except* OSError:  # the browser has gone
            pass
        finally:
            self._export.end(self._jobs)  # lines that were not begun do not end it


class StoppedError(Exception):
    """Raised to break a download that somebody has stopped."""


def line_of(one: StoredMessage | DeadMessage, privacy: Privacy) -> bytes:
    """Return a message or a dead letter as a line of JSON, of the shape that the command line prints."""
    fields: dict[str, Any] = {name: getattr(one, name) for name in one.__struct_fields__ if name not in ("data", "payload", "headers")}
    if isinstance(one, StoredMessage):
        fields["enqueued_at"] = one.enqueued_at
    fields |= {"headers": privacy.headers(one.headers), "payload": privacy.value(one.data, one.payload, readable=not one.unreadable)}
    return msgspec.json.encode(fields) + b"\n"


def export(
    request: Request, name: str, total: int, source: AsyncIterator[StoredMessage | DeadMessage], file: str, *, jobs: Jobs, privacy: Privacy
) -> ASGIApp:
    """Return the answer to a request for an export.

    Args:
        request: the request.
        name: what is exported, in words.
        total: about how many lines there will be.
        source: what to export.
        file: the name of the file to store it in.
        jobs: those under way; the export is one of them.
        privacy: decides what of payloads is exported.
    """
    headers = {"content-type": "application/octet-stream", "content-disposition": f'attachment; filename="{file}"'}
    if request.method == "HEAD":
        return Response(headers=headers)
    try:
        begun = jobs.add(lambda number: Export(number, name, total=total))
    except RefusedError as error:
        return JSONResponse({"error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE)
    return Download(begun, begun.lines(source, privacy, jobs), headers, jobs)
