"""The path of a message that is pulled: from a partition's pool, through `Offers`, to the iterator of `Consumer.messages()`.

Input: batches from the partitions' readers. Output: one message at a time, in order, to the iterating task.

- `Offers`: the pools of all partitions offer one message each. The iterator takes them while fewer than the allowed number are handed out
  and not settled. One more is handed out if no task works on one of those, because the variable of a loop holds a message that `continue`
  has dropped until the next one is there. A message that must not be prepared before it is wanted is prepared between `demand` and `forgo`.
- `PullPool`, one for each partition, offers. The body of `async with message` runs in the user's task, in a scope that ends with the lease
  and with the message's timeout. Leaving it settles the message.
- `Messages` is what the user iterates over.

Taking a message never waits. So a task that is cancelled while it waits has taken nothing. (A memory stream would hand the item to the
waiting task, and asyncio's own `Task.cancel()` may come before that task runs; then the item would be lost.)

You may keep a message, or give it to another task, and enter it there. What the user gets is a copy, which this module references weakly.
Once nothing references it any more, no task will enter it: when the loop continues, the message has failed (NotHandled). The same applies
to a message whose body was left by a cancellation from outside. Until the loop continues, or if it ends instead, such a message waits in
the record, and is handed back with the rest, its attempt unused. The loop continues when it asks for the next message and is not cancelled.
At that moment, and whenever it may have changed, the iterator checks the messages that are handed out and on which no task works.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, cast
from weakref import ref

import anyio
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from msgspec import structs

from redisaq.actors.actor import Actor
from redisaq.actors.waiting import Signal
from redisaq.consuming.context import inside
from redisaq.consuming.handler_pool import Batch
from redisaq.consuming.handling import Execution, parted
from redisaq.core.in_flight import WAITING, Flight
from redisaq.errors import NotHandled
from redisaq.message import Message

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

LOOK_AGAIN = 0.5  # seconds: nothing reports that a message is no longer referenced


class Offered(Protocol[T_co]):
    """What a worker offers."""

    def hand_out(self) -> T_co | None:
        """Return the message for the iterator, None if its partition has begun to leave."""
        ...

    def look(self) -> None:
        """Check whether a task may still work on it; otherwise it has failed."""
        ...


class Offer(Generic[T]):
    """One item, until it is taken."""

    __slots__ = ("item", "taken")

    def __init__(self, item: Offered[T]) -> None:
        """Begin as not taken."""
        self.item = item
        self.taken = anyio.Event()


class Offers(Generic[T]):
    """The messages on offer, and the count of those handed out."""

    def __init__(self, most: int) -> None:
        """Begin open and without offers.

        Args:
            most: how many may be handed out and not settled.
        """
        self._most = most
        self._offers: deque[Offer[T]] = deque()
        self._out = 0  # handed out and not settled
        self._idle: dict[Offered[T], None] = {}  # of these, those that no task works on: never begun, or left by a cancellation
        self._change = Signal()
        self._demand = Signal()
        self._takers = 0
        self._promised = 0
        self._closed = False

    # -- workers -----------------------------------------------------------------------------------------------------------------

    async def demand(self) -> None:
        """Return once a task waits for which nothing is on offer or promised. Something is promised to it then, until `forgo`."""
        while min(self._takers, self._room) <= len(self._offers) + self._promised:
            await self._demand.wait()
        self._promised += 1

    def forgo(self) -> None:
        """End the promise: the message is on offer now, or there is nothing to offer."""
        self._promised -= 1
        self._changed()

    async def offer(self, item: Offered[T]) -> None:
        """Return once the item has been taken. If cancelled, the item is no longer on offer, or has just been taken."""
        offer = Offer(item)
        self._offers.append(offer)
        self._changed()
        try:
            await offer.taken.wait()
        except BaseException:
            with contextlib.suppress(ValueError):
                self._offers.remove(offer)
                self._changed()
            raise

    def close(self) -> None:
        """Tell the waiting tasks that nothing more comes."""
        self._closed = True
        self._changed()

    # -- what was handed out -----------------------------------------------------------------------------------------------------

    def begun(self, item: Offered[T]) -> None:
        """Record that a task works on it."""
        self._idle.pop(item, None)

    def left(self, item: Offered[T]) -> None:
        """Record that it is not settled, and that no task works on it any more."""
        self._idle[item] = None
        self._changed()

    def settled(self, item: Offered[T]) -> None:
        """Record that it is settled, or belongs to another owner."""
        self._idle.pop(item, None)
        self._out -= 1
        self._changed()

    # -- iterating ---------------------------------------------------------------------------------------------------------------

    async def take(self) -> T:
        """Return the first item on offer, waiting for one. If cancelled, it takes none and checks nothing.

        Raises:
            anyio.EndOfStream: there is none, and there will be none.
        """
        await checkpoint()
        self._takers += 1
        self._demand.fire()
        try:
            while True:
                for item in tuple(self._idle):  # nothing was awaited since the last check that this task is not cancelled
                    item.look()
                if self._offers and self._room > 0:
                    offer = self._offers.popleft()
                    offer.taken.set()
                    message = offer.item.hand_out()
                    if message is None:
                        continue
                    self._out += 1
                    self._idle[offer.item] = None
                    return message
                if self._closed:
                    raise anyio.EndOfStream
                if self._idle:
                    with anyio.move_on_after(LOOK_AGAIN):
                        await self._change.wait()
                    await checkpoint()  # if just cancelled, it checks nothing
                else:
                    await self._change.wait()
                    await checkpoint_if_cancelled()  # as above
        finally:
            self._takers -= 1

    @property
    def _room(self) -> int:
        """How many more may be handed out."""
        return self._most - self._out + bool(self._idle)

    def _changed(self) -> None:
        self._change.fire()
        self._demand.fire()


DROPPED = "the loop went on after the message had been dropped without being entered"
CANCELLED = "the loop went on after the message's body had been cancelled"


SHOWN = len(Message.__struct_fields__)
"""How many of a record's fields belong to the message: the rest is not for the user."""


class PulledMessage(Message[T], weakref=True):
    """What the user gets: a message whose references can be observed."""


class PulledDelivery:
    """The state of one pulled message: offered, handed out, perhaps entered, then ended."""

    def __init__(self, worker: PullPool, message: Flight) -> None:
        """Begin as offered."""
        self._worker = worker
        self._offers = worker.offers
        self._execution = worker.execution
        self._message = message
        self._handed: ref[PulledMessage[Any]] | None = None
        self._body: contextlib.AbstractContextManager[anyio.CancelScope] | None = None
        self._scope: anyio.CancelScope | None = None
        self._left = self._ended = False
        self.lost = False

    # -- before and after a body -------------------------------------------------------------------------------------------------

    def hand_out(self) -> PulledMessage[Any] | None:
        """Return the message for the iterator; None if the partition has begun to leave meanwhile, or the group was moved (S5)."""
        if not self._execution.owned.may_start or self._message.state not in WAITING:
            return None
        message: PulledMessage[Any] = PulledMessage(*structs.astuple(self._message)[:SHOWN])
        message.delivery = self
        self._handed = ref(message)
        self._worker.out[self] = None
        return message

    @property
    def handed_out(self) -> bool:
        """True once the iterator has got it."""
        return self._handed is not None

    def look(self) -> None:
        """Fail if no task will work on it any more: its body was cancelled, or nothing references it. Not if the partition leaves."""
        if self._execution.owned.may_start and (self._left or (self._handed is not None and self._handed() is None)):
            self._end()
            if self._message.state != "gone":  # else the group was moved, and it comes again (S5)
                self._execution.failed(self._message, NotHandled(CANCELLED if self._left else DROPPED))

    def withdraw(self) -> None:
        """Give it to the next owner because the partition leaves: if it was not entered, or not left yet, its attempt is not used."""
        self.lost = True
        self._end()
        if self._scope is not None and not self._left:
            self._execution.taken_back(self._message)
            self._scope.cancel()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            del self._worker.out[self]
            self._offers.settled(self)

    # -- the body ----------------------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Begin the body: a scope that the lease's end cancels."""
        if self._body is not None:
            reason = "this message has been entered before"
            raise RuntimeError(reason)
        if self._ended and not self.lost:  # the user entered a copy of it
            reason = "this message has failed: nobody referenced it any more when the loop went on"
            raise RuntimeError(reason)
        owned = self._execution.owned
        timeout = self._execution.timeout_of(self._message)
        self._body = owned.scope() if timeout is None else self._limited(timeout)
        self._scope = self._body.__enter__()
        self._inside = self._execution.enter_body()
        if self.lost or not owned.may_start or self._message.state not in WAITING:  # it belongs to another owner now, or comes again (S5)
            self.lost = True
            self._scope.cancel()
        else:
            self._offers.begun(self)
            self._execution.began(self._message)

    @contextlib.contextmanager
    def _limited(self, seconds: float) -> Generator[anyio.CancelScope]:
        """Return the same scope around one that ends after this time with TimeoutError, which is a failure of the body."""
        with self._execution.owned.scope() as scope, anyio.fail_after(seconds, reason=f"the body took longer than {seconds:g} s"):
            yield scope

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> bool:
        """End the body and settle; True swallows the exception."""
        assert self._body is not None  # noqa: S101 -- by Message.__aexit__
        inside.reset(self._inside)
        try:
            swallowed = bool(self._body.__exit__(kind, error, traceback))
        except Exception as left:  # noqa: BLE001 -- its timeout; and on trio errors from one group with the body's own cancellation
            error, swallowed = left, False
        owned = self._execution.owned
        if self.lost or owned.lost or not owned.lease.alive():
            self.lost = True
            self._execution.cancelled(self._message)
            self._execution.look_back((self._message,))
            self._end()
            return swallowed or error is None or isinstance(error, Exception)
        if error is None:
            self._execution.succeeded(self._message)
        elif isinstance(error, Exception):
            self._execution.failed(self._message, error)
        else:
            return self._interrupted(error)
        self._end()
        return True

    def _interrupted(self, error: BaseException) -> bool:
        """Handle a body that was cancelled from outside, or interrupted; False: the cancellation propagates."""
        failure, interruption = parted(error)
        if failure is None:
            self._left = True
            self._execution.taken_back(self._message)
            self._offers.left(self)
            return False
        self._execution.failed(self._message, failure)
        self._end()
        raise interruption from None


class PullPool(Actor[Batch]):
    """Offers one partition's messages to the iterator, in order."""

    def __init__(self, execution: Execution, offers: Offers[Message[Any]]) -> None:
        """Begin without offers.

        Args:
            execution: records the results.
            offers: where to offer messages to the iterator.
        """
        super().__init__(name="handler_pool", capacity=4)
        self.execution = execution
        self.offers = offers
        self.out: dict[PulledDelivery, None] = {}  # handed out and not ended, in that order: a set's order would differ between runs

    async def run(self) -> None:
        """Offer until the mailbox is closed, then wait for the running bodies."""
        try:
            await super().run()
            await self.execution.owned.wait_finished()
        finally:
            for delivery in tuple(self.out):
                delivery.withdraw()

    async def receive(self, message: Batch) -> None:
        """Offer the messages of the batch one after the other. What a pause finds on offer is on offer again after it."""
        owned, gate = self.execution.owned, self.execution.gate
        for one in message:
            waits = True
            while waits and owned.may_start:
                if gate.closed:
                    await self.execution.resumed()
                delivery = PulledDelivery(self, one)
                with owned.until_drain(gate):
                    if await self._ready(one):  # else this one is dead, or purged, or the partition leaves
                        await self.offers.offer(delivery)
                    waits = False
                waits = waits and not delivery.handed_out
            if not owned.may_start:
                return

    async def _ready(self, message: Flight) -> bool:
        """Return whether it may be offered. One that was delivered before is counted (T5), but only once it is wanted.

        Otherwise each crash would cost an attempt of one message in every partition that no task had begun.
        """
        if message.state == "new":
            return bool(await self.execution.ready((message,)))
        await self.offers.demand()
        try:
            return bool(await self.execution.ready((message,)))
        finally:
            self.offers.forgo()


class Messages(Generic[T]):
    """`async with consumer.messages() as messages: async for message in messages: async with message: ...`.

    The consumer runs while the block does. Leaving the block gives the partitions back and leaves the group; messages that were handed out
    and not settled go to the next owner. If the block is cancelled, or left by an exception, the consumer is cancelled: it still settles
    what is done and hands back the rest, within bounded time.

    Errors are raised as they are, never in a group made by the block's own tasks: the block's error, or else the one that ended the
    consumer.
    """

    def __init__(
        self, run: Callable[[Offers[Message[T]], TaskStatus[None]], Awaitable[None]], stop: Callable[[], None], *, most: int
    ) -> None:
        """Begin outside the block.

        Args:
            run: runs the consumer.
            stop: ends it.
            most: how many messages may be handed out and not settled.
        """
        self._run = run
        self._stop = stop
        self._most = most
        self._tasks: TaskGroup | None = None
        self._offers: Offers[Message[T]] | None = None

    async def __aenter__(self) -> Messages[T]:
        """Start the consumer; return when its first assignment is complete, or at once if the topic does not exist yet."""
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
        """Wait for the consumer's end; True if the block was left only by the cancellation that the consumer's end caused."""
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
            swallowed = left is None  # the block's own error wins over the consumer's, and over a cancellation, as in any task group
        if own is None:
            return swallowed
        if cancellation is None or not swallowed:
            return False
        raise own from own.__cause__  # trio raises both as one group, but the cancellation was only for this block

    def __aiter__(self) -> Messages[T]:
        """Iterate until the consumer stops."""
        return self

    async def __anext__(self) -> Message[T]:
        """Return the next message, waiting for one. If cancelled, it takes none."""
        if self._offers is None:
            reason = "iterate inside `async with consumer.messages() as messages`"
            raise RuntimeError(reason)
        try:
            return await self._offers.take()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None


def _parts(error: BaseException | None) -> tuple[BaseException | None, BaseException | None]:
    """Split an error into its cancellation and the rest."""
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        cancellation, rest = group.split(cancelled)
        return cancellation, group if cancellation is None else rest
    return (error, None) if isinstance(error, cancelled) else (None, error)


def _alone(error: BaseException | None) -> BaseException | None:
    """Return the exception inside the groups that the block's own task group made: it has one task."""
    while isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        first, *others = group.exceptions
        if others:
            return group
        error = first
    return error
