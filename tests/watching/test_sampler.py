"""The sampler looks as often as people do, within its budget, and never fails; in virtual time, on the memory broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import pytest
from msgspec.structs import replace

from redisaq import App, Consumer, Message, Producer, RetryPolicy, Tick
from redisaq.admin import Admin, GroupInfo, PartitionInfo
from redisaq.brokers import open_broker
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.memory.store import MemoryStore, open_store
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.topics import FORMAT, MakeTopic
from redisaq.brokers.terms import GroupName
from redisaq.environment import current_environment
from redisaq.errors import ConnectionFailed, QueueFull
from redisaq.testing import virtual_run
from redisaq.testing.virtual import EPOCH
from redisaq.watching import Sampler, Screen, Snapshot
from redisaq.watching.accumulator import Accumulator
from redisaq.watching.sampler import BUDGET, PAGE

Backend = Literal["trio", "asyncio"]
URL = "memory://sampler"


class Looking(Admin):
    """An Admin that notes what it is asked, and when."""

    def __init__(self) -> None:
        super().__init__(URL)
        self.away = False
        self.looks: list[tuple[float, str, int]] = []
        self.members: list[tuple[float, str]] = []

    async def topics(self) -> list[str]:
        if self.away:
            raise ConnectionFailed(URL, "refused")
        return await super().topics()

    async def partitions(self, topic: str, group: str, partitions: Iterable[int]) -> list[PartitionInfo]:
        numbers = list(partitions)
        self.looks.append((current_environment().monotonic(), topic, len(numbers)))
        return await super().partitions(topic, group, numbers)

    async def group(self, topic: str, group: str, *, partitions: Iterable[int] | None = None, running: bool = False) -> GroupInfo:
        self.members.append((current_environment().monotonic(), f"{topic}/{group}"))
        return await super().group(topic, group, partitions=partitions, running=running)

    def times(self, group: str) -> list[float]:
        return [at for at, name in self.members if name == group]


@asynccontextmanager
async def sampling(**options: Any) -> AsyncIterator[tuple[Sampler, Looking]]:
    async with Looking() as admin, anyio.create_task_group() as tasks:
        sampler = Sampler(admin, **options)
        await tasks.start(sampler.run)
        yield sampler, admin
        tasks.cancel_scope.cancel()


async def make(topic: str, partitions: int = 2, groups: Iterable[str] = ("billing",), messages: int = 0) -> None:
    """Make a topic, groups in it that nobody is in, and messages."""
    async with Producer(topic, URL, init_partitions=partitions) as producer:
        if messages:
            await producer.batch_enqueue([{"n": number} for number in range(messages)])
    for group in groups:
        async with Consumer(topic, URL, group_name=group) as consumer, anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, nothing)
            tasks.cancel_scope.cancel()


async def nothing(message: Message[Any]) -> None:
    del message


def run(main: Callable[[], Awaitable[None]], backend: Backend = "trio") -> None:
    virtual_run(main, backend=backend)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_snapshots_of_a_group_at_work(backend: Backend) -> None:
    async def main() -> None:
        await make("orders", groups=())
        async with (
            Producer("orders", URL) as producer,
            Consumer("orders", URL, group_name="billing") as consumer,
            anyio.create_task_group() as tasks,
            sampling() as (sampler, _),
        ):
            await tasks.start(consumer.process, nothing)

            async def produce() -> None:
                while True:
                    await producer.enqueue({"n": 1})
                    await anyio.sleep(0.1)

            tasks.start_soon(produce)
            with sampler.watch() as watching:
                async for snapshot in watching:
                    if snapshot.at > EPOCH + 40:
                        break
                group = snapshot.group("orders", "billing")
                assert group is not None
                assert group.arriving == pytest.approx(10.0, rel=0.1)
                assert group.handled == pytest.approx(10.0, rel=0.1)
                assert (group.state, len(group.members), len(group.partitions)) == ("keeps up", 1, 2)
                assert {one.owner for one in group.partitions} == {0}
                assert snapshot.server.state == "here"
                assert snapshot.server.name == "memory broker"
                assert snapshot.well.startswith("Nothing. Every group keeps up")
                assert snapshot.totals.arriving == group.arriving
            tasks.cancel_scope.cancel()

    run(main, backend)


def test_what_is_on_a_screen_is_looked_at_often_and_the_rest_seldom() -> None:
    async def main() -> None:
        await make("orders", groups=("billing", "audit"))
        async with sampling() as (sampler, admin):
            with sampler.watch(Screen("group", "orders", "billing")):
                await anyio.sleep(61)
            often, seldom = admin.times("orders/billing"), admin.times("orders/audit")
            assert 29 <= len(often) <= 32
            assert 3 <= len(seldom) <= 4

    run(main)


def test_the_second_snapshot_has_rates_and_what_needs_attention() -> None:
    """`redisaq top --once` prints it: who begins to watch must not let a round follow on the first at once, which looks at nothing."""

    async def main() -> None:
        await make("orders", messages=3)
        async with Producer("orders", URL) as producer:
            await producer.enqueue({"n": 3})
        await anyio.sleep(60)
        async with Admin(URL) as admin, anyio.create_task_group() as tasks:
            sampler = Sampler(admin)
            tasks.start_soon(sampler.run)  # it begins to run when somebody watches already
            with sampler.watch() as watching:
                first, second = await anext(watching), await anext(watching)
            tasks.cancel_scope.cancel()
        assert 1.5 < second.at - first.at < 2.5
        group = second.group("orders", "billing")
        assert group is not None
        assert group.arriving == 0.0
        assert [one.key for one in second.attention] == ["alone:orders:billing"]

    run(main)


def test_nobody_looks_nothing_is_asked() -> None:
    async def main() -> None:
        await make("orders")
        async with sampling() as (sampler, admin):
            await anyio.sleep(100)
            assert (admin.members, sampler.latest.number, sampler.latest.server.state) == ([], 0, "connecting")
            with sampler.watch() as watching:
                first = await anext(watching)
                assert first.group("orders", "billing") is not None
            left = current_environment().monotonic()
            await anyio.sleep(300)
            assert max(admin.times("orders/billing")) < left + 31
            with sampler.watch() as watching:
                assert (await anext(watching)).number == sampler.latest.number  # the last one, at once
                await anyio.sleep(1)
                assert (await anext(watching)).at > first.at + 299

    run(main)


def test_a_sampler_may_look_always() -> None:
    async def main() -> None:
        await make("orders")
        async with sampling(always=True) as (_, admin):
            await anyio.sleep(200)
            assert 9 <= len(admin.times("orders/billing")) <= 11

    run(main)


def test_looking_somewhere_else_looks_at_once() -> None:
    async def main() -> None:
        await make("orders", groups=("billing", "audit"))
        async with sampling() as (sampler, admin):
            with sampler.watch(Screen("group", "orders", "billing")) as watching:
                await anyio.sleep(9)
                watching.look_at(Screen("partition", "orders", "audit", 1))
                now = current_environment().monotonic()
                await anyio.sleep(0.5)
                assert now <= admin.times("orders/audit")[-1] < now + 0.5

    run(main)


def test_thousands_of_partitions_stay_within_the_budget() -> None:
    """Fresh ones are not read again before stale ones, and a page is never larger than it may be."""

    async def main() -> None:
        await make("orders", 2)
        broker = open_broker(URL, "redisaq")
        await broker.do(MakeTopic("events", 2500))
        await make_groups(broker, GroupName("events", "indexer"), range(2500), latest=False)
        async with sampling() as (sampler, admin):
            with sampler.watch() as watching:
                snapshot = await anext(watching)
                while snapshot.at < EPOCH + 30:
                    snapshot = await anext(watching)
            looks = [(at, count) for at, _, count in admin.looks]
            assert max(count for _, count in looks) <= PAGE
            for start in range(5, 25, 5):
                assert 4 * BUDGET <= sum(count for at, count in looks if start <= at < start + 5) <= 5 * BUDGET * 1.1
            large, small = snapshot.group("events", "indexer"), snapshot.group("orders", "billing")
            assert large is not None
            assert small is not None
            assert len(large.partitions) == 2500
            assert 2500 / BUDGET - 2 <= large.within <= 2500 / BUDGET + 4
            assert small.within < 4

    run(main)


def test_a_server_that_is_away_and_comes_back() -> None:
    async def main() -> None:
        await make("orders", messages=3)
        async with sampling() as (sampler, admin):
            with sampler.watch() as watching:
                snapshot = await anext(watching)
                assert snapshot.totals.backlog == 3
                admin.away = True
                await anyio.sleep(20)
                snapshot = await anext(watching)
                assert (snapshot.server.state, snapshot.totals.backlog) == ("away", 3)
                assert "refused" in snapshot.server.error
                assert 14 < snapshot.at - snapshot.server.since <= 20
                assert snapshot.attention[0].key == "server"
                admin.away = False
                await anyio.sleep(5)
                snapshot = await anext(watching)
                assert (snapshot.server.state, [one.key for one in snapshot.attention if one.key == "server"]) == ("here", [])

    run(main)


def test_a_server_whose_clock_is_set_back_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise what it reports would count as old for an hour, and the page would say that it is live."""
    ahead = 3600.0
    monkeypatch.setattr(MemoryStore, "now", lambda store: round((store.environment.wall_clock() + ahead) * 1_000_000))

    async def main() -> None:
        nonlocal ahead
        await make("orders")
        async with sampling() as (sampler, _):
            with sampler.watch() as watching:
                first = await anext(watching)
                ahead = 0.0
                async with Producer("orders", URL) as producer:
                    await producer.batch_enqueue([{"n": number} for number in range(5)])
                with anyio.fail_after(60):
                    while (found := (last := await anext(watching)).group("orders", "billing")) is None or found.unread < 5:
                        pass
        assert last.at < first.at - 3000
        assert last.number > first.number

    virtual_run(main)


def test_a_slow_reader_gets_the_newest_and_one_only() -> None:
    async def main() -> None:
        await make("orders")
        async with sampling() as (sampler, _):
            with sampler.watch() as quick, sampler.watch() as slow:
                seen: list[Snapshot] = [await anext(quick) for _ in range(6)]
                assert [one.number for one in seen] == sorted({one.number for one in seen})
                assert (await anext(slow)).number == seen[-1].number
                assert (await anext(slow)).number == seen[-1].number + 1

    run(main)


def test_what_is_deleted_disappears() -> None:
    async def main() -> None:
        await make("orders", groups=("billing", "audit"))
        await make("emails")
        async with sampling() as (sampler, admin):
            with sampler.watch() as watching:
                assert [one.topic for one in (await anext(watching)).topics] == ["emails", "orders"]
                await admin.delete_group("orders", "audit")
                await admin.delete_topic("emails")
                await anyio.sleep(5)
                (topic,) = (await anext(watching)).topics
                assert (topic.topic, [group.group for group in topic.groups]) == ("orders", ["billing"])

    run(main)


def test_a_topic_that_was_made_again_with_fewer_partitions_is_another_one() -> None:
    async def main() -> None:
        await make("orders", partitions=8, messages=80)
        async with sampling() as (sampler, admin):
            with sampler.watch() as watching:
                for _ in range(3):
                    await anext(watching)
                await admin.delete_topic("orders")
                await make("orders", partitions=2, messages=4)
                for _ in range(12):
                    await anext(watching)
            found, group = sampler.latest.topic("orders"), sampler.latest.group("orders", "billing")
            assert found is not None
            assert group is not None
            assert (found.partitions, found.length, len(group.partitions), group.unread) == (2, 4, 2, 4)

    run(main)


def test_a_topic_of_a_later_version_does_not_end_it() -> None:
    async def main() -> None:
        for topic in ("later", "orders"):
            await make(topic)
        topics = MemoryBroker("sampler", "redisaq").store.topics
        topics["later"] = replace(topics["later"], format=FORMAT + 1)
        async with sampling() as (sampler, _):
            with sampler.watch() as watching:
                await anext(watching)
                snapshot = await anext(watching)
            assert snapshot.server.state == "here"
            assert snapshot.group("orders", "billing") is not None

    run(main)


def test_cancelling_leaves_nothing_and_it_may_run_again() -> None:
    async def main() -> None:
        await make("orders")
        async with Looking() as admin:
            sampler = Sampler(admin)
            for _ in range(2):
                async with anyio.create_task_group() as tasks:
                    await tasks.start(sampler.run)
                    with sampler.watch() as watching:
                        await anext(watching)
                        await anext(watching)
                    tasks.cancel_scope.cancel()
            assert sampler.latest.number >= 3

    run(main)


def test_a_group_on_the_screen_has_its_history_and_what_died_its_kind() -> None:
    async def fail(message: Message[Any]) -> None:
        raise ValueError(message.msg_id)

    async def main() -> None:
        await make("orders", 1, messages=2)
        async with sampling() as (sampler, admin), Admin(URL, client="mara@ops-1") as mara:
            with sampler.watch(Screen("group", "orders", "billing")) as watching:
                await anext(watching)
                async with Consumer("orders", URL, group_name="billing", retry=RetryPolicy(max_attempts=1), client="host-2:7") as consumer:
                    await consumer.process(fail, until_empty=True)
                await mara.pause("orders", "billing")
                await anyio.sleep(5)
                snapshot = await anext(watching)
                group = snapshot.group("orders", "billing")
                assert group is not None
                assert group.history is not None
                assert [one.sentence for one in group.history][:3] == ["paused by mara@ops-1", "host-2:7 left", "host-2:7 joined"]
                found = {one.key.partition(":")[0]: one for one in snapshot.attention}
                assert found["dead"].subject == "2 new dead letters"
                assert found["dead"].code == "ValueError"
                assert "by mara@ops-1" in found["paused"].sentence
            del admin

    run(main)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_what_is_in_handlers_while_somebody_watches(backend: Backend) -> None:
    """Members report it soon, a handler that takes long is a finding, and without anybody who watches the server keeps nothing of it."""

    async def main() -> None:
        released = anyio.Event()

        async def handle(message: Message[Any]) -> None:
            if message.payload["n"] < 3:
                await released.wait()

        async with Producer("orders", URL, init_partitions=2) as producer:
            await producer.batch_enqueue([{"n": number} for number in range(5)], partition_key="n")
        consumer = Consumer("orders", URL, group_name="billing", ordering="none", concurrency=10, timeout=500.0)
        old = Consumer("orders", URL, group_name="audit")
        store = open_store(URL.removeprefix("memory://"), "redisaq", current_environment())
        async with consumer, anyio.create_task_group() as tasks, sampling() as (sampler, _):
            await tasks.start(consumer.process, handle)
            await tasks.start(old.process, nothing)
            await anyio.sleep(60)
            coordination = store.coordination[GroupName("orders", "billing")]
            assert (coordination.reports, coordination.watched_until) == ({}, 0)
            with sampler.watch(Screen("group", "orders", "billing")) as watching:
                first = (await anext(watching)).group("orders", "billing")
                assert first is not None
                assert (first.running, first.in_handlers) == (None, None)
                await anyio.sleep(6)
                snapshot = await anext(watching)
                group = snapshot.group("orders", "billing")
                assert group is not None
                assert group.in_handlers
                assert (group.running, snapshot.totals.running, len(group.in_handlers)) == (3, 3, 3)
                assert {(one.key, one.attempt, one.limit, one.member) for one in group.in_handlers} == {
                    (str(n), 1, 500.0, 0) for n in range(3)
                }
                assert all(60 < snapshot.at - one.since < 70 for one in group.in_handlers)
                assert group.in_handlers[0].since == min(one.since for one in group.in_handlers)
                other = snapshot.group("orders", "audit")
                assert other is not None
                assert (other.running, other.in_handlers) == (None, None)
                await anyio.sleep(300)
                assert "slow:orders:billing" not in [one.key for one in (await anext(watching)).attention]
                await anyio.sleep(60)  # 0.8 of 500 s are over
                (slow,) = [one for one in (await anext(watching)).attention if one.key == "slow:orders:billing"]
                assert slow.sentence.startswith("has been in one handler for 7 min")
                released.set()
                await anyio.sleep(10)
                snapshot = await anext(watching)
                group = snapshot.group("orders", "billing")
                assert group is not None
                assert (group.running, group.in_handlers, snapshot.attention) == (0, (), ())
            await anyio.sleep(60)
            assert all(until < store.now() for until in (coordination.watched_until, *(one for one, _ in coordination.reports.values())))
            tasks.cancel_scope.cancel()

    run(main, backend)


def test_members_that_report_nothing_are_not_counted() -> None:
    """A member of an older version says nothing: what is known is the sum of the others'."""

    async def main() -> None:
        released = anyio.Event()

        async def handle(message: Message[Any]) -> None:
            await released.wait()

        await make("orders", 2)
        async with anyio.create_task_group() as tasks, Admin(URL) as admin, Producer("orders", URL) as producer:
            for name in ("new", "old"):
                await tasks.start(Consumer("orders", URL, group_name="billing", consumer_name=name).process, handle)
            await anyio.sleep(10)
            await producer.batch_enqueue([{"n": 1}, {"n": 2}])
            await admin.group("orders", "billing", running=True)
            await anyio.sleep(4)
            info = await admin.group("orders", "billing", running=True)
            assert {member.name: member.running for member in info.members} == {"new": 1, "old": 1}
            (old,) = [member.incarnation for member in info.members if member.name == "old"]
            store = open_store(URL.removeprefix("memory://"), "redisaq", current_environment())
            del store.coordination[GroupName("orders", "billing")].reports[old]
            info = await admin.group("orders", "billing", running=True)
            assert {member.name: member.running for member in info.members} == {"new": 1, "old": None}
            assert {member.name: len(member.in_handlers) for member in info.members} == {"new": 1, "old": 0}
            assert all(member.running is None for member in (await admin.group("orders", "billing")).members)
            seen = Accumulator()
            seen.saw_topics(["orders"], info.now.timestamp())
            seen.saw_topic(await admin.topic("orders"), info.now.timestamp())
            seen.saw_group(info)
            group = seen.snapshot(info.now.timestamp()).group("orders", "billing")
            assert group is not None
            assert group.running == 1
            tasks.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_ticks_that_nobody_ran(backend: Backend) -> None:
    """No program with the job runs, or it came back too late: the sampler reads it in what programs have stored."""

    async def main() -> None:
        def app() -> App[None]:
            made = App(URL, name="shop")

            @made.cron("30 * * * *", catch_up="none")
            async def hourly(tick: Tick) -> None:
                del tick

            return made

        async def serve() -> None:
            async with anyio.create_task_group() as tasks:
                served = app()
                await tasks.start(served.serve)
                await anyio.sleep(60)
                await served.stop()

        async def found(sampler: Sampler) -> list[tuple[str, str]]:
            with sampler.watch() as watching:
                await anext(watching)
                await anyio.sleep(45)
                return [(one.subject, one.sentence) for one in (await anext(watching)).attention if one.key == "tick:shop:hourly"]

        async with sampling() as (sampler, _):
            await serve()  # 22:13:20
            assert await found(sampler) == []
            await anyio.sleep(3600)
            assert await found(sampler) == [("shop › hourly", "has not run its tick of 22:30 UTC.")]
            await serve()
            assert await found(sampler) == [("shop › hourly", "missed its tick of 22:30 UTC.")]
            tasks_until = current_environment().monotonic() + 3600
            async with anyio.create_task_group() as tasks:
                served = app()
                await tasks.start(served.serve)
                await anyio.sleep_until(anyio.current_time() + tasks_until - current_environment().monotonic())
                assert await found(sampler) == [], "the next one ran"
                await served.stop()

    run(main, backend)


def test_producers_that_wait_for_room() -> None:
    async def main() -> None:
        await make("orders", 1)
        async with sampling() as (sampler, _), Producer("orders", URL, max_backlog=3, send_timeout=50.0) as producer:
            await producer.batch_enqueue([{"n": number} for number in range(3)])
            with sampler.watch() as watching:
                assert "full:orders" not in [one.key for one in (await anext(watching)).attention]
                with pytest.raises(QueueFull):
                    await producer.enqueue({"n": 3})  # waits
                await anyio.sleep(3)
                (full,) = [one for one in (await anext(watching)).attention if one.key == "full:orders"]
                assert (full.subject, full.sentence) == ("orders/0", "is full: producers wait for room.")
                await anyio.sleep(60)
                assert "full:orders" not in [one.key for one in (await anext(watching)).attention]

    run(main)
