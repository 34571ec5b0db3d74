"""The shared connection: many tasks, one socket, no background task (docs/link.md, rules 1 to 7).

In: packed commands of concurrent tasks. Out: to each its replies, in order. What always holds:

- Writing, reading, dispatch and handing over are synchronous; the only awaits are readiness, a waiter's event and one checkpoint (rule 1).
- At most one caller, the driver, waits for the socket. It sends until nothing is left, and only then waits for replies (rule 2).
- Whoever leaves, for whatever reason, hands the role on if nobody has it (rule 3).
- A caller that left without its replies keeps its slot until they are read (rule 4).
- Once broken it is thrown away whole, never reused (rule 6).
"""

from __future__ import annotations

from collections import deque

import anyio
from anyio.lowlevel import checkpoint

from redisaq.errors import ConnectionFailed
from redisaq.link.resp import NOTHING, PARSE_ERRORS, PushNotification
from redisaq.link.wire import Wire


class NotSent(Exception):
    """The connection broke before a byte of this call was written: it is safe to send it elsewhere."""


class _Waiter:
    """One caller: how many replies it lacks, what has come, and how to wake it."""

    __slots__ = ("abandoned", "event", "missing", "replies", "start")

    def __init__(self, missing: int, start: int) -> None:
        self.missing = missing
        self.start = start
        self.replies: list[object] = []
        self.event: anyio.Event | None = None
        self.abandoned = False


class SharedConnection:
    """See the module.

    Attributes:
        broken: why it is of no more use, None while it is.
    """

    def __init__(self, wire: Wire, url: str, identity: tuple[int, str, str] | None = None) -> None:
        self.broken: str | None = None
        self._wire = wire
        self._url = url
        self._identity = identity  # client id, address, the server's run: by these it can be killed (E1)
        self._waiters: deque[_Waiter] = deque()  # in the order of their commands
        self._driver: _Waiter | None = None
        self._joining = False  # somebody yielded so that others may join its write

    async def call(self, data: bytes, replies: int) -> list[object]:
        """Send packed commands, return their replies; cancelled, the commands may or may not be carried out.

        Raises:
            NotSent: it broke before anything of `data` was written.
            ConnectionFailed: it broke later (`maybe_executed` is True).
        """
        if self._driver is None and self.broken is None and self._wire.arrived():
            # Nobody has looked since the last call: a server that has closed in between is seen before anything is sent.
            self._receive()
        if self.broken is not None:
            raise NotSent(self.broken)
        waiter = _Waiter(replies, self._wire.queued)
        idle = not self._waiters
        self._wire.put(data)
        self._waiters.append(waiter)
        try:
            if idle:
                self._flush()
            elif not self._joining:
                await self._let_others_join()
            while waiter.missing and self.broken is None:
                if self._driver is None:
                    await self._drive(waiter)
                else:
                    waiter.event = anyio.Event()
                    await waiter.event.wait()
        finally:
            waiter.event = None
            waiter.abandoned = True
            self._hand_over()
        if waiter.missing:
            raise self._failure(waiter)
        return waiter.replies

    def fail(self, reason: str) -> None:
        """Break it for everybody; this is also how it is closed (rule 7). May be called twice."""
        if self.broken is not None:
            return
        self.broken = reason
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if waiter.event is not None:
                waiter.event.set()
        self._wire.close()

    async def _let_others_join(self) -> None:
        self._joining = True
        try:
            await checkpoint()
        finally:
            # Also if cancelled here: the others rely on it (rule 5).
            self._joining = False
            self._flush()

    async def _drive(self, waiter: _Waiter) -> None:
        """Move bytes for everybody until this waiter's replies are in."""
        self._driver = waiter
        try:
            while waiter.missing and self.broken is None:
                if self._flush():
                    await self._wire.wait_readable()
                else:
                    await self._wire.wait_writable()
                self._receive()
        except OSError as error:
            self.fail(_words(error))
        finally:
            self._driver = None

    def _flush(self) -> bool:
        # Never raises: in a `finally` it would take the place of a cancellation.
        if self.broken is not None:
            return True
        try:
            return self._wire.flush()
        except OSError as error:
            self.fail(_words(error))
            return True

    def _receive(self) -> None:
        try:
            while self.broken is None:
                more = self._wire.receive()
                self._dispatch()
                if not more:
                    return
        except (OSError, *PARSE_ERRORS) as error:
            self.fail(_words(error))

    def _dispatch(self) -> None:
        next_reply = self._wire.next_reply
        waiters = self._waiters
        while waiters:
            waiter = waiters[0]
            append = waiter.replies.append
            missing = waiter.missing
            while missing:
                reply = next_reply()
                if reply is NOTHING:
                    waiter.missing = missing
                    return
                if type(reply) is not PushNotification:
                    append(reply)
                    missing -= 1
            waiter.missing = 0
            waiters.popleft()
            if waiter.event is not None:
                waiter.event.set()
        while (reply := next_reply()) is not NOTHING:
            if type(reply) is not PushNotification:
                self.fail("the server sent a reply that nothing asked for")
                return

    def _hand_over(self) -> None:
        """Wake the first live waiter if nobody drives."""
        if self._driver is None and self.broken is None:
            for waiter in self._waiters:
                if not waiter.abandoned:
                    if waiter.event is not None:
                        waiter.event.set()
                    return

    def _failure(self, waiter: _Waiter) -> Exception:
        reason = self.broken or "closed"
        if self._wire.handed <= waiter.start:
            return NotSent(reason)
        failure = ConnectionFailed(self._url, reason, maybe_executed=True)
        failure.connection = self._identity
        return failure


def _words(error: Exception) -> str:
    return str(error) or repr(error)
