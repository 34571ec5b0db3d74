"""The demo's processes, as its parent sees them.

In: what they are to do. Out: their reports, in order, up to the last one that was written whole. What always holds: a child's input is a
pipe from this process, so it closes with this process, and the child ends then (child.py). Children are in sessions of their own: an
interrupt from the terminal reaches the parent alone, which ends them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable

import anyio
from anyio.abc import ByteReceiveStream, Process

from redisaq.cli.demo.reports import GO, ChildSettings, Report, decode_report, encode

ERROR_BYTES = 4000
"""How much of what a child wrote to its standard error is kept, from the end."""


class Child:
    """One process; made by `start_child`.

    Attributes:
        name: as the views call it.
        wanted: False once it has been killed or told to end: its end is no surprise then.
        ended: set when it is gone and all that it had reported has been read.
    """

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.wanted = True
        self.ended = anyio.Event()
        self._process = process
        self._errors = bytearray()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def errors(self) -> str:
        """The end of what it wrote to its standard error."""
        return self._errors.decode(errors="replace").strip()

    async def listen(self, take: Callable[[Report], None]) -> int:
        """Hand on each report; return the exit status, negative for a signal, once it has ended."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_errors)
            rest = b""
            async for data in self._output(self._process.stdout):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    take(decode_report(line))
        status = await self._process.wait()
        self.ended.set()
        return status

    async def go(self) -> None:
        """Tell it to begin."""
        await self._send(GO)

    def kill(self) -> None:
        """End it as a crash would: SIGKILL."""
        self.wanted = False
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> None:
        """Ask it to end in order, by closing its input."""
        self.wanted = False
        if self._process.stdin is not None:
            await self._process.stdin.aclose()

    async def forget(self) -> None:
        """Wait until it is gone, and close its pipes."""
        await self._process.wait()
        await self._process.aclose()

    async def tell(self, settings: ChildSettings) -> None:
        """Send it what it is to do."""
        await self._send(encode(settings))

    async def _send(self, data: bytes) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(anyio.BrokenResourceError):  # it has ended, which `listen` tells
                await self._process.stdin.send(data)

    async def _keep_errors(self) -> None:
        async for data in self._output(self._process.stderr):
            self._errors += data
            del self._errors[:-ERROR_BYTES]

    @staticmethod
    def _output(stream: ByteReceiveStream | None) -> ByteReceiveStream:
        assert stream is not None  # noqa: S101 -- start_child asks for pipes
        return stream


async def start_child(name: str, settings: ChildSettings) -> Child:
    """Start a process; it does nothing before it is told its settings, and ends if that never happens."""
    process = await anyio.open_process(
        [sys.executable, "-P", "-m", "redisaq.cli.demo.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # The same redisaq as here, wherever that was found, and nothing that merely lies in the current directory.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(place for place in sys.path if place)},
    )
    child = Child(name, process)
    try:
        await child.tell(settings)
    except BaseException:
        child.kill()
        with anyio.CancelScope(shield=True):
            await child.forget()
        raise
    return child
