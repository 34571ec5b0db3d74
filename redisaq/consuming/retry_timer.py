"""Fetches what is due in one partition: this group's retries, and delayed messages, which it moves into the stream.

Input: rings, when something was postponed here, or from the partition's doorbell, when that happened elsewhere. Output: batches of due
retries, to the partition's workers. A due retry stays in `retry` until it is settled, and the record of what is in flight keeps it from
running twice (S3). It wakes at each due time, and at least once in each ttl, since a notification is a hint that may never come.
"""

from __future__ import annotations

import math

import anyio

from redisaq.actors.actor import Actor
from redisaq.actors.ref import ActorRef
from redisaq.brokers.steps.retrying import TakeDue, take_due
from redisaq.consuming.contact import insist
from redisaq.consuming.context import Surroundings
from redisaq.consuming.doorbell import Ring
from redisaq.consuming.handler_pool import Batch, hand_over
from redisaq.consuming.owned import OwnedPartition
from redisaq.consuming.standing import still_owned
from redisaq.consuming.sweep import sweep
from redisaq.errors import LeaseLostError

UNSWEPT = 1.0
"""Seconds until the next sweep after one that found the topic, or its last growth, lost: another process makes it again."""


class RetryTimer(Actor[Ring]):
    """Fetches what is due in one partition."""

    def __init__(self, surroundings: Surroundings, owned: OwnedPartition, workers: ActorRef[Batch], *, count: int) -> None:
        """Begin with nothing fetched.

        Args:
            surroundings: the consumer's.
            owned: the partition.
            workers: get the messages.
            count: how many to fetch at once.
        """
        super().__init__(name="retry_timer", capacity=1)
        self._around = surroundings
        self._owned = owned
        self._workers = workers
        self._count = count
        self._swept = False  # a sweep came directly before

    async def run(self) -> None:
        """Fetch at each due time and at each ring, while the lease lasts."""
        with self._owned.scope():
            while True:
                token = self._owned.standing
                try:
                    left = await self._fetch()
                except LeaseLostError as error:
                    if not await self._still_owned(token, str(error)):
                        return
                    continue
                if left > 0:
                    with anyio.move_on_after(min(left, self._longest())):
                        await self.mailbox.receive()

    async def _still_owned(self, token: int, reason: str) -> bool:
        return await insist(lambda: still_owned(self._around, self._owned, token, reason), self._around.environment)

    def _longest(self) -> float:
        """Return after how many seconds to look even without a ring: less than a ttl, and not at the same moment for all partitions."""
        return self._owned.lease.ttl * self._around.environment.random.uniform(0.75, 1.0)

    async def _fetch(self) -> float:
        """Pass on what is due; return the seconds until the next is due."""
        around, owned = self._around, self._owned
        await owned.gate.wait_open()
        await owned.wait_for_room(self._count)
        count = owned.flights.ask_due(self._count)
        step = TakeDue(around.group, owned.partition, owned.standing, count)
        due = await insist(lambda: take_due(around.broker, step, around.dead_maxlen), around.environment)
        for damaged in due.set_aside:
            around.bulletin.tell(around.unreadable(owned, damaged.entry_id, damaged.reason))
        batch = owned.flights.due(due.retries, owned.lease.server_now())
        owned.changed()  # what cannot be read is to be settled
        await hand_over(batch, self._workers, owned)
        if due.unswept:
            in_vain, self._swept = self._swept, True
            await sweep(around, owned.partition)
            return UNSWEPT if in_vain else 0.0
        self._swept = False
        return math.inf if due.next_due is None else max(0.0, (due.next_due - due.now) / 1e6)
