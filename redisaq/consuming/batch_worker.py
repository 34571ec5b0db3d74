"""Runs a handler of batches on one partition (`process_batch`).

In: messages from the partition's reader. Out: outcomes, recorded in the owned partition. A batch is as full as it can be: it begins when
`batch_size` messages are there, or `batch_wait` seconds after its first one was.
"""

from __future__ import annotations

from contextvars import Context, copy_context
from typing import Any

import anyio

from redisaq.actors.actor import Actor
from redisaq.consuming.contexts import afresh, changed, under
from redisaq.consuming.handler_pool import Batch
from redisaq.consuming.handling import Execution
from redisaq.consuming.verdicts import Held
from redisaq.environment import Environment
from redisaq.message import Message


class BatchWorker(Actor[Batch]):
    """One handler at a time, of up to `size` messages."""

    def __init__(self, execution: Execution, environment: Environment, *, size: int, wait: float, unlimited: bool) -> None:
        """Take the execution, and how full a batch should be and for how long (seconds) it may wait for that."""
        super().__init__(name="workers", capacity=4)
        self._execution = execution
        self._clock = environment.clock
        self._size = size
        self._wait = wait
        self._unlimited = unlimited
        self._held: list[Message[Any]] = []
        self._open = True  # more may come

    async def run(self) -> None:
        """Gather batches and run them until the mailbox is closed, in a scope that ends with the lease."""
        with self._execution.owned.scope():
            await afresh(self._loop, copy_context())

    async def _loop(self, base: Context) -> bool:
        """Gather batches and run them until the mailbox is closed; True if a handler has changed the context."""
        while True:
            while self._held:
                batch, self._held = self._held[: self._size], self._held[self._size :]
                await self._run(batch, base)
                if changed(base):
                    return True
            if not self._open or not self._execution.owned.may_start:
                return False
            self._open = await self._gather()

    async def _gather(self) -> bool:
        """Receive until there is a full batch or the first has waited long enough; False if no more can come."""
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
        """Run one batch, and again those of it for which the partition waits (blocking retries)."""
        execution = self._execution
        held = await self._once(messages)
        while held is not None:
            await execution.rest(held)
            held = await under(base.copy(), self._once(held[1]))
        if not execution.owned.may_start:
            execution.look_back(messages)

    async def _once(self, messages: Batch) -> Held | None:
        execution, pool = self._execution, self._execution.pool
        if self._unlimited:
            return await execution.many(messages) if execution.owned.may_start else None
        await pool.enter()
        try:
            return await execution.many(messages) if execution.owned.may_start else None
        finally:
            pool.leave()
