"""A consumer's delivery on a real server: retries, dead letters and their next life, delays, deduplication.

The same as tests/actors/test_failures.py shows in memory, where a real server could differ.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from redisaq import Consumer, DeadLetter, Message, Producer, RetryAfter, RetryPolicy, events
from redisaq.brokers import open_broker
from redisaq.brokers.steps.retrying import ReadDead, redrive
from redisaq.brokers.steps.settling import ReadRemaining
from redisaq.brokers.terms import GroupName
from tests.actors.group import Notebook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redisaq.core.records import Body
    from tests.servers import Server

pytestmark = pytest.mark.anyio
GROUP = GroupName("jobs", "default_group")
SOON = RetryPolicy(max_attempts=3, backoff=0.02, max_backoff=0.05)
FOREVER = 1 << 30


class Place:
    """A topic "jobs" of its own at the server."""

    def __init__(self, server: Server, namespace: str) -> None:
        self.url = server.url
        self.namespace = namespace
        self.broker = open_broker(server.url, namespace)

    def producer(self, **more: Any) -> Producer:
        return Producer("jobs", self.url, namespace=self.namespace, **more)

    def consumer(self, **more: Any) -> Consumer[Any]:
        quick = {"heartbeat_interval": 0.1, "heartbeat_ttl": 30.0, "retry": SOON}
        return Consumer("jobs", self.url, namespace=self.namespace, **{**quick, **more})

    async def run(self, handle: Any = None, **options: Any) -> Notebook:
        """Work until nothing is left; without a handler, messages fail as often in a life as their payload says."""
        notebook = Notebook()

        async def noting(message: Message[Any]) -> None:
            await notebook.handle(message)
            await (handle or fail_as_told)(message)

        with anyio.fail_after(30):
            await self.consumer(on_event=notebook.note, **options).process(noting, until_empty=True)
        return notebook

    async def dead(self, partition: int = 0) -> list[Body]:
        return [dead.body for dead in await self.broker.do(ReadDead(GROUP, partition, after=b"", count=1000))]


async def fail_as_told(message: Message[Any]) -> None:
    if message.attempt <= message.payload.get("failures", 0):
        raise ValueError(f"number {message.payload['n']}")


@pytest.fixture
async def place(valkey_server: Server, namespace: str) -> AsyncIterator[Place]:
    place = Place(valkey_server, namespace)
    await place.broker.connect()
    yield place
    await place.broker.close()


async def test_parked_retries_let_others_go_on(place: Place) -> None:
    async with place.producer() as producer:
        ids = await producer.batch_enqueue([{"n": n, "failures": 2 if n == 0 else 0} for n in range(5)], key="k")
    notebook = await place.run()
    assert [n for n in notebook.numbers if n] == [1, 2, 3, 4]
    again = [message for message in notebook.messages if message.msg_id == ids[0]]
    assert [message.attempt for message in again] == [1, 2, 3]
    assert {(message.key, message.entry_id, message.payload["n"]) for message in again} == {("k", again[0].entry_id, 0)}
    assert [(one.attempt, one.blocking) for one in notebook.of(events.MessageRetried)] == [(1, False), (2, False)]
    assert await place.dead() == []


@pytest.mark.parametrize("ordering", ["partition", "key"])
async def test_a_blocking_retry_holds_its_lane(place: Place, ordering: Any) -> None:
    async with place.producer() as producer:
        for n in range(6):
            await producer.enqueue({"n": n, "failures": 2 if n == 0 else 0}, key=f"k{n % 2}")
    policy = RetryPolicy(backoff=0.05, jitter=False, blocking=True)
    notebook = await place.run(retry=policy, ordering=ordering, concurrency=4)
    if ordering == "partition":
        assert notebook.numbers == [0, 0, 0, 1, 2, 3, 4, 5]
    else:
        assert [n for n in notebook.numbers if n % 2 == 0] == [0, 0, 0, 2, 4]
        assert [n for n in notebook.numbers if n % 2] == [1, 3, 5]
    assert [message.attempt for message in notebook.messages if message.payload["n"] == 0] == [1, 2, 3]


@pytest.mark.parametrize("blocking", [False, True], ids=["parked", "blocking"])
async def test_after_its_last_attempt_a_message_is_dead_with_why(place: Place, blocking: bool) -> None:
    async with place.producer() as producer:
        ids = await producer.batch_enqueue([{"n": n, "failures": FOREVER if n == 1 else 0} for n in range(3)], headers={"trace": "7"})
    policy = RetryPolicy(max_attempts=3, backoff=0.02, blocking=blocking)
    notebook = await place.run(retry=policy)
    assert notebook.counts == {ids[0]: 1, ids[1]: 3, ids[2]: 1}
    (dead,) = await place.dead()
    fields = dict(zip(dead.fields[::2], dead.fields[1::2], strict=True))
    assert fields[b"i"] == ids[1].encode()
    assert b"trace" in fields[b"h"]
    failure = dead.failure
    assert failure is not None
    assert (failure.error_type, failure.error, failure.attempts) == ("ValueError", "number 1", 3)
    assert "raise ValueError" in failure.traceback
    assert 0 < failure.first_failed_ms <= failure.last_failed_ms
    (event,) = notebook.of(events.MessageDead)
    assert (event.msg_id, event.attempt, event.member) == (ids[1], 3, failure.member)


async def test_a_reason_a_pause_and_what_cannot_be_read(place: Place) -> None:
    async with place.producer() as producer:
        await producer.batch_enqueue([{"n": n} for n in range(2)])
    await place.broker.append("jobs", [(0, [b"color", b"red"]), (0, [b"i", b"x", b"d", b"{no"])], maxlen=None, approximate=True)
    pauses = 0

    async def handle(message: Message[Any]) -> None:
        nonlocal pauses
        if message.payload["n"] == 0:
            raise DeadLetter("of no use: \udcff")  # what a file name may hold is no text for a server
        if pauses < 4:
            pauses += 1
            raise RetryAfter(0.01)

    notebook = await place.run(handle)
    assert [(message.payload["n"], message.attempt) for message in notebook.messages] == [(0, 1), *[(1, 1)] * 5]
    kinds = {(dead.failure.error_type, dead.failure.attempts) for dead in await place.dead() if dead.failure is not None}
    assert kinds == {("DeadLetter", 1), ("Unreadable", 0)}
    assert len(await place.dead()) == 3


async def test_a_redrive_gives_a_new_life(place: Place) -> None:
    """S1: the same message, attempt 1 again, in the order of dying; a consumer at work hears of it."""
    async with place.producer() as producer:
        ids = await producer.batch_enqueue([{"n": n, "failures": FOREVER} for n in range(4)])
    policy = RetryPolicy(max_attempts=2, backoff=0.0, blocking=True)
    first = await place.run(retry=policy)
    assert len(first.messages) == 8
    notebook, good = Notebook(), False

    async def handle(message: Message[Any]) -> None:
        await notebook.handle(message)
        if not good:
            await fail_as_told(message)

    consumer = place.consumer(retry=policy, on_event=notebook.note)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, handle)
            assert await redrive(place.broker, GROUP, 0, None, count=100) == 4
            while len(await place.dead()) < 4:  # they die a second time
                await anyio.sleep(0.01)
            assert [message.attempt for message in notebook.messages] == [1, 2] * 4
            assert {message.msg_id for message in notebook.messages} == set(ids)
            assert {dead.life for dead in await place.dead()} == {1}
            notebook.messages.clear()
            good = True
            assert await redrive(place.broker, GROUP, 0, None, count=100) == 4
            while not (await place.broker.do_each([ReadRemaining(GROUP, 0)]))[0].empty:
                await anyio.sleep(0.01)
            await consumer.stop()
    assert [(message.payload["n"], message.attempt) for message in notebook.messages] == [(n, 1) for n in range(4)]
    assert [message.msg_id for message in notebook.messages] == ids
    assert await place.dead() == []
    assert (await place.run()).messages == []


async def test_attempts_go_on_with_the_next_owner(place: Place) -> None:
    """What failed and waits belongs to the group, not to who saw it fail."""
    async with place.producer(init_partitions=2) as producer:
        await producer.batch_enqueue([{"n": n, "failures": FOREVER} for n in range(6)])
    attempts: dict[str, list[int]] = defaultdict(list)

    async def handle(message: Message[Any]) -> None:
        attempts[message.msg_id].append(message.attempt)
        await fail_as_told(message)

    policy = RetryPolicy(max_attempts=5, backoff=0.02)
    with anyio.fail_after(30):
        while sum(map(len, attempts.values())) < 30:
            before = sum(map(len, attempts.values()))
            consumer = place.consumer(retry=policy)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consumer.process, handle)
                while sum(map(len, attempts.values())) == before:
                    await anyio.sleep(0.005)
                await consumer.stop()
    assert list(attempts.values()) == [[1, 2, 3, 4, 5]] * 6
    assert len(await place.dead(0)) + len(await place.dead(1)) == 6


async def test_delayed_messages_come_in_due_order_and_never_early(place: Place) -> None:
    arrived: list[tuple[int, float]] = []

    async def handle(message: Message[Any]) -> None:
        arrived.append((message.payload["n"], anyio.current_time()))
        assert message.created_at is not None
        assert message.enqueued_at is not None
        assert message.created_at <= message.enqueued_at

    consumer = place.consumer()
    async with place.producer() as producer, anyio.create_task_group() as tasks:
        await producer.connect()
        await tasks.start(consumer.process, handle)
        began = anyio.current_time()
        for n, due in ((0, 2.6), (1, 2.3), (2, 2.45)):
            await producer.enqueue({"n": n}, delay=began + due - anyio.current_time())
        await producer.batch_enqueue([{"n": 4}, {"n": 5}], delay=began + 2.75 - anyio.current_time())
        await producer.enqueue({"n": 3})
        with anyio.fail_after(30):
            while len(arrived) < 6:
                await anyio.sleep(0.01)
        await consumer.stop()
    assert [n for n, _ in arrived] == [3, 1, 2, 0, 4, 5]
    for (n, at), due in zip(arrived[1:], (2.3, 2.45, 2.6, 2.75, 2.75), strict=True):
        assert at - began > due - 0.02, n


async def test_what_was_delayed_outlives_its_producer(place: Place) -> None:
    async with place.producer() as producer:
        await producer.enqueue({"n": 0}, delay=0.3)
    notebook = await place.run()
    assert notebook.numbers == [0]


async def test_deduplication_answers_the_first_message(place: Place) -> None:
    async with place.producer(init_partitions=4) as producer, place.producer() as other:
        first = await producer.enqueue({"n": 0}, dedup_id="invoice-9")
        assert await other.enqueue({"n": 1}, dedup_id="invoice-9") == first
        delayed = await producer.enqueue({"n": 2}, dedup_id="invoice-10", delay=0.1, dedup_window=60)
        assert await other.enqueue({"n": 3}, dedup_id="invoice-10") == delayed
        short = await producer.enqueue({"n": 4}, dedup_id="invoice-11", dedup_window=0.05)
        await anyio.sleep(0.1)
        assert await producer.enqueue({"n": 5}, dedup_id="invoice-11", dedup_window=0.05) != short
    notebook = await place.run()
    assert sorted(notebook.numbers) == [0, 2, 4, 5]
    assert notebook.counts[first] == notebook.counts[delayed] == 1
