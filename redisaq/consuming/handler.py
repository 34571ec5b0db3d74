"""Makes whatever a user gives as a handler into one coroutine function.

An async function, a partial of one, or an object with async `__call__` is called in the event loop. Anything else runs in a worker thread;
if it returns an awaitable, that is awaited in the loop. A thread cannot be stopped: when the lease or the timeout ends, it is abandoned.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

from redisaq.callables import is_async
from redisaq.consuming.concurrency import Abandoned
from redisaq.environment import Environment

A = TypeVar("A")


def adapt(
    callback: Callable[[A], Any], environment: Environment, abandoned: Callable[[A, Abandoned], None]
) -> Callable[[A], Awaitable[Any]]:
    """Return the handler as a coroutine function.

    Args:
        callback: the user's.
        environment: runs plain functions.
        abandoned: called with the argument and the thread when a plain function is left running.
    """
    if is_async(callback):
        return callback
    limiter = anyio.CapacityLimiter(math.inf)  # how many run at once is for `Concurrency` to say

    async def call(argument: A) -> object:
        thread = Abandoned()

        def run() -> tuple[Any]:  # boxed: trio refuses a thread's function that returns a coroutine
            thread.started = True
            if thread.dropped:  # cancelled before the thread had begun
                return (None,)
            try:
                return (callback(argument),)
            finally:
                thread.returned = True

        try:
            (result,) = await environment.run_plain(run, limiter)
        except BaseException:
            thread.dropped = True
            if thread.started and not thread.returned:
                abandoned(argument, thread)
            raise
        if inspect.isawaitable(result):
            return await result
        return result

    return call
