"""Gives failed messages of one partition back to its workers when their pause is over.

In: a ring for each failure (what failed stands in the owned partition). Out: batches of one or more due messages.
"""

from __future__ import annotations

import math

import anyio

from redisaq.actors.actor import Actor
from redisaq.actors.owned import OwnedPartition
from redisaq.actors.partition_workers import Batch
from redisaq.actors.ref import ActorRef
from redisaq.actors.ring import Ring
from redisaq.environment import Environment


class RetryTimer(Actor[Ring]):
    """One wake-up per due time, no polling."""

    def __init__(self, owned: OwnedPartition, workers: ActorRef[Batch], environment: Environment) -> None:
        """Take whose failures, and who gets them."""
        super().__init__(name="retry_timer", capacity=1)
        self._owned = owned
        self._workers = workers
        self._clock = environment.clock

    async def run(self) -> None:
        """Wait for the earliest due time, or for a ring."""
        while True:
            retries = self._owned.retries
            left = retries[0][0] - self._clock() if retries else math.inf
            if left > 0:
                with anyio.move_on_after(left):
                    await self.mailbox.receive()
                continue
            due = self._owned.unpark(self._clock())
            await self._workers.tell(due)
