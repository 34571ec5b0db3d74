"""E3: a quick consumer under retention="acked" does not take away what an uncertain producer looks for.

A proxy holds the answers back while a consumer's steps (read, settle, trim) run as fast as they can, then cuts the connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from redisaq import Producer
from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.steps.retention import ReadKeeping, Trim
from redisaq.brokers.steps.settling import Acknowledge
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import GroupName
from redisaq.core.partitioner import partition_for
from redisaq.link import Link, parse_address
from tests.breaking_proxy import BreakingProxy
from tests.conformance.steps import deliver
from tests.servers import Server

pytestmark = pytest.mark.anyio
GROUP, TOKEN = GroupName("jobs", "quick"), 7
WATCHED, OTHER = (next(f"k{n}" for n in range(100) if partition_for(f"k{n}", 2) == partition) for partition in (0, 1))


@pytest.fixture
def proxy(valkey_server: Server) -> Iterator[BreakingProxy]:
    proxy = BreakingProxy(valkey_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
async def consumer(valkey_server: Server, namespace: str) -> AsyncIterator[Broker]:
    broker = RedisBroker(Link(parse_address(valkey_server.url)), namespace)
    await broker.do(MakeTopic("jobs", 2))
    await make_groups(broker, GROUP, [0, 1], latest=False)
    assert (await broker.do(Install(GROUP, 0, TOKEN, "A", foreign=True))).done
    yield broker
    await broker.close()


async def consume(broker: Broker) -> tuple[int, int]:
    """Read and settle all there is, then trim; return how many were read, and how many trimmed."""
    entries = await deliver(broker, GROUP, 0, TOKEN, "A")
    await broker.do_each([Acknowledge(GROUP, 0, TOKEN, entries)])
    await anyio.sleep(0.005)
    trimmed = await broker.do(Trim("jobs", 0, await broker.do(ReadKeeping(GROUP)), [GROUP.group]))
    return len(entries), trimmed.removed


async def enqueue_in_doubt(producer: Producer, proxy: BreakingProxy, consumer: Broker) -> int:
    """Send five messages whose answers are lost only after a consumer has done with them all; return how many it was given."""
    proxy.hold_answers()
    given = 0

    async def race() -> None:
        nonlocal given
        while given < 5:
            await anyio.sleep(0.01)
            given += (await consume(consumer))[0]
        proxy.cut_now()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(race)
            assert len(await producer.batch_enqueue([{"n": n} for n in range(5)], key=WATCHED)) == 5
    return given + (await consume(consumer))[0]


async def test_a_quick_consumer_leaves_the_evidence(proxy: BreakingProxy, consumer: Broker, namespace: str) -> None:
    async with Producer("jobs", proxy.url, namespace=namespace, retention="acked", send_timeout=5.0) as producer:
        await producer.batch_enqueue([{"n": n} for n in range(3)], key=WATCHED)
        await consume(consumer)
        assert await enqueue_in_doubt(producer, proxy, consumer) == 5, "each once"
        assert producer.statistics().retried > 0


async def test_the_limit_of_the_producer_that_waits_longest_counts(proxy: BreakingProxy, consumer: Broker, namespace: str) -> None:
    async with (
        Producer("jobs", proxy.url, namespace=namespace, retention="acked", send_timeout=5.0) as patient,
        Producer("jobs", proxy.url, namespace=namespace, retention="acked", send_timeout=0.5) as hasty,
    ):
        await patient.batch_enqueue([{"n": n} for n in range(3)], key=WATCHED)
        await hasty.enqueue({"n": 3}, key=WATCHED)
        await consume(consumer)
        assert await enqueue_in_doubt(patient, proxy, consumer) == 5, "each once"


async def test_a_producer_whose_last_message_was_trimmed_long_ago(proxy: BreakingProxy, consumer: Broker, namespace: str) -> None:
    """E2: its anchor is learnt again in time, and the stream reaches back to it."""
    async with Producer("jobs", proxy.url, namespace=namespace, retention="acked", send_timeout=1.0) as producer:
        await producer.batch_enqueue([{"n": n} for n in range(3)], key=WATCHED)
        await consumer.append("jobs", [(0, [b"i", b"other", b"d", b"1"])] * 3, maxlen=None, approximate=False)
        await consume(consumer)
        await anyio.sleep(2.1)
        assert await consume(consumer) == (0, 5), "only the newest of the old ones stays"
        await producer.enqueue({"n": 0}, key=OTHER)  # so that the next answer is that of the batch
        assert await enqueue_in_doubt(producer, proxy, consumer) == 5, "each once"
        await consumer.append("jobs", [(0, [b"i", b"other", b"d", b"1"])] * 3, maxlen=None, approximate=False)
        await consume(consumer)
        await anyio.sleep(2.1)
        assert await consume(consumer) == (0, 8)
        await producer.enqueue({"n": 0}, key=OTHER)
        proxy.cut_after(30)  # this batch never arrives: it is sent again only if it is sure that it did not
        with anyio.fail_after(30):
            await producer.batch_enqueue([{"n": n} for n in range(3)], key=WATCHED)
        assert (await consume(consumer))[0] == 3
