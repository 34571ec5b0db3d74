"""The one door to what differs between runs: clocks, randomness, ids, threads.

Nothing else in the package calls time.time, uuid4, os.urandom or a thread pool. A test or a simulation sets another Environment
with `use_environment`, and everything that connects afterwards in that context is deterministic.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import os
import random
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

T = TypeVar("T")


class Forkable(Protocol):
    """What a child made by fork must not use as it is."""

    def forked(self) -> None:
        """Forget what belongs to the parent. Called in the child, in the middle of whatever the parent did: it waits for nothing."""
        ...


_forkable: weakref.WeakSet[Forkable] = weakref.WeakSet()


def when_forked(thing: Forkable) -> None:
    """Have `thing.forked()` called in each child that this process makes by fork, for as long as the thing lives."""
    _forkable.add(thing)


def _in_child() -> None:
    current_environment().random.seed()  # else each child would draw what its parent and its siblings draw
    for thing in list(_forkable):
        thing.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


class PlainRunner(Protocol):
    """Runs a plain function, returns what it returns."""

    def __call__(self, function: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> Awaitable[T]:
        """Run it, as one of as many as `limiter` allows."""
        ...


async def _run_in_thread(function: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:
    return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)


CallLater = Callable[[float, Callable[[], object]], object]
"""Lets an event loop call a function in so many seconds."""


class _TimerThread:
    """One thread for the timers of all loops that have none of their own."""

    def __init__(self) -> None:
        self.forked()
        when_forked(self)

    def forked(self) -> None:
        """Begin without a thread: a child made by fork has none but its own."""
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._running = False

    def call_later(self, seconds: float, function: Callable[[], object]) -> None:
        """Call the function in the thread, in so many seconds; it must be quick."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), function))
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="redisaq timers", daemon=True).start()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                _, _, function = heapq.heappop(self._due)
            function()


_timer_thread = _TimerThread()


def _timers_of_this_loop() -> CallLater:
    loop: Any = anyio.lowlevel.current_token().native_token
    own: CallLater | None = getattr(loop, "call_later", None)
    if own is not None:
        return own

    def run_soon(function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.run_sync_soon(function)

    return lambda seconds, function: _timer_thread.call_later(seconds, partial(run_soon, function))


@dataclass(frozen=True)
class Environment:
    """What a run takes from outside.

    Attributes:
        clock: seconds that only go forward, comparable with anyio's deadlines.
        monotonic: the same, cheap to read, and comparable only with itself.
        timers: returns what lets the running event loop call a function later, without a task and at next to no cost.
        wall_clock: seconds since 1970.
        random: the source of jitter, versions and ids.
        run_plain: runs a plain function without blocking the event loop; if cancelled, the function is left to finish by itself.
    """

    clock: Callable[[], float] = anyio.current_time
    monotonic: Callable[[], float] = time.monotonic
    timers: Callable[[], CallLater] = _timers_of_this_loop
    wall_clock: Callable[[], float] = time.time
    random: random.Random = field(default_factory=random.SystemRandom)
    run_plain: PlainRunner = _run_in_thread

    def bound(self) -> Environment:
        """Return this environment with a clock of the running event loop that is cheap to read: it is read for each message.

        `anyio.current_time` looks the loop up anew each time, which costs more than most handlers' bookkeeping. A loop's own clock is the
        same one, virtual or
        not; but uvloop's stands still within one round of the loop, and a process that was paused must see that time has passed.
        """
        if self.clock is not anyio.current_time:
            return self
        loop = anyio.lowlevel.current_token().native_token
        own: Callable[[], float] | None = getattr(loop, "time", None)
        if own is None:  # trio
            return self
        return replace(self, clock=time.monotonic if type(loop).__module__.startswith("uvloop") else own)

    def new_id(self) -> str:
        """Return 16 characters that no other call returns: 80 random bits, in lower-case base 32."""
        bits = self.random.getrandbits(80)
        return "".join("0123456789abcdefghjkmnpqrstvwxyz"[(bits >> shift) & 31] for shift in range(75, -1, -5))


_current: ContextVar[Environment] = ContextVar("redisaq_environment", default=Environment())  # noqa: B039 -- frozen


def current_environment() -> Environment:
    """Return the Environment of this context."""
    return _current.get()


def enter_environment(environment: Environment) -> None:
    """Let `environment` stand for this context from now on, and for tasks started in it."""
    _current.set(environment)


@contextlib.contextmanager
def use_environment(environment: Environment) -> Generator[Environment]:
    """Let `environment` stand for this context and for tasks started in it."""
    token = _current.set(environment)
    try:
        yield environment
    finally:
        _current.reset(token)


# -- the time of a call ------------------------------------------------------------------------------------------------------------

LONGEST_SILENCE, SHORTEST_SILENCE = 6.0, 0.5
"""Seconds for which a connection may owe an answer without a byte coming: no more, and no less, whatever its users can wait for."""


def silence_within(seconds: float) -> float:
    """Return the silence to allow a connection whose user has so many seconds: half of them are left then to look and to send again."""
    return min(LONGEST_SILENCE, max(SHORTEST_SILENCE, seconds / 2))


_until: ContextVar[float] = ContextVar("redisaq_until", default=math.inf)


def time_is_up_at() -> float:
    """Return until when what is called in this context may take, by `time.monotonic`; infinite where nothing limits it."""
    return _until.get()


@contextlib.contextmanager
def time_limit(seconds: float) -> Generator[None]:
    """Let the enclosed calls to a server end within so many seconds, all of them together, whether it answers or not.

    A call whose time is up raises ConnectionFailed, which says whether the server may have carried it out. Its connection is not harmed.
    """
    token = _until.set(min(_until.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _until.reset(token)
