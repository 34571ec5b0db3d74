"""Handing messages to workers that have stopped: the end of the lease is not a failure, anything else is."""

from __future__ import annotations

import anyio
import pytest

from redisaq.actors import Actor, Supervisor
from redisaq.consuming.handler_pool import Batch, hand_over
from redisaq.errors import ActorStopped
from tests.actors.group import IN_VIRTUAL_TIME
from tests.unit.owning import owned_partition, read

pytestmark = IN_VIRTUAL_TIME


class Workers(Actor[Batch]):
    """Notes the batches that it gets."""

    def __init__(self, capacity: int = 4) -> None:
        super().__init__(capacity=capacity)
        self.got: list[Batch] = []
        self.free = anyio.Event()
        self.free.set()

    async def receive(self, message: Batch) -> None:
        """Note one, when free."""
        await self.free.wait()
        self.got.append(message)


@pytest.mark.parametrize("over", ["lease", "lost", "drain"])
async def test_workers_that_ended_with_the_lease_get_nothing_and_nobody_fails(over: str) -> None:
    owned, actor = owned_partition(), Workers()
    batch = read(owned, 1, 1)
    async with Supervisor() as supervisor:
        workers = await supervisor.start(actor)
        await hand_over(batch, workers, owned)
        await supervisor.stop(workers)
        assert actor.got == [batch]
        match over:
            case "lease":  # a process that was paused: nothing but the clock tells
                owned.lease.deadline = anyio.current_time() - 1
            case "lost":
                owned.lose("the document leases it to somebody else")
            case _:
                owned.begin_drain()
        await hand_over(batch, workers, owned)
    assert actor.got == [batch]


async def test_workers_that_stopped_while_the_lease_stands_are_a_failure() -> None:
    owned = owned_partition()
    batch = read(owned, 1, 1)
    async with Supervisor() as supervisor:
        workers = await supervisor.start(Workers())
        await supervisor.stop(workers)
        with pytest.raises(ActorStopped):
            await hand_over(batch, workers, owned)


async def test_workers_with_a_full_mailbox_get_every_batch_when_there_is_room_again() -> None:
    owned, actor = owned_partition(), Workers(capacity=1)
    batches = [read(owned, number, number) for number in (1, 2, 3)]
    actor.free = anyio.Event()
    handed: list[Batch] = []
    async with Supervisor() as supervisor:
        workers = await supervisor.start(actor)

        async def hand_all() -> None:
            for batch in batches:
                await hand_over(batch, workers, owned)
                handed.append(batch)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hand_all)
            await anyio.sleep(1)
            assert handed == batches[:2], "one is in hand, one waits"
            actor.free.set()
        await anyio.sleep(1)
    assert actor.got == batches
