"""Nodes of a cluster are replaced, killed and emptied under load: nothing that was acknowledged is lost, and work goes on.

The other rows are played by the command `python -m tests.chaos.cluster_outages`, with bounds for the times.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from redisaq import Consumer, Producer
from redisaq.core.partitioner import partition_for
from redisaq.errors import AmbiguousEnqueueError
from tests.chaos.cluster_outages import Place, fail_over, kill, move_slot_by_slot
from tests.chaos.growth import Killer
from tests.chaos.outage import PARTITIONS, Bounds, play
from tests.clusters import Cluster
from tests.integration.test_growing import KEYS, Ledger, Load
from tests.server_fixtures import ServerPool

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns, pytest.mark.usefixtures("patient")]

MARGIN = 10.0
"""Seconds, for a busy machine."""


@pytest.fixture
def own(server_pool: ServerPool) -> Iterator[Cluster]:
    """A cluster with replicas for this test alone."""
    own = server_pool.new_cluster("cluster", replicas=1)
    yield own
    own.close()


async def test_a_producer_waits_for_the_replica_of_each_node(own: Cluster, namespace: str) -> None:
    """C7: what one node's replica lacks is uncertain, and what the others' replicas have is not; nor does a look at the map wait."""
    place = Place(own, namespace)
    node, _ = place.victim(topic=False)
    there = [number for number, slot in enumerate(place.partitions) if own.serves(slot) is node]
    keys = {partition_for(f"k{number}", PARTITIONS): f"k{number}" for number in range(200)}
    options: dict[str, Any] = {"namespace": namespace, "acks": "replica", "send_timeout": 12.0}
    async with Producer("jobs", own.url, init_partitions=PARTITIONS, **options) as producer:
        every = [{"key": keys[number]} for number in range(PARTITIONS)]
        await producer.batch_enqueue(every, partition_key="key")
        replica = own.replica_of(node)
        replica.pause()
        try:
            with pytest.raises(AmbiguousEnqueueError, match="no replica has confirmed") as raised:
                await producer.batch_enqueue(every, partition_key="key")
            assert len(raised.value.message_ids) == len(there)
            elsewhere = next(number for number in range(PARTITIONS) if number not in there)
            await producer.enqueue({}, key=keys[elsewhere])
        finally:
            replica.resume()
        await producer.enqueue({}, key=keys[there[0]], dedup_id="again")
        lengths = [own.command("XLEN", f"{{{namespace}:jobs:{number}}}:0") for number in range(PARTITIONS)]
    assert sum(lengths) == 2 * PARTITIONS + 2, "what was uncertain is there, once"


async def test_slots_move_nodes_are_replaced_and_one_is_killed(own: Cluster, namespace: str) -> None:
    took = 0.0

    async def fault() -> None:
        nonlocal took
        place = Place(own, namespace)
        for topic in (False, True):
            await fail_over(place, topic=topic)
            await move_slot_by_slot(place, topic=topic, held=0.1)
        await anyio.sleep(0.5)
        took = await kill(place, topic=False)

    outcome = await play("replaced, emptied, killed", own.url, namespace, fault, before=1.0, after=1.0)
    assert outcome.acknowledged > 100
    assert outcome.beyond(Bounds(gap=1.3 * took + MARGIN, slowest=1.3 * took + MARGIN)) == []


async def test_a_topic_grows_while_nodes_are_killed(own: Cluster, namespace: str) -> None:  # noqa: C901 -- one story, told in its order
    """G2, G3, G7, G9: each key's messages begin in the order in which they were sent, and none is missing.

    A failover may forget that messages were settled: these run once more.
    """
    load, killer = Load(own.url, namespace, acks="replica", send_timeout=60.0), Killer(own, namespace)
    ledgers = {name: Ledger() for name in ("billing", "late")}

    def consumer(group: str) -> Consumer[Any]:
        return Consumer("orders", own.url, namespace=namespace, group_name=group, ordering="key", heartbeat_interval=0.5)

    ended: list[int] = []

    async def produce(seed: int) -> None:
        await load.run(seed)
        ended.append(seed)

    async def grow(growth: int, partitions: int) -> None:
        async with anyio.create_task_group() as tasks, Producer("orders", own.url, namespace=namespace) as producer:
            await producer.connect()
            tasks.start_soon(killer.kill, growth)
            assert await producer.request_partition_increase(partitions) == partitions

    async with anyio.create_task_group() as tasks:
        for seed in range(2):
            tasks.start_soon(produce, seed)
        first = consumer("billing")
        await tasks.start(first.process, ledgers["billing"].handle)
        with anyio.fail_after(60):
            while load.count < len(KEYS):
                await anyio.sleep(0.05)
        for growth, partitions in enumerate((5, 8)):
            await grow(growth, partitions)
        load.stop.set()
        with anyio.fail_after(120):
            while len(ended) < 2:  # what they have under way is still to come
                await anyio.sleep(0.05)
        late = consumer("late")
        await tasks.start(late.process, ledgers["late"].handle)
        with anyio.fail_after(120):
            while any(sum(map(len, ledger.first().values())) < load.count for ledger in ledgers.values()):
                await anyio.sleep(0.1)
        for one in (first, late):
            await one.stop()
    assert len(killer.took) == 2
    for name, ledger in ledgers.items():
        assert ledger.first() == load.sent, name
