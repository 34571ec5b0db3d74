"""Tell how a user's callable will behave when it is called, as far as that can be known before; and what its exceptions mean.

Nothing here calls the callable, and an answer that cannot be known is not guessed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, cast

import anyio

MOST_WRAPPINGS = 100
"""The most partials, methods and objects inside each other that are unwrapped."""


def function_of(callback: Any) -> Any:  # noqa: ANN401 -- any object of a user
    """Return the function behind partials, bound and static methods and objects with `__call__`; return a class or a builtin as it is."""
    for _ in range(MOST_WRAPPINGS):
        if isinstance(callback, FunctionType | type):
            break
        if isinstance(callback, functools.partial):
            callback = callback.func
        elif isinstance(callback, MethodType | staticmethod):
            callback = callback.__func__
        else:
            call: Any = getattr(type(cast("object", callback)), "__call__", None)  # noqa: B004
            if not isinstance(call, FunctionType | functools.partial | staticmethod):
                break
            callback = cast("Any", call)
    return callback


def is_async(callback: Any) -> bool:  # noqa: ANN401 -- as above
    """Return whether a call certainly makes a coroutine."""
    while isinstance(callback, functools.partial):
        callback = callback.func
    if isinstance(callback, type):
        return False
    call = getattr(callback, "__call__", None)  # noqa: B004
    return any(map(inspect.iscoroutinefunction, (callback, call, function_of(callback))))


def is_generator(callback: Any) -> bool:  # noqa: ANN401 -- as above
    """Return whether a call certainly makes a generator, or an object that `contextlib` makes of one, and so runs nothing of it."""
    function = function_of(callback)
    if inspect.isasyncgenfunction(function):
        return True
    if inspect.isgeneratorfunction(function):
        return not function.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE  # `types.coroutine` makes a coroutine of it
    code = getattr(function, "__code__", None)
    made = getattr(code, "co_filename", None) == contextlib.__file__
    return made and is_generator(getattr(function, "__wrapped__", None))


def misfit(callback: Any, count: int = 1) -> str:  # noqa: ANN401 -- as above
    """Return why it cannot be called with so many arguments; "" if it can, or if that is unknown.

    A decorator that takes `*args` may add its own arguments to those that it passes on, but what it wraps must be able to take them. A
    decorator that names its arguments may use them itself.
    """
    arguments = (object(),) * count
    try:
        own = inspect.signature(callback, follow_wrapped=False)
        promised = inspect.signature(callback)
    except Exception:  # noqa: BLE001 -- what is built in may have none, and a user's object may have anything
        return ""
    try:
        named = own.bind(*arguments).arguments
        for parameter in own.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                promised.bind_partial(*named.get(parameter.name, ()))
    except TypeError as error:
        return str(error)
    return ""


def unrun(result: object) -> str:
    """Describe what a call of a function made and did not run, and close it; return "" for any other result."""
    if inspect.isgenerator(result):
        result.close()
        return "a generator"
    if inspect.iscoroutine(result):
        result.close()
        return "a coroutine that nobody awaits"
    if inspect.isasyncgen(result):
        return "an async generator"
    if isinstance(result, contextlib.AbstractContextManager | contextlib.AbstractAsyncContextManager):
        inner = getattr(cast("object", result), "gen", None)
        if inspect.isgenerator(inner) or inspect.isasyncgen(inner):
            return "a context manager that nobody enters"
    return ""


def is_failure(error: BaseException) -> bool:
    """Return whether what a plain function raised is a failure of its own: any Exception, and a cancellation.

    The function awaits nothing, so nobody can have cancelled it: it raises the result of something that was cancelled. If that went on, the
    task would end as one that was cancelled.
    """
    if isinstance(error, Exception):
        return True
    try:
        return isinstance(error, anyio.get_cancelled_exc_class())
    except anyio.NoEventLoopError:
        return False


def both(first: Callable[[Any], object] | None, then: Callable[[Any], object] | None) -> Callable[[Any], object] | None:
    """Return a function that calls both. If one is None, return the other."""
    if first is None or then is None:
        return first or then

    def call(argument: Any) -> None:  # noqa: ANN401 -- an event, or an outgoing message
        first(argument)
        then(argument)

    return call
