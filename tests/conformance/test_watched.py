"""Who watches a group, and what its members tell then of their handlers."""

from __future__ import annotations

import anyio
import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.administration import Disband
from redisaq.brokers.steps.coordination import Heartbeat, ReadRunning, TellRunning, Watch
from redisaq.brokers.terms import GroupName
from redisaq.core.running import Report, Running
from tests.conformance.test_heartbeats import TTL, join
from tests.conformance.worlds import RedisWorld, World

pytestmark = pytest.mark.anyio

REPORT = Report(3, (Running("ключ", 2, "17-1", 4, 1_700_000_000_123, "a\x00key", 2.5), Running("m", 0, "18-0", 1, 5)))


async def is_watched(broker: Broker, group: GroupName) -> bool:
    return (await broker.do(Heartbeat(group, "A", TTL, ""))).watched


async def test_heartbeats_say_for_a_while_that_a_group_is_watched(a: Broker, b: Broker, group: GroupName) -> None:
    await join(a, group, "A")
    assert not await is_watched(a, group)
    await b.do(Watch(group))
    assert await is_watched(a, group)
    assert (await b.do(Heartbeat(group, "stranger", TTL, ""))).watched
    await b.do(Watch(group, 0.001))
    with anyio.fail_after(30):
        while await is_watched(a, group):
            await anyio.sleep(0.001)
    assert not await is_watched(a, GroupName(group.topic, "audit"))


async def test_an_unknown_group_is_not_watched(world: World, a: Broker, group: GroupName) -> None:
    await a.do(Watch(group))
    assert not await is_watched(a, group)
    await join(a, group, "A")
    assert not await is_watched(a, group)
    await a.do(Watch(group))
    world.forget_group(group)
    assert not await is_watched(a, group)


async def test_what_members_tell(a: Broker, b: Broker, group: GroupName) -> None:
    await join(a, group, "A", "B")
    await a.do(TellRunning(group, "A", TTL, Report(1)))
    await a.do(TellRunning(group, "A", TTL, REPORT))
    assert await b.do(ReadRunning(group, "A")) == REPORT
    assert await b.do(ReadRunning(group, "B")) is None
    assert await b.do(ReadRunning(GroupName(group.topic, "audit"), "A")) is None
    await a.do(TellRunning(group, "B", 0.001, REPORT))
    with anyio.fail_after(30):
        while await b.do(ReadRunning(group, "B")) is not None:
            await anyio.sleep(0.001)
    assert await b.do(ReadRunning(group, "A")) == REPORT


async def test_full_memory_costs_no_lease(world: World, a: Broker, group: GroupName) -> None:
    await join(a, group, "A")
    with world.full():
        await a.do(Watch(group))
        assert await is_watched(a, group)
        await a.do(TellRunning(group, "A", TTL, REPORT))
        assert await a.do(ReadRunning(group, "A")) is None


async def test_nothing_is_left(world: World, a: Broker, group: GroupName) -> None:
    """Nobody watches any more: the next heartbeat removes the field, and reports expire; one that redisaq did not write counts as none."""
    await join(a, group, "A")
    await a.do(Watch(group, 0.001))
    with anyio.fail_after(30):
        while await is_watched(a, group):
            await anyio.sleep(0.001)
    if isinstance(world, RedisWorld):
        prefix = world.key(group.topic, 0, "").replace(":0}:", "}:g:billing:")
        state, running = f"{prefix}state", f"{prefix}running:A"
        assert b"watched" not in world.command("HKEYS", state)
        for text in ("soon", "99999999999999", "-1"):
            world.command("HSET", state, "watched", text)
            assert not await is_watched(a, group)
            assert b"watched" not in world.command("HKEYS", state)
        await a.do(TellRunning(group, "A", 60.0, REPORT))
        assert 0 < world.command("PTTL", running) <= 60_000
        for data in (b"\xff", b"[]", b'{"count":1,"messages":[[1]]}', b"[" * 100_000):
            world.command("SET", running, data)
            assert await a.do(ReadRunning(group, "A")) is None
    await a.do(Watch(group))
    await a.do(Disband(group, force=True))
    assert not await is_watched(a, group)
