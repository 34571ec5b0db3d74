"""Doorbells: rung when something changes, heard even by a late wait, silent otherwise."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from redisaq.brokers.growth import make_or_grow
from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import Heartbeat
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import Doorbell, GroupName
from redisaq.core.membership import Document
from redisaq.errors import ConnectionFailed
from tests.conformance.steps import commit_document
from tests.conformance.worlds import World

pytestmark = pytest.mark.anyio

TTL = 1000.0


async def commit(broker: Broker, group: GroupName) -> None:
    """Change the group's document, whatever it is."""
    version = (await broker.do(Heartbeat(group, "X", TTL, ""))).version
    assert await commit_document(broker, group, "X", TTL, known_version=version, document=Document(), joins=True) is not None


async def hush(doorbell: Doorbell) -> None:
    """Receive the rings so far, until it is silent. It may ring for nothing, but not forever."""
    with anyio.fail_after(30):
        while True:
            with anyio.move_on_after(0.03) as scope:
                await doorbell.wait()
            if scope.cancelled_caught:
                return


Ring = Callable[[Broker, GroupName], Awaitable[object]]
RINGS: dict[str, Ring] = {
    "commit": commit,
    "make": lambda broker, group: broker.do(MakeTopic(group.topic, 1)),
}


@pytest.mark.parametrize("rings", RINGS)
async def test_it_rings(a: Broker, b: Broker, group: GroupName, rings: str) -> None:
    """For every waiting task, wherever it is connected; the topic need not exist yet."""
    doorbells = [await a.listen(group), await b.listen(group)]
    for doorbell in doorbells:
        await hush(doorbell)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for doorbell in doorbells:
                tasks.start_soon(doorbell.wait)
            await RINGS[rings](b, group)
    for doorbell in doorbells:
        await hush(doorbell)
        await doorbell.close()


async def test_it_rings_when_the_topic_grows(a: Broker, b: Broker, group: GroupName) -> None:
    await a.do(MakeTopic(group.topic, 1))
    doorbell = await a.listen(group)
    await hush(doorbell)
    await make_or_grow(b, group.topic, 2)
    with anyio.fail_after(30):
        await doorbell.wait()


async def test_a_ring_is_heard_however_late(a: Broker, b: Broker, group: GroupName) -> None:
    doorbell = await a.listen(group)
    await hush(doorbell)
    await commit(b, group)
    await anyio.sleep(0.05)
    with anyio.fail_after(30):
        await doorbell.wait()
    await hush(doorbell)


async def test_what_rang_before_the_first_wait_is_heard(a: Broker, b: Broker, group: GroupName) -> None:
    """Otherwise a change between listening and waiting would be missed."""
    doorbell = await a.listen(group)
    await commit(b, group)
    with anyio.fail_after(30):
        await doorbell.wait()


async def test_each_doorbell_hears_every_ring(a: Broker, b: Broker, group: GroupName) -> None:
    first, second = await a.listen(group), await a.listen(group)
    await hush(first)
    await hush(second)
    for _ in range(5):
        await commit(b, group)
        with anyio.fail_after(30):
            await first.wait()
            await second.wait()


async def test_a_cancelled_wait_does_not_swallow_the_ring(a: Broker, b: Broker, group: GroupName) -> None:
    doorbell = await a.listen(group)
    await hush(doorbell)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(doorbell.wait)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    await commit(b, group)
    with anyio.fail_after(30):
        await doorbell.wait()


async def test_closing_one_leaves_the_others(a: Broker, b: Broker, group: GroupName) -> None:
    first, second = await a.listen(group), await a.listen(group)
    await hush(second)
    await first.close()
    await first.close()
    await commit(b, group)
    with anyio.fail_after(30):
        await second.wait()


async def test_it_rings_after_each_reconnection(world: World, a: Broker, b: Broker, group: GroupName) -> None:
    """Something may have changed while no notification could arrive."""
    doorbell = await a.listen(group)
    for _ in range(2):
        await hush(doorbell)
        world.break_connections()
        with anyio.fail_after(30):
            await doorbell.wait()
    await hush(doorbell)
    await b.close()
    await b.connect()
    await commit(b, group)
    with anyio.fail_after(30):
        await doorbell.wait()


@pytest.mark.parametrize("closed", ["doorbell", "broker"])
async def test_closing_ends_the_wait(a: Broker, group: GroupName, closed: str) -> None:
    doorbell = await a.listen(group)
    await hush(doorbell)
    failed = False

    async def wait() -> None:
        nonlocal failed
        with pytest.raises(ConnectionFailed):
            await doorbell.wait()
        failed = True

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await (doorbell if closed == "doorbell" else a).close()
    assert failed
