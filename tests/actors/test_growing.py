"""Consumers and producers while their topic grows: what waits, what is reported, and what an operator sees and does (G, E6, E7)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from redisaq import Admin, Consumer, Message, Producer, RetryPolicy, events
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.memory.registry import carry_out
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.growing import Adopt, Announce, Passed, ReadBarrier, ReadPassed
from redisaq.brokers.steps.leases import Install, Release
from redisaq.brokers.terms import GroupName
from redisaq.core.partitioner import partition_for
from redisaq.errors import ConnectionFailed, GroupBusyError, QueueFull, SettingsError
from redisaq.events import Event
from tests.actors.group import IN_VIRTUAL_TIME, fresh_url, store_of
from tests.actors.hooked import hooked
from tests.changing_steps import Do, change_step
from tests.conformance.steps import deliver

pytestmark = IN_VIRTUAL_TIME

MOVED = next(f"k{number}" for number in range(100) if partition_for(f"k{number}", 1) != partition_for(f"k{number}", 4))
"""A key that moves when one partition becomes four."""

NEW = partition_for(MOVED, 4)


class Handling:
    """Notes the order; holds what a test wants held."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.held: dict[Any, anyio.Event] = {}
        self.events: list[Event] = []

    async def __call__(self, message: Message[Any]) -> None:
        self.seen.append(message.payload)
        if (event := self.held.get(message.payload)) is not None:
            await event.wait()

    def told(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(120):
        while not condition():
            await anyio.sleep(0.01)


def consumer_of(url: str, handling: Handling, **options: Any) -> Consumer[Any]:
    return Consumer("jobs", url, on_event=handling.events.append, **options)


async def test_a_key_that_moved_waits_for_its_earlier_messages() -> None:
    """G4, G5: also for one that failed. An operator sees what it waits for; when that is done, the partition is opened."""
    url, handling = fresh_url(), Handling()
    handling.held["first"] = anyio.Event()
    consumer = consumer_of(url, handling)
    async with Producer("jobs", url) as producer, Admin(url) as admin, anyio.create_task_group() as tasks:
        await producer.enqueue("first", key=MOVED)
        tasks.start_soon(consumer.process, handling)
        await until(lambda: handling.seen)
        assert await producer.request_partition_increase(4) == 4
        await producer.enqueue("second", key=MOVED)
        await until(lambda: len(consumer.assignment) == 4)
        await anyio.sleep(75.0)
        assert handling.seen == ["first"]
        told = handling.told(events.PartitionWaiting)
        assert [(one.partition, one.waiting_for, one.messages, round(one.waited, -1)) for one in told if one.partition == NEW] == [
            (NEW, 0, 1, 10),
            (NEW, 0, 1, 70),
        ]
        waits = (await admin.group("jobs", "default_group")).partitions[NEW].waits
        assert waits is not None
        assert (waits.partition, waits.messages) == (0, 1)
        assert (await admin.topic("jobs")).history == (1, 4)
        partitions = consumer.statistics().partitions
        assert [one.waiting_for for one in partitions] == [None, 0, 0, 0]
        assert [one.waiting_for_messages for one in partitions] == [None, 1, 1, 1]
        assert partitions[0].waited is None
        assert all(70.0 < (one.waited or 0.0) < 80.0 for one in partitions[1:])
        assert waits.since.timestamp() == pytest.approx(store_of(url).topics["jobs"].grown / 1000)
        handling.held["first"].set()
        await until(lambda: len(handling.seen) == 2)
        assert handling.seen == ["first", "second"]
        await until(lambda: len(handling.told(events.PartitionOpened)) == 3)
        assert (await admin.group("jobs", "default_group")).partitions[NEW].waits is None
        assert {(one.waiting_for, one.waiting_for_messages, one.waited) for one in consumer.statistics().partitions} == {(None, None, None)}
        await consumer.stop()


async def test_what_an_earlier_owner_left_behind_a_barrier_waits_too() -> None:
    """G4: a failover may have forgotten that the partition was open."""
    url, handling, group = fresh_url(), Handling(), GroupName("jobs", "default_group")
    handling.held["first"] = anyio.Event()
    broker = MemoryBroker(url.removeprefix("memory://"), "redisaq")
    consumer = consumer_of(url, handling)
    async with Producer("jobs", url, init_partitions=1) as producer, anyio.create_task_group() as tasks:
        await producer.enqueue("first", key=MOVED)
        await producer.request_partition_increase(4)
        await producer.enqueue("second", key=MOVED)
        await make_groups(broker, group, range(4), latest=False)
        await broker.do(Install(group, NEW, 1, "earlier", foreign=True))
        assert len(await deliver(broker, group, NEW, 1, "earlier")) == 1
        await broker.do(Release(group, NEW, 1))
        tasks.start_soon(consumer.process, handling)
        await until(lambda: handling.seen)
        await anyio.sleep(5.0)
        assert handling.seen == ["first"]
        handling.held["first"].set()
        await until(lambda: len(handling.seen) == 2)
        assert handling.seen == ["first", "second"]
        await consumer.stop()


async def test_of_many_partitions_that_are_waited_for_the_first_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """G4: while it is not worked off, the others are of no interest; then they are asked about together."""
    url, handling, asked = fresh_url(), Handling(), list[int]()
    first = next(f"k{number}" for number in range(100) if partition_for(f"k{number}", 20) == 0 != partition_for(f"k{number}", 40))
    handling.held["first"] = anyio.Event()

    whole = MemoryBroker.do_each

    async def do_each(self: MemoryBroker, steps: Sequence[Any]) -> Any:
        asked.extend(step.partition for step in steps if isinstance(step, ReadPassed))
        return await whole(self, steps)

    async with Producer("jobs", url, init_partitions=20) as producer, anyio.create_task_group() as tasks:
        consumer = consumer_of(url, handling)
        await producer.enqueue("first", key=first)
        tasks.start_soon(consumer.process, handling)
        await until(lambda: handling.seen)
        monkeypatch.setattr(MemoryBroker, "do_each", do_each)
        await producer.request_partition_increase(40)
        await until(lambda: asked)
        await anyio.sleep(10.0)
        assert set(asked) == {0}
        handling.held["first"].set()
        await until(lambda: len(handling.told(events.PartitionOpened)) == 20)
        assert set(asked) == set(range(20))
        await consumer.stop()


async def test_a_message_that_failed_is_waited_for() -> None:
    url, seen = fresh_url(), list[tuple[str, int]]()

    async def handle(message: Message[Any]) -> None:
        seen.append((message.payload, message.attempt))
        if message.payload == "first" and message.attempt == 1:
            raise ValueError("the first time")

    async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
        await producer.enqueue("first", key=MOVED)
        consumer = Consumer[Any]("jobs", url, retry=RetryPolicy(backoff=20.0, jitter=False))
        tasks.start_soon(consumer.process, handle)
        await until(lambda: seen)
        await producer.request_partition_increase(4)
        await producer.enqueue("second", key=MOVED)
        await until(lambda: len(seen) == 3)
        assert seen == [("first", 1), ("first", 2), ("second", 1)]
        await consumer.stop()


async def test_a_blocking_retry_is_waited_for() -> None:
    """G5: it stays pending in the stream, so it counts as unread work does; its lane holds what came behind it, too."""
    url, seen = fresh_url(), list[tuple[str, int]]()

    async def handle(message: Message[Any]) -> None:
        seen.append((message.payload, message.attempt))
        if message.payload == "first" and message.attempt < 3:
            raise ValueError("twice")

    policy = RetryPolicy(max_attempts=3, backoff=20.0, factor=1.0, jitter=False, blocking=True)
    async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
        await producer.enqueue("first", key=MOVED)
        await producer.enqueue("behind it", key=MOVED)
        consumer = Consumer[Any]("jobs", url, retry=policy)
        tasks.start_soon(consumer.process, handle)
        await until(lambda: seen)
        await producer.request_partition_increase(4)
        await producer.enqueue("moved", key=MOVED)
        await until(lambda: len(seen) == 5)
        assert seen == [("first", 1), ("first", 2), ("first", 3), ("behind it", 1), ("moved", 1)]
        await consumer.stop()


async def test_back_pressure_counts_where_the_key_is_now() -> None:
    """`max_backlog` holds for each partition, also for one that waits, and for a producer that has not heard of the growth yet."""
    url, handling = fresh_url(), Handling()
    handling.held["1"] = anyio.Event()
    consumer = consumer_of(url, handling, batch_size=1, concurrency=1)

    def limited() -> Producer:
        return Producer("jobs", url, max_backlog=2, send_timeout=2.0)

    async with limited() as producer, limited() as unaware, anyio.create_task_group() as tasks:
        await producer.enqueue("1", key=MOVED)
        await unaware.connect()
        tasks.start_soon(consumer.process, handling)
        await until(lambda: handling.seen)
        await producer.request_partition_increase(4)
        for number in ("2", "3"):  # nobody reads them: the partition waits for "1"
            await producer.enqueue(number, key=MOVED)
        for one in (producer, unaware):
            with pytest.raises(QueueFull, match=f"partition {NEW} of jobs"):
                await one.enqueue("4", key=MOVED)
        handling.held["1"].set()
        await until(lambda: len(handling.seen) == 3)
        await unaware.enqueue("4", key=MOVED)
        await until(lambda: len(handling.seen) == 4)
        assert handling.seen == ["1", "2", "3", "4"]
        await consumer.stop()


async def test_retention_keeps_what_a_group_has_not_had() -> None:
    """E3, G6: neither what waits behind a barrier goes, nor what a group without members has never been in; then all of it."""
    url, handling = fresh_url(), Handling()

    def lengths() -> list[int]:
        return [len(store_of(url).streams["jobs", partition]) for partition in range(4)]

    options: dict[str, Any] = {"heartbeat_interval": 0.5, "heartbeat_ttl": 4.0}
    async with Producer("jobs", url, retention="acked", send_timeout=1.0) as producer, anyio.create_task_group() as tasks:
        await producer.enqueue("before", key=MOVED)
        away = Handling()
        await consumer_of(url, away, group_name="away", **options).process(away, until_empty=True)
        handling.held["first"] = anyio.Event()
        consumer = consumer_of(url, handling, **options)
        tasks.start_soon(consumer.process, handling)
        await producer.enqueue("first", key=MOVED)
        await producer.request_partition_increase(4)
        for number in range(5):
            await producer.enqueue(number, key=MOVED)
        await anyio.sleep(10.0)
        assert lengths()[NEW] == 5, "they wait for the first"
        handling.held["first"].set()
        await until(lambda: len(handling.seen) == 7)
        await anyio.sleep(70.0)
        assert lengths()[NEW] == 5, "one group is not in this stream yet"
        await consumer_of(url, away, group_name="away", **options).process(away, until_empty=True)
        assert away.seen == ["before", "first", *range(5)]
        assert not away.told(events.EntriesTrimmed)
        await until(lambda: max(lengths()) == 1)
        await consumer.stop()


async def test_trimming_past_a_cut_opens_what_waits_for_it() -> None:
    """A cut is an id: `maxlen` may take the entries that a new partition waits for, and the cut's own. Each stream has its own `maxlen`."""
    url, handling = fresh_url(), Handling()
    handling.held["0"] = anyio.Event()
    consumer = consumer_of(url, handling, batch_size=1, concurrency=1)
    stays = next(key for key in (f"k{number}" for number in range(100)) if partition_for(key, 4) == 0)
    async with Producer("jobs", url, maxlen=3, approximate=False) as producer, anyio.create_task_group() as tasks:
        for number in range(3):
            await producer.enqueue(str(number), key=MOVED)
        tasks.start_soon(consumer.process, handling)
        await until(lambda: handling.seen)
        await producer.request_partition_increase(4)
        await producer.enqueue("moved", key=MOVED)
        assert len(store_of(url).streams["jobs", 0]) == 3
        for number in range(3):
            await producer.enqueue(f"later {number}", key=stays)
        handling.held["0"].set()
        await until(lambda: {"moved", "later 2"} <= {*handling.seen})
        await until(lambda: len(handling.seen) + sum(one.count for one in handling.told(events.EntriesTrimmed)) == 7)
        assert handling.told(events.EntriesTrimmed)
        await consumer.stop()


async def test_a_pause_and_a_barrier_are_two_gates() -> None:
    """A topic grows while its group is paused: nothing runs until it is resumed, and then in order."""
    url, handling = fresh_url(), Handling()
    async with Producer("jobs", url) as producer, Admin(url) as admin, anyio.create_task_group() as tasks:
        await consumer_of(url, handling).process(handling, until_empty=True)
        await producer.enqueue("first", key=MOVED)
        await admin.pause("jobs", "default_group")
        consumer = consumer_of(url, handling)
        tasks.start_soon(consumer.process, handling)
        await until(lambda: consumer.assignment)
        await producer.request_partition_increase(4)
        await producer.enqueue("second", key=MOVED)
        await anyio.sleep(30.0)
        assert handling.seen == []
        await admin.resume("jobs", "default_group")
        await until(lambda: len(handling.seen) == 2)
        assert handling.seen == ["first", "second"]
        await consumer.stop()


async def test_without_order_nothing_waits() -> None:
    url, handling = fresh_url(), Handling()
    handling.held["first"] = anyio.Event()
    consumer = consumer_of(url, handling, ordering="none")
    async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
        await producer.enqueue("first", key=MOVED)
        tasks.start_soon(consumer.process, handling)
        await until(lambda: handling.seen)
        await producer.request_partition_increase(4)
        await producer.enqueue("second", key=MOVED)
        await until(lambda: len(handling.seen) == 2)
        handling.held["first"].set()
        await consumer.stop()


async def test_what_is_delayed_goes_where_its_key_belongs_by_then() -> None:
    """G8."""
    url, seen = fresh_url(), list[tuple[Any, int]]()

    async def handle(message: Message[Any]) -> None:
        seen.append((message.payload, message.partition))

    async with Producer("jobs", url) as producer:
        await producer.enqueue("late", key=MOVED, delay=10.0)
        await producer.enqueue("without a key", delay=10.0)
        await producer.request_partition_increase(4)
        await producer.enqueue("now", key=MOVED)
        await Consumer[Any]("jobs", url).process(handle, until_empty=True)
    assert sorted(seen) == [("late", NEW), ("now", NEW), ("without a key", 0)]


async def test_what_is_delayed_stays_where_it_is_until_it_was_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    """G8: an adoption is refused if the topic has grown once more; then all is placed again."""
    url, handling, asked = fresh_url(), Handling(), 0

    async def adopt(step: Adopt, do: Do) -> Any:
        nonlocal asked
        if not step.rows:  # the sweep asks for the run of its own partition's server
            return await do(step)
        asked += 1
        return None if asked == 1 else await do(step)

    async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
        await producer.enqueue("late", key=MOVED, delay=20.0)
        await producer.request_partition_increase(4)
        change_step(monkeypatch, Adopt, adopt)
        consumer = consumer_of(url, handling)
        tasks.start_soon(consumer.process, handling)
        await until(lambda: handling.seen)
        await anyio.sleep(30.0)
        assert (handling.seen, asked) == (["late"], 2)
        await consumer.stop()


async def test_a_pause_holds_partitions_that_a_growth_has_brought() -> None:
    """G4."""
    url, handling = fresh_url(), Handling()
    consumer = consumer_of(url, handling)
    async with Producer("jobs", url) as producer, Admin(url) as admin, anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.process, handling)
        await until(lambda: consumer.assignment)
        await producer.request_partition_increase(4)
        await until(lambda: len(handling.told(events.PartitionOpened)) == 3)
        await admin.pause("jobs", "default_group")
        await anyio.sleep(10.0)
        await producer.enqueue("paused", key=MOVED)
        await anyio.sleep(10.0)
        assert handling.seen == []
        assert (await admin.group("jobs", "default_group")).partitions[NEW].pending == 0  # nor read: a seek would find it delivered
        await admin.resume("jobs", "default_group")
        await until(lambda: handling.seen)
        await consumer.stop()


async def test_where_the_topic_is_lost_a_sweep_waits_until_it_is_made_again() -> None:
    """G8: a heartbeat makes it; nobody asks all the time until then."""
    url, looks = fresh_url(), 0

    async def before(name: str) -> None:
        nonlocal looks
        looks += name == "due"

    handling = Handling()
    consumer = consumer_of(url, handling)
    hooked(consumer, url).before = before
    async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
        await producer.request_partition_increase(4)
        tasks.start_soon(consumer.process, handling)
        store, place = store_of(url), ("jobs", 0)
        await until(lambda: store.naming(place).swept == 1)
        store.names[place].swept, looks = 0, 0
        store.forget_topic("jobs")
        store.ring(place)
        await until(lambda: store.naming(place).swept == 1)
        assert looks <= 6
        assert store.topics["jobs"].partitions == 4
        await consumer.stop()


async def test_a_sweep_that_breaks_begins_with_the_adoption() -> None:
    """G8: the server that answers next may have forgotten what was adopted."""
    url, broken = fresh_url(), False

    async def before(name: str) -> None:
        nonlocal broken
        if name == "drop_adopted" and not broken:
            broken = True
            store_of(url).forget_partition("jobs", NEW)
            raise ConnectionFailed(url, "the server failed over", maybe_executed=True)

    handling = Handling()
    consumer = consumer_of(url, handling)
    hooked(consumer, url).before = before
    async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
        await producer.enqueue("late", key=MOVED, delay=30.0)
        await producer.request_partition_increase(4)
        tasks.start_soon(consumer.process, handling)
        await until(lambda: handling.seen)
        assert broken
        await consumer.stop()


async def test_an_id_of_the_caller_holds_across_a_growth() -> None:
    """E7: it was used at the key's former place."""
    url = fresh_url()
    async with Producer("jobs", url) as producer:
        first = await producer.enqueue(1, key=MOVED, dedup_id="a")
        await producer.request_partition_increase(4)
        await producer.request_partition_increase(8)
        assert await producer.enqueue(1, key=MOVED, dedup_id="a") == first
        assert await producer.enqueue(2, key=MOVED, dedup_id="b") != first


async def test_a_dead_letter_is_redriven_to_where_its_key_belongs_by_then() -> None:
    url, seen, fails = fresh_url(), list[tuple[Any, int, int]](), True

    async def handle(message: Message[Any]) -> None:
        seen.append((message.payload, message.partition, message.attempt))
        if fails:
            raise ValueError("it fails")

    def once() -> Consumer[Any]:
        return Consumer("jobs", url, retry=RetryPolicy(max_attempts=1))

    async with Producer("jobs", url) as producer, Admin(url) as admin:
        await producer.enqueue("keyed", key=MOVED)
        await producer.enqueue("without a key")
        await once().process(handle, until_empty=True)
        await producer.request_partition_increase(4)
        fails = False
        assert await admin.redrive("jobs", "default_group") == 2
        seen.clear()
        await once().process(handle, until_empty=True)
        assert sorted(seen) == [("keyed", NEW, 1), ("without a key", 0, 1)]
        assert [one async for one in admin.dead_letters("jobs", "default_group")] == []
        assert await admin.redrive("jobs", "default_group") == 0


async def test_a_seek_replays_a_key_in_order() -> None:
    """G4: partitions that the topic grew by wait again; and a pause too short to be known is waited for."""
    url, handling = fresh_url(), Handling()
    consumer = consumer_of(url, handling, heartbeat_interval=1.0, heartbeat_ttl=4.0)
    async with Producer("jobs", url) as producer, Admin(url) as admin, anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.process, handling)
        await producer.enqueue("first", key=MOVED)
        await producer.request_partition_increase(4)
        await producer.enqueue("second", key=MOVED)
        await until(lambda: len(handling.seen) == 2)
        handling.held["first"] = anyio.Event()
        await admin.pause("jobs", "default_group")
        began = anyio.current_time()
        await admin.seek("jobs", "default_group", "earliest")
        assert anyio.current_time() - began >= 3.9
        await admin.resume("jobs", "default_group")
        await until(lambda: len(handling.seen) == 3)
        await anyio.sleep(5.0)
        assert handling.seen == ["first", "second", "first"]
        handling.held["first"].set()
        await until(lambda: len(handling.seen) == 4)
        assert handling.seen[2:] == ["first", "second"]
        await admin.pause("jobs", "default_group")
        async with Admin(url, timeout=1.0) as hasty:
            with pytest.raises(GroupBusyError, match="too short a time"):
                await hasty.seek("jobs", "default_group", "earliest")
        await consumer.stop()


async def test_before_a_partition_is_opened_all_older_ones_are_asked_about_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """G4: a group that was lost and made again has worked off less than when it was asked."""
    url, handling, asked = fresh_url(), Handling(), list[int]()
    worked_off = {0}
    consumer = consumer_of(url, handling)
    whole = MemoryBroker.do_each

    async def do_each(self: MemoryBroker, steps: Sequence[Any]) -> Any:
        if not isinstance(steps[0], ReadPassed):
            return await whole(self, steps)
        asked.extend(step.partition for step in steps)
        return [Passed(step.partition in worked_off) for step in steps]

    monkeypatch.setattr(MemoryBroker, "do_each", do_each)
    async with Producer("jobs", url, init_partitions=2) as producer, anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.process, handling)
        await producer.request_partition_increase(3)
        await until(lambda: 1 in asked)
        worked_off.clear()
        worked_off.add(1)
        await anyio.sleep(5.0)
        assert not handling.told(events.PartitionOpened)
        worked_off.add(0)
        await until(lambda: handling.told(events.PartitionOpened))
        await consumer.stop()


async def test_an_answer_from_before_a_seek_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """G4: by the time it arrives, the group is to do again what had been worked off. An older version's seek spends no token (S5)."""
    url, handling, late = fresh_url(), Handling(), list[bool]()
    consumer = consumer_of(url, handling)
    whole = MemoryBroker.do_each

    async def do_each(self: MemoryBroker, steps: Sequence[Any]) -> Any:
        answers = await whole(self, steps)
        if not late and isinstance(steps[0], ReadPassed) and answers[0].done:
            late.append(True)
            handling.held["first"] = anyio.Event()
            await admin.pause("jobs", "default_group")
            store = store_of(url)
            leases = copy.deepcopy(store.leases)
            await admin.seek("jobs", "default_group", "earliest")
            store.leases.update(leases)
            await admin.resume("jobs", "default_group")
            await until(lambda: len(handling.seen) == 2)
            await anyio.sleep(5.0)
        return answers

    monkeypatch.setattr(MemoryBroker, "do_each", do_each)
    async with Producer("jobs", url, init_partitions=1) as producer, Admin(url) as admin, anyio.create_task_group() as tasks:
        await producer.enqueue("first", key=MOVED)
        await producer.request_partition_increase(4)
        await producer.enqueue("second", key=MOVED)
        tasks.start_soon(consumer.process, handling)
        await until(lambda: len(handling.seen) == 2)
        await anyio.sleep(15.0)
        assert handling.seen == ["first", "first"]
        broker, group = MemoryBroker(url.removeprefix("memory://"), "redisaq"), GroupName("jobs", "default_group")
        assert not any([await broker.do(ReadBarrier(group, partition)) for partition in (1, 2, 3)])  # another member would read at once
        handling.held["first"].set()
        await until(lambda: len(handling.seen) == 3)
        assert handling.seen[2:] == ["second"]
        await consumer.stop()


async def test_a_group_that_had_no_member_while_the_topic_grew() -> None:
    """G6: what came to the new partitions before it came back is handled, from earliest and from latest, and in order."""
    url, handling = fresh_url(), Handling()
    async with Producer("jobs", url) as producer:
        await producer.enqueue("before", key=MOVED)
        await consumer_of(url, handling, start="latest").process(handling, until_empty=True)
        await producer.enqueue("first", key=MOVED)
        await producer.request_partition_increase(4)
        await producer.enqueue("second", key=MOVED)
        await consumer_of(url, handling, start="latest").process(handling, until_empty=True)
        assert handling.seen == ["first", "second"]
        other = Handling()
        await consumer_of(url, other, group_name="other").process(other, until_empty=True)
        assert other.seen == ["before", "first", "second"]
        assert not handling.told(events.GroupLost)


async def test_a_new_group_at_the_end_of_a_grown_topic_waits_for_nothing() -> None:
    """G6: it begins behind every cut. Nothing from before is handled."""
    url, handling = fresh_url(), Handling()
    consumer = consumer_of(url, handling, start="latest")
    async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
        await producer.enqueue("before", key=MOVED)
        await producer.request_partition_increase(4)
        await producer.enqueue("between", key=MOVED)
        tasks.start_soon(consumer.process, handling)
        await until(lambda: len(handling.told(events.PartitionOpened)) == 3)
        assert all(one.waited < 1.0 for one in handling.told(events.PartitionOpened))
        await producer.enqueue("after", key=MOVED)
        await until(lambda: handling.seen)
        assert handling.seen == ["after"]
        await consumer.stop()


async def test_until_empty_includes_what_waits_behind_a_barrier() -> None:
    """G4: the topic grows while it works; it ends when the new partitions, too, are worked off."""
    url, handling = fresh_url(), Handling()
    handling.held["first"] = anyio.Event()
    async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
        await producer.enqueue("first", key=MOVED)
        ended = anyio.Event()

        async def work() -> None:
            await consumer_of(url, handling).process(handling, until_empty=True)
            ended.set()

        tasks.start_soon(work)
        await until(lambda: handling.seen)
        await producer.request_partition_increase(4)
        await producer.enqueue("second", key=MOVED)
        await anyio.sleep(20.0)
        assert not ended.is_set()
        handling.held["first"].set()
        await until(ended.is_set)
        assert handling.seen == ["first", "second"]


async def test_an_announced_growth_is_completed_by_a_consumer() -> None:
    """G3: the grower died before it had cut a stream, and no producer runs."""
    url, handling = fresh_url(), Handling()
    consumer = consumer_of(url, handling)
    async with Producer("jobs", url, init_partitions=2) as producer, anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.process, handling)
        await until(lambda: len(consumer.assignment) == 2)
        store = store_of(url)
        carry_out(store, Announce("jobs", 0, 3))
        await until(lambda: len(consumer.assignment) == 3)
        assert store.topics["jobs"].history == (2, 3)
        assert producer is not None
        await consumer.stop()


@pytest.mark.parametrize("partitions", [0, -1, 100_000, True, 2.5])
async def test_what_is_no_number_of_partitions_changes_nothing(partitions: Any) -> None:
    url = fresh_url()
    async with Producer("jobs", url, init_partitions=2) as producer, Admin(url) as admin:
        for ask in (producer.request_partition_increase, lambda count: admin.grow("jobs", count)):
            with pytest.raises(SettingsError, match="partitions"):
                await ask(partitions)
        assert await admin.grow("jobs", 1) == 2, "it never shrinks"
        assert store_of(url).topics["jobs"].generation == 0
        assert await admin.grow("jobs", 3) == 3
