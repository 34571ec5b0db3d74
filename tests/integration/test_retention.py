"""retention="acked" end to end: streams stay short, groups that lag pin, those that stay away do not, and say so."""

from __future__ import annotations

import uuid
from typing import Any

import anyio
import pytest

from redisaq import Admin, Consumer, Producer, RetryPolicy, events
from redisaq.errors import SettingsError
from tests.servers import Server

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "valkey9"])
def url(request: pytest.FixtureRequest, server_pool: Any) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    server: Server = server_pool.shared(request.param)
    return server.url


class Place:
    """One topic in a namespace of its own."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url = url
        self.namespace = namespace
        self.events: list[events.Event] = []

    def producer(self, **more: Any) -> Producer:
        options: dict[str, Any] = {"retention": "acked", "send_timeout": 0.1, **more}
        return Producer("jobs", self.url, namespace=self.namespace, **options)

    def consumer(self, group: str = "main", **more: Any) -> Consumer[Any]:
        options: dict[str, Any] = {"heartbeat_interval": 0.1, "heartbeat_ttl": 0.4, "on_event": self.events.append, **more}
        return Consumer("jobs", self.url, namespace=self.namespace, group_name=group, **options)

    async def length(self) -> int:
        async with Admin(self.url, namespace=self.namespace) as admin:
            return (await admin.topic("jobs")).length

    async def until_length(self, most: int) -> None:
        with anyio.fail_after(10):
            while await self.length() > most:
                await anyio.sleep(0.05)

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def place(url: str, namespace: str) -> Place:
    return Place(url, namespace)


async def handle(message: object) -> None:
    """Do nothing."""


async def test_what_all_groups_have_done_with_goes(place: Place) -> None:
    async with place.producer(init_partitions=2) as producer, anyio.create_task_group() as tasks:
        await tasks.start(place.consumer("main").process, handle)
        await producer.batch_enqueue([{"n": n} for n in range(300)])
        await place.until_length(2)
        await place.consumer("late", start="earliest").process(handle, until_empty=True)
        ids = await producer.batch_enqueue([{"n": n} for n in range(300)])
        await anyio.sleep(0.7)
        assert await place.length() >= 300, "the other group has not read them"
        seen: list[str] = []
        await place.consumer("late").process(lambda message: seen.append(message.msg_id), until_empty=True)
        assert sorted(seen) == sorted(ids)
        await place.until_length(2)
        tasks.cancel_scope.cancel()
    assert place.of(events.EntriesTrimmed) == []


async def test_a_group_that_stays_away_lapses_and_says_so(place: Place) -> None:
    async with (
        place.producer(retention_idle=0.6) as producer,
        Admin(place.url, namespace=place.namespace) as admin,
        anyio.create_task_group() as tasks,
    ):
        await place.consumer("away").process(handle, until_empty=True)
        await tasks.start(place.consumer("main").process, handle)
        await producer.batch_enqueue([{"n": n} for n in range(100)])
        assert not (await admin.group("jobs", "away")).lapsed
        with anyio.fail_after(20):
            while not place.of(events.GroupLapsed):
                # What trims looks when something moves.
                await producer.enqueue({"n": 0})
                await anyio.sleep(0.1)
        (lapsed,) = place.of(events.GroupLapsed)
        assert (lapsed.lapsed, lapsed.group) == ("away", "main")
        assert lapsed.alone >= 0.6
        await place.until_length(1)
        group = await admin.group("jobs", "away")
        assert group.lapsed
        assert group.alone >= 0.6
        main = await admin.group("jobs", "main")
        assert (main.lapsed, main.alone) == (False, 0.0)
        tasks.cancel_scope.cancel()


async def test_the_only_group_may_be_away_as_long_as_it_likes(place: Place) -> None:
    async with place.producer(retention_idle=0.1) as producer:
        await place.consumer().process(handle, until_empty=True)
        ids = await producer.batch_enqueue([{"n": n} for n in range(50)])
        await anyio.sleep(0.5)
        seen: list[str] = []
        await place.consumer().process(lambda message: seen.append(message.msg_id), until_empty=True)
        assert sorted(seen) == sorted(ids)


async def test_failed_messages_do_not_pin_and_are_not_lost(place: Place) -> None:
    """What waits for another try, and dead letters, have copies of their own."""
    tried: dict[str, int] = {}

    async def fail_once(message: Any) -> None:
        tried[message.msg_id] = tried.get(message.msg_id, 0) + 1
        if tried[message.msg_id] == 1:
            raise ValueError

    consumer = place.consumer(retry=RetryPolicy(backoff=1.0, jitter=False))
    async with place.producer() as producer, anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, fail_once)
        ids = await producer.batch_enqueue([{"n": n} for n in range(20)])
        await place.until_length(1)
        with anyio.fail_after(20):
            while list(tried.values()) != [2] * 20:
                await anyio.sleep(0.05)
        assert sorted(tried) == sorted(ids)
        tasks.cancel_scope.cancel()


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


async def test_both_ways_of_trimming_apply(place: Place) -> None:
    async with place.producer(maxlen=10, approximate=False) as producer, anyio.create_task_group() as tasks:
        await producer.batch_enqueue([{"n": n} for n in range(50)])
        assert await place.length() == 10
        await tasks.start(place.consumer().process, handle)
        await place.until_length(1)
        tasks.cancel_scope.cancel()
