"""What is acquired again while its last owner winds up, and is lost before that has ended: its end is reported like any other's."""

from __future__ import annotations

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
