"""Lets each handler begin with the context variables that `process()` was called with.

In: the loop of a worker, which runs one handler after the other in one task. Out: the same, but what a handler sets (a ContextVar, a
decimal context) is not seen by the next. A task for each message would cost more than most handlers do. So the loop compares its context
with the one that it began with, after each handler, which costs next to nothing; where they differ it returns, and is entered again under
a new copy, in the same task.

What a handler changes in place, in an object that stood in the context before (a list, a decimal context that the program had set), is
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
    except Exception:  # noqa: BLE001 -- values that cannot be compared: one was replaced, since the same one is not compared
        return True


async def afresh(loop: Callable[[Context], Coroutine[Any, Any, bool]], base: Context) -> None:
    """Run a loop, and again for as long as it returns True: the context has changed, and it is to go on under a new copy.

    Args:
        loop: called with `base`; it keeps elsewhere where it was.
        base: the context that handlers begin with. The current one may differ from it.
    """
    again = changed(base) or await loop(base)
    while again:
        again = await under(base.copy(), loop(base))


@coroutine
def under(context: Context, body: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Await a coroutine in this task, each of its steps under a context of its own. No event loop notices."""
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
        except BaseException as error:  # noqa: BLE001 -- the body's to handle
            step, value = body.throw, error
