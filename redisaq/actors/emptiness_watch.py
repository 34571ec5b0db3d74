"""Ends a consumer once the whole group has nothing left (`until_empty`).

It asks only while nothing is in flight here, each partition in one atomic step, whoever owns it; the longer there is still something
elsewhere, the more seldom, down to twice a second.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from redisaq.actors.actor import Actor
from redisaq.actors.insist import insist
from redisaq.actors.member import Member
from redisaq.actors.partition_supervisor import PartitionSupervisor
from redisaq.actors.surroundings import Surroundings
from redisaq.errors import RedisaqError


class EmptinessWatch(Actor[None]):
    """See the module."""

    def __init__(
        self,
        surroundings: Surroundings,
        member: Member,
        partitions: PartitionSupervisor,
        ready: anyio.Event,
        stop: Callable[[], None],
    ) -> None:
        """Take what to look at, and what ends the consumer."""
        super().__init__(name="emptiness_watch", capacity=1)
        self._around = surroundings
        self._member = member
        self._partitions = partitions
        self._ready = ready
        self._stop = stop

    async def run(self) -> None:
        """Look until everything is empty."""
        await self._ready.wait()
        pause = 0.02
        while not self._member.topic_missing:
            await anyio.sleep(pause)
            if self._around.gate.closed:
                group = self._around.group
                raise RedisaqError(f"group {group.group} of {group.topic} is paused: it will not be empty before it is resumed")
            if self._idle() and await self._empty():
                break
            pause = min(0.5, pause * 1.5) if self._idle() else 0.02
        self._stop()

    def _idle(self) -> bool:
        owners = self._partitions.owners.values()
        return not any(owner.owned.unsettled for owner, _ in owners)

    async def _empty(self) -> bool:
        around, partitions = self._around, range(self._member.partitions)
        left = await insist(lambda: around.broker.remaining(around.group, partitions), around.environment)
        return all(remaining.empty for remaining in left)
