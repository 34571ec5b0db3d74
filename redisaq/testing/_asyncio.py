"""Virtual time and seeded scheduling on asyncio.

Input: a coroutine function and a seed. Output: its result. A selector event loop moves its clock to the next timer when nothing is ready.
In each round it sorts the steps of tasks by the order in which the tasks were created, and shuffles them with the seed. The sort comes
first because anyio iterates over sets of tasks, whose order differs between processes. Everything else that is ready, such as callbacks of
sockets and futures, keeps its place, because it relies on first-in first-out order.

This is one of two modules that touch private parts of an event loop: `_run_once` and what it works on.
"""

# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false
# Both: this module works on private parts, see above.
from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import closing
from functools import cache
from operator import itemgetter
from platform import python_version
from random import Random
from typing import Any, TypeVar, cast

import anyio
from anyio.lowlevel import checkpoint

from redisaq.testing.freezing import Freezer
from redisaq.testing.standstill import VirtualTimeUnavailable, Watch

T = TypeVar("T")

NEEDED: dict[str, type] = {
    "_ready": deque,
    "_scheduled": list,
    "_timer_cancelled_count": int,
    "_clock_resolution": float,
    "_stopping": bool,
    "_selector": object,
    "_debug": bool,
}
METHODS = ("_run_once", "_process_events")
TIMERS = ("_when", "_scheduled", "_cancelled", "_callback", "_run")
STEPS = "steps that know their task"

FIRST: Callable[[tuple[int, Any]], int] = itemgetter(0)

LOOK_EVERY = 100
"""Rounds after which the loop itself runs one, with its look at signals; more often where there is more for it to do."""

MANY_TIMERS = 100
"""If there are more, and most of them were cancelled, the loop sorts them out."""


def run(main: Callable[[Callable[[], float]], Awaitable[T]], seed: object, watch: Watch, freezer: Freezer) -> T:
    """Run `main` on asyncio in virtual time, with the interleaving that the seed gives. `main` gets the clock."""
    check()
    loop = VirtualLoop(seed, watch, freezer)
    return anyio.run(main, loop.time, backend="asyncio", backend_options={"loop_factory": lambda: loop})


class VirtualLoop(asyncio.SelectorEventLoop):
    """A selector event loop in virtual time that orders the steps of tasks by a seed."""

    _ready: deque[Any]
    _scheduled: list[Any]
    _timer_cancelled_count: int
    _clock_resolution: float
    _stopping: bool
    _selector: Any
    _debug: bool
    _process_events: Callable[[Any], None]

    def __init__(self, seed: object, watch: Watch, freezer: Freezer) -> None:
        """Start at time 0.

        Args:
            seed: selects the interleaving.
            watch: handles standstills and runs that never end.
            freezer: holds back the steps of frozen processes.
        """
        super().__init__()
        self._now = 0.0
        self._clock_resolution = 0.0
        self._random = Random(str(seed))  # noqa: S311 -- an interleaving is no secret
        self._watch = watch
        self._freezer = freezer
        freezer.resume = self._ready.extend
        self._made = 0
        self._rounds = 0
        self._sockets = len(self._selector.get_map())

    def time(self) -> float:
        """Return virtual time, in seconds since the loop was created."""
        return self._now

    def create_task(self, coro: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any) -> asyncio.Task[T]:
        """Create a task, and number it."""
        task = super().create_task(coro, **options)
        self._made += 1
        setattr(task, "redisaq_number", self._made)  # noqa: B010 -- no attribute of Task
        self._watch.moved.add(task)  # an eager one has run
        return task

    def _run_once(self) -> None:
        """Advance the clock if nothing is ready, order the ready steps, and run the round."""
        ready = self._ready
        while not ready and math.isinf(self._next_timer()) and not self._stopping:
            tasks = [(task.get_name(), task.get_coro()) for task in self._tasks()]
            self._watch.standstill(self._now, tasks, sockets=self._has_sockets(), break_shields=self._cancel_all)
            self._process_events(self._selector.select(0))
        if not ready and not self._stopping:
            self._watch.let_threads_go_on(lambda task: task.get_coro())
        if not ready and not self._stopping:
            self._now = max(self._now, self._next_timer())
            self._watch.pace.moved(self._now)
        while self._next_timer() <= self._now:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False
            ready.append(timer)
        self._shuffle()
        if self._watch.pace.exhausted:
            raise self._watch.failure or AssertionError
        if not ready and not self._stopping:  # every step belongs to a frozen process; the loop itself would wait in real time
            return
        self._rounds += 1
        if self._rounds % LOOK_EVERY == 0 or self._has_sockets() or self._has_cancelled_timers() or self._debug:
            super()._run_once()  # type: ignore[misc]
            return
        for _ in range(len(ready)):  # as the loop does it, but without a look at sockets in each round
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _has_sockets(self) -> bool:
        return len(self._selector.get_map()) > self._sockets

    def _has_cancelled_timers(self) -> bool:
        return 2 * self._timer_cancelled_count > len(self._scheduled) > MANY_TIMERS

    def _next_timer(self) -> float:
        """Return when the next timer is due; infinity if there is none, or only those of endless sleeps. Drops cancelled timers."""
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False
        when: float = scheduled[0]._when if scheduled else math.inf
        return when

    def _shuffle(self) -> None:
        """Reorder the steps of tasks. Handles that other threads append meanwhile stay at the end."""
        ready, pace, frozen = self._ready, self._watch.pace, self._freezer.active
        moved = self._watch.moved
        handles: list[Any] = []
        steps: list[tuple[int, Any]] = []
        places: list[int] = []
        for _ in range(len(ready)):
            handle = ready.popleft()
            if frozen and self._freezer.holds(handle._context, handle):
                continue
            owner: object = getattr(handle._callback, "__self__", None)
            if issubclass(type(owner), asyncio.Task):
                pace.step(handle._context, cast("asyncio.Task[Any]", owner).get_name)
                moved.add(owner)
                places.append(len(handles))
                steps.append((number(owner), handle))
            handles.append(handle)
        if len(steps) > 1:
            steps.sort(key=FIRST)
            self._random.shuffle(steps)
            for index, (_, handle) in zip(places, steps, strict=True):
                handles[index] = handle
        ready.extendleft(reversed(handles))

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return sorted(asyncio.all_tasks(self), key=number)

    def _cancel_all(self) -> None:
        for task in self._tasks():
            task.cancel()


def number(task: object) -> int:
    """Return the task's number: how many tasks the loop had created, this one included."""
    return getattr(task, "redisaq_number", 0)


@cache
def check() -> None:
    """Raise VirtualTimeUnavailable if asyncio's private parts are not as this module expects."""
    with closing(asyncio.SelectorEventLoop()) as loop:
        found = {name for name, kind in NEEDED.items() if isinstance(getattr(loop, name, None), kind)}
        found |= {name for name in METHODS if callable(getattr(loop, name, None))}
        timer = loop.call_at(0.0, loop.stop)
        found |= {name for name in TIMERS if hasattr(timer, name)}
        task = loop.create_task(checkpoint())
        if any(getattr(getattr(handle, "_callback", None), "__self__", None) is task for handle in getattr(loop, "_ready", ())):
            found.add(STEPS)
        task.cancel()
        loop.call_soon(loop.stop)
        loop.run_forever()
    missing = [name for name in (*NEEDED, *METHODS, *TIMERS, STEPS) if name not in found]
    if missing:
        raise VirtualTimeUnavailable(f"Python {python_version()}: asyncio's event loop lacks what virtual time needs: {', '.join(missing)}")
