"""The record of what is in flight in a partition, as its several readers wait at it."""

from __future__ import annotations

from typing import Any, cast

import anyio
import pytest

from redisaq import Message
from redisaq.actors.lease import Lease
from redisaq.actors.owned import OwnedPartition

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
