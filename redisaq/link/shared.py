"""The shared connection: many tasks, one socket, no background task (docs/link.md, rules 1 to 7).

In: packed commands of concurrent tasks. Out: to each its replies, in order. What always holds:

- Writing, reading, dispatch and handing over are synchronous; the only awaits are readiness, a waiter's event and one checkpoint (rule 1).
- At most one caller, the driver, waits for the socket. It sends until nothing is left, and only then waits for replies (rule 2).
- Whoever leaves, for whatever reason, hands the role on if nobody has it (rule 3).
- A caller that left without its replies keeps its slot until they are read (rule 4).
- Once broken it is thrown away whole, never reused (rule 6).
- It breaks when replies are owed and nothing comes for too long, whether or not anybody still waits for them (rule 10).
- A call whose time is up leaves as a cancelled one does: its slot stays, the connection lives (rule 11).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import anyio
from anyio.lowlevel import checkpoint

from redisaq.environment import Environment, time_is_up_at
from redisaq.errors import ConnectionFailed
from redisaq.link.resp import NOTHING, PARSE_ERRORS, PushNotification
from redisaq.link.silence import Alarm, Silence
from redisaq.link.wire import Wire

Identity = tuple[int, str, str]
"""Client id, address, the server's run: by these a connection can be killed (E1)."""


class NotSent(Exception):
    """The connection broke before a byte of this call was written: it is safe to send it elsewhere."""


class _Waiter:
    """One caller: how many replies it lacks, what has come, until when it waits, and how to wake it."""

    __slots__ = ("abandoned", "event", "late", "missing", "replies", "start", "until")

    def __init__(self, missing: int, start: int, until: float) -> None:
        self.missing = missing
        self.start = start
        self.until = until
        self.late = False
        self.replies: list[object] = []
        self.event: anyio.Event | None = None
        self.abandoned = False


class SharedConnection:
    """See the module.

    Attributes:
        broken: why it is of no more use, None while it is.
    """

    def __init__(
        self,
        wire: Wire,
        url: str,
        identity: Identity | None = None,
        *,
        environment: Environment | None = None,
        silence: float = math.inf,
        time: float = math.inf,
        deserted: Callable[[Identity], None] = lambda _: None,
    ) -> None:
        """Take over a wire.

        Args:
            wire: logged in.
            url: for errors, without a password.
            identity: by which the connection can be killed.
            environment: gives the clock and the timers.
            silence: seconds for which replies may be owed without a byte coming, or bytes wait without one being written.
            time: seconds that one call may take where nothing else limits it (see `time_limit`).
            deserted: called when it breaks and the server may still carry out something of it, which has not been answered.
        """
        self.broken: str | None = None
        self._wire = wire
        self._url = url
        self._identity = identity
        self._waiters: deque[_Waiter] = deque()  # in the order of their commands
        self._driver: _Waiter | None = None
        self._joining = False  # somebody yielded so that others may join its write
        environment = environment or Environment()
        self._now = environment.monotonic
        self._silence = Silence(silence)
        self._time = time
        self._soonest = min(silence, time)
        self._deserted = deserted
        self._silent = False  # it broke because nothing came
        self._alarm = Alarm(environment, self._look)

    async def call(self, data: bytes, replies: int) -> list[object]:
        """Send packed commands, return their replies; cancelled, the commands may or may not be carried out.

        Raises:
            NotSent: it broke before anything of `data` was written, or there was no time left.
            ConnectionFailed: it broke later, or the time of the call was up (`maybe_executed` is True).
        """
        if self._driver is None and self.broken is None and self._wire.arrived():
            # Nobody has looked since the last call: a server that has closed in between is seen before anything is sent.
            self._receive()
        if self.broken is not None:
            raise NotSent(self.broken)
        idle = not self._waiters
        waiter = self._put(data, replies)
        try:
            if idle:
                self._flush()
            elif not self._joining:
                await self._let_others_join()
            while waiter.missing and self.broken is None and not waiter.late:
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
        if waiters and self._wire.handed > waiters[0].start and self._identity is not None:
            self._deserted(self._identity)
        for waiter in waiters:
            if waiter.event is not None:
                waiter.event.set()
        self._wire.close()

    def _put(self, data: bytes, replies: int) -> _Waiter:
        """Queue the commands of one call; see to it that somebody looks when it has taken too long."""
        until, now = time_is_up_at(), self._now()
        if until == math.inf:
            until = now + self._time
        elif until <= now:
            raise NotSent("the time of the call is up")
        if not self._waiters:
            self._silence.heard = now
        rings = self._alarm.at  # in time for those that wait already
        if rings <= now or rings > now + self._soonest or rings > until:
            self._alarm.set(min(self._silence.due(), until))
        waiter = _Waiter(replies, self._wire.queued, until)
        self._wire.put(data)
        self._waiters.append(waiter)
        return waiter

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
            while waiter.missing and self.broken is None and not waiter.late:
                if self._flush():
                    await self._wire.wait_readable()
                else:
                    handed = self._wire.handed
                    await self._wire.wait_writable()
                    self._flush()
                    if self._wire.handed > handed:
                        self._silence.heard = self._now()
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
        taken = self._wire.taken
        try:
            while self.broken is None:
                more = self._wire.receive()
                self._dispatch()
                if not more:
                    break
        except (OSError, *PARSE_ERRORS) as error:
            self.fail(_words(error))
        if self._waiters and self._wire.taken > taken:
            self._silence.heard = self._now()

    def _look(self, late: float) -> float:
        """Find out whether the connection is silent, and whose time is up; return when to look again."""
        if self.broken is None and self._wire.arrived():
            self._receive()  # what has come counts, even if nobody has looked yet
        if self._driver is None:
            self._flush()
        elif not self._driver.missing:
            self._wire.wake()
        if self.broken is not None or not self._waiters:
            return math.inf
        now = self._now()
        due = self._silence.next_look(now, late)
        if due is None:
            self._silent = True
            self.fail(str(self._silence))
            return math.inf
        return min(due, self._dismiss_late(now))

    def _dismiss_late(self, now: float) -> float:
        """Send those away whose time is up; return when it is up for the next."""
        soonest = math.inf
        for waiter in self._waiters:
            if waiter.until > now:
                soonest = min(soonest, waiter.until)
            elif not waiter.abandoned:
                waiter.late = True
                if waiter is self._driver:
                    self._wire.wake()
                elif waiter.event is not None:
                    waiter.event.set()
        return soonest

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
        if self.broken is None:  # its time is up: what of it has not been written yet will be
            failure = ConnectionFailed(self._url, "no answer within the time of the call", maybe_executed=True, silent=True)
        elif self._wire.handed <= waiter.start:
            return NotSent(self.broken)
        else:
            failure = ConnectionFailed(self._url, self.broken, maybe_executed=True, silent=self._silent)
        failure.connection = self._identity
        return failure


def _words(error: Exception) -> str:
    return str(error) or repr(error)
