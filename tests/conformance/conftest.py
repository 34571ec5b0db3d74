"""Every conformance test runs in every world, on every backend, with two brokers, like two processes that use the same server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import GroupName
from redisaq.link import cluster, sentinel
from tests.conformance.worlds import MemoryWorld, RedisWorld, SentinelWorld, World
from tests.matrix import everything
from tests.sentinels import PATIENCE
from tests.server_fixtures import CLUSTERS, ServerPool


@pytest.fixture(params=["memory", "valkey9", "redis8", "redis7", "sentinel", "cluster", *(["cluster8"] if everything() else [])])
def world(request: pytest.FixtureRequest, server_pool: ServerPool, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Each store in turn; nothing of the test is left in it."""
    kind: str = request.param
    if kind == "memory":
        yield MemoryWorld(namespace)  # its store goes with the event loop
        return
    world: World
    if kind == "sentinel":
        monkeypatch.setattr(sentinel, "ANSWER_WITHIN", PATIENCE)
        world = SentinelWorld(server_pool.guarded(), namespace)
    elif kind in CLUSTERS:
        monkeypatch.setattr(cluster, "ANSWER_WITHIN", PATIENCE)
        world = RedisWorld(server_pool.shared_cluster(kind), namespace)
    else:
        world = RedisWorld(server_pool.shared(kind), namespace)
    yield world
    world.flush()


@pytest.fixture
async def a(world: World) -> AsyncIterator[Broker]:
    """One broker, connected."""
    broker = world.broker()
    await broker.connect()
    yield broker
    await broker.close()


@pytest.fixture
async def b(world: World) -> AsyncIterator[Broker]:
    """Another broker in the same world, connected."""
    broker = world.broker()
    await broker.connect()
    yield broker
    await broker.close()


@pytest.fixture
def group() -> GroupName:
    """The group that most tests are about."""
    return GroupName("orders", "billing")


@pytest.fixture
async def owned(a: Broker, group: GroupName) -> int:
    """Make a topic of three partitions with the group in it, and let incarnation A hold partition 0; return its token."""
    await a.do(MakeTopic(group.topic, 3))
    await make_groups(a, group, [0, 1, 2], latest=False)
    token = 1_700_000_000_123_457  # microseconds, as tokens are: a Lua number would lose its last digits (M6)
    assert (await a.do(Install(group, 0, token, "A", foreign=True))).done
    return token
