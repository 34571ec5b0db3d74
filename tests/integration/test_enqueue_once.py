"""E1 to E4: a connection that breaks anywhere under a batch costs nothing and doubles nothing.

A TCP proxy stands between the producer and the server. It cuts both directions after so many bytes of the batch, drops the answers only,
or holds the batch back until after the reconnection. Each time every message is in its stream exactly once, in order.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from redisaq import Producer
from redisaq.errors import AmbiguousEnqueueError
from tests.breaking_proxy import BreakingProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

pytestmark = pytest.mark.anyio
STRIDE = int(os.environ.get("REDISAQ_STRIDE", "97"))


@pytest.fixture
def proxy(valkey_server: Server) -> Iterator[BreakingProxy]:
    proxy = BreakingProxy(valkey_server.port)
    yield proxy
    proxy.close()


def ids_in(server: Server, namespace: str, partitions: int = 1) -> list[list[str]]:
    """Return the message ids that stand in each stream."""
    streams = [server.command("XRANGE", f"{{{namespace}:jobs:{p}}}:0", "-", "+") for p in range(partitions)]
    return [[fields[1].decode() for _, fields in entries] for entries in streams]


def producer_of(proxy: BreakingProxy, namespace: str, **more: Any) -> Producer:
    return Producer("jobs", proxy.url, namespace=namespace, send_timeout=10.0, **more)


async def test_a_cut_after_every_stride_of_a_batch(proxy: BreakingProxy, valkey_server: Server, namespace: str) -> None:
    producer = producer_of(proxy, namespace, init_partitions=2)
    sent = await producer.batch_enqueue([{"n": n} for n in range(2)])
    size = proxy.count_upstream()
    sent += await producer.batch_enqueue([{"n": n} for n in range(10)])
    size = proxy.count_upstream() - size
    for cut in range(0, size + 1, STRIDE):
        proxy.cut_after(cut)
        with anyio.fail_after(30):
            sent += await producer.batch_enqueue([{"n": n} for n in range(10)])
    await producer.close()
    found = ids_in(valkey_server, namespace, 2)
    assert sorted(found[0] + found[1]) == sorted(sent)
    for ids in found:
        assert ids == sorted(ids, key=sent.index)


async def test_only_the_answers_are_lost(proxy: BreakingProxy, valkey_server: Server, namespace: str) -> None:
    producer = producer_of(proxy, namespace)
    sent = [await producer.enqueue({"n": 0})]
    for kept in (0, 1, 7, 25):
        proxy.drop_answers_after(kept)
        with anyio.fail_after(30):
            sent += await producer.batch_enqueue([{"n": n} for n in range(5)])
    await producer.close()
    assert ids_in(valkey_server, namespace) == [sent]


async def test_a_batch_that_would_arrive_after_the_reconnection_is_killed(
    proxy: BreakingProxy, valkey_server: Server, namespace: str
) -> None:
    """E1: the old connection is dead to the client and alive at the server, with the batch still on its way."""
    producer = producer_of(proxy, namespace)
    sent = [await producer.enqueue({"n": 0})]
    for _ in range(3):
        proxy.hold_and_desert()
        with anyio.fail_after(30):
            sent += await producer.batch_enqueue([{"n": n} for n in range(5)])
        proxy.let_through()
        await anyio.sleep(0.1)
    sent += [await producer.enqueue({"n": 1})]
    await producer.close()
    assert ids_in(valkey_server, namespace) == [sent]


async def test_nothing_later_of_the_producer_passes_what_is_being_recovered(
    proxy: BreakingProxy, valkey_server: Server, namespace: str
) -> None:
    """E4: order in a partition holds over a break, for calls that came one after the other."""
    producer = producer_of(proxy, namespace)
    first = await producer.enqueue({"n": 0})
    order: list[str] = [first]
    proxy.cut_after(30)

    async def later() -> None:
        await anyio.sleep(0.02)
        order.extend(await producer.batch_enqueue([{"n": 3}, {"n": 4}]))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(later)
            order[1:1] = await producer.batch_enqueue([{"n": 1}, {"n": 2}])
    await producer.close()
    assert ids_in(valkey_server, namespace) == [sorted(order, key=lambda msg_id: int(msg_id.rpartition("-")[2], 16))]


async def test_evidence_that_was_trimmed_away_is_no_guess(proxy: BreakingProxy, valkey_server: Server, namespace: str) -> None:
    """E2."""
    producer = producer_of(proxy, namespace, maxlen=3, approximate=False)
    await producer.batch_enqueue([{"n": n} for n in range(3)])
    stream = f"{{{namespace}:jobs:0}}:0"
    proxy.hold_answers()

    async def trim() -> None:
        while not proxy.answers_held():
            await anyio.sleep(0.01)
        for _ in range(5):
            valkey_server.command("XADD", stream, "MAXLEN", "3", "*", "i", "other", "d", "1")
        proxy.cut_now()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(trim)
        with anyio.fail_after(30), pytest.raises(AmbiguousEnqueueError) as caught:
            await producer.enqueue({"n": 9})
    assert len(caught.value.message_ids) == 1
    await producer.close()


async def test_a_hundred_tasks_over_connections_cut_at_random(
    proxy: BreakingProxy, valkey_server: Server, namespace: str, anyio_backend: tuple[str, Any]
) -> None:
    chance = random.Random(str(anyio_backend))
    producer = producer_of(proxy, namespace, init_partitions=3)
    await producer.connect()
    sent: list[str] = []
    running, cuts = True, 0

    async def sender() -> None:
        n = 0
        while n < 20 or cuts < 10:
            n += 1
            sent.append(await producer.enqueue({"n": n}))

    async def breaker() -> None:
        nonlocal cuts
        while running:
            await anyio.sleep(chance.uniform(0.0, 0.05))
            proxy.cut_after(chance.randrange(400))
            cuts += 1
            before = len(sent)
            while running and len(sent) == before:  # however slow the machine, something gets through between two cuts
                await anyio.sleep(0.005)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(breaker)
            async with anyio.create_task_group() as senders:
                for _ in range(100):
                    senders.start_soon(sender)
            running = False
    await producer.close()
    found = ids_in(valkey_server, namespace, 3)
    assert sorted(msg_id for ids in found for msg_id in ids) == sorted(sent)
    assert producer.statistics().retried > 0
