"""The iterator behind `Consumer.messages()`: an object inside a context manager, never an async generator that holds a task group."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup, TaskStatus

from redisaq.actors.offers import Offers
from redisaq.actors.pull_worker import PulledDelivery
from redisaq.message import Message

T = TypeVar("T")


class Messages(Generic[T]):
    """`async with consumer.messages() as messages: async for message in messages: async with message: ...`.

    The consumer runs while the block does. Leaving it gives the partitions back and leaves the group; messages that were handed out and
    not settled go to the next owner. When the block is cancelled, so is all of that but the settling of what is done.
    """

    def __init__(self, run: Callable[[Offers[Message[T]], TaskStatus[None]], Awaitable[None]], stop: Callable[[], None]) -> None:
        """Take what runs the consumer, and what ends it."""
        self._run = run
        self._stop = stop
        self._tasks: TaskGroup | None = None
        self._offers: Offers[Message[T]] | None = None

    async def __aenter__(self) -> Messages[T]:
        """Start the consumer; return when its first assignment is in, or at once where the topic does not exist yet."""
        if self._tasks is not None:
            reason = "one block of messages() can be entered once; call messages() again"
            raise RuntimeError(reason)
        self._offers = Offers()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        try:
            await self._tasks.start(self._serve, self._offers, name="redisaq messages")
        except BaseException as error:
            if not await self._tasks.__aexit__(type(error), error, error.__traceback__):
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
        return await self._tasks.__aexit__(kind, error, traceback)

    def __aiter__(self) -> Messages[T]:
        """Iterate until the consumer stops."""
        return self

    async def __anext__(self) -> Message[T]:
        """Return the next message, waiting for one. Cancelled, it takes none."""
        if self._offers is None:
            reason = "iterate inside `async with consumer.messages() as messages`"
            raise RuntimeError(reason)
        while True:
            try:
                message = await self._offers.take()
            except anyio.EndOfStream:
                raise StopAsyncIteration from None
            delivery = message.delivery
            assert isinstance(delivery, PulledDelivery)  # noqa: S101
            if delivery.take():
                return message
