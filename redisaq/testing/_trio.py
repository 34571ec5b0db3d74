"""Virtual time and seeded scheduling on trio.

Input: a coroutine function and a seed. Output: its result. The clock is trio's MockClock, which jumps to the next deadline when all tasks
wait. Scheduling uses trio's own deterministic mode, made for property tests: it sorts each batch of runnable tasks by creation, then
shuffles it with a generator that is seeded here.

This is one of two modules that touch private parts of an event loop: `_ALLOW_DETERMINISTIC_SCHEDULING`, `_r` and the queue of runnable
tasks of trio's scheduler, and `MockClock._autojump`.
"""

# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false
# Both: this module works on private parts, see above.
from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from random import Random
from typing import TypeVar

import anyio
import trio
import trio.testing
from trio._core import _run

from redisaq.testing.freezing import Freezer
from redisaq.testing.standstill import VirtualTimeUnavailable, Watch

T = TypeVar("T")

DETERMINISTIC = "_ALLOW_DETERMINISTIC_SCHEDULING"


def run(main: Callable[[Callable[[], float]], Awaitable[T]], seed: object, watch: Watch, freezer: Freezer) -> T:
    """Run `main` on trio in virtual time, with the interleaving that the seed gives. `main` gets the clock."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    if not callable(getattr(clock, "_autojump", None)):
        raise VirtualTimeUnavailable(f"trio {trio.__version__}: MockClock has no _autojump")

    def jump() -> None:
        seconds = _run.GLOBAL_RUN_CONTEXT.runner.deadlines.next_deadline() - clock.current_time()
        if math.isinf(seconds):
            sockets = waits_for_sockets(trio.lowlevel.current_statistics().io_statistics)
            watch.standstill(
                clock.current_time(), [(task.name, task.coro) for task in tasks()], sockets=sockets, break_shields=break_shields
            )
        elif seconds > 0:
            watch.let_threads_go_on(lambda task: task.coro)
            clock.jump(seconds)
            watch.pace.moved(clock.current_time())

    def current_time() -> float:
        return clock._virtual_base  # which is all there is to it, without a rate

    setattr(clock, "_autojump", jump)  # noqa: B010 -- MockClock is final
    setattr(clock, "current_time", current_time)  # noqa: B010 -- as above
    options = {"clock": clock, "instruments": [Gatekeeper(freezer, watch, clock)]}
    with seeded(seed):
        try:
            return anyio.run(main, current_time, backend="trio", backend_options=options)
        except trio.TrioInternalError as error:
            if watch.failure is not None:
                raise watch.failure from error
            raise


class Gatekeeper(trio.abc.Instrument):
    """Count steps, and remove the tasks of frozen processes from the queue of runnable tasks until they thaw."""

    def __init__(self, freezer: Freezer, watch: Watch, clock: trio.testing.MockClock) -> None:
        """Prepare for a run.

        Args:
            freezer: holds back the tasks of frozen processes.
            watch: handles standstills and runs that never end.
            clock: the run's clock.
        """
        self._freezer = freezer
        self._watch = watch
        self._pace = watch.pace
        self._clock = clock
        freezer.resume = lambda tasks: _run.GLOBAL_RUN_CONTEXT.runner.runq.extend(tasks)  # noqa: PLW0108 -- there is no runner yet

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Handle a task that has just been put at the end of the queue."""
        self._watch.moved.add(task)
        self._pace.step(task.context, lambda: task.name)
        if self._pace.exhausted:
            self._give_up()
        if self._freezer.active and self._freezer.holds(task.context, task):
            queue = _run.GLOBAL_RUN_CONTEXT.runner.runq
            if queue.pop() is not task:
                raise VirtualTimeUnavailable(f"trio {trio.__version__}: a runnable task is not at the end of the queue")

    def _give_up(self) -> None:
        """End a run that does not end when cancelled: trio asks the clock before each batch of steps, and gets an error."""

        def current_time() -> float:
            raise self._watch.failure or AssertionError

        setattr(self._clock, "current_time", current_time)  # noqa: B010 -- MockClock is final


@contextmanager
def seeded(seed: object) -> Generator[None]:
    """Seed the random choices of trio's scheduler, and restore everything afterwards."""
    source = getattr(_run, "_r", None)
    if not isinstance(source, Random) or not isinstance(getattr(_run, DETERMINISTIC, None), bool):
        raise VirtualTimeUnavailable(f"trio {trio.__version__}: its scheduler has no _r or no {DETERMINISTIC}")
    allowed, state = getattr(_run, DETERMINISTIC), source.getstate()
    setattr(_run, DETERMINISTIC, True)
    source.seed(str(seed))
    try:
        yield
    finally:
        setattr(_run, DETERMINISTIC, allowed)
        source.setstate(state)


def waits_for_sockets(statistics: object) -> bool:
    """Return True if a task waits for a socket. One task of trio's own always does, for wake-ups from other threads."""
    names = ("tasks_waiting_read", "tasks_waiting_write", "tasks_waiting", "monitors")
    return sum(getattr(statistics, name, 0) for name in names) > 1


def tasks() -> list[trio.lowlevel.Task]:
    """Return all tasks in the order in which they were created."""
    root = trio.lowlevel.current_root_task()
    found: list[trio.lowlevel.Task] = []
    unseen = [root] if root is not None else []
    while unseen:
        task = unseen.pop()
        found.append(task)
        unseen += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return sorted(found, key=lambda task: task._counter)


def break_shields() -> None:
    """Remove all shields, so that cancellation reaches every task."""
    for task in tasks():
        status: _run.CancelStatus | None = task._cancel_status
        while status is not None:
            status._scope.shield = False
            status = status._parent
