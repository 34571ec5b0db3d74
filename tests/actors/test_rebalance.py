"""Members come and go: partitions move without stopping the others, one owner at a time; prefetching counts for nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer, RetryPolicy, events
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.terms import GroupName
from tests.actors.group import IN_VIRTUAL_TIME, Notebook, fresh_url, produce, quick, store_of

pytestmark = IN_VIRTUAL_TIME
GROUP = GroupName("jobs", "default_group")


@pytest.fixture
def url() -> str:
    return fresh_url()


async def until(condition: Any, seconds: float = 5.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.01)


def shares(*consumers: Consumer[Any]) -> list[int]:
    return sorted(len(consumer.assignment) for consumer in consumers)


async def test_a_joiner_gets_its_share_within_half_a_second(url: str) -> None:
    await produce(url, 8, partitions=8)
    a, b = quick(url), quick(url)
    notebook = Notebook()
    async with anyio.create_task_group() as tasks:
        await tasks.start(a.process, notebook.handle)
        assert shares(a) == [8]
        kept = dict(a.assignment)
        await tasks.start(b.process, notebook.handle)
        await until(lambda: shares(a, b) == [4, 4], 0.5)
        assert dict(a.assignment).items() <= kept.items()  # those that stayed were not touched: same token
        tasks.cancel_scope.cancel()


async def test_a_clean_leave_is_taken_over_at_once(url: str) -> None:
    await produce(url, 1, partitions=6)
    a, b = quick(url, heartbeat_ttl=30.0), quick(url, heartbeat_ttl=30.0)
    notebook = Notebook()
    async with anyio.create_task_group() as tasks:
        await tasks.start(a.process, notebook.handle)
        await tasks.start(b.process, notebook.handle)
        await until(lambda: shares(a, b) == [3, 3])
        await a.stop()
        await until(lambda: shares(b) == [6], 0.5)
        tasks.cancel_scope.cancel()


async def test_no_partition_is_handled_by_two_at_once_while_members_come_and_go(url: str) -> None:
    async with Producer("jobs", url, init_partitions=5) as producer:
        running: dict[int, str] = {}
        handled: dict[str, int] = defaultdict(int)
        overlaps: list[tuple[int, str, str]] = []

        def handler(name: str) -> Any:
            async def handle(message: Message[Any]) -> None:
                if message.partition in running:
                    overlaps.append((message.partition, running[message.partition], name))
                running[message.partition] = name
                await anyio.sleep(0.002)
                del running[message.partition]
                handled[message.msg_id] += 1

            return handle

        ids: list[str] = []
        async with anyio.create_task_group() as tasks:

            async def keep_producing() -> None:
                for _ in range(100):
                    ids.extend(await producer.batch_enqueue([{}] * 5))
                    await anyio.sleep(0.01)

            tasks.start_soon(keep_producing)
            alive: list[Consumer[Any]] = []
            for step in range(12):
                if step % 3 == 2:
                    await alive.pop(0).stop()
                else:
                    consumer = quick(url, heartbeat_ttl=5.0)
                    await tasks.start(consumer.process, handler(str(step)))
                    alive.append(consumer)
                await anyio.sleep(0.05)
            await until(lambda: len(ids) == 500 and len(handled) == 500, 20)
            for consumer in alive:
                await consumer.stop()
    assert overlaps == []
    assert dict(handled) == dict.fromkeys(ids, 1)  # every leave was clean: nothing twice


async def test_six_rolling_restarts_leave_every_delivery_count(url: str) -> None:
    """T5: taking over and prefetching raise no count; only a handler that begins does."""
    await produce(url, 40)
    for _ in range(6):
        blocked = anyio.Event()

        async def handle(_message: Message[Any], blocked: anyio.Event = blocked) -> None:
            blocked.set()
            await anyio.sleep(30)

        consumer = quick(url, drain_timeout=0.0, batch_size=20, retry=RetryPolicy(max_attempts=20))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            await blocked.wait()
            await anyio.sleep(0.02)
            await consumer.stop()
    broker = MemoryBroker(url.removeprefix("memory://"), "redisaq")
    notebook = Notebook()
    await quick(url, retry=RetryPolicy(max_attempts=20)).process(notebook.handle, until_empty=True)
    await broker.close()
    assert notebook.numbers == list(range(40))
    attempts = {message.payload["n"]: message.attempt for message in notebook.messages}
    assert {n: attempts[n] for n in range(1, 40)} == dict.fromkeys(range(1, 40), 1)
    assert attempts[0] == 6  # its handler did begin, six times, and once more here


async def test_a_partition_increase_reaches_all_within_a_second(url: str) -> None:
    notebook = Notebook()
    async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
        a = Consumer("jobs", url, heartbeat_interval=10, heartbeat_ttl=40)
        b = Consumer("jobs", url, heartbeat_interval=10, heartbeat_ttl=40)
        await tasks.start(a.process, notebook.handle)
        await tasks.start(b.process, notebook.handle)
        other = Producer("jobs", url)
        await other.connect()
        assert await other.request_partition_increase(6) == 6
        assert await other.request_partition_increase(2) == 6  # a topic only grows
        await until(lambda: shares(a, b) == [3, 3], 1.0)
        with anyio.fail_after(1.0):
            while producer.statistics().partitions != 6:
                await producer.enqueue({"n": 0})
                await anyio.sleep(0.01)
        before = len(notebook.messages)
        await producer.batch_enqueue([{"n": n} for n in range(6)])
        await until(lambda: len(notebook.messages) == before + 6)
        assert {message.partition for message in notebook.messages[before:]} == set(range(6))
        tasks.cancel_scope.cancel()


async def test_a_static_name_gets_its_partitions_back_without_a_rebalance(url: str) -> None:
    """M1: the successor inherits the target of the name; the other member is not touched."""
    await produce(url, 1, partitions=6)
    a, b = quick(url, consumer_name="a"), quick(url, consumer_name="b")
    again = quick(url, consumer_name="a")
    notebook = Notebook()
    async with anyio.create_task_group() as tasks:
        await tasks.start(a.process, notebook.handle)
        await tasks.start(b.process, notebook.handle)
        await until(lambda: shares(a, b) == [3, 3])
        kept, wanted = dict(b.assignment), set(a.assignment)
        await tasks.start(again.process, notebook.handle)  # the same name twice: it waits
        await anyio.sleep(0.2)
        assert not again.assignment
        await a.stop()
        await until(lambda: set(again.assignment) == wanted, 1.0)
        assert dict(b.assignment) == kept
        tasks.cancel_scope.cancel()


async def test_a_lost_group_is_made_again_once_and_nothing_is_lost(url: str) -> None:
    """M8, T6, E5: FLUSHALL. What was in the server is gone; the consumer goes on, without a hot loop."""
    await produce(url, 3, partitions=2)
    notebook = Notebook()
    consumer = quick(url, on_event=notebook.note)
    async with anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, notebook.handle)
        await until(lambda: len(notebook.messages) == 3)
        store_of(url).flush()
        await anyio.sleep(0.3)
        await produce(url, 4, partitions=2)
        await until(lambda: len(notebook.messages) == 7)
        await anyio.sleep(2.0)  # heartbeats that might find it lost again
        assert len(notebook.of(events.GroupLost)) == 1
        assert len(notebook.events) < 60
        assert max(notebook.counts.values()) == 1
        tasks.cancel_scope.cancel()


async def test_a_changed_server_takes_nobody_s_lease(url: str) -> None:
    """M7: after a restart every lease is extended, and no member loses anything."""
    await produce(url, 1, partitions=4)
    notebook = Notebook()
    a, b = quick(url, on_event=notebook.note), quick(url, on_event=notebook.note)
    async with anyio.create_task_group() as tasks:
        await tasks.start(a.process, notebook.handle)
        await tasks.start(b.process, notebook.handle)
        await until(lambda: shares(a, b) == [2, 2])
        before = dict(a.assignment), dict(b.assignment)
        store_of(url).restart()
        await anyio.sleep(1.0)
        assert (dict(a.assignment), dict(b.assignment)) == before
        assert not notebook.of(events.LeaseLost)
        tasks.cancel_scope.cancel()
