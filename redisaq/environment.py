"""The only access to clocks, randomness, ids and threads, which differ between runs.

Nothing else in the package calls time.time, uuid4, os.urandom or a thread pool. A test or a simulation sets another Environment with
`use_environment`, and everything that connects afterwards in that context is deterministic.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import os
import queue
import random
import socket
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
    """An object that a child made by fork must not use as it is."""

    def forked(self) -> None:
        """Drop everything that belongs to the parent. It is called in the child, at any point of the parent's work, so it must not wait."""
        ...


_forkable: weakref.WeakSet[Forkable] = weakref.WeakSet()


def when_forked(thing: Forkable) -> None:
    """Call `thing.forked()` in each child that this process makes by fork, for as long as the object lives."""
    _forkable.add(thing)


def _in_child() -> None:
    current_environment().random.seed()  # otherwise each child would draw the same numbers as its parent and its siblings
    for thing in list(_forkable):
        thing.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


class PlainRunner(Protocol):
    """Runs a plain function and returns its result."""

    def __call__(self, function: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> Awaitable[T]:
        """Run the function; at most as many run at once as `limiter` allows."""
        ...


class _Work:
    """One plain function to run in a thread, and the task that waits for it."""

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
        """Call the function as anyio's own threads do: it may call back with `anyio.from_thread`, and is not inside an event loop."""
        _from_thread.current_token, _from_thread.current_cancel_scope = self.token, self.scope
        try:
            if (sniffio := sys.modules.get("sniffio")) is not None:
                self.context.run(sniffio.current_async_library_cvar.set, None)
            self.result = self.context.run(self.function)
        except BaseException as error:  # noqa: BLE001 -- the waiting task gets it
            self.error = error
        finally:
            del _from_thread.current_token, _from_thread.current_cancel_scope
        with contextlib.suppress(RuntimeError):  # the loop has ended, and so has the waiting task
            self.loop.call_soon_threadsafe(self.done.set)


_from_thread: Any = vars(anyio.from_thread)["threadlocals"]
"""Where `anyio.from_thread` looks up whether it is in a worker thread, and of which loop."""


class _Threads:
    """Threads for plain functions. Unlike anyio's own under asyncio, they do not keep the process from ending.

    A cancelled handler is abandoned in its thread, and may run there for hours. The threads are daemons, as trio's are.
    """

    IDLE = 10.0  # seconds after which an idle thread ends

    def __init__(self) -> None:
        self.forked()
        when_forked(self)

    def forked(self) -> None:
        """Start without threads: a child made by fork has none but its own."""
        self._idle: deque[queue.SimpleQueue[_Work]] = deque()  # for each idle thread: where it gets its work

    def run(self, work: _Work) -> None:
        """Run the work in an idle thread or a new one."""
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
                    continue  # work is about to arrive
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
            del work  # the error's traceback refers to this frame


CallLater = Callable[[float, Callable[[], object]], object]
"""Calls a function in an event loop after this many seconds."""


class _TimerThread:
    """One thread for the timers of all loops that have none of their own."""

    def __init__(self) -> None:
        self.forked()
        when_forked(self)

    def forked(self) -> None:
        """Start without a thread: a child made by fork has none but its own."""
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._running = False

    def call_later(self, seconds: float, function: Callable[[], object]) -> None:
        """Call the function in the thread after this many seconds; it must be quick."""
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
    """Return a context in which anyio knows that asyncio runs, even outside of tasks.

    Where sniffio is installed (trio brings it), anyio asks it. sniffio recognizes asyncio by its current task, or by this variable, which
    `anyio.run` sets and `asyncio.run` does not.
    """
    context = copy_context()
    sniffio: Any = sys.modules.get("sniffio")  # anyio has imported it, if it is installed
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


def this_loop() -> object:
    """Return what identifies the running event loop; it can be referred to weakly.

    It is asked for about each call to a server. Where asyncio runs, asking it takes a tenth of the time that anyio needs to find out.
    """
    asyncio: Any = sys.modules.get("asyncio")
    try:
        return asyncio.get_running_loop()
    except (RuntimeError, AttributeError):  # no loop of asyncio, or no asyncio
        return anyio.lowlevel.current_token().native_token


@dataclass(frozen=True)
class Environment:
    """Everything that a run takes from outside.

    Attributes:
        clock: seconds that only increase, comparable with anyio's deadlines.
        monotonic: the same, cheap to read, and comparable only with itself.
        timers: returns a function with which the running event loop calls another one later, without a task and at almost no cost.
        wall_clock: seconds since 1970.
        random: the source of jitter, versions and ids.
        run_plain: runs a plain function without blocking the event loop; if cancelled, the function runs on by itself.
        host: returns the name of the machine.
        pid: returns the number of the process, which a fork changes.
        real: whether time is real, so that other processes can be waited for; not in virtual time.
    """

    clock: Callable[[], float] = anyio.current_time
    monotonic: Callable[[], float] = time.monotonic
    timers: Callable[[], CallLater] = _timers_of_this_loop
    wall_clock: Callable[[], float] = time.time
    random: random.Random = field(default_factory=random.SystemRandom)
    run_plain: PlainRunner = _run_in_thread
    host: Callable[[], str] = socket.gethostname
    pid: Callable[[], int] = os.getpid
    real: bool = True

    def bound(self) -> Environment:
        """Return this environment with the clock of the running event loop: cheap to read, and by any thread.

        It is read for each message. `anyio.current_time` looks the loop up each time, which costs more than most handlers' bookkeeping, and
        is not there for a thread that only reads statistics. A loop's own clock is the same one, virtual or not. But uvloop's does not
        change within one round of the loop, and a process that was paused must see that time has passed.
        """
        if self.clock is not anyio.current_time:
            return self
        loop = anyio.lowlevel.current_token().native_token
        own: Callable[[], float] | None = getattr(loop, "time", None)
        if own is None:
            trio: Any = sys.modules["trio"]
            own = trio.lowlevel.current_clock().current_time
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
    """Use `environment` for this context from now on, and for tasks started in it."""
    _current.set(environment)


@contextlib.contextmanager
def use_environment(environment: Environment) -> Generator[Environment]:
    """Use `environment` within the block, for this context and for tasks started in it."""
    token = _current.set(environment)
    try:
        yield environment
    finally:
        _current.reset(token)


# -- the time of a call ------------------------------------------------------------------------------------------------------------

LONGEST_SILENCE, SHORTEST_SILENCE = 6.0, 0.5
"""Limits of the seconds for which a connection may owe an answer without a byte arriving, however long its users can wait."""


def silence_within(seconds: float) -> float:
    """Return the silence to allow a connection whose user has `seconds`: half of them, which leaves time to check and to send again."""
    return min(LONGEST_SILENCE, max(SHORTEST_SILENCE, seconds / 2))


_until: ContextVar[float] = ContextVar("redisaq_until", default=math.inf)


def time_is_up_at() -> float:
    """Return the time by which calls in this context must end, by `Environment.monotonic`; infinite if nothing limits it."""
    return _until.get()


@contextlib.contextmanager
def time_limit(seconds: float) -> Generator[None]:
    """Limit the enclosed calls to a server to `seconds`, all of them together, whether it answers or not.

    A call whose time is up raises ConnectionFailed, which says whether the server may have executed it. Its connection is not harmed.
    """
    token = _until.set(min(_until.get(), current_environment().monotonic() + seconds))
    try:
        yield
    finally:
        _until.reset(token)
