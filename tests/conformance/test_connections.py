"""connect and close."""

from __future__ import annotations

import contextlib

import anyio
import anyio.lowlevel
import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.settling import ReadRemaining
from redisaq.brokers.steps.topics import MakeTopic, ReadTopics
from redisaq.brokers.terms import GroupName
from redisaq.errors import ConnectionFailed
from tests.conformance.steps import append
from tests.conformance.worlds import RedisWorld, World

pytestmark = pytest.mark.anyio


async def test_connect_twice_does_nothing_more(world: World, a: Broker) -> None:
    await a.do(MakeTopic("orders", 1))
    before = connections(world)
    await a.connect()
    await a.connect()
    assert await a.do(ReadTopics()) == ["orders"]
    assert connections(world) - before == isinstance(world, RedisWorld), "the look itself makes one"


def connections(world: World) -> int:
    """Return how many connections were ever made to a server; a memory broker makes none."""
    if not isinstance(world, RedisWorld):
        return 0
    (line,) = (line for line in world.command("INFO", "stats").splitlines() if line.startswith(b"total_connections_received:"))
    return int(line.partition(b":")[2])


async def test_close_before_connect_and_twice(world: World) -> None:
    broker = world.broker()
    await broker.close()
    await broker.close()
    await broker.do(MakeTopic("orders", 1))
    assert await broker.do(ReadTopics()) == ["orders"], "it opens as any other"
    await broker.close()
    await broker.close()


async def test_close_in_any_order_from_any_task(world: World) -> None:
    first, second = world.broker(), world.broker()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.connect)
        tasks.start_soon(second.connect)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.close)
    await second.do(MakeTopic("orders", 1))
    assert await second.do(ReadTopics()) == ["orders"], "the end of the first is none of its"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second.close)
    assert await first.do(ReadTopics()) == ["orders"]
    await first.close()


async def test_a_closed_broker_can_be_used_again(a: Broker, b: Broker) -> None:
    await a.do(MakeTopic("orders", 1))
    await a.close()
    assert await b.do(ReadTopics()) == ["orders"], "another broker is not touched"
    assert await a.do(ReadTopics()) == ["orders"]
    await a.close()
    await a.connect()
    assert await a.do(ReadTopics()) == ["orders"]


async def test_close_ends_calls_under_way(world: World, a: Broker) -> None:
    """Every wait for an answer gets ConnectionFailed soon, even if the server never answers."""
    await a.do(MakeTopic("orders", 1))
    ended = 0

    async def call() -> None:
        nonlocal ended
        with pytest.raises(ConnectionFailed):
            await _ask_forever(a)
        ended += 1

    with world.freeze():
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(call)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            with anyio.fail_after(30):
                await a.close()
    assert ended == 10


async def _ask_forever(broker: Broker) -> None:
    while True:
        await broker.do(ReadTopics())


async def test_a_broken_connection_is_made_again(world: World, a: Broker) -> None:
    """Calls may fail while it breaks; the broker recovers by itself."""
    await a.do(MakeTopic("orders", 1))
    world.break_connections()
    with anyio.fail_after(30):
        while True:
            with contextlib.suppress(ConnectionFailed):
                assert await a.do(ReadTopics()) == ["orders"]
                return


async def test_brokers_meet(a: Broker, b: Broker, group: GroupName) -> None:
    await a.do(MakeTopic(group.topic, 1))
    await append(b, group.topic, 0, b"1")
    assert (await a.do_each([ReadRemaining(group, 0)]))[0].unread


async def test_namespaces_are_apart(world: World, a: Broker, group: GroupName) -> None:
    elsewhere = world.broker("-elsewhere")
    await a.do(MakeTopic(group.topic, 1))
    await append(a, group.topic, 0, b"1")
    assert await elsewhere.do(ReadTopics()) == []
    assert await elsewhere.append(group.topic, [(0, [b"i", b"2"])], maxlen=None, approximate=False) == [None]
    await elsewhere.close()
