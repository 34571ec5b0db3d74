"""Handing messages to workers that have stopped: the end of the lease is no failure, anything else is."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import Message
from redisaq.actors import Actor, Supervisor
from redisaq.consuming.handler_pool import Batch, hand_over
from redisaq.consuming.lease import Lease
from redisaq.consuming.owned import OwnedPartition
from redisaq.environment import Environment
from redisaq.errors import ActorStopped

pytestmark = pytest.mark.anyio


class Workers(Actor[Batch]):
    """Notes the batches that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[Batch] = []

    async def receive(self, message: Batch) -> None:
        """Note one."""
        self.got.append(message)


def partition() -> OwnedPartition:
    lease = Lease("me", 60.0, Environment())
    lease.deadline = anyio.current_time() + 60
    return OwnedPartition(0, 1, lease, 10, lambda _owned: None)


@pytest.mark.parametrize("over", ["lease", "lost", "drain"])
async def test_workers_that_ended_with_the_lease_get_nothing_and_nobody_fails(over: str) -> None:
    owned, batch, actor = partition(), [Message[Any]("jobs", {}, entry=b"1-0")], Workers()
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
    owned, batch = partition(), [Message[Any]("jobs", {}, entry=b"1-0")]
    async with Supervisor() as supervisor:
        workers = await supervisor.start(Workers())
        await supervisor.stop(workers)
        with pytest.raises(ActorStopped):
            await hand_over(batch, workers, owned)
