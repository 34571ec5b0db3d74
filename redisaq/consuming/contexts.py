"""Runs each handler with the context variables with which `process()` was called.

A worker runs one handler after another in one task, but what a handler sets (a ContextVar, a decimal context) is not visible to the next. A
task for each message would cost more than most handlers. So after each handler the loop compares its context with the original one, which
costs next to nothing. If they differ, it returns and is entered again under a new copy, in the same task.

If a handler changes an object in place that was in the context before (a list, a decimal context that the program had set), the change is
shared, as it is between tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def changed(base: Context) -> bool:
    """Return whether the current context differs from this one."""
    try:
        return copy_context() != base
    except Exception:  # noqa: BLE001 -- values that cannot be compared: one was replaced, since identical ones are not compared
        return True


async def afresh(loop: Callable[[Context], Coroutine[Any, Any, bool]], base: Context) -> None:
    """Run a loop, and again under a new copy of the context as long as it returns True because the context has changed.

    Args:
        loop: called with `base`; it keeps its position elsewhere.
        base: the context with which handlers begin. The current one may differ from it.
    """
    again = changed(base) or await loop(base)
    while again:
        again = await under(base.copy(), loop(base))


@coroutine
def under(context: Context, body: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Await a coroutine in this task, with each of its steps under a given context. No event loop notices."""
    step: Callable[[Any], Any] = body.send
    value: Any = None
    while True:
        try:
            wanted = context.run(step, value)
        except StopIteration as end:
            result: T = end.value
            return result
        try:
            step, value = body.send, (yield wanted)
        except BaseException as error:  # noqa: BLE001 -- for the body to handle
            step, value = body.throw, error
