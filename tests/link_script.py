"""A server in a script: connections whose answers a test gives, in this process and at any clock.

Input: a function that answers a command in RESP, or with silence. Output: a Line over it, and a dialer that makes such lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import anyio
import hiredis

from redisaq.environment import Environment
from redisaq.link.dial import Dialer
from redisaq.link.greeting import Greeting
from redisaq.link.line import Line
from redisaq.link.resp import make_parser
from redisaq.link.wire import Wire

Answering = Callable[[list[bytes]], bytes]
"""Returns what to send back to a command; b"" is silence."""


class ScriptedWire:
    """The client's end of a connection.

    Attributes:
        commands: all that came.
        closed: True once the client has closed it.
    """

    def __init__(self, answer: Answering) -> None:
        self.queued = self.handed = self.taken = 0
        self.closed = False
        self.commands: list[list[bytes]] = []
        self._answer = answer
        self._requests = hiredis.Reader()
        self._inbox = b""
        self._ended = False
        self._parser = make_parser(1 << 16)
        self.next_reply = self._parser.gets
        self._event = anyio.Event()

    def say(self, data: bytes) -> None:
        """Send bytes that answer nothing."""
        self._inbox += data
        self.wake()

    def hang_up(self) -> None:
        """Close the server's end."""
        self._ended = True
        self.wake()

    def put(self, data: bytes) -> None:
        self.queued += len(data)
        self._requests.feed(data)
        while (command := self._requests.gets()) is not False:
            self.commands.append(command)
            self.say(self._answer(command))

    def flush(self) -> bool:
        self.handed = self.queued
        return True

    def arrived(self) -> bool:
        return bool(self._inbox) or self._ended

    def receive(self) -> bool:
        if not self._inbox and self._ended:
            raise ConnectionResetError("the server closed the connection")
        self._parser.feed(self._inbox, 0, len(self._inbox))
        self.taken += len(self._inbox)
        self._inbox = b""
        return False

    async def wait_readable(self) -> None:
        if not self.arrived() and not self.closed:
            self._event = anyio.Event()
            await self._event.wait()

    wait_writable = wait_readable

    def wake(self) -> None:
        self._event.set()

    def close(self) -> None:
        self.closed = True
        self.wake()


class ScriptedDialer:
    """Makes connections to a server in a script.

    Attributes:
        answer: the server's answers.
        dials: when each dial began.
        wires: the connections that it made.
        error: if set, every dial fails with it.
        hanging: if set, no dial ends before it is interrupted.
        ended: why dials were interrupted.
        then: called when a connection was made, before it is used.
    """

    def __init__(self, answer: Answering, name: str = "redis://test") -> None:
        self.display = name
        self.answer = answer
        self.dials: list[float] = []
        self.wires: list[ScriptedWire] = []
        self.error: Exception | None = None
        self.hanging = False
        self.ended: list[str] = []
        self.then: Callable[[], object] = lambda: None

    @property
    def commands(self) -> list[list[bytes]]:
        """All that came, over all connections."""
        return [command for wire in self.wires for command in wire.commands]

    async def dial(self, environment: Environment, first: object = None) -> tuple[Line, Greeting]:
        del first
        self.dials.append(environment.clock())
        await anyio.lowlevel.checkpoint()
        if self.hanging:
            await anyio.sleep_forever()
        if self.error is not None:
            raise self.error
        wire = ScriptedWire(self._answered)
        self.wires.append(wire)
        self.then()
        return Line(cast("Wire", wire), self.display), Greeting(7, "there", f"run of {self.display}")

    def _answered(self, command: list[bytes]) -> bytes:
        return self.answer(command)  # as it is by then

    def interrupt(self, reason: str = "the link was closed", **_: Any) -> None:
        self.ended.append(reason)

    def __call__(self) -> Dialer:
        """Return it as what it stands for."""
        return cast("Dialer", self)
