"""The record of what is in flight in a partition, as its several readers wait at it."""

from __future__ import annotations

from typing import Any, cast

import anyio
import pytest

from redisaq import Message
from redisaq.consuming.lease import Lease
from redisaq.consuming.owned import OwnedPartition

pytestmark = pytest.mark.anyio


async def test_everybody_who_waits_for_room_is_woken() -> None:
    """The reader and the retry timer share it."""
    owned = OwnedPartition(0, 1, cast("Lease", None), 1, lambda _: None)  # no lease is asked for on this way
    message: Message[Any] = Message(topic="jobs", payload={}, msg_id="1", entry=b"1-0")
    owned.add([message])
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(owned.wait_for_room, 1)
            await anyio.wait_all_tasks_blocked()
            owned.start(message)


async def test_everybody_who_waits_for_the_end_of_handlers_is_woken() -> None:
    owned = OwnedPartition(0, 1, cast("Lease", None), 1, lambda _: None)
    message: Message[Any] = Message(topic="jobs", payload={}, msg_id="1", entry=b"1-0")
    owned.add([message])
    owned.start(message)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(owned.wait_finished)
            await anyio.wait_all_tasks_blocked()
            owned.abandon(message)


@pytest.mark.parametrize("failed_before", [False, True])
async def test_all_at_once_is_as_one_by_one(failed_before: bool) -> None:
    """A batch is recorded at a fraction of the cost: with the same record after each step, the bell, and who waits woken."""

    async def states(*, together: bool) -> list[Any]:
        rung: list[OwnedPartition] = []
        owned = OwnedPartition(0, 1, cast("Lease", None), 4, rung.append)
        messages: list[Message[Any]] = [Message(topic="jobs", payload={}, entry=b"%d-0" % n) for n in range(4)]
        owned.add(messages[:3])
        if failed_before:
            owned.add_again(messages[3], 2)
            owned.unwritten[messages[3].entry] = 1
        else:
            owned.add(messages[3:])
        seen: list[Any] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(owned.wait_for_room, 4)
            await anyio.wait_all_tasks_blocked()
            if together:
                owned.start_all(messages)
            else:
                for message in messages:
                    owned.start(message)
        seen.append((list(owned.queued), list(owned.running), dict(owned.unwritten), dict(owned.deliveries)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(owned.wait_finished)
            await anyio.wait_all_tasks_blocked()
            if together:
                owned.succeed_all(messages)
            else:
                for message in messages:
                    owned.succeed(message)
        seen.append((list(owned.running), dict(owned.deliveries), owned.handled, owned.dirty, len(rung), owned.take_done()))
        return seen

    with anyio.fail_after(5):
        assert await states(together=True) == await states(together=False)
