"""Hands messages to a user's own loop instead of a handler (`Consumer.messages()`).

In: batches from the partition's reader. Out: one message at a time, in order, offered to whoever iterates. The body of
`async with message` runs in the user's task, in a scope that ends with the lease and with the message's timeout; leaving it settles the
message.

A message may be kept, or given to another task, and entered there. What the user gets is a copy, referenced weakly from here. Once nobody
references it any more, nobody will enter it: when the loop goes on, it has failed (NotHandled). So has one whose body was left by a
cancellation that came from outside. Until the loop goes on, and if it ends instead, such a message waits in the record, and is handed back
with the rest, its attempt unused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from types import TracebackType
from typing import Any, TypeVar
from weakref import ref

import anyio
from msgspec import structs

from redisaq.actors.actor import Actor
from redisaq.consuming.context import inside
from redisaq.consuming.handler_pool import Batch
from redisaq.consuming.handling import Execution, parted
from redisaq.consuming.offers import Offers
from redisaq.errors import NotHandled
from redisaq.message import Message

T = TypeVar("T")

DROPPED = "the loop went on after the message had been dropped: nobody entered it"
CANCELLED = "the loop went on after the message's body had been cancelled"


class PulledMessage(Message[T], weakref=True):
    """What the user gets: a message of which can be seen whether it is still referenced."""


class PulledDelivery:
    """What stands behind one pulled message: offered, handed out, perhaps entered, then ended."""

    def __init__(self, worker: PullWorker, message: Message[Any]) -> None:
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
        """Return the message for the iterator; None if the partition has begun to go meanwhile."""
        if not self._execution.owned.may_start:
            return None
        message: PulledMessage[Any] = PulledMessage(*structs.astuple(self._message))
        message.delivery = self
        self._handed = ref(message)
        self._worker.out[self] = None
        return message

    def look(self) -> None:
        """Fail if nobody will work on it any more: its body was cancelled, or nobody references it. Not where the partition goes."""
        if self._execution.owned.may_start and (self._left or (self._handed is not None and self._handed() is None)):
            self._end()
            self._execution.failed(self._message, NotHandled(CANCELLED if self._left else DROPPED))

    def withdraw(self) -> None:
        """The partition goes: what was not entered, or is not left yet, is the next owner's, and its attempt is not used."""
        self.lost = True
        self._end()
        if self._scope is not None and not self._left:
            self._execution.owned.take_back(self._message)
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
        if self.lost or not owned.may_start:  # it was kept aside for too long: it is somebody else's
            self.lost = True
            self._scope.cancel()
        else:
            self._offers.begun(self)
            self._execution.began(self._message)

    @contextlib.contextmanager
    def _limited(self, seconds: float) -> Generator[anyio.CancelScope]:
        """Return the same scope around one that ends after so long, with TimeoutError: a failure of the body."""
        with self._execution.owned.scope() as scope, anyio.fail_after(seconds, reason=f"the body took longer than {seconds:g} s"):
            yield scope

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> bool:
        """End the body and settle; True swallows the exception."""
        assert self._body is not None  # noqa: S101 -- by Message.__aexit__
        inside.reset(self._inside)
        try:
            swallowed = bool(self._body.__exit__(kind, error, traceback))
        except Exception as left:  # noqa: BLE001 -- its timeout; and on trio what came in one group with the body's own cancellation
            error, swallowed = left, False
        owned = self._execution.owned
        if self.lost or owned.lost or not owned.lease.alive():
            self.lost = True
            owned.abandon(self._message)
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
        """The body was cancelled from outside, or interrupted; False: that goes on."""
        failure, interruption = parted(error)
        if failure is None:
            self._left = True
            self._execution.owned.take_back(self._message)
            self._offers.left(self)
            return False
        self._execution.failed(self._message, failure)
        self._end()
        raise interruption from None


class PullWorker(Actor[Batch]):
    """Offers one partition's messages to the iterator, in order."""

    def __init__(self, execution: Execution, offers: Offers[Message[Any]]) -> None:
        """Take the execution (for its records) and where to offer to the iterator."""
        super().__init__(name="workers", capacity=4)
        self.execution = execution
        self.offers = offers
        self.out: dict[PulledDelivery, None] = {}  # handed out and not ended, in that order: a set's would differ between runs

    async def run(self) -> None:
        """Offer until the mailbox is closed, then wait for the bodies that run."""
        try:
            await super().run()
            await self.execution.owned.wait_finished()
        finally:
            for delivery in tuple(self.out):
                delivery.withdraw()

    async def receive(self, message: Batch) -> None:
        """Offer the batch, one after the other."""
        owned = self.execution.owned
        for one in message:
            with owned.until_drain():
                if await self._ready(one):  # else it is dead, or purged, and others are not; or the partition goes
                    await self.offers.offer(PulledDelivery(self, one))
            if not owned.may_start:
                return

    async def _ready(self, message: Message[Any]) -> bool:
        """Return whether it may be offered. One that was delivered before is counted (T5): not before somebody wants it.

        Else each crash would cost an attempt of a message in every partition that nobody had begun.
        """
        owned = self.execution.owned
        if message.entry not in owned.deliveries and message.entry not in owned.bodies:
            return bool(await self.execution.ready((message,)))
        await self.offers.demand()
        try:
            return bool(await self.execution.ready((message,)))
        finally:
            self.offers.forgo()
