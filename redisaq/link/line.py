"""A connection for one user at a time: the base of log-in, the reading connection, and the subscribed connection.

It sends commands, and returns replies in order and pushed messages. Each await waits for readiness only, so cancellation at any point loses
nothing. A reply that was not awaited to the end is still owed, and comes first next time. After `watch`, the connection breaks when replies
are owed and nothing arrives for too long (docs/understand/link.md, rule 10).
"""

from __future__ import annotations

import math
from collections import deque

from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link.resp import NOTHING, PARSE_ERRORS, Command, PushNotification, pack
from redisaq.link.silence import Alarm, Silence
from redisaq.link.wire import Wire

PING_EVERY = 5.0
"""Seconds for which a connection that only listens may be quiet before it sends PING."""

_PING = pack((("PING",),))


class Line:
    """A connection whose replies come in order, for one task at a time.

    Attributes:
        wire: the socket.
        owed: replies that were requested and have not arrived.
        broken: why it cannot be used any more, None while it can.
        url: the server's, for errors, without a password.
    """

    def __init__(self, wire: Wire, url: str) -> None:
        self.wire = wire
        self.owed = 0
        self.broken: str | None = None
        self.url = url
        self._silent = False  # it broke because nothing arrived
        self._silence = Silence(math.inf)
        self._listening = False
        self._alarm: Alarm | None = None
        self._now = Environment().monotonic
        self._awaiting = False  # listening: nothing has arrived since the last send
        self._pings = 0  # listening: not answered yet
        self._arrived: deque[object] = deque()  # what an alarm has found parsed, and nobody has taken yet

    def watch(self, silence: float, environment: Environment, *, listening: bool = False) -> None:
        """Break the connection, from now on, when replies are owed and nothing arrives for `silence` seconds.

        Args:
            silence: seconds, in addition to those for which a command blocks.
            environment: gives the clock and the timers.
            listening: messages are pushed, so nothing may arrive for long: send PING when it is quiet.
        """
        if silence == math.inf:
            return
        self._silence, self._listening = Silence(silence), listening
        self._now = environment.monotonic
        self._silence.heard = self._now()
        self._alarm = Alarm(environment, self._look)
        if listening:
            self._alarm.set(self._silence.heard + PING_EVERY)

    def send(self, *commands: Command, block: float = 0.0) -> None:
        """Queue commands and send what the socket takes; the rest is sent while replies are awaited.

        Args:
            *commands: each a tuple of its name and arguments.
            block: seconds for which they block in the server.
        """
        data = pack(commands)
        self._check(maybe_executed=False)
        if self._alarm is not None:
            silence, now = self._silence, self._now()
            if not self._owing():
                silence.heard = now
            silence.block = block
            due = silence.due()
            if due < self._alarm.at or self._alarm.at <= now:
                self._alarm.set(due)
        self.wire.put(data)
        self.owed += len(commands)
        self._awaiting = True
        try:
            self.wire.flush()
        except OSError as error:
            raise self.fail(str(error)) from error

    async def item(self) -> object:
        """Return what comes next: a reply, or a PushNotification.

        Raises:
            ConnectionFailed: the connection broke; with `maybe_executed`, since commands without a reply may have been executed.
        """
        while True:
            item = self._next()
            if item is not NOTHING:
                return item
            try:
                if self.wire.flush():
                    await self.wire.wait_readable()
                else:
                    await self.wire.wait_writable()
                    self._silence.heard = self._now()
                if self.broken is None:
                    self._receive()
            except (OSError, *PARSE_ERRORS) as error:
                raise self.fail(str(error) or repr(error)) from error

    def poll(self) -> object:
        """Return what has already been received, as `item` does, or NOTHING."""
        return self._next()

    async def reply(self) -> object:
        """Return the next reply, and skip pushed messages; see `item`."""
        while type(item := await self.item()) is PushNotification:
            pass
        return item

    async def ask(self, *commands: Command) -> list[object]:
        """Send commands and return their replies. If cancelled, their replies stay owed."""
        self.send(*commands)
        return [await self.reply() for _ in commands]

    def fail(self, reason: str) -> ConnectionFailed:
        """Break the connection; return the error to raise."""
        if self.broken is None:
            self.broken = reason
            self.wire.close()
        return ConnectionFailed(self.url, self.broken, maybe_executed=True, silent=self._silent)

    def _receive(self) -> None:
        taken = self.wire.taken
        self.wire.receive()
        if self.wire.taken > taken:
            self._silence.heard = self._now()
            self._awaiting = False

    def _owing(self) -> bool:
        if self._listening:
            return self._awaiting
        return self.owed > sum(type(item) is not PushNotification for item in self._arrived)

    def _look(self, late: float) -> float:
        """Check whether the connection is silent; return when to check again."""
        if self.broken is not None:
            return math.inf
        try:
            self.wire.flush()
            if self.wire.arrived():
                self._receive()
                self.wire.wake()
            while (item := self.wire.next_reply()) is not NOTHING:  # what has arrived counts, even if no task takes it for long
                self._arrived.append(item)
        except (OSError, *PARSE_ERRORS) as error:
            self.fail(str(error) or repr(error))
            return math.inf
        now = self._now()
        if not self._owing():
            return self._ask_whether_there(now) if self._listening else math.inf
        due = self._silence.next_look(now, late)
        if due is None:
            self._silent = True
            self.fail(str(self._silence))
            return math.inf
        return due

    def _ask_whether_there(self, now: float) -> float:
        silence = self._silence
        if now < silence.heard + PING_EVERY:
            return silence.heard + PING_EVERY
        self._pings += 1
        self.owed += 1
        self._awaiting = True
        silence.heard, silence.block = now, 0.0
        self.wire.put(_PING)
        try:
            self.wire.flush()
        except OSError as error:
            self.fail(str(error) or repr(error))
            return math.inf
        return min(silence.due(), now + PING_EVERY)

    def _next(self) -> object:
        item = self._next_of_all()
        while self._pings and _is_pong(item):
            self._pings -= 1
            item = self._next_of_all()
        return item

    def _next_of_all(self) -> object:
        self._check(maybe_executed=True)
        try:
            item = self._arrived.popleft() if self._arrived else self.wire.next_reply()
        except PARSE_ERRORS as error:
            raise self.fail(str(error) or repr(error)) from error
        if item is not NOTHING and type(item) is not PushNotification:
            self.owed -= 1
        return item

    def _check(self, *, maybe_executed: bool) -> None:
        if self.broken is not None:
            raise ConnectionFailed(self.url, self.broken, maybe_executed=maybe_executed, silent=self._silent)


def _is_pong(item: object) -> bool:
    """Return True if this answers PING. A refusal counts: it is an answer, too."""
    return item == b"PONG" or (isinstance(item, ServerError) and item.code == "NOPERM" and "'ping'" in item.text)
