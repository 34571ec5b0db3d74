"""Runs the handlers of one partition: one at a time, in lanes, or on batches. If messages are pulled, `PullPool` takes this place.

Input: batches of messages from the partition's reader and its retry timer. Output: results, recorded in the owned partition. A pool is a
child of its partition's scope, so losing one lease cancels only that partition's handlers. Before each handler begins, the pool checks the
lease. `Concurrency` limits how many handlers run at once over all partitions.

When its mailbox is closed, a pool ends once the running handlers have ended; messages that have not started stay in the record.
"""

from __future__ import annotations

from collections import deque
from contextvars import Context, copy_context

import anyio

from redisaq.actors.actor import Actor
from redisaq.actors.ref import ActorRef
from redisaq.consuming.contexts import afresh, changed, under
from redisaq.consuming.handling import Execution, Held
from redisaq.consuming.owned import OwnedPartition
from redisaq.core.in_flight import Flight
from redisaq.core.lanes import Lanes, Ordering
from redisaq.errors import ActorStopped

Batch = list[Flight]


async def hand_over(batch: Batch, workers: ActorRef[Batch], owned: OwnedPartition) -> None:
    """Give recorded messages to the workers.

    The workers end with the lease, perhaps an instant before the caller of this. Then the messages belong to the next owner.
    """
    if batch:
        try:
            try:
                workers.tell_nowait(batch)  # no other task runs in between, so the next read is sent before these are handled
            except anyio.WouldBlock:
                await workers.tell(batch)
        except ActorStopped:
            if owned.may_start:
                raise


class SerialPool(Actor[Batch]):
    """One handler at a time, in order (ordering "partition"). It runs in the actor's own task, so a message costs no task switch."""

    def __init__(self, execution: Execution, *, unlimited: bool) -> None:
        """Begin without messages.

        Args:
            execution: runs the handler.
            unlimited: one handler per partition is the only limit.
        """
        super().__init__(name="handler_pool", capacity=4)
        self._execution = execution
        self._unlimited = unlimited
        self._batch: deque[Flight] = deque()  # received and not run

    async def run(self) -> None:
        """Receive batches, in a scope that ends with the lease, so that handlers are cancelled at once even if other parts end slowly."""
        with self._execution.owned.scope():
            await afresh(self._loop, copy_context())

    async def _loop(self, base: Context) -> bool:
        """Run batches in order until the mailbox is closed; True if a handler has changed the context."""
        execution, owned, batch = self._execution, self._execution.owned, self._batch
        one = execution.one if self._unlimited else self._one
        while True:
            message: Flight | None = None
            while batch and owned.may_start:
                message = batch.popleft()
                held = await one(message)
                while held is not None:  # the partition waits for this message (a blocking retry)
                    await execution.rest(held)
                    if not owned.may_start:
                        break
                    (message,) = held[1]
                    held = await under(base.copy(), one(message))
                if changed(base) and owned.may_start:
                    return True
            if message is not None and not owned.may_start:
                execution.look_back((message,))
            try:
                batch.extend(await self.mailbox.receive())
            except anyio.EndOfStream:
                return False

    async def _one(self, message: Flight) -> Held | None:
        """Run one message with credit from `Concurrency`."""
        execution, concurrency = self._execution, self._execution.concurrency
        await concurrency.enter()
        try:
            return await execution.one(message) if execution.owned.may_start else None
        finally:
            concurrency.leave()


class LanePool(Actor[Batch]):
    """Several handlers at once, one for each lane (ordering "key" and "none").

    Worker tasks are kept, since starting one costs more than a quick handler. A worker wakes the next one before it runs its own message.
    So one task runs a batch of handlers that never wait, and handlers that wait run side by side as far as the credit allows.
    """

    def __init__(self, execution: Execution, ordering: Ordering) -> None:
        """Begin without messages.

        Args:
            execution: runs the handler.
            ordering: which messages share a lane.
        """
        super().__init__(name="handler_pool", capacity=4)
        self._execution = execution
        self._lanes: Lanes[Flight] = Lanes(ordering)
        self._idle: deque[anyio.Event] = deque()
        self._waking = False
        self._closing = False
        self._workers = 0
        self._base = copy_context()
        self._resting = 0  # workers that hold a lane until its message's next try, without credit

    async def run(self) -> None:
        """Receive batches until the mailbox is closed, then wait for running handlers."""
        with self._execution.owned.scope():
            self._base = copy_context()
            await self._run()

    async def _run(self) -> None:
        async with anyio.create_task_group() as self._tasks:
            await super().run()
            self._closing = True
            while self._idle:
                self._idle.popleft().set()

    async def receive(self, message: Batch) -> None:
        """Put the batch into its lanes."""
        for one in message:
            self._lanes.add(one, one.key)
        self._wake()

    def _wake(self) -> None:
        """Let one more worker look for a message, if there is a message for it."""
        if self._waking or not self._lanes.runnable:
            return
        if self._idle:
            self._waking = True
            self._idle.popleft().set()
        elif self._workers - self._resting < self._execution.concurrency.limit:
            self._waking = True
            self._workers += 1
            self._tasks.start_soon(afresh, self._work, self._base, name=f"{self.path}/worker-{self._workers}")

    async def _work(self, base: Context) -> bool:  # noqa: C901, PLR0912 -- another function would cost one more call for each message
        """Run messages until there are no more to run; True if a handler has changed the context."""
        owned, concurrency, lanes, one = self._execution.owned, self._execution.concurrency, self._lanes, self._execution.one
        while owned.may_start:
            await concurrency.enter()
            self._waking = False
            entered = True
            message: Flight | None = None
            try:
                while owned.may_start and (message := lanes.next()) is not None:
                    if not self._waking:  # as `_wake` asks, but without a call for each message
                        self._wake()
                    key = message.key  # the handler may change the message's key
                    try:
                        held = await one(message)
                        while held is not None:  # its lane waits for it, without credit
                            entered = False
                            concurrency.leave()
                            await self._rest(held)
                            if not owned.may_start:
                                return False
                            await concurrency.enter()
                            entered = True
                            (message,) = held[1]
                            held = await under(base.copy(), one(message))
                    finally:
                        lanes.done(key)
                    if changed(base) and owned.may_start:
                        return True
                    if concurrency.contended:
                        break
            finally:
                if entered:
                    concurrency.leave()
            if message is not None and not owned.may_start:
                self._execution.look_back((message,))
            if self._closing:
                return False
            if owned.may_start and not lanes.runnable:
                if self._workers - self._resting > concurrency.limit:  # some were started in place of those that rested
                    self._workers -= 1
                    return False
                event = anyio.Event()
                self._idle.append(event)
                await event.wait()
        return False

    async def _rest(self, held: Held) -> None:
        """Hold a lane until its message's next try; meanwhile another worker runs the other lanes."""
        self._resting += 1
        try:
            self._wake()
            await self._execution.rest(held)
        finally:
            self._resting -= 1


class BatchPool(Actor[Batch]):
    """One handler at a time, with up to `size` messages (`process_batch`).

    A batch begins when `size` messages are there, or `wait` seconds after its first one arrived. What a batch left over counts as arrived
    when that batch has ended.
    """

    def __init__(self, execution: Execution, *, size: int, wait: float, unlimited: bool) -> None:
        """Begin without messages.

        Args:
            execution: runs the handler.
            size: how many messages make a full batch.
            wait: seconds that a batch may wait to be full.
            unlimited: one handler per partition is the only limit.
        """
        super().__init__(name="handler_pool", capacity=4)
        self._execution = execution
        self._size = size
        self._wait = wait
        self._unlimited = unlimited
        self._held: list[Flight] = []
        self._open = True  # more may come

    async def run(self) -> None:
        """Gather batches and run them until the mailbox is closed, in a scope that ends with the lease."""
        with self._execution.owned.scope():
            await afresh(self._loop, copy_context())

    async def _loop(self, base: Context) -> bool:
        """Gather batches and run them until the mailbox is closed; True if a handler has changed the context."""
        while self._open and self._execution.owned.may_start:
            self._open = await self._gather()
            if self._held:
                batch, self._held = self._held[: self._size], self._held[self._size :]
                await self._run(batch, base)
                if changed(base):
                    return True
        return False

    async def _gather(self) -> bool:
        """Receive until a batch is full or its first message has waited long enough; False if no more messages can come."""
        try:
            if not self._held:
                self._held += await self.mailbox.receive()
            if len(self._held) < self._size:
                with anyio.move_on_after(self._wait):
                    while len(self._held) < self._size:
                        self._held += await self.mailbox.receive()
        except anyio.EndOfStream:
            return False
        return True

    async def _run(self, messages: Batch, base: Context) -> None:
        """Run one batch, then again those of its messages for which the partition waits (blocking retries)."""
        execution = self._execution
        held = await self._once(messages)
        while held is not None:
            await execution.rest(held)
            held = await under(base.copy(), self._once(held[1]))
        if not execution.owned.may_start:
            execution.look_back(messages)

    async def _once(self, messages: Batch) -> Held | None:
        execution, concurrency = self._execution, self._execution.concurrency
        if self._unlimited:
            return await execution.many(messages) if execution.owned.may_start else None
        await concurrency.enter()
        try:
            return await execution.many(messages) if execution.owned.may_start else None
        finally:
            concurrency.leave()
