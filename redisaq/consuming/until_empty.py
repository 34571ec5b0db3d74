"""Ends a consumer once the whole group has nothing left (`until_empty`).

It asks the server only when everything owned here is done, in one atomic step for each partition, whichever member owns it. While there is
something left elsewhere, it asks less and less often, down to once a second.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from redisaq.actors.actor import Actor
from redisaq.brokers.steps.settling import ReadRemaining
from redisaq.consuming.contact import insist
from redisaq.consuming.context import Surroundings
from redisaq.consuming.member import Member
from redisaq.consuming.partitions import PartitionSupervisor
from redisaq.errors import RedisaqError

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0  # seconds between two questions
LOCAL_PAUSE = 0.02  # seconds between two checks of what is in flight here, which cost the server nothing


class EmptinessWatch(Actor[None]):
    """Waits until the group has nothing left."""

    def __init__(
        self,
        surroundings: Surroundings,
        member: Member,
        partitions: PartitionSupervisor,
        ready: anyio.Event,
        stop: Callable[[], None],
    ) -> None:
        """Begin without a look.

        Args:
            surroundings: the consumer's.
            member: the member.
            partitions: holds the owners of its partitions.
            ready: set once the first assignment is complete.
            stop: ends the consumer.
        """
        super().__init__(name="emptiness_watch")
        self._around = surroundings
        self._member = member
        self._partitions = partitions
        self._ready = ready
        self._stop = stop

    async def run(self) -> None:
        """Look until everything is empty."""
        await self._ready.wait()
        pause = FIRST_PAUSE
        while not self._member.topic_missing:
            await anyio.sleep(pause)
            while not self._idle():
                self._check_open()
                await anyio.sleep(LOCAL_PAUSE)
            self._check_open()
            if await self._empty():
                break
            pause = min(LONGEST_PAUSE, pause * 1.5)
        self._stop()

    def _check_open(self) -> None:
        if self._around.gate.closed:
            group = self._around.group
            raise RedisaqError(f"group {group.group} of {group.topic} is paused: it will not be empty before it is resumed")

    def _idle(self) -> bool:
        owners = self._partitions.owners.values()
        return not any(owner.owned.flights.unsettled for owner, _ in owners)

    async def _empty(self) -> bool:
        around, partitions = self._around, range(self._member.partitions)
        steps = [ReadRemaining(around.group, partition) for partition in partitions]
        left = await insist(lambda: around.broker.do_each(steps), around.environment)
        return all(remaining.empty for remaining in left)
