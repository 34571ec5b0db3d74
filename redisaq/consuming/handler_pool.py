"""Run the handlers of one partition: in one line, or in lanes.

In: batches of messages from the partition's reader (and single ones from its retry timer). Out: outcomes, recorded in the owned
partition. Workers are
children of their partition's scope, so losing one lease cancels just its handlers. Before each handler begins, the lease is looked at.

When the mailbox is closed, they end once the running handlers have; what has not started stays in the record.
"""

from __future__ import annotations

from collections import deque
from contextvars import Context, copy_context
from typing import Any

import anyio

from redisaq.actors.actor import Actor
from redisaq.actors.ref import ActorRef
from redisaq.consuming.contexts import afresh, changed, under
from redisaq.consuming.handling import Execution
from redisaq.consuming.owned import OwnedPartition
from redisaq.consuming.verdicts import Held
from redisaq.core.lanes import Lanes, Ordering
from redisaq.errors import ActorStopped
from redisaq.message import Message

Batch = list[Message[Any]]


async def hand_over(batch: Batch, workers: ActorRef[Batch], owned: OwnedPartition) -> None:
    """Give messages that stand in the record to the workers.

    They end with the lease, maybe an instant before whoever calls this; then nobody is to work on these here: they are the next owner's.
    """
    if batch:
        try:
            try:
                workers.tell_nowait(batch)  # nothing else runs in between: the next read is on its way before these are worked on
            except anyio.WouldBlock:
                await workers.tell(batch)
        except ActorStopped:
            if owned.may_start:
                raise


class SerialWorker(Actor[Batch]):
    """One handler at a time, in order (ordering "partition"): runs in the actor's own task, so a message costs no hop."""

    def __init__(self, execution: Execution, *, unlimited: bool) -> None:
        """Take the execution; `unlimited`: one handler a partition is all the limit there is."""
        super().__init__(name="workers", capacity=4)
        self._execution = execution
        self._unlimited = unlimited
        self._batch: deque[Message[Any]] = deque()  # received, and not run

    async def run(self) -> None:
        """Receive batches, in a scope that ends with the lease: handlers are cancelled at once, whatever else winds up slowly."""
        with self._execution.owned.scope():
            await afresh(self._loop, copy_context())

    async def _loop(self, base: Context) -> bool:
        """Run batches in order until the mailbox is closed; True if a handler has changed the context."""
        execution, owned, batch = self._execution, self._execution.owned, self._batch
        one = execution.one if self._unlimited else self._one
        while True:
            message: Message[Any] | None = None
            while batch and owned.may_start:
                message = batch.popleft()
                held = await one(message)
                while held is not None:  # the partition waits for it (a blocking retry)
                    await execution.rest(held)
                    if not owned.may_start:
                        break
                    (message,) = held[1]
                    held = await under(base.copy(), one(message))
                if changed(base) and owned.may_start:
                    return True
            batch.clear()
            if message is not None and not owned.may_start:
                execution.look_back((message,))
            try:
                batch.extend(await self.mailbox.receive())
            except anyio.EndOfStream:
                return False

    async def _one(self, message: Message[Any]) -> Held | None:
        """Run one under the pool's credit."""
        execution, pool = self._execution, self._execution.pool
        await pool.enter()
        try:
            return await execution.one(message) if execution.owned.may_start else None
        finally:
            pool.leave()


class LaneWorkers(Actor[Batch]):
    """Several handlers at once, one for each lane (ordering "key" and "none").

    Worker tasks are kept, since starting one costs more than a quick handler. One wakes the next before it runs its own message, so that
    a batch of handlers that never wait is run by one task, and handlers that wait run side by side as far as the credit goes.
    """

    def __init__(self, execution: Execution, ordering: Ordering) -> None:
        """Take the execution and what shares a lane."""
        super().__init__(name="workers", capacity=4)
        self._execution = execution
        self._lanes: Lanes[Message[Any]] = Lanes(ordering)
        self._idle: deque[anyio.Event] = deque()
        self._waking = False
        self._closing = False
        self._workers = 0
        self._base = copy_context()
        self._resting = 0  # of these, those that hold a lane for a message's next try: they have no credit

    async def run(self) -> None:
        """Take batches in until the mailbox is closed, then wait for what runs."""
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
        """Let one more worker look for a message, if there is one for it."""
        if self._waking or not self._lanes.runnable:
            return
        if self._idle:
            self._waking = True
            self._idle.popleft().set()
        elif self._workers - self._resting < self._execution.pool.limit:
            self._waking = True
            self._workers += 1
            self._tasks.start_soon(afresh, self._work, self._base, name=f"{self.path}/worker-{self._workers}")

    async def _work(self, base: Context) -> bool:  # noqa: C901, PLR0912 -- a function of its own would be a step more for each message
        """Run messages until there are to be no more; True if a handler has changed the context."""
        owned, pool, lanes, one = self._execution.owned, self._execution.pool, self._lanes, self._execution.one
        while owned.may_start:
            await pool.enter()
            self._waking = False
            entered = True
            message: Message[Any] | None = None
            try:
                while owned.may_start and (message := lanes.next()) is not None:
                    self._wake()
                    key = message.key  # the handler may change the message's
                    try:
                        held = await one(message)
                        while held is not None:  # its lane waits for it, without credit
                            entered = False
                            pool.leave()
                            await self._rest(held)
                            if not owned.may_start:
                                return False
                            await pool.enter()
                            entered = True
                            (message,) = held[1]
                            held = await under(base.copy(), one(message))
                    finally:
                        lanes.done(key)
                    if changed(base) and owned.may_start:
                        return True
                    if pool.contended:
                        break
            finally:
                if entered:
                    pool.leave()
            if message is not None and not owned.may_start:
                self._execution.look_back((message,))
            if self._closing:
                return False
            if owned.may_start and not lanes.runnable:
                if self._workers - self._resting > pool.limit:  # some were begun in the place of those that rested
                    self._workers -= 1
                    return False
                event = anyio.Event()
                self._idle.append(event)
                await event.wait()
        return False

    async def _rest(self, held: Held) -> None:
        """Hold a lane until its message's next try, and let another worker see to the other lanes meanwhile."""
        self._resting += 1
        try:
            self._wake()
            await self._execution.rest(held)
        finally:
            self._resting -= 1
