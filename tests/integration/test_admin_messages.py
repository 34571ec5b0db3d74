"""Admin's lists and repairs of single messages, over a real server and the memory broker, with producers and consumers beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer, RetryPolicy
from redisaq.admin import Admin, PendingMessage, Whereabouts
from redisaq.errors import SettingsError, TopicMissingError
from tests.integration.admin_bench import Bench, fail

pytestmark = pytest.mark.anyio


@pytest.fixture
async def admin(url: str, namespace: str) -> AsyncIterator[Admin]:
    """An Admin, connected, who deletes all topics when the test is over."""
    async with Admin(url, namespace=namespace) as admin:
        yield admin
        for topic in await admin.topics():
            await admin.delete_topic(topic, force=True)


@pytest.fixture
def bench(url: str, namespace: str) -> Bench:
    """Those of the test."""
    return Bench(url, namespace)


async def test_what_is_pending(admin: Admin, bench: Bench) -> None:
    """Who has it since when; over several pages, in order."""
    msg_ids = await bench.produce(150, partitions=2, headers={"trace": "t"})
    running = anyio.Event()

    async def handle(messages: list[Message[Any]]) -> None:
        del messages
        running.set()
        await anyio.sleep_forever()

    before = datetime.now(UTC)
    found, backlog, whereabouts = list[PendingMessage](), 0, Whereabouts("orders", "")
    async with bench.consumer(consumer_name="anna") as consumer, anyio.create_task_group() as tasks:

        async def run() -> None:
            await consumer.process_batch(handle, batch_size=200)

        tasks.start_soon(run)
        with anyio.fail_after(30):
            await running.wait()
            while (await admin.group("orders", "billing")).pending < 150:
                await anyio.sleep(0.01)
        found = [one async for one in admin.pending("orders", "billing")]
        backlog = await admin.backlog("orders", "billing")
        whereabouts = await admin.find("orders", msg_ids[7])
        tasks.cancel_scope.cancel()
    assert {one.msg_id for one in found} == set(msg_ids)
    assert [one.partition for one in found] == sorted(one.partition for one in found)
    first = found[0]
    assert (first.topic, first.group, first.owner_name, first.deliveries) == ("orders", "billing", "anna", 1)
    n = msg_ids.index(first.msg_id)
    assert (first.payload, first.data, first.headers, first.key, first.unreadable) == ({"n": n}, b'{"n":%d}' % n, {"trace": "t"}, None, "")
    assert all(before - timedelta(seconds=5) < one.since < before + timedelta(minutes=1) for one in found)
    assert first.enqueued_at is not None
    assert backlog == 150
    standing = whereabouts.groups["billing"]
    assert (standing.state, standing.owner, standing.owner_name, standing.deliveries) == ("pending", first.owner, "anna", 1)
    assert [one async for one in admin.pending("orders", "billing")] != [], "they stay pending; nobody owns them now"
    assert (await admin.find("orders", msg_ids[7])).groups["billing"].owner_name == ""


async def test_what_was_handed_back_is_pending(admin: Admin, bench: Bench) -> None:
    """A member that ends gives back what it has read and not begun: that is not done."""
    msg_ids, begun = await bench.produce(3, partitions=1), anyio.Event()

    async def handle(message: Message[Any]) -> None:
        del message
        begun.set()
        await anyio.sleep_forever()

    async with bench.consumer() as consumer, anyio.create_task_group() as tasks:
        with anyio.fail_after(30):
            await tasks.start(consumer.process, handle)
            await begun.wait()
            while (await admin.group("orders", "billing")).pending < 3:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    found = [one async for one in admin.pending("orders", "billing")]
    assert [(one.msg_id, one.deliveries) for one in found] == list(zip(msg_ids, (1, 0, 0), strict=True))
    assert [(await admin.find("orders", one)).groups["billing"].state for one in msg_ids] == ["pending"] * 3


async def test_retries_and_retrying_now(admin: Admin, bench: Bench) -> None:
    msg_ids = await bench.produce(120, partitions=1)
    await fail(bench, 3600.0)
    found = [one async for one in admin.retries("orders", "billing")]
    assert [one.msg_id for one in found] == msg_ids
    first = found[0]
    assert (first.error_type, first.error, first.attempts, first.life, first.group) == ("ValueError", "no 0", 1, 0, "billing")
    assert (first.payload, "raise ValueError" in first.traceback) == ({"n": 0}, True)
    assert timedelta(minutes=50) < first.due - datetime.now(UTC) < timedelta(minutes=61)
    assert first.last_failed is not None
    assert await admin.backlog("orders", "billing") == 0
    assert await admin.oldest_age("orders", "billing") is None
    assert await admin.retry_now("orders", "billing", [found[3], msg_ids[1], "nothing", found[1]]) == 2
    assert await admin.backlog("orders", "billing") == 2
    assert await admin.retry_now("orders", "billing") == 118
    assert await admin.retry_now("orders", "billing") == 0
    assert [(one.what, one.count) for one in await admin.history("orders", "billing", count=2)] == [
        ("retried now", 118),
        ("retried now", 2),
    ]
    seen: list[str] = []
    async with Consumer("orders", bench.url, namespace=bench.namespace, group_name="billing") as consumer:
        with anyio.fail_after(30):
            await consumer.process(lambda message: seen.append(message.msg_id), until_empty=True)
    assert seen == [msg_ids[1], msg_ids[3], *(one for one in msg_ids if one not in (msg_ids[1], msg_ids[3]))]
    await bench.open_group("other")
    with pytest.raises(SettingsError, match="is of group billing"):
        await admin.retry_now("orders", "other", [first])
    for wrong in ("one", [b"one"], [""]):
        with pytest.raises(SettingsError, match="ids must be"):
            await admin.retry_now("orders", "billing", wrong)  # type: ignore[arg-type]


async def test_delayed_and_cancelling(admin: Admin, bench: Bench) -> None:
    late = await bench.produce(3, partitions=1, delay=7200.0, headers={"trace": "t"})
    soon = await bench.produce(2, partitions=1, start=3, delay=3600.0)
    found = [one async for one in admin.delayed("orders")]
    assert sorted(one.msg_id for one in found[:2]) == sorted(soon)
    assert {one.msg_id: one.payload["n"] for one in found} == {msg_id: n for n, msg_id in enumerate([*late, *soon])}
    assert found[0].due < found[2].due
    assert (found[2].headers, found[2].entry_id, found[2].enqueued_at) == ({"trace": "t"}, "", None)
    there = await admin.find("orders", late[0])
    assert (there.found, there.partition, there.entry, there.groups) == (True, 0, None, {})
    assert there.delayed is not None
    assert there.delayed.due == found[2].due
    assert [await admin.cancel("orders", late[0]) for _ in range(2)] == [True, False]
    assert not (await admin.find("orders", late[0])).found
    await bench.produce(1, partitions=1, start=9)
    await fail(bench, 3600.0)
    (retry,) = [one async for one in admin.retries("orders", "billing")]
    assert not await admin.cancel("orders", retry.msg_id), "it is not delayed"
    assert [await admin.cancel("orders", retry.msg_id, "billing") for _ in range(2)] == [True, False]
    assert [(one.what, one.count) for one in await admin.history("orders", "billing", count=1)] == [("cancelled", 1)]
    assert (await admin.find("orders", retry.msg_id)).groups["billing"].state == "done"


async def test_a_retry_that_is_cancelled_while_it_runs_is_not_tried_again(admin: Admin, bench: Bench) -> None:
    """The handler runs on, whatever comes of it."""
    (msg_id,) = await bench.produce(1, partitions=1)
    begun, cancelled, attempts = anyio.Event(), anyio.Event(), list[int]()

    async def handle(message: Message[Any]) -> None:
        attempts.append(message.attempt)
        if message.attempt == 2:
            begun.set()
            await cancelled.wait()
        raise ValueError

    policy = RetryPolicy(backoff=0.01, max_backoff=0.01)
    consumer = Consumer("orders", bench.url, namespace=bench.namespace, group_name="billing", retry=policy)
    async with consumer, anyio.create_task_group() as tasks:

        async def run() -> None:
            await consumer.process(handle, until_empty=True)

        tasks.start_soon(run)
        with anyio.fail_after(30):
            await begun.wait()
            assert await admin.cancel("orders", msg_id, "billing")
            cancelled.set()
    assert attempts == [1, 2]
    assert (await admin.find("orders", msg_id)).groups["billing"].state == "done"


async def test_finding(admin: Admin, bench: Bench) -> None:
    """In each state, in several groups at once."""
    msg_ids = await bench.produce(4, partitions=2)
    assert await bench.drain(failing=(1,)) == [0, 2, 3]
    await fail(bench, 3600.0, group="audit")
    await bench.open_group("new")
    states = {n: {name: one.state for name, one in (await admin.find("orders", msg_ids[n])).groups.items()} for n in (0, 1)}
    assert states == {
        0: {"audit": "retry", "billing": "done", "new": "unread"},
        1: {"audit": "retry", "billing": "dead", "new": "unread"},
    }
    found = await admin.find("orders", msg_ids[1])
    assert (found.found, found.complete, found.delayed) == (True, True, None)
    assert found.entry is not None
    assert (found.partition, found.entry.payload, found.entry.msg_id) == (found.entry.partition, {"n": 1}, msg_ids[1])
    letter, retry = found.groups["billing"].dead, found.groups["audit"].retry
    assert letter is not None
    assert retry is not None
    assert (letter.msg_id, letter.error, retry.msg_id) == (msg_ids[1], "no 1", msg_ids[1])
    again = await admin.find("orders", msg_ids[1], partition=found.partition, entry_id=found.entry.entry_id)
    assert (again.entry, again.looked <= 2) == (found.entry, True)
    other = 1 - found.entry.partition
    assert not (await admin.find("orders", msg_ids[1], partition=other)).found
    assert not (await admin.find("orders", msg_ids[1], partition=other, entry_id=found.entry.entry_id)).found
    for last in ("5-18446744073709551615", "18446744073709551615-18446744073709551615"):
        assert not (await admin.find("orders", "nothing", partition=0, entry_id=last)).found
    assert await admin.find("orders", "nothing") == Whereabouts("orders", "nothing", looked=9)
    short = await admin.find("orders", "nothing", limit=2)
    assert (short.found, short.complete, short.looked) == (False, False, 2)
    with pytest.raises(SettingsError, match="entry_id needs"):
        await admin.find("orders", "m", entry_id="7-1")
    with pytest.raises(SettingsError, match="no partition 7"):
        await admin.find("orders", "m", partition=7)


async def test_finding_what_is_no_longer_in_the_stream(admin: Admin, bench: Bench) -> None:
    msg_ids = await bench.produce(3, partitions=1)
    await bench.drain(failing=(0,))
    await fail(bench, 3600.0, group="audit")
    async with Producer("orders", bench.url, namespace=bench.namespace, maxlen=1, approximate=False) as producer:
        await producer.enqueue({"n": 9})
    found = await admin.find("orders", msg_ids[0])
    assert (found.entry, found.partition, {name: one.state for name, one in found.groups.items()}) == (
        None,
        0,
        {"audit": "retry", "billing": "dead"},
    )
    assert {name: one.state for name, one in (await admin.find("orders", msg_ids[1])).groups.items()} == {"audit": "retry"}


async def test_peeking_and_following(admin: Admin, bench: Bench) -> None:
    await bench.produce(30, partitions=3)
    newest = await admin.peek("orders", count=5)
    assert sorted(one.entry_id for one in newest)[::-1] == [one.entry_id for one in newest]
    assert len(await admin.peek("orders", 1, 100)) == 10
    assert {one.partition for one in await admin.peek("orders", 1)} == {1}
    followed = admin.follow("orders", interval=0.01)
    await followed.begin()
    msg_ids = await bench.produce(4, start=30, partitions=5)  # the topic grows, too
    with anyio.fail_after(30):
        assert {(await anext(followed)).msg_id for _ in msg_ids} == set(msg_ids)
        with anyio.move_on_after(0.05):
            assert await anext(followed) is None, "there is no other"
        (last,) = await bench.produce(1, start=40, partitions=5)
        assert (await anext(followed)).msg_id == last
    assert aiter(followed) is followed


async def test_summaries_and_all_messages(admin: Admin, bench: Bench) -> None:
    await bench.produce(230, partitions=2)
    newest = await admin.message_summaries("orders", partitions=(0, 1, 9), count=3)
    assert [one.msg_id for one in newest[:3]] == [one.msg_id for one in await admin.peek("orders", count=3)]
    assert [sum(one.partition == number for one in newest) for number in (0, 1, 9)] == [3, 3, 0]
    (peeked,) = await admin.peek("orders", count=1)
    first = newest[0]
    assert (first.topic, first.entry_id, first.key, first.start, first.size) == (
        "orders",
        peeked.entry_id,
        None,
        peeked.data,
        len(peeked.data),
    )
    assert first.enqueued_at == peeked.enqueued_at
    assert (await admin.message_summaries("orders", partitions=[first.partition], count=1, size=3))[0].start == peeked.data[:3]
    older = await admin.message_summaries("orders", partitions=[first.partition], count=1, before=first.entry_id)
    assert older[0].msg_id in {one.msg_id for one in newest[1:]}
    listing = admin.messages("orders")
    found = [await anext(listing)]
    late = await bench.produce(1, start=230, partitions=2)
    found += [one async for one in listing]
    assert [one.payload["n"] for one in found if one.partition == 0] == sorted(one.payload["n"] for one in found if one.partition == 0)
    assert sorted(one.payload["n"] for one in found) == list(range(230)), "without what came after it began"
    assert late[0] not in {one.msg_id for one in found}
    for wrong in ({"before": "x"}, {"count": 0}, {"count": 1001}):
        with pytest.raises(SettingsError):
            await admin.message_summaries("orders", partitions=[0], **wrong)


async def test_the_next_delayed_messages(admin: Admin, bench: Bench) -> None:
    async with Producer("orders", bench.url, namespace=bench.namespace, init_partitions=3) as producer:
        ids = [await producer.enqueue({"n": n}, delay=3600 + (n * 7 % 13) * 60) for n in range(13)]
    in_order = [ids[n] for n in sorted(range(13), key=lambda n: n * 7 % 13)]
    found = await admin.next_delayed("orders", count=5)
    assert [one.msg_id for one in found] == in_order[:5]
    rest = await admin.next_delayed("orders", after=(found[-1].due, found[-1].msg_id))
    assert [one.msg_id for one in rest] == in_order[5:]
    assert await admin.next_delayed("orders", after=(rest[-1].due, rest[-1].msg_id)) == []
    some = await admin.next_delayed("orders", partitions=[1, 7])
    assert [one.msg_id for one in some] == [one.msg_id for one in (*found, *rest) if one.partition == 1]
    moments = [found[0].due, found[0].due + timedelta(microseconds=1), rest[-1].due + timedelta(hours=1)]
    assert await admin.count_delayed("orders", moments) == [0, 1, 13]
    assert await admin.count_delayed("orders", moments, partitions=[1]) == [0, found[0].partition == 1, len(some)]


async def test_what_is_not_there(admin: Admin, bench: Bench) -> None:
    for look in (
        admin.pending("nothing", "g"),
        admin.retries("nothing", "g"),
        admin.delayed("nothing"),
        admin.messages("nothing"),
        admin.follow("nothing"),
    ):
        with pytest.raises(TopicMissingError):
            await anext(look)
    for call in (
        admin.peek("nothing"),
        admin.next_delayed("nothing"),
        admin.count_delayed("nothing", []),
        admin.find("nothing", "m"),
        admin.cancel("nothing", "m"),
        admin.cancel("nothing", "m", "g"),
        admin.retry_now("nothing", "g"),
        admin.backlog("nothing", "g"),
        admin.oldest_age("nothing", "g"),
    ):
        with pytest.raises(TopicMissingError):
            await call
    await bench.produce(1)
    with pytest.raises(TopicMissingError, match="no group"):
        await anext(admin.pending("orders", "g"))
    assert await admin.backlog("orders", "g") == 1, "as for one that starts at the beginning"
    age = await admin.oldest_age("orders", "g")
    assert age is not None
    assert 0 <= age < 60
