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
import queue
import random
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import anyio
import anyio.from_thread
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


class _Work:
    """One plain function on its way through a thread, and who waits for it."""

    __slots__ = ("context", "done", "error", "function", "loop", "result", "scope", "token")

    def __init__(self, function: Callable[[], Any], scope: anyio.CancelScope) -> None:
        self.function = function
        self.scope = scope
        self.token = anyio.lowlevel.current_token()
        self.loop: Any = self.token.native_token
        self.context = copy_context()
        self.done = anyio.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Call the function as anyio's own threads do: it may call back with `anyio.from_thread`, and is inside of no event loop."""
        _from_thread.current_token, _from_thread.current_cancel_scope = self.token, self.scope
        try:
            if (sniffio := sys.modules.get("sniffio")) is not None:
                self.context.run(sniffio.current_async_library_cvar.set, None)
            self.result = self.context.run(self.function)
        except BaseException as error:  # noqa: BLE001 -- whoever waits gets it
            self.error = error
        finally:
            del _from_thread.current_token, _from_thread.current_cancel_scope
        with contextlib.suppress(RuntimeError):  # the loop has ended, and so has whoever waited
            self.loop.call_soon_threadsafe(self.done.set)


_from_thread: Any = vars(anyio.from_thread)["threadlocals"]
"""Where `anyio.from_thread` looks whether it is in a worker thread, and of which loop."""


class _Threads:
    """Threads for plain functions which, unlike anyio's own under asyncio, do not keep the process from ending.

    A handler that was cancelled is abandoned in its thread, and may go on for hours there. The threads are daemons, as trio's are.
    """

    IDLE = 10.0  # seconds after which a thread ends that has nothing to do

    def __init__(self) -> None:
        self.forked()
        when_forked(self)

    def forked(self) -> None:
        """Begin without threads: a child made by fork has none but its own."""
        self._idle: deque[queue.SimpleQueue[_Work]] = deque()  # of each thread that waits: where it gets its work

    def run(self, work: _Work) -> None:
        """Run it, in a thread that is idle or a new one."""
        try:
            box = self._idle.pop()
        except IndexError:
            box = queue.SimpleQueue[_Work]()
            threading.Thread(target=self._serve, args=(box,), name="redisaq worker", daemon=True).start()
        box.put(work)

    def _serve(self, box: queue.SimpleQueue[_Work]) -> None:
        idle = self._idle
        while True:
            try:
                work = box.get(timeout=self.IDLE)
            except queue.Empty:
                try:
                    idle.remove(box)
                except ValueError:
                    continue  # work is just coming
                return
            work.run()
            del work
            idle.append(box)


_threads = _Threads()


async def _run_in_thread(function: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:
    if not hasattr(anyio.lowlevel.current_token().native_token, "call_soon_threadsafe"):  # trio, whose threads are daemons anyway
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)
    await anyio.lowlevel.checkpoint_if_cancelled()
    async with limiter or anyio.to_thread.current_default_thread_limiter():
        scope = anyio.CancelScope()
        work = _Work(function, scope)
        with scope:
            _threads.run(work)
            await work.done.wait()
        try:
            if work.error is not None:
                raise work.error
            return cast("T", work.result)
        finally:
            del work  # the error's traceback leads here


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


def _context_of_asyncio() -> Context:
    """Return a context in which anyio knows outside of tasks, too, that asyncio runs.

    It asks sniffio where that is installed, as it is with trio; and sniffio finds asyncio by its current task, or by this variable, which
    `anyio.run` sets, and `asyncio.run` does not.
    """
    context = copy_context()
    sniffio: Any = sys.modules.get("sniffio")  # anyio has imported it, if it is there
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context


def _timers_of_this_loop() -> CallLater:
    loop: Any = anyio.lowlevel.current_token().native_token
    own: Callable[..., object] | None = getattr(loop, "call_later", None)
    if own is not None:
        return partial(own, context=_context_of_asyncio())

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
        same one, virtual or not; but uvloop's stands still within one round of the loop, and a process that was paused must see that time
        has passed.
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
    """Return until when what is called in this context may take, by `Environment.monotonic`; infinite where nothing limits it."""
    return _until.get()


@contextlib.contextmanager
def time_limit(seconds: float) -> Generator[None]:
    """Let the enclosed calls to a server end within so many seconds, all of them together, whether it answers or not.

    A call whose time is up raises ConnectionFailed, which says whether the server may have carried it out. Its connection is not harmed.
    """
    token = _until.set(min(_until.get(), current_environment().monotonic() + seconds))
    try:
        yield
    finally:
        _until.reset(token)
