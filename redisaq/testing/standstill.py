"""Detect and report a standstill: in virtual time, when no task can run and no timer is set, nothing would ever run again.

The loops of `_trio.py` and `_asyncio.py` report when nothing is left to run. The run is then cancelled, so that clean-up still happens, and
ends with VirtualDeadlock, which lists the waiting tasks and where they wait. `pace` handles runs that never stand still.
"""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from types import FrameType
from typing import Any, TypeVar

import anyio

from redisaq.errors import RedisaqError
from redisaq.testing.pace import NO_LIMITS, Limits, Pace

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds of real time without a step, after which a thread or a socket is no longer expected to wake a task."""

MOMENT = 0.001
"""Seconds of real time that are left to threads and sockets at once."""

SHOWN = 20
"""How many waiting tasks the error lists."""

THREADED = {"run_sync_in_worker_thread", "to_thread_run_sync", "to_thread"}
"""The functions of anyio, trio and asyncio that wait for a worker thread."""

WORKERS = ("AnyIO worker thread", "Trio thread")
"""Names of threads that are kept for reuse. Such a thread is at work only if a task waits for it."""

INSIDE = tuple(f"{os.sep}{package}{os.sep}" for package in ("anyio", "trio", "asyncio", "outcome"))


class VirtualDeadlock(RedisaqError):
    """Every task waits, and nothing is left that could wake one: no timer, no thread, no socket.

    The code under test has a deadlock or has lost a wake-up.

    Attributes:
        waiting: the name of each task and where it waits.
    """

    def __init__(self, now: float, waiting: Sequence[str]) -> None:
        self.waiting = tuple(waiting)
        shown = "".join(f"\n  {one}" for one in self.waiting[:SHOWN])
        more = f"\n  and {len(self.waiting) - SHOWN} more" if len(self.waiting) > SHOWN else ""
        super().__init__(f"at {now:g} s of virtual time every task waits, and nothing is left that could wake one:{shown}{more}")


class VirtualTimeUnavailable(RedisaqError):
    """This version of trio or Python lacks a private part that virtual time needs. Use another version, and report it to the project."""


class Watch:
    """Decide whether a standstill is final, and end the run if it is.

    Attributes:
        failure: why the run ends; None while it goes on.
        pace: counts steps and seconds.
        moved: tasks that have run since `let_threads_go_on` last looked, or are about to: all others are where they were.
    """

    def __init__(self, limits: Limits = NO_LIMITS) -> None:
        """Start watching. Threads that already exist are ignored."""
        self.failure: RedisaqError | None = None
        self.pace = Pace(limits, self.fail)
        self.moved: set[Any] = set()
        self._in_threads: set[Any] = set()  # tasks that waited for a thread when they were last looked at
        self._threads = set(threading.enumerate())
        self._others = sum(not thread.name.startswith(WORKERS) for thread in self._threads)  # those that work for no task
        self._scope: anyio.CancelScope | None = None
        self._broken = False
        self._since: float | None = None
        self._seen = 0.0

    def fail(self, error: RedisaqError) -> None:
        """End the run with an error, unless it is already ending with one."""
        if self.failure is None and self._scope is not None:
            self.failure = error
            self._scope.cancel()

    async def over(self, main: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await `main(*args)`. If the run was ended with an error, raise that error, whatever `main` did afterwards."""
        try:
            with anyio.CancelScope() as self._scope:
                result = await main(*args)
                if self.failure is None:
                    return result
        except BaseException as error:
            if self.failure is not None:
                raise self.failure from error
            raise
        finally:
            self._scope = None
            self.moved.clear()  # or tasks that are done would be in a cycle of references
            self._in_threads.clear()
        raise self.failure or AssertionError

    def let_threads_go_on(self, coroutine_of: Callable[[Any], object]) -> None:
        """Before the clock moves on, wait a moment of real time if a task waits for a thread, whose work takes no virtual time.

        Without it hours may pass before the thread has run at all.

        Args:
            coroutine_of: returns the coroutine of a task.
        """
        self._in_threads -= self.moved
        if threading.active_count() > self._others:
            self._in_threads.update(task for task in self.moved if in_thread(frames(coroutine_of(task))))
        self.moved.clear()
        if self._in_threads:
            time.sleep(MOMENT)

    def standstill(self, now: float, tasks: Sequence[tuple[str, object]], *, sockets: bool, break_shields: Callable[[], None]) -> None:
        """Handle a moment at which nothing can run and no timer is set.

        If a thread or a socket may still wake a task, wait a moment and return; the loop then calls again. Otherwise cancel the run. If
        that leads to another standstill, some task is shielded: break the shields. If that does not help either, give up.

        Args:
            now: virtual time.
            tasks: the name and coroutine of each task.
            sockets: whether a task waits for a real socket.
            break_shields: cancels every task, shielded or not.

        Raises:
            VirtualDeadlock: nothing helps.
        """
        chains = [(name, frames(coroutine)) for name, coroutine in tasks]
        if self._may_change(sockets or any(in_thread(chain) for _, chain in chains)):
            time.sleep(MOMENT)
            return
        waiting = [f"{name}: {where}" for name, chain in chains if (where := place(chain))]
        if self.failure is None and self._scope is not None:
            self.fail(VirtualDeadlock(now, waiting))
        elif not self._broken:
            self._broken = True
            break_shields()
        else:
            raise self.failure or VirtualDeadlock(now, waiting)

    def _may_change(self, outside: bool) -> bool:  # noqa: FBT001 -- the only argument
        if not outside and all(thread in self._threads or thread.name.startswith(WORKERS) for thread in threading.enumerate()):
            return False
        real = time.monotonic()
        if self._since is None or real - self._seen > 1.0:  # something ran meanwhile
            self._since = real
        self._seen = real
        return real - self._since < PATIENCE


def frames(coroutine: object) -> list[FrameType]:
    """Return where a suspended coroutine is: its frame, the frame of what it awaits, and so on."""
    found: list[FrameType] = []
    while coroutine is not None:
        for kind in ("cr", "gi", "ag"):
            frame = getattr(coroutine, f"{kind}_frame", None)
            if frame is not None:
                found.append(frame)
        awaited = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None) or getattr(coroutine, "ag_await", None)
        coroutine = awaited or driven_by(getattr(coroutine, "gi_frame", None))
    return found


def driven_by(frame: FrameType | None) -> object:
    """Return the coroutine that a generator sends to itself, as the one that gives handlers a context does; None if there is none."""
    return None if frame is None else next((value for value in frame.f_locals.values() if inspect.iscoroutine(value)), None)


def in_thread(chain: Sequence[FrameType]) -> bool:
    """Return True if a task waits for a worker thread."""
    return any(frame.f_code.co_name in THREADED for frame in chain)


def place(chain: Sequence[FrameType]) -> str:
    """Return the innermost line that is not in anyio, asyncio or trio; an empty string if there is none."""
    for frame in reversed(chain):
        if not any(inside in frame.f_code.co_filename for inside in INSIDE):
            return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
    return ""
