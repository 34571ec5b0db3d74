"""A child's two pipes to the demo's parent.

In: words of the parent, until its end of the pipe closes, which happens however the parent ends. Out: reports, many of them joined into
one write. What always holds: when `flush` has returned, what was put before is in the pipe, and the parent will read it even if this
process is killed now.
"""

from __future__ import annotations

import os
import select

import anyio

from redisaq.cli.demo.reports import Report, encode


class Inbox:
    """What the parent says; `run` must run.

    Attributes:
        told: set at the parent's first word.
        ended: set when the parent wants this process to end, or is gone itself.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.told = anyio.Event()
        self.ended = anyio.Event()

    def closed(self) -> bool:
        """Look, without waiting, whether the parent's end is closed."""
        readable, _, _ = select.select([self._descriptor], [], [], 0)
        if readable and not self.ended.is_set():
            self._read()
        return self.ended.is_set()

    async def run(self) -> None:
        """Read until the end."""
        while not self.ended.is_set():
            await anyio.wait_readable(self._descriptor)
            self._read()

    def _read(self) -> None:
        if os.read(self._descriptor, 4096):
            self.told.set()
        else:
            self.ended.set()


class Outbox:
    """Reports on their way to the parent; `run` must run."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines = bytearray()
        self._work = anyio.Event()
        self._written = anyio.Event()
        os.set_blocking(descriptor, False)

    def put(self, report: Report) -> None:
        """Let a report be written soon."""
        self._lines += encode(report)
        self._work.set()

    async def flush(self) -> None:
        """Return when all that was put before is in the pipe."""
        written = self._written
        self._work.set()
        await written.wait()

    async def run(self) -> None:
        """Write what is put, until cancelled.

        Raises:
            BrokenPipeError: the parent is gone.
        """
        while True:
            await self._work.wait()
            self._work = anyio.Event()
            # Who flushes from here on waits for the next round: what it put may have missed this one.
            written, self._written = self._written, anyio.Event()
            lines, self._lines = self._lines, bytearray()
            with memoryview(lines) as rest:
                done = 0
                while done < len(rest):
                    done += await self._write(rest[done:])
            written.set()

    async def _write(self, data: memoryview) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                await anyio.wait_writable(self._descriptor)
