"""Run a program in virtual time: it sleeps for an hour in no time, and one seed gives one interleaving of its tasks.

Input: a coroutine function, its arguments and a seed. Output: its result, the same for the same seed on every machine and in every process.
The program sees an Environment whose random numbers come from the seed, whose wall clock is a fixed epoch plus the loop's time, and whose
plain functions run inline.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Literal, SupportsIndex, TypeVar

import anyio
from anyio.lowlevel import checkpoint, current_token

from redisaq.describing import shown
from redisaq.environment import Environment, use_environment
from redisaq.errors import SettingsError
from redisaq.settings import check_callable
from redisaq.testing.freezing import Freezer, use_freezer
from redisaq.testing.pace import NO_LIMITS, Limits
from redisaq.testing.standstill import Watch

T = TypeVar("T")

EPOCH = 1_700_000_000.0
"""The wall clock's time at the start of a run in virtual time: 14 November 2023."""


def virtual_run(
    main: Callable[..., Awaitable[T]],
    *args: Any,
    seed: int = 0,
    backend: Literal["trio", "asyncio"] = "trio",
    limits: Limits = NO_LIMITS,
) -> T:
    """Run `main(*args)` in virtual time, with the interleaving of tasks that the seed gives, and return its result.

    Time stands still while any task can run, and jumps to the next deadline when none can. `main` must therefore not wait for another
    process or a real server. Use `memory://`: what would connect to a server raises SettingsError. The environment that
    `redisaq.environment.current_environment()` returns is seeded as well: its Random is seeded, its wall clock starts at EPOCH, and its
    plain functions run inline. On asyncio, `virtual_run` uses asyncio's own loop, not uvloop.

    You cannot call it in a thread in which an event loop is running, nor from two threads at once.

    Args:
        main: a coroutine function.
        args: the arguments of `main`.
        seed: a whole number that selects the interleaving.
        backend: "trio" or "asyncio".
        limits: when to stop a run that does not end. Default: never.

    Raises:
        VirtualTimeExceeded: the run exceeded its limits.
        VirtualDeadlock: every task waits, and nothing is left that could wake one.
        VirtualTimeUnavailable: this version of Python or trio lacks a part that virtual time needs.
        SettingsError: there is no such backend, `seed` is not a whole number, or `main` is not callable.
        RuntimeError: an event loop is already running in this thread.
        Exception: any exception that `main` raises.
    """
    if in_event_loop():
        raise RuntimeError(
            "an event loop is already running in this thread: call virtual_run and simulate from a plain function, such as "
            "a test without `async`, or let @pytest.mark.redisaq_seeds run the coroutine test"
        )
    check_callable("main", main)
    if not isinstance(seed, SupportsIndex):  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without types; None would be chance
        raise SettingsError(f"seed must be a whole number, not {shown(seed)}: otherwise no run could be repeated")
    watch, freezer = Watch(limits), Freezer()
    random = Random(seed)  # noqa: S311 -- reproducible chance is the point

    async def root(now: Callable[[], float]) -> T:
        environment = Environment(
            clock=now,
            monotonic=now,
            wall_clock=lambda: EPOCH + now(),
            random=random,
            run_plain=run_inline,
            host=lambda: "virtual",
            pid=lambda: 1,
            real=False,
        )
        use_freezer(freezer)
        with use_environment(environment):
            return await watch.over(main, *args)

    # Imported here, since each needs its event loop installed, and only one is used.
    if backend == "trio":
        from redisaq.testing import _trio  # noqa: PLC0415

        return _trio.run(root, seed, watch, freezer)
    if backend == "asyncio":
        from redisaq.testing import _asyncio  # noqa: PLC0415

        return _asyncio.run(root, seed, watch, freezer)
    raise SettingsError(f"backend must be trio or asyncio, not {backend!r}")


def in_event_loop() -> bool:
    """Return whether an event loop is running in this thread."""
    try:
        current_token()
    except RuntimeError:
        return False
    return True


async def run_inline(function: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:  # noqa: ARG001 -- one at a time here
    """Call a plain function in the event loop's thread: in a worker thread it would take real time, while virtual time runs far ahead."""
    await checkpoint()
    return function()
