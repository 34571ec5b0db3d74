"""What is acquired again while its last owner winds up, and is lost before that has ended: its end is reported like any other's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import anyio
import pytest

from redisaq.actors import Supervisor
from redisaq.actors.actor import Actor
from redisaq.consuming.lease import Lease
from redisaq.consuming.owned import OwnedPartition
from redisaq.consuming.owner import Ended, PartitionOwner
from redisaq.consuming.partitions import Acquire, Lose, PartitionSupervisor, Revoke
from redisaq.environment import Environment
from tests.actors.group import IN_VIRTUAL_TIME
from tests.unit.owning import owned_partition

pytestmark = IN_VIRTUAL_TIME


class SlowOwner(Actor[Any]):
    """Stays, whatever is asked of it."""

    def __init__(self, order: Acquire) -> None:
        super().__init__(name="slow")
        self.owned = owned_partition(1, partition=order.partition, token=order.token, lease=order.lease)
        self.acquired = False

    def drain(self, timeout: float) -> None:
        """Take no notice."""

    async def run(self) -> None:
        """Stay."""
        await anyio.sleep_forever()


@pytest.mark.parametrize("way", [Lose(0, "for this test"), Revoke(0, 0.0)])
async def test_its_end_is_reported(way: Lose | Revoke) -> None:
    told: list[Ended] = []
    heard = anyio.Event()

    async def ended(end: Ended, owned: OwnedPartition | None) -> None:
        assert owned is None
        told.append(end)
        heard.set()

    partitions = PartitionSupervisor(lambda order, _: cast("PartitionOwner", SlowOwner(order)), ended, lambda _: None)
    with anyio.fail_after(5):
        async with Supervisor() as supervisor:
            ref = await supervisor.start(partitions)
            for token, incarnation in ((1, "a"), (2, "b")):
                await ref.tell(Acquire(0, token, Lease(incarnation, 60.0, Environment())))
            await ref.tell(way)
            await heard.wait()
    assert told == [Ended(0, 2, "b", released=True)]


async def test_one_that_only_just_starts_is_there_for_a_stop() -> None:
    """A consumer that stops lets no owner begin a handler: it asks for all of them, in no time."""
    starts, go_on = anyio.Event(), anyio.Event()

    class Starting(SlowOwner):
        async def on_start(self) -> None:
            starts.set()
            await go_on.wait()

    async def ended(_end: Ended, _owned: OwnedPartition | None) -> None:
        raise AssertionError

    partitions = PartitionSupervisor(lambda order, _: cast("PartitionOwner", Starting(order)), ended, lambda _: None)
    with anyio.fail_after(5):
        async with Supervisor() as supervisor:
            ref = await supervisor.start(partitions)
            await ref.tell(Acquire(0, 1, Lease("a", 60.0, Environment())))
            await starts.wait()
            assert list(partitions.owners) == [0]
            go_on.set()


class Obedient(Actor[Any]):
    """Ends when it is asked to, and notes what it was asked for."""

    def __init__(self, order: Acquire, ended: Callable[[Ended], None], noted: list[object]) -> None:
        super().__init__(name=f"obedient-{order.partition}")
        self.order, self.noted, self.tell_ended = order, noted, ended
        self.owned = owned_partition(1, partition=order.partition, token=order.token, lease=order.lease)
        self.stopped = False

    def drain(self, timeout: float) -> None:
        self.noted.append(("drain", self.order.token, timeout))

    def end(self) -> None:
        self.tell_ended(Ended(self.order.partition, self.order.token, self.order.lease.incarnation, released=True))

    async def run(self) -> None:
        """Stay until it is stopped."""
        try:
            await anyio.sleep_forever()
        finally:
            self.noted.append(("stopped", self.order.token))


async def test_an_owner_follows_when_the_last_one_has_completely_ended() -> None:
    """How many are owned is said each time it changes; and an order to drain or to lose reaches the owner that it means."""
    noted, owners, counts, told = list[object](), list[Obedient](), list[int](), list[tuple[int, bool]]()

    def owner_for(order: Acquire, ended: Callable[[Ended], None]) -> PartitionOwner:
        owners.append(Obedient(order, ended, noted))
        return cast("PartitionOwner", owners[-1])

    async def ended(end: Ended, owned: OwnedPartition | None) -> None:
        await anyio.lowlevel.checkpoint()
        assert owned is None or owned.token == end.token
        told.append((end.token, owned is not None))

    partitions = PartitionSupervisor(owner_for, ended, counts.append)
    lease = Lease("me", 60.0, Environment())
    async with Supervisor() as supervisor:
        ref = await supervisor.start(partitions)

        async def order(*orders: Acquire | Revoke | Lose) -> None:
            for one in orders:
                await ref.tell(one)
            await anyio.sleep(1.0)

        await order(Revoke(0, 1.0), Lose(0, "nothing is owned"), Acquire(0, 1, lease), Acquire(1, 2, lease))
        assert (counts, noted, told) == ([1, 2], [], [])
        await order(Revoke(0, 9.0))
        assert noted == [("drain", 1, 9.0)]
        await order(Acquire(0, 3, lease))
        assert len(owners) == 2, "the last one has not ended"
        await order(Revoke(0, 8.0))
        assert noted == [("drain", 1, 9.0)], "it drains already; the one that would follow is called off"
        assert told == [(3, False)]
        await order(Acquire(0, 4, lease), Lose(0, "somebody has it"))
        assert told == [(3, False), (4, False)]
        assert owners[0].owned.lost == "somebody has it"
        assert owners[1].owned.lost == ""
        await order(Acquire(0, 5, lease))
        owners[0].end()
        await anyio.sleep(1.0)
        assert noted[1:] == [("stopped", 1)]
        assert told[2:] == [(1, True)]
        assert (counts, [owner.order.token for owner in owners]) == ([1, 2, 1, 2], [1, 2, 5])
        owners[1].end()
        await anyio.sleep(1.0)
        assert (counts[4:], list(partitions.owners)) == ([1], [0])
