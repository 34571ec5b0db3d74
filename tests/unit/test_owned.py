"""The record of what is in flight: several may wait for the same change of it, and all are woken."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq.consuming.lease import Lease
from redisaq.consuming.owned import OwnedPartition
from redisaq.environment import Environment
from redisaq.message import Message

pytestmark = pytest.mark.anyio


def owned_partition(window: int) -> OwnedPartition:
    lease = Lease("me", 60.0, Environment())
    lease.deadline = anyio.current_time() + 60
    return OwnedPartition(0, 1, lease, window, lambda _owned: None)


def messages(count: int) -> list[Message[Any]]:
    return [Message("jobs", n, entry=b"%d-0" % (n + 1)) for n in range(count)]


async def test_all_who_wait_for_room_are_woken() -> None:
    owned = owned_partition(4)
    some = messages(4)
    owned.add(some)
    woken: list[int] = []

    async def wait(number: int) -> None:
        await owned.wait_for_room(2)
        woken.append(number)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            for message in some[:2]:
                owned.start(message)
    assert sorted(woken) == [0, 1, 2]


async def test_all_who_wait_for_the_end_of_handlers_are_woken() -> None:
    owned = owned_partition(4)
    (message,) = messages(1)
    owned.add([message])
    owned.start(message)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(owned.wait_finished)
            await anyio.wait_all_tasks_blocked()
            owned.succeed(message)


async def test_what_was_not_found_is_settled_once_the_group_has_come_past_it() -> None:
    """T6: a group that was made again, and has answered, may still be below it; then it may be lost once more."""
    owned = owned_partition(4)
    owned.unmoved |= {b"1-0", b"3-0"}
    owned.confirm([b"1-0", b"3-0"])
    assert owned.unmoved == {b"1-0", b"3-0"}
    owned.position = b"2-0"
    owned.confirm([b"1-0", b"3-0"])
    assert owned.lowest_unsettled() == b"3-0"
    owned.position = b"10-0"
    owned.confirm([b"3-0"])
    assert owned.lowest_unsettled() == b""
    assert owned.lowest_unsettled([b"9-0", b"10-0"]) == b"9-0"
