"""The shared connection: many tasks, one socket, no background task (docs/understand/link.md, rules 1 to 7).

It takes packed commands from concurrent tasks, and returns to each task its replies, in order. Invariants:

- Writing, reading, dispatching and handing over are synchronous. The only awaits are readiness, a waiter's event and one checkpoint (rule
  1).
- At most one caller, the driver, waits for the socket. It sends until nothing is left, and only then waits for replies (rule 2).
- A caller that leaves, for any reason, hands the role of the driver on if nobody has it (rule 3).
- A caller that left without its replies keeps its slot until they are read (rule 4).
- A broken connection is thrown away whole and never reused (rule 6).
- It breaks when replies are owed and nothing arrives for too long, even if no caller waits for them any more (rule 10).
- A call whose time is up leaves like a cancelled one: its slot stays, and the connection lives (rule 11).
- If it was given a question to ask about a silent server, the driver asks it while it waits, once a second (rule 13).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import anyio
from anyio.lowlevel import checkpoint

from redisaq.environment import Environment, time_is_up_at
from redisaq.errors import ConnectionFailed
from redisaq.link.resp import NOTHING, PARSE_ERRORS, PushNotification
from redisaq.link.silence import DOUBT, Alarm, Silence
from redisaq.link.wire import Wire

Identity = tuple[int, str, str]
"""Client id, address, and run of the server: they identify a connection to kill (E1)."""


PASSED = "an earlier call broke, and what it lacks comes first (E4): nothing was sent"
"""Why messages are not sent over the next connection."""


class NotSent(Exception):
    """The connection broke before a byte of this call was written, so you can safely send it elsewhere.

    Attributes:
        queued: it broke while the call waited among others.
    """

    def __init__(self, reason: str, *, queued: bool = False) -> None:
        """Say why it broke."""
        super().__init__(reason)
        self.queued = queued


class Wakeable(Protocol):
    """What a waiter is woken by."""

    def set(self) -> object:
        """Wake it."""
        ...


class Waiter:
    """One caller: how many replies are missing, what has arrived, until when it waits, and how to wake it."""

    __slots__ = ("abandoned", "event", "late", "missing", "replies", "start", "until")

    def __init__(self, missing: int, start: int, until: float) -> None:
        self.missing = missing
        self.start = start
        self.until = until
        self.late = False
        self.replies: list[object] = []
        self.event: Wakeable | None = None
        self.abandoned = False


class SharedConnection:
    """A connection that joins the commands of concurrent tasks into one write.

    Attributes:
        broken: why it cannot be used any more, None while it can.
    """

    LATE = "no answer within the time of the call"

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
        on_silence: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Take over a wire.

        Args:
            wire: a wire that is logged in.
            url: for errors, without a password.
            identity: identifies the connection, to kill it.
            environment: gives the clock and the timers.
            silence: seconds for which replies may be owed without a byte arriving, or bytes may wait without one being written.
            time: seconds that one call may take if nothing else limits it (see `time_limit`).
            deserted: called when it breaks while the server may still execute some of its commands that have no reply.
            on_silence: asks others whether this is still the server to talk to, and breaks the connection (`fail`) if it is not. It is
                called when replies are owed and no byte arrived for a second, and again each second. It raises nothing; it is cancelled
                when something arrives. None where nobody else knows: then it costs nothing.
        """
        self.broken: str | None = None
        self._wire = wire
        self._url = url
        self._identity = identity
        self._waiters: deque[Waiter] = deque()  # in the order of their commands
        self._driver: Waiter | None = None
        self._joining = False  # a caller yielded so that others can join its write
        environment = environment or Environment()
        self._now = environment.monotonic
        self._silence = Silence(silence)
        self._time = time
        self._doubt = math.inf if on_silence is None else DOUBT
        self._soonest = min(silence, time, self._doubt)
        self._on_silence = on_silence
        self._asked = -math.inf  # when on_silence was last called
        self._asking = False
        self._until_readable, self._until_writable = wire.wait_readable, wire.wait_writable  # others while it has to ask (rule 13)
        self._deserted = deserted
        self._silent = False  # it broke because nothing arrived
        self._uncertain: list[Waiter] = []  # once it broke: the calls of which the server may have a part
        self._alarm = Alarm(environment, self._look)

    @property
    def torn(self) -> bool:
        """True from when it broke until each caller whose commands the server may have has heard of that."""
        return any(not waiter.abandoned for waiter in self._uncertain)

    async def call(self, data: bytes, replies: int) -> list[object]:
        """Send packed commands and return their replies. If cancelled, the commands may or may not be executed.

        Raises:
            NotSent: it broke before anything of `data` was written, or there was no time left.
            ConnectionFailed: it broke later, or the time of the call was up (`maybe_executed` is True).
        """
        if self._driver is None and self.broken is None and self._wire.arrived():
            # Nobody has read the socket since the last call: notice a server that has closed in between before anything is sent.
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
                    waiter.event = event = anyio.Event()
                    await event.wait()
        finally:
            waiter.event = None
            waiter.abandoned = True
            self._hand_over()
        if waiter.missing:
            raise self._failure(waiter)
        return waiter.replies

    def fail(self, reason: str) -> None:
        """Break it for all callers; this is also how it is closed (rule 7). May be called twice."""
        if self.broken is not None:
            return
        self.broken = reason
        waiters, self._waiters = self._waiters, deque()
        self._uncertain = [waiter for waiter in waiters if self._wire.handed > waiter.start]
        if self._uncertain and self._identity is not None:
            self._deserted(self._identity)
        for waiter in waiters:
            if waiter.event is not None:
                waiter.event.set()
        self._wire.close()

    def _put(self, data: bytes, replies: int) -> Waiter:
        """Queue the commands of one call, and set the alarm for the time when it has taken too long."""
        until, now = time_is_up_at(), self._now()
        if until == math.inf:
            until = now + self._time
        elif until <= now:
            raise NotSent("the time of the call is up")
        if not self._waiters:
            self._silence.heard = now
        rings = self._alarm.at  # in time for the calls that wait already
        if rings <= now or rings > now + self._soonest or rings > until:
            self._alarm.set(min(self._silence.due(), until, now + self._doubt))
        waiter = Waiter(replies, self._wire.queued, until)
        self._wire.put(data)
        self._waiters.append(waiter)
        return waiter

    async def _let_others_join(self) -> None:
        self._joining = True
        try:
            await checkpoint()
        finally:
            # Also when cancelled here: the other callers rely on it (rule 5).
            self._joining = False
            self._flush()

    async def _drive(self, waiter: Waiter) -> None:
        """Move bytes for all callers until this waiter has its replies."""
        self._driver = waiter
        try:
            self._alarm.follow()
            while waiter.missing and self.broken is None and not waiter.late:
                if self._flush():
                    await self._until_readable()
                else:
                    handed = self._wire.handed
                    await self._until_writable()
                    self._flush()
                    if self._wire.handed > handed:
                        self._silence.heard = self._now()
                self._receive()
        except OSError as error:
            self.fail(_words(error))
        finally:
            self._driver = None

    def _flush(self) -> bool:
        # Never raises: an exception in a `finally` would replace a cancellation.
        if self.broken is None:
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
        """Check whether the connection is silent, and which calls have no time left; return when to check again."""
        if self.broken is None and self._wire.arrived():
            self._receive()  # what has arrived counts, even if no task has read it yet
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
        return min(due, self._dismiss_late(now), self._have_it_asked(now))

    def _have_it_asked(self, now: float) -> float:
        """Make the driver ask about the server if that has been silent for long enough; return when to check again."""
        due = max(self._silence.heard, self._asked) + self._doubt
        if now < due:
            return due
        self._asked = now
        if not self._asking:
            self._until_readable = partial(self._ask_meanwhile, self._wire.wait_readable)
            self._until_writable = partial(self._ask_meanwhile, self._wire.wait_writable)
            self._wire.wake()
        return now + self._doubt

    async def _ask_meanwhile(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Wait for the socket, and have `on_silence` ask meanwhile."""
        self._until_readable, self._until_writable = self._wire.wait_readable, self._wire.wait_writable
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._ask)
            try:
                await wait()
            except OSError as error:  # here, since a task group would wrap it
                self.fail(_words(error))
            tasks.cancel_scope.cancel()

    async def _ask(self) -> None:
        self._asking = True
        try:
            if self._on_silence is not None:
                await self._on_silence()
        finally:
            self._asking = False

    def _dismiss_late(self, now: float) -> float:
        """Make the calls leave whose time is up; return when the time of the next one is up."""
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

    def _failure(self, waiter: Waiter) -> Exception:
        if self.broken is None:  # its time is up: bytes of it that have not been written yet will still be
            failure = ConnectionFailed(self._url, self.LATE, maybe_executed=True, silent=True)
        elif self._wire.handed <= waiter.start:
            return NotSent(self.broken, queued=True)
        else:
            failure = ConnectionFailed(self._url, self.broken, maybe_executed=True, silent=self._silent)
        failure.connections = () if self._identity is None else (self._identity,)
        return failure


def _words(error: Exception) -> str:
    return str(error) or repr(error)
