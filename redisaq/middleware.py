"""Middleware: wraps a program's handlers, and describes outgoing messages for its hooks.

Middleware runs inside the handler's lease and timeout, outermost first. An exception of middleware is a failure of the handler. Without
middleware, handlers are not wrapped at all.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

import msgspec

from redisaq.callables import is_async, is_failure, is_generator, misfit
from redisaq.describing import shown
from redisaq.errors import SettingsError
from redisaq.logs import log
from redisaq.message import Message

Next: TypeAlias = Callable[[], Awaitable[None]]
"""Calls the next middleware, or the handler if there is none."""

Middleware: TypeAlias = Callable[[tuple[Message[Any], ...], Next], Awaitable[object]]
"""Wraps a handler: `async def tenant(messages, call_next): ...; await call_next()`.

It receives the messages that the handler receives: one, or a batch. If it does not call `call_next`, the handler does not run, and the
messages count as done.
"""


class Outgoing(msgspec.Struct, frozen=True):
    """A message that is about to be serialized.

    Attributes:
        topic: the topic it is sent to.
        payload: the value that will be serialized.
        key: the message's key, or None.
        headers: the message's headers. You may change them: the changed headers are sent.
        when_sent: append functions to it. Each is called once, when the call that sends the message ends, with the message's id and None,
            or with "" and the error (a cancellation, too) that the call raises.
    """

    topic: str
    payload: Any
    key: str | None
    headers: dict[str, str]
    when_sent: list[Callable[[str, BaseException | None], object]] = []


class Sending:
    """The messages of one call to a producer that has an `on_send`: calls it with each, and afterwards what it appended to `when_sent`."""

    def __init__(self, topic: str, on_send: Callable[[Outgoing], object], logger: logging.Logger) -> None:
        """Begin without messages.

        Args:
            topic: the producer's topic.
            on_send: the user's.
            logger: logs what functions of `when_sent` raise. The caller must not see it: the messages may have been sent.
        """
        self._topic = topic
        self._on_send = on_send
        self._logger = logger
        self._shown: list[Outgoing] = []
        self.ids: Sequence[str] = ()

    def show(self, payload: object, key: str | None, headers: Mapping[str, str] | None) -> Mapping[str, str]:
        """Call `on_send` with a message, and return its headers."""
        outgoing = Outgoing(self._topic, payload, key, dict(headers or {}))
        self._shown.append(outgoing)
        self._on_send(outgoing)
        return outgoing.headers

    def __enter__(self) -> Self:
        """Begin the call."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """End the call."""
        for number, outgoing in enumerate(self._shown):
            msg_id = self.ids[number] if error is None and self.ids else ""
            for function in outgoing.when_sent:
                try:
                    function(msg_id, error)
                except BaseException as failure:
                    if not is_failure(failure):
                        raise
                    log(self._logger, logging.ERROR, "a function of when_sent failed", failure)


def check_middleware(middleware: object) -> tuple[Middleware, ...]:
    """Return the middleware as a tuple; SettingsError unless each is an async function."""
    if isinstance(middleware, str) or not isinstance(middleware, Sequence):
        raise SettingsError(f"middleware must be a list of async functions, not {shown(middleware)}")
    for one in middleware:  # pyright: ignore[reportUnknownVariableType] -- callers without types give whatever they have
        if not callable(one) or isinstance(one, type) or is_generator(one) or not is_async(one):  # pyright: ignore[reportUnknownArgumentType]
            raise SettingsError(f"middleware must be async functions of (messages, call_next), not {shown(one)}")  # pyright: ignore[reportUnknownArgumentType]
        if reason := misfit(one, 2):
            raise SettingsError(f"middleware is called with (messages, call_next), and {shown(one)} cannot be: {reason}")
    return tuple(middleware)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def through(middleware: Sequence[Middleware], handler: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """Wrap a handler in middleware. The result returns what the handler returns. Without middleware, return the handler itself."""
    if not middleware:
        return handler

    async def call(argument: Any) -> Any:  # noqa: ANN401 -- a message, or a list of them; and whatever the handler returns
        result: Any = None

        async def innermost() -> None:
            nonlocal result
            result = await handler(argument)

        messages = tuple(cast("list[Message[Any]]", argument)) if isinstance(argument, list) else (cast("Message[Any]", argument),)
        following: Next = innermost
        for one in reversed(middleware):
            following = _around(one, messages, following)
        await following()
        return result

    return call


def _around(one: Middleware, messages: tuple[Message[Any], ...], following: Next) -> Next:
    called = False

    async def call_next() -> None:
        nonlocal called
        if called:
            reason = f"middleware {shown(one)} called call_next twice: a handler runs once"
            raise RuntimeError(reason)
        called = True
        await following()

    async def run() -> None:
        await one(messages, call_next)

    return run
