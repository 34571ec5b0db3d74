"""Holds the owners of this member's partitions.

Input: Acquire, Revoke, Lose from the coordinator, Ended from the owners. Output: Ended, to the coordinator, once an owner has completely
ended. If a partition is acquired again while its last owner still ends (a handler that takes long to be cancelled), the new owner waits for
that. So even in one process, two owners never work on one partition.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from redisaq.actors.actor import Actor
from redisaq.actors.ref import ActorRef
from redisaq.actors.supervisor import Supervisor
from redisaq.consuming.lease import Lease
from redisaq.consuming.owned import OwnedPartition
from redisaq.consuming.owner import Drain, Ended, PartitionOwner


@dataclass(frozen=True)
class Acquire:
    """The document leases the partition to this member, under this token."""

    partition: int
    token: int
    lease: Lease


@dataclass(frozen=True)
class Revoke:
    """Give the partition back; handlers may take `timeout` seconds."""

    partition: int
    timeout: float


@dataclass(frozen=True)
class Lose:
    """The document no longer leases the partition to this member (M4)."""

    partition: int
    reason: str


Order = Acquire | Revoke | Lose | Ended


class PartitionSupervisor(Actor[Order]):
    """Starts and ends the owners."""

    def __init__(
        self,
        owner_for: Callable[[Acquire, Callable[[Ended], None]], PartitionOwner],
        ended: Callable[[Ended, OwnedPartition | None], Awaitable[None]],
        changed: Callable[[int], None],
    ) -> None:
        """Begin without partitions.

        Args:
            owner_for: makes an owner.
            ended: called at each owner's end.
            changed: called with the number of owned partitions when it changes.
        """
        super().__init__(name="partitions", capacity=1 << 17)
        self._owner_for = owner_for
        self._tell_ended = ended
        self._changed = changed
        self.owners: dict[int, tuple[PartitionOwner, ActorRef[Drain]]] = {}
        self._next: dict[int, Acquire] = {}

    async def run(self) -> None:
        """Carry out orders, inside the supervisor of the owners."""
        async with Supervisor("one_for_one", name="owners", parent=self) as self._supervisor:
            await super().run()

    async def receive(self, message: Order) -> None:
        """Carry out one order."""
        match message:
            case Acquire(partition=partition):
                if partition in self.owners:
                    self._next[partition] = message
                else:
                    await self._begin(message)
            case Revoke(partition=partition, timeout=timeout):
                if not await self._drop_next(partition) and partition in self.owners:
                    self.owners[partition][0].drain(timeout)
            case Lose(partition=partition, reason=reason):
                await self._drop_next(partition)
                if partition in self.owners:
                    self.owners[partition][0].owned.lose(reason)
            case Ended(partition=partition):
                owner, ref = self.owners[partition]
                await self._supervisor.stop(ref)
                del self.owners[partition]
                self._changed(len(self.owners))
                await self._tell_ended(message, owner.owned)
                if partition in self._next:
                    await self._begin(self._next.pop(partition))

    async def _drop_next(self, partition: int) -> bool:
        """Cancel an owner that would begin once the last one has ended: nothing of it is beside the data. False if there is none."""
        order = self._next.pop(partition, None)
        if order is None:
            return False
        await self._tell_ended(Ended(partition, order.token, order.lease.incarnation, released=True), None)
        return True

    async def _begin(self, order: Acquire) -> None:
        owner = self._owner_for(order, self.ref.tell_nowait)  # the mailbox has room for one from every partition
        self.owners[order.partition] = owner, owner.ref  # before it starts, so that a stop of the consumer reaches it at any moment
        await self._supervisor.start(owner)
        self._changed(len(self.owners))
