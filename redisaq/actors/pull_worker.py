"""Hands messages to a user's own loop instead of a handler (`Consumer.messages()`).

In: batches from the partition's reader. Out: one message at a time, in order, offered to whoever iterates. The body of
`async with message` runs in the user's task, in a scope that ends with the lease and with the message's timeout; leaving it settles the
message. At most `batch_size` are unsettled at once: that is the credit of the pool. A message that is never entered keeps its credit
until its partition goes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from types import TracebackType
from typing import Any

import anyio

from redisaq.actors.actor import Actor
from redisaq.actors.execution import Execution
from redisaq.actors.offers import Offers
from redisaq.actors.partition_workers import Batch
from redisaq.actors.surroundings import inside
from redisaq.message import Message


class PulledDelivery:
    """What stands behind one pulled message: offered, then perhaps entered, then ended."""

    def __init__(self, worker: PullWorker, message: Message[Any]) -> None:
        """Begin as offered."""
        self._worker = worker
        self._execution = worker.execution
        self._message = message
        self._body: contextlib.AbstractContextManager[anyio.CancelScope] | None = None
        self._scope: anyio.CancelScope | None = None
        self.lost = False

    def take(self) -> bool:
        """Let the iterator have it; False if the partition has begun to go meanwhile."""
        if self.lost or not self._execution.owned.may_start:
            self.withdraw()
            return False
        return True

    def enter(self) -> None:
        """Begin the body: a scope that the lease's end cancels."""
        if self._body is not None:
            reason = "this message has been entered before"
            raise RuntimeError(reason)
        timeout = self._execution.timeout_of(self._message)
        self._body = self._execution.owned.scope() if timeout is None else self._limited(timeout)
        self._scope = self._body.__enter__()
        self._inside = self._execution.enter_body()
        if self.lost or not self._execution.owned.may_start:  # it was kept aside for too long: it is somebody else's
            self.lost = True
            self._scope.cancel()
        else:
            self._execution.began(self._message)

    @contextlib.contextmanager
    def _limited(self, seconds: float) -> Generator[anyio.CancelScope]:
        """Return the same scope around one that ends after so long, with TimeoutError: a failure of the body."""
        with self._execution.owned.scope() as scope, anyio.fail_after(seconds, reason=f"the body took longer than {seconds:g} s"):
            yield scope

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> bool:
        """End the body and settle; True swallows the exception."""
        assert self._body is not None  # noqa: S101 -- by Message.__aexit__
        assert self._scope is not None  # noqa: S101
        owned = self._execution.owned
        inside.reset(self._inside)
        try:
            try:
                swallowed = bool(self._body.__exit__(kind, error, traceback))
            except Exception as left:  # noqa: BLE001 -- its timeout; and on trio what came in one group with the body's own cancellation
                error, swallowed = left, False
            self.lost = self.lost or bool(owned.lost) or not owned.lease.alive()
            if self.lost:
                owned.abandon(self._message)
                return swallowed or error is None or isinstance(error, Exception)
            if error is None:
                self._execution.succeeded(self._message)
            elif isinstance(error, Exception):
                self._execution.failed(self._message, error)
            else:  # cancelled from outside
                owned.abandon(self._message)
                return swallowed
            return True
        finally:
            self._worker.ended(self)

    def withdraw(self) -> None:
        """The partition goes: what was not entered is the next owner's."""
        self.lost = True
        if self._body is None:
            self._worker.ended(self)
        elif self._scope is not None:
            self._scope.cancel()


class PullWorker(Actor[Batch]):
    """Offers one partition's messages to the iterator, in order."""

    def __init__(self, execution: Execution, offers: Offers[Message[Any]]) -> None:
        """Take the execution (for its records) and where to offer to the iterator."""
        super().__init__(name="workers", capacity=4)
        self.execution = execution
        self._offers = offers
        self._out: dict[PulledDelivery, None] = {}  # in the order of offering: a set's would differ between runs

    async def run(self) -> None:
        """Offer until the mailbox is closed, then wait for the bodies that run."""
        try:
            await super().run()
            await self.execution.owned.wait_finished()
        finally:
            for delivery in tuple(self._out):
                delivery.withdraw()

    async def receive(self, message: Batch) -> None:
        """Offer the batch, each message under its own credit."""
        execution, owned = self.execution, self.execution.owned
        for one in message:
            with owned.until_drain():
                await execution.pool.enter()
                one.delivery = delivery = PulledDelivery(self, one)
                self._out[delivery] = None  # the credit is its own from here on
                try:
                    if await self._ready(one):
                        await self._offers.offer(one)
                    else:  # it is dead, or purged, and others are not; or the partition goes
                        delivery.withdraw()
                except BaseException:  # it may have been taken out already: then the iterator drops it
                    delivery.withdraw()
                    raise
            if not owned.may_start:
                return

    async def _ready(self, message: Message[Any]) -> bool:
        """Return whether it may be offered. One that was delivered before is counted (T5): not before somebody wants it.

        Else each crash would cost an attempt of a message in every partition that nobody had begun.
        """
        owned = self.execution.owned
        if message.entry not in owned.deliveries and message.entry not in owned.bodies:
            return bool(await self.execution.ready((message,)))
        await self._offers.demand()
        try:
            return bool(await self.execution.ready((message,)))
        finally:
            self._offers.forgo()

    def ended(self, delivery: PulledDelivery) -> None:
        """Give the credit of a delivery back."""
        if delivery in self._out:
            del self._out[delivery]
            self.execution.pool.leave()
