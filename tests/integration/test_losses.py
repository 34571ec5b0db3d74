"""What trimming takes from a group before the group has handled it is reported, end to end."""

from __future__ import annotations

from typing import Any

import anyio

from redisaq import Admin, events
from tests.integration.trimmed_place import Place, handle, on


def lost(place: Place) -> int:
    return sum(event.count for event in place.of(events.EntriesTrimmed))


@on("valkey9", "redis8", "redis7")
async def test_what_maxlen_took_from_a_group_that_was_away(place: Place) -> None:
    seen: list[str] = []

    def note(message: Any) -> None:
        seen.append(message.msg_id)

    async with place.producer(retention=None, maxlen=10, approximate=False) as producer:
        await place.consumer().process(note, until_empty=True)
        ids = await producer.batch_enqueue([{"n": n} for n in range(50)])
        consumer = place.consumer()
        await consumer.process(note, until_empty=True)
        assert seen == ids[40:]
        (event,) = place.of(events.EntriesTrimmed)
        assert (event.entry_ids, event.count, event.after) == ((), 40, "0-0")
        assert event.before.count("-") == 1
        assert consumer.statistics().trimmed == 40
        async with Admin(place.url, namespace=place.namespace) as admin:
            group = await admin.group("jobs", "main")
            assert (group.lost, group.partitions[0].lost) == (40, 40)
        await place.consumer().process(handle, until_empty=True)
        assert lost(place) == 40


@on("valkey9", "redis8", "redis7")
async def test_what_maxlen_took_while_a_slow_consumer_worked(place: Place) -> None:
    """Each message is handled, or in a count that was reported; the counts are right however often trimming passes the reader."""
    handled = 0

    async def slow(message: object) -> None:
        nonlocal handled
        await anyio.sleep(0.001)
        handled += 1

    total = 3000
    consumer = place.consumer(batch_size=5, timeout=None)
    async with place.producer(retention=None, maxlen=50, approximate=False) as producer:
        async with anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, slow)
            for _ in range(total // 30):
                await producer.batch_enqueue([{"n": n} for n in range(30)])
                await anyio.sleep(0.01)
            await consumer.stop()
        await place.consumer(batch_size=5).process(slow, until_empty=True)
    assert lost(place) > 0
    trimmed_in_hand = sum(len(event.entry_ids) for event in place.of(events.EntriesTrimmed))
    # What was trimmed while a handler had it counts as handled; what was handed back and then trimmed does not.
    assert handled + lost(place) - trimmed_in_hand <= total <= handled + lost(place)


@on("valkey9", "redis8", "redis7")
async def test_a_lapsed_group_learns_what_it_lost_when_it_comes_back(place: Place) -> None:
    async with place.producer(retention_idle=3 * place.unit) as producer, anyio.create_task_group() as tasks:
        await place.consumer("away").process(handle, until_empty=True)
        await tasks.start(place.consumer("main").process, handle)
        await producer.batch_enqueue([{"n": n} for n in range(100)])
        with anyio.fail_after(60):
            while not place.of(events.GroupLapsed):
                await producer.enqueue({"n": 0})
                await anyio.sleep(0.05)
        await place.until_length(1)
        tasks.cancel_scope.cancel()
    sent = producer.statistics().sent
    length = await place.length()
    seen: list[object] = []
    await place.consumer("away").process(seen.append, until_empty=True)
    assert len(seen) == length
    assert lost(place) == sent - length
    assert {event.group for event in place.of(events.EntriesTrimmed)} == {"away"}


@on("valkey9", "redis8", "redis7")
async def test_nothing_is_reported_where_nothing_is_lost(place: Place) -> None:
    async with place.producer(init_partitions=2, maxlen=200, approximate=False) as producer, anyio.create_task_group() as tasks:
        await tasks.start(place.consumer(heartbeat_ttl=3.0).process, handle)  # for so long a pause is not known yet (G4)
        for _ in range(10):
            await producer.batch_enqueue([{"n": n} for n in range(50)])
            await place.consumer("other", start="latest").process(handle, until_empty=True)
        await producer.enqueue({"n": 1}, delay=0.05)
        await producer.request_partition_increase(4)
        await producer.batch_enqueue([{"n": n} for n in range(50)])
        await place.consumer("later").process(handle, until_empty=True)
        async with Admin(place.url, namespace=place.namespace) as admin:
            await admin.pause("jobs", "main")
            await admin.seek("jobs", "main", "earliest")
            await admin.resume("jobs", "main")
            await anyio.sleep(0.1)
            await admin.pause("jobs", "main")
            await admin.seek("jobs", "main", "latest")
            await admin.resume("jobs", "main")
        await producer.batch_enqueue([{"n": n} for n in range(50)])
        await place.consumer().process(handle, until_empty=True)
        tasks.cancel_scope.cancel()
    assert place.of(events.EntriesTrimmed) == []
