"""Virtual time and seeded scheduling on asyncio.

In: a coroutine function and a seed. Out: its result. A selector event loop whose clock jumps to the next timer when nothing is ready, and
    which, in each
round, sorts the steps of tasks by the tasks' creation and shuffles them by the seed. Sorting comes first because anyio iterates over sets
of tasks, whose order differs from process to process. Everything else that is ready, callbacks of sockets and futures among them, keeps its
place: it relies on first-in first-out.

This is one of two modules that touch private parts of an event loop: `_run_once` and what it works on.
"""

# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false
# Both: private parts are this module's business, see above.
from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from platform import python_version
from random import Random
from typing import Any, TypeVar

import anyio

from redisaq.testing.standstill import VirtualTimeUnavailable, Watch, place

T = TypeVar("T")

NEEDED: dict[str, type] = {
    "_ready": deque,
    "_scheduled": list,
    "_timer_cancelled_count": int,
    "_clock_resolution": float,
    "_stopping": bool,
    "_selector": object,
}


def run(main: Callable[[], Awaitable[T]], seed: object, watch: Watch) -> T:
    """Run `main` on asyncio in virtual time, interleaved as the seed says."""
    return anyio.run(main, backend="asyncio", backend_options={"loop_factory": partial(VirtualLoop, seed, watch)})


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    _ready: deque[Any]
    _scheduled: list[Any]
    _timer_cancelled_count: int
    _clock_resolution: float
    _stopping: bool
    _selector: Any
    _process_events: Callable[[Any], None]

    def __init__(self, seed: object, watch: Watch) -> None:
        """Begin at time 0."""
        super().__init__()
        check(self)
        self._now = 0.0
        self._clock_resolution = 0.0
        self._random = Random(str(seed))  # noqa: S311 -- an interleaving is no secret
        self._watch = watch
        self._made = 0
        self._sockets = len(self._selector.get_map())
        self._checked = False

    def time(self) -> float:
        """Return virtual time, seconds since the loop was made."""
        return self._now

    def create_task(self, coro: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any) -> asyncio.Task[T]:
        """Make a task, and number it."""
        task = super().create_task(coro, **options)
        self._made += 1
        setattr(task, "redisaq_number", self._made)  # noqa: B010 -- no attribute of Task
        return task

    def _run_once(self) -> None:
        """Advance the clock if nothing is ready, give the ready tasks an order, and run the round."""
        ready = self._ready
        self._drop_cancelled()
        while not ready and not self._scheduled and not self._stopping:
            sockets = len(self._selector.get_map()) > self._sockets
            self._watch.standstill(self._now, self._waiting(), sockets=sockets, break_shields=self._cancel_all)
            self._process_events(self._selector.select(0))
        scheduled = self._scheduled
        if not ready and scheduled and not self._stopping:
            self._now = max(self._now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._now:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            if not timer._cancelled:
                ready.append(timer)
            else:
                self._timer_cancelled_count -= 1
        self._shuffle()
        super()._run_once()  # type: ignore[misc]

    def _drop_cancelled(self) -> None:
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False

    def _shuffle(self) -> None:
        """Reorder the steps of tasks. What other threads append meanwhile stays where it is: at the end."""
        ready = self._ready
        handles = [ready.popleft() for _ in range(len(ready))]
        steps: list[tuple[int, Any]] = []
        places: list[int] = []
        for index, handle in enumerate(handles):
            owner: object = getattr(handle._callback, "__self__", None)
            if issubclass(type(owner), asyncio.Task):
                places.append(index)
                steps.append((number(owner), handle))
        if not self._checked and self._made:
            if not steps:
                raise VirtualTimeUnavailable(f"Python {python_version()}: the steps of asyncio's tasks cannot be told from other callbacks")
            self._checked = True
        steps.sort(key=lambda step: step[0])
        self._random.shuffle(steps)
        for index, (_, handle) in zip(places, steps, strict=True):
            handles[index] = handle
        ready.extendleft(reversed(handles))

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return sorted(asyncio.all_tasks(self), key=number)

    def _cancel_all(self) -> None:
        for task in self._tasks():
            task.cancel()

    def _waiting(self) -> list[str]:
        return [f"{task.get_name()}: {place(task.get_coro())}" for task in self._tasks()]


def number(task: object) -> int:
    """Return how many tasks the loop had made when it made this one."""
    return getattr(task, "redisaq_number", 0)


def check(loop: asyncio.AbstractEventLoop) -> None:
    """Refuse a version of asyncio whose private parts are not what this module knows."""
    for name, kind in NEEDED.items():
        if not isinstance(getattr(loop, name, None), kind):
            raise VirtualTimeUnavailable(f"Python {python_version()}: asyncio's event loop has no {name} as it is needed")
    for name in ("_run_once", "_process_events"):
        if not callable(getattr(loop, name, None)):
            raise VirtualTimeUnavailable(f"Python {python_version()}: asyncio's event loop has no {name}")
    timer = loop.call_at(0.0, loop.stop)
    missing = [name for name in ("_when", "_scheduled", "_cancelled", "_callback") if not hasattr(timer, name)]
    timer.cancel()
    if missing:
        raise VirtualTimeUnavailable(f"Python {python_version()}: asyncio's timers have no {missing[0]}")
