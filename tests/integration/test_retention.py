"""retention="acked" end to end: streams stay short, groups that lag pin, those that stay away do not, and say so."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import Admin, Producer, RetryPolicy, events
from redisaq.errors import SettingsError
from tests.integration.trimmed_place import Place, handle, on


@on("valkey9")
async def test_what_all_groups_have_done_with_goes(place: Place) -> None:
    async with place.producer(init_partitions=2) as producer, anyio.create_task_group() as tasks:
        await tasks.start(place.consumer("main").process, handle)
        await producer.batch_enqueue([{"n": n} for n in range(300)])
        await place.until_length(2)
        await place.consumer("late", start="earliest").process(handle, until_empty=True)
        ids = await producer.batch_enqueue([{"n": n} for n in range(300)])
        await anyio.sleep(4 * place.unit)
        assert await place.length() >= 300, "the other group has not read them"
        seen: list[str] = []
        await place.consumer("late").process(lambda message: seen.append(message.msg_id), until_empty=True)
        assert sorted(seen) == sorted(ids)
        await place.until_length(2)
        tasks.cancel_scope.cancel()
    assert place.of(events.EntriesTrimmed) == []


@on("valkey9")
async def test_a_group_that_stays_away_lapses_and_says_so(place: Place) -> None:
    async with (
        place.producer(retention_idle=3 * place.unit) as producer,
        Admin(place.url, namespace=place.namespace) as admin,
        anyio.create_task_group() as tasks,
    ):
        await place.consumer("away").process(handle, until_empty=True)
        await tasks.start(place.consumer("main").process, handle)
        await producer.batch_enqueue([{"n": n} for n in range(100)])
        assert not (await admin.group("jobs", "away")).lapsed
        with anyio.fail_after(60):
            while not place.of(events.GroupLapsed):
                # What trims looks when something moves.
                await producer.enqueue({"n": 0})
                await anyio.sleep(0.1)
        (lapsed,) = place.of(events.GroupLapsed)
        assert (lapsed.lapsed, lapsed.group) == ("away", "main")
        assert lapsed.alone >= 3 * place.unit
        await place.until_length(1)
        group = await admin.group("jobs", "away")
        assert group.lapsed
        assert group.alone >= 3 * place.unit
        main = await admin.group("jobs", "main")
        assert (main.lapsed, main.alone) == (False, 0.0)
        tasks.cancel_scope.cancel()


@on("valkey9")
async def test_the_only_group_may_be_away_as_long_as_it_likes(place: Place) -> None:
    async with place.producer(retention_idle=place.unit) as producer:
        await place.consumer().process(handle, until_empty=True)
        ids = await producer.batch_enqueue([{"n": n} for n in range(50)])
        await anyio.sleep(3 * place.unit)
        seen: list[str] = []
        await place.consumer().process(lambda message: seen.append(message.msg_id), until_empty=True)
        assert sorted(seen) == sorted(ids)


@on("valkey9")
async def test_failed_messages_do_not_pin_and_are_not_lost(place: Place) -> None:
    """What waits for another try, and dead letters, have copies of their own."""
    tried: dict[str, int] = {}

    async def fail_once(message: Any) -> None:
        tried[message.msg_id] = tried.get(message.msg_id, 0) + 1
        if tried[message.msg_id] == 1:
            raise ValueError

    consumer = place.consumer(retry=RetryPolicy(backoff=4 * place.unit, jitter=False))
    async with place.producer() as producer, anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, fail_once)
        ids = await producer.batch_enqueue([{"n": n} for n in range(20)])
        await place.until_length(1)
        with anyio.fail_after(60):
            while list(tried.values()) != [2] * 20:
                await anyio.sleep(0.05)
        assert sorted(tried) == sorted(ids)
        tasks.cancel_scope.cancel()


@on("valkey9")
async def test_after_the_loss_of_all_data_it_holds_again(place: Place) -> None:
    async with place.producer() as producer, anyio.create_task_group() as tasks:
        await tasks.start(place.consumer(init_partitions=1).process, handle)
        await producer.batch_enqueue([{"n": n} for n in range(20)])
        await place.until_length(1)
        async with Admin(place.url, namespace=place.namespace) as admin:
            await admin.delete_topic("jobs", force=True)
        await producer.batch_enqueue([{"n": n} for n in range(20)])
        await anyio.sleep(0.6)  # a producer that goes on looks at its topic twice a second, and declares again
        await producer.enqueue({"n": 20})
        await place.until_length(1)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("bad", ["all", "ACKED", 1, True, ""])
def test_what_retention_may_be(bad: Any) -> None:
    with pytest.raises(SettingsError, match="retention must be None or 'acked'"):
        Producer("jobs", "memory://x", retention=bad)


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), "1"])
def test_what_retention_idle_may_be(bad: Any) -> None:
    with pytest.raises(SettingsError, match="retention_idle"):
        Producer("jobs", "memory://x", retention="acked", retention_idle=bad)


@on("valkey9")
async def test_both_ways_of_trimming_apply(place: Place) -> None:
    async with place.producer(maxlen=10, approximate=False) as producer, anyio.create_task_group() as tasks:
        await producer.batch_enqueue([{"n": n} for n in range(50)])
        assert await place.length() == 10
        await tasks.start(place.consumer().process, handle)
        await place.until_length(1)
        tasks.cancel_scope.cancel()
