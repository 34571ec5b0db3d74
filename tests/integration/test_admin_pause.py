"""A group that is paused and moved under its living members."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import Admin, Consumer, Message
from redisaq.brokers.redis.administration import PAUSE
from redisaq.errors import ConnectionFailed, ConsumerError
from tests.breaking_proxy import BreakingProxy
from tests.integration.admin_bench import Bench
from tests.server_fixtures import KeyLeaks, ServerPool
from tests.servers import Server

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "valkey9"])
def bench(request: pytest.FixtureRequest, server_pool: ServerPool, namespace: str, key_leaks: KeyLeaks) -> Bench:
    """Producers and consumers, on the memory broker and on a server, where the tests leave nothing."""
    if request.param == "memory":
        return Bench(f"memory://{namespace}", namespace)
    key_leaks.server = server_pool.shared(request.param)
    return Bench(key_leaks.server.url, namespace)


async def until(seen: list[int], count: int) -> None:
    """Wait until so many messages have been handled."""
    with anyio.fail_after(30):
        while len(seen) < count:
            await anyio.sleep(0.005)


async def until_paused(consumer: Consumer[Any]) -> None:
    """Wait until the consumer knows that its group is paused."""
    with anyio.fail_after(30):
        while consumer._runtime is None or not consumer._runtime.around.gate.closed:
            await anyio.sleep(0.005)


async def test_a_paused_group_begins_nothing_and_goes_on(bench: Bench) -> None:
    """The handler that runs is finished; the rest waits, also what is enqueued meanwhile, and comes when the group is resumed."""
    seen: list[int] = []
    running, finish = anyio.Event(), anyio.Event()

    async def handle(message: Message[Any]) -> None:
        running.set()
        await finish.wait()
        seen.append(message.payload["n"])

    await bench.produce(5, partitions=1)
    async with Admin(bench.url, namespace=bench.namespace) as admin, bench.consumer(heartbeat_interval=0.05) as consumer:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            with anyio.fail_after(30):
                await running.wait()
            await admin.pause("orders", "billing")
            await until_paused(consumer)
            await anyio.sleep(0.3)  # six heartbeats: each tells of it
            await bench.produce(2, partitions=1, start=5)
            finish.set()
            await until(seen, 1)
            await anyio.sleep(0.3)  # long enough for the others, which take no time
            assert seen == [0]
            assert consumer.assignment.keys() == {0}, "leases are kept"
            info = await admin.group("orders", "billing")
            assert (info.paused, info.pending + info.unread) == (True, 6)
            await admin.resume("orders", "billing")
            await until(seen, 7)
            await consumer.stop()
        assert seen == list(range(7))
        await admin.delete_topic("orders")


async def test_moving_a_paused_group_under_its_members(bench: Bench) -> None:
    """They go on from there, without a restart."""
    seen: list[int] = []

    async def handle(message: Message[Any]) -> None:
        seen.append(message.payload["n"])

    await bench.produce(4, partitions=1)
    async with Admin(bench.url, namespace=bench.namespace) as admin, bench.consumer(heartbeat_interval=0.05) as consumer:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            await until(seen, 4)
            await admin.pause("orders", "billing")
            await until_paused(consumer)
            await admin.seek("orders", "billing", "earliest")
            await bench.produce(1, partitions=1, start=4)
            await admin.resume("orders", "billing")
            await until(seen, 9)
            await consumer.stop()
        assert seen == [0, 1, 2, 3, 0, 1, 2, 3, 4]
        info = await admin.group("orders", "billing")
        assert (info.unread, info.pending, info.dead) == (0, 0, 0)
        await admin.delete_topic("orders")


async def test_a_paused_group_is_never_empty(bench: Bench) -> None:
    """Also for a member that starts when it is paused already."""
    await bench.produce(1, partitions=1)
    async with Admin(bench.url, namespace=bench.namespace) as admin:
        await bench.open_group("billing")
        await admin.pause("orders", "billing")
        with pytest.raises(ConsumerError, match="paused"):
            await bench.drain(heartbeat_interval=0.1, heartbeat_ttl=10.0)
        assert (await admin.group("orders", "billing")).unread == 1
        await admin.resume("orders", "billing")
        assert await bench.drain(heartbeat_interval=0.1, heartbeat_ttl=10.0) == [0]
        await admin.delete_topic("orders")


async def test_a_pause_that_would_come_behind_the_resume_is_killed(valkey_server: Server, namespace: str) -> None:
    """E1: the pause's connection is dead to the admin and alive at the server, with the pause still on its way."""
    await Bench(valkey_server.url, namespace).produce(1, partitions=1)
    await Bench(valkey_server.url, namespace).drain()
    proxy = BreakingProxy(valkey_server.port)
    try:
        async with Admin(proxy.url, namespace=namespace) as admin:
            await admin.pause("orders", "billing")  # so that the server knows the script
            for _ in range(3):
                await admin.resume("orders", "billing")
                proxy.hold_and_desert(PAUSE.words[1])
                with pytest.raises(ConnectionFailed):
                    await admin.pause("orders", "billing")
                await admin.resume("orders", "billing")
                proxy.let_through()
                await anyio.sleep(0.1)
                assert not (await admin.group("orders", "billing")).paused
    finally:
        proxy.close()
