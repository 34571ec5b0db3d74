"""The subscribed connection: one for many listeners; each notification is a hint, never the truth (docs/understand/link.md).

A listener subscribes to a few sharded channels and gets a Bell for them. `Bell.wait` returns when something was published there, or may
have been missed. Invariants:

- There is no background task. At most one of the waiting listeners, the driver, waits for the socket; when it leaves, it hands that role on
  (as in `shared`).
- A bell that `listen` has returned is subscribed: what is published from then on rings it, at the latest after the next reconnection.
- Messages that arrive together ring once. A bell also rings after every gap in the subscription, so that its listener checks for itself.
- Without bells there is no connection.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any, cast

import anyio
from anyio.lowlevel import checkpoint

from redisaq.core.retry import full_jitter
from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link.dial import Dialer
from redisaq.link.greeting import LOGGED_OUT
from redisaq.link.line import Line
from redisaq.link.resp import NOTHING, push_kind

UNWANTED = "nobody listens any more"

BASE, CAP = 0.05, 2.0  # seconds: the longest delay after one failure, and after many in a row


class Backoff:
    """Counts failures in a row. Each delay is drawn evenly from 0 to a limit that doubles with each failure up to a cap."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.failures = 0

    def failed(self) -> float:
        """Count one more failure; return the seconds to wait before the next attempt."""
        self.failures += 1
        return full_jitter(self.failures, base=BASE, most=CAP, random=self._random)

    def broke(self, lasted: float) -> float:
        """Return the seconds to wait before connecting again, after a connection that lasted for `lasted` seconds.

        If it lasted longer than the longest delay, it was a success: the delay is 0, and the failures are forgotten. Otherwise it counts as
        one more failure, so that a server or proxy that accepts everybody and closes at once is not dialled in a busy loop.
        """
        if lasted > CAP:
            self.failures = 0
            return 0.0
        return self.failed()


class Bell:
    """One listener's subscription to its channels. One task at a time may wait; any task may close it."""

    def __init__(self, board: Switchboard, channels: Sequence[bytes], *, moving: bool) -> None:
        """Make a bell; use `Switchboard.listen` instead.

        Args:
            board: the switchboard that it belongs to.
            channels: the names of its channels.
            moving: its channels may move to another server.
        """
        self.moving = moving
        self.channels = channels
        self.unconfirmed = set(channels)  # before it is subscribed for the first time
        self.rung = False
        self.ended: ConnectionFailed | ServerError | None = None  # why it cannot be used any more
        self.event: anyio.Event | None = None  # set while its task waits for another task that drives
        self.scope: anyio.CancelScope | None = None  # set while its task drives
        self._board = board

    @property
    def subscribed(self) -> bool:
        """True once all its channels have been subscribed."""
        return not self.unconfirmed

    async def wait(self) -> None:
        """Wait for the next message; return at once if one arrived since the last call. It also returns after each renewed subscription.

        It reconnects a broken connection forever, with back-off. If cancelled, nothing is lost.

        Raises:
            ConnectionFailed: it was closed.
            ServerError: the server does not let us listen any more.
        """
        await checkpoint()
        await self._board.drive_until(self, lambda: self.rung)
        self.rung = False

    async def close(self) -> None:
        """Stop listening; `wait` raises ConnectionFailed. Any task may call it, any number of times."""
        self.drop()
        await checkpoint()

    def drop(self) -> None:
        """Stop listening, without a checkpoint."""
        self._board.drop(self)

    def ring(self) -> None:
        """Ring, and wake the task that waits."""
        self.rung = True
        self.wake()

    def end(self, reason: ConnectionFailed | ServerError) -> None:
        """End the bell: from now on `wait` raises `reason`."""
        self.ended = self.ended or reason
        if self.scope is not None:
            self.scope.cancel()
        self.wake()

    def wake(self) -> None:
        """Let its task check again, if it waits for another task that drives."""
        if self.event is not None:
            self.event.set()


class Switchboard:
    """All subscriptions of a link, on one connection. It may be used again after it was closed."""

    def __init__(
        self,
        dialer: Dialer,
        environment: Callable[[], Environment],
        url: str,
        silence: float = math.inf,
        beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Make a switchboard; nothing is connected before the first `listen`.

        Args:
            dialer: makes its connections.
            environment: gives clock and randomness, asked at each connection.
            url: for errors, without a password.
            silence: seconds after which a connection is given up if replies are owed and nothing arrives.
            beside: runs while the driver waits for messages, and is cancelled when some arrive. It raises nothing.
        """
        self._beside = beside
        self._silence = silence
        self._dialer = dialer
        self._environment = environment
        self._url = url
        self._backoff: Backoff | None = None
        self._not_before = self._since = 0.0  # when to connect again at the earliest; since when it is connected
        self._line: Line | None = None
        self._driver: Bell | None = None
        self._bells: dict[bytes, list[Bell]] = {}
        self._asked: deque[tuple[bytes, bytes]] = deque()  # (ssubscribe or sunsubscribe, channel), not answered yet
        self._confirmed: set[bytes] = set()

    async def listen(self, *channels: str, moving: bool) -> Bell:
        """Subscribe to some sharded channels, in one attempt, and return a bell for them.

        Args:
            *channels: their names.
            moving: they may move to another server: then the bell ends with the server's redirect, and the other bells stay.

        Raises:
            ConnectionFailed: the attempt failed, or the link was closed meanwhile.
            ServerError: the server does not let us listen.
        """
        await checkpoint()
        bell = Bell(self, [channel.encode() for channel in channels], moving=moving)
        new = [channel for channel in bell.channels if channel not in self._bells]
        for channel in bell.channels:
            self._bells.setdefault(channel, []).append(bell)
        bell.unconfirmed -= self._confirmed
        try:
            for channel in new:
                self._ask(b"ssubscribe", channel)
            await self.drive_until(bell, lambda: bell.subscribed)
        except BaseException:
            self.drop(bell)
            raise
        return bell

    def abort(self, reason: str) -> None:
        """End every bell for this reason, without a checkpoint."""
        for bell in [bell for bells in self._bells.values() for bell in bells]:
            self._end(bell, ConnectionFailed(self._url, reason))

    def give_up(self, reason: str) -> None:
        """Break the connection; the tasks that wait connect again."""
        if self._line is not None:
            self._line.fail(reason)

    def drop(self, bell: Bell) -> None:
        """End one bell. The last bell of a channel also ends the subscription, and the last bell of all also ends the connection."""
        self._end(bell, ConnectionFailed(self._url, "the subscription was closed"))

    def _end(self, bell: Bell, reason: ConnectionFailed | ServerError) -> None:
        bell.end(reason)
        unwanted: list[bytes] = []
        for channel in bell.channels:
            bells = self._bells.get(channel, [])
            if bell not in bells:
                continue
            bells.remove(bell)
            if not bells:
                del self._bells[channel]
                self._confirmed.discard(channel)
                unwanted.append(channel)
        if self._bells or not unwanted:
            for channel in unwanted:
                self._ask(b"sunsubscribe", channel)
            return
        self._not_before = 0.0
        if self._line is not None:
            self._line.fail(UNWANTED)
            self._line = None

    async def drive_until(self, bell: Bell, done: Callable[[], bool]) -> None:
        """Wait until `done()` is true. Meanwhile, unless another waiter already does, read from the socket and pass messages on."""
        try:
            while bell.ended is None and not done():
                if self._driver is None:
                    await self._drive(bell)
                else:
                    bell.event = event = anyio.Event()
                    await event.wait()
        finally:
            bell.event = None
            self._hand_over()
        if bell.ended is not None:
            raise _copy(bell.ended)

    async def _drive(self, bell: Bell) -> None:
        self._driver = bell
        try:
            with anyio.CancelScope() as bell.scope:
                if self._line is None:
                    await self._connect()
                elif self._beside is None:
                    await self._hear(self._line)
                else:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._beside)
                        await self._hear(self._line)
                        tasks.cancel_scope.cancel()
        finally:
            bell.scope = None
            self._driver = None

    def _hand_over(self) -> None:
        """Wake one waiting task, if no task drives."""
        if self._driver is None:
            waiting = (bell for bells in self._bells.values() for bell in bells if bell.event is not None)
            if (bell := next(waiting, None)) is not None:
                bell.wake()

    async def _connect(self) -> None:
        environment = self._environment()
        self._backoff = self._backoff or Backoff(environment.random)
        await anyio.sleep(max(0.0, self._not_before - environment.clock()))
        try:
            line, _ = await self._dialer.dial(environment)
        except ConnectionFailed as error:
            self._not_before = environment.clock() + self._backoff.failed()
            for bell in self._new_bells():
                self._end(bell, error)
            return
        if not self._bells:  # closed after its last wait
            line.fail(UNWANTED)
            return
        line.watch(self._silence, environment, listening=True)
        self._line, self._since = line, environment.clock()
        self._asked.clear()
        for channel in self._bells:
            self._ask(b"ssubscribe", channel)

    async def _hear(self, line: Line) -> None:
        try:
            self._take(line, await line.item())
            while (item := line.poll()) is not NOTHING:
                self._take(line, item)
        except ConnectionFailed as error:
            if error.silent:  # they have one attempt each, and it may never be answered
                for bell in self._new_bells():
                    self._end(bell, error)
            if self._line is line:
                self._line = None
                self._confirmed.clear()
                if self._backoff is not None:
                    now = self._environment().clock()
                    self._not_before = now + self._backoff.broke(now - self._since)

    def _ask(self, what: bytes, channel: bytes) -> None:
        if self._line is None:
            return
        self._asked.append((what, channel))
        with contextlib.suppress(ConnectionFailed):  # the driver sees the error, too, and connects again
            self._line.send((what.upper(), channel))

    def _take(self, line: Line, item: object) -> None:
        kind = push_kind(item)
        if kind is None:
            self._refused(line, item)
        if kind not in {b"smessage", b"ssubscribe", b"sunsubscribe"}:
            return
        channel = cast("list[bytes]", item)[1]
        asked = bool(self._asked) and self._asked[0] == (kind, channel)
        if asked:
            self._asked.popleft()
        if kind == b"smessage":
            for bell in self._bells.get(channel, ()):
                bell.ring()
        elif kind == b"ssubscribe":
            self._subscribed(channel)
        elif not asked:
            # The server ended it: the slot has moved, or our permission has changed.
            self._confirmed.discard(channel)
            if channel in self._bells:
                self._ask(b"ssubscribe", channel)

    def _subscribed(self, channel: bytes) -> None:
        bells = self._bells.get(channel, ())
        if bells:
            self._confirmed.add(channel)
        for bell in bells:
            if bell.subscribed:
                bell.ring()  # for messages missed meanwhile
            else:
                bell.unconfirmed.discard(channel)
                bell.wake()

    def _refused(self, line: Line, item: object) -> None:
        _, channel = self._asked.popleft() if self._asked else (b"", b"")
        if isinstance(item, ServerError) and item.code in LOGGED_OUT:
            broken = line.fail(f"the server does not take this connection for logged in any more ({item.text})")
            for bell in self._new_bells():
                self._end(bell, broken)
            raise broken
        if isinstance(item, ServerError) and channel and channel not in self._bells:
            return  # nobody listens to it any more
        forbidden = isinstance(item, ServerError) and item.forbidden
        moved = isinstance(item, ServerError) and item.redirect
        refused = [bell for bell in self._bells.get(channel, ()) if forbidden or channel in bell.unconfirmed or (moved and bell.moving)]
        if not refused or not isinstance(item, ServerError):
            raise line.fail("the server refused to subscribe again")
        for bell in refused:
            self._end(bell, item)

    def _new_bells(self) -> list[Bell]:
        return [bell for bells in self._bells.values() for bell in bells if not bell.subscribed]


def _copy(error: ConnectionFailed | ServerError) -> Exception:
    """Return a copy of the error to raise: several tasks raise it, each with its own traceback."""
    if isinstance(error, ServerError):
        return type(error)(error.text)
    return ConnectionFailed(error.url, error.reason, permanent=error.permanent, silent=error.silent)
