"""The iterator behind `Consumer.messages()`: an object inside a context manager, never an async generator that holds a task group."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, TypeVar, cast

import anyio
from anyio.abc import TaskGroup, TaskStatus

from redisaq.consuming.offers import Offers
from redisaq.message import Message

T = TypeVar("T")


class Messages(Generic[T]):
    """`async with consumer.messages() as messages: async for message in messages: async with message: ...`.

    The consumer runs while the block does. Leaving it gives the partitions back and leaves the group; messages that were handed out and
    not settled go to the next owner. When the block is cancelled, or left by an exception, so is all of that but the settling of what is
    done.

    Errors pass as they are, never in a group that the block's own tasks would make of them: the block's error, or else the one that ended
    the consumer.
    """

    def __init__(
        self, run: Callable[[Offers[Message[T]], TaskStatus[None]], Awaitable[None]], stop: Callable[[], None], *, most: int
    ) -> None:
        """Take what runs the consumer, what ends it, and how many messages may be handed out and not settled."""
        self._run = run
        self._stop = stop
        self._most = most
        self._tasks: TaskGroup | None = None
        self._offers: Offers[Message[T]] | None = None

    async def __aenter__(self) -> Messages[T]:
        """Start the consumer; return when its first assignment is in, or at once where the topic does not exist yet."""
        if self._tasks is not None:
            reason = "one block of messages() can be entered once; call messages() again"
            raise RuntimeError(reason)
        self._offers = Offers(self._most)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        try:
            await self._tasks.start(self._serve, self._offers, name="redisaq messages")
        except BaseException as error:
            if not await self._end(self._tasks, error):
                raise
        return self

    async def _serve(self, offers: Offers[Message[T]], *, task_status: TaskStatus[None]) -> None:
        try:
            await self._run(offers, task_status)
        finally:
            offers.close()  # the end of the iteration

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Stop the consumer and wait for its end."""
        assert self._tasks is not None  # noqa: S101
        self._stop()
        return await self._end(self._tasks, error)

    async def _end(self, tasks: TaskGroup, error: BaseException | None) -> bool | None:
        """Wait for the consumer's end; True if the block was left by nothing but the cancellation that the consumer's end has brought."""
        cancellation, own = _parts(error)
        if own is not None:
            tasks.cancel_scope.cancel()
        try:
            swallowed = await tasks.__aexit__(type(cancellation) if cancellation else None, cancellation, None)
        except BaseException as end:
            left, cause = _parts(end)
            cause = _alone(cause)
            if own is None or not (cause is None or isinstance(cause, Exception)):
                if cause is None or cause is end:
                    raise
                raise cause from cause.__cause__
            swallowed = left is None  # the block's own error wins: over the consumer's, and over a cancellation, as in any task group
        if own is None:
            return swallowed
        if cancellation is None or not swallowed:
            return False
        raise own from own.__cause__  # trio raises both as one group, and the cancellation was for this block alone

    def __aiter__(self) -> Messages[T]:
        """Iterate until the consumer stops."""
        return self

    async def __anext__(self) -> Message[T]:
        """Return the next message, waiting for one. Cancelled, it takes none."""
        if self._offers is None:
            reason = "iterate inside `async with consumer.messages() as messages`"
            raise RuntimeError(reason)
        try:
            return await self._offers.take()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None


def _parts(error: BaseException | None) -> tuple[BaseException | None, BaseException | None]:
    """Return what of an error is cancellation, and the rest of it."""
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        cancellation, rest = group.split(cancelled)
        return cancellation, group if cancellation is None else rest
    return (error, None) if isinstance(error, cancelled) else (None, error)


def _alone(error: BaseException | None) -> BaseException | None:
    """Return what the groups hold that the block's own tasks made: there is one such task."""
    while isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        first, *others = group.exceptions
        if others:
            return group
        error = first
    return error
