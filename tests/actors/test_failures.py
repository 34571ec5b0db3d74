"""What becomes of messages whose handlers fail: retried, parked or with their lane waiting, dead-lettered, discarded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import anyio
import pytest

from redisaq import Consumer, DeadLetter, Discard, Message, PartialFailure, Producer, RetryAfter, RetryPolicy, events
from redisaq.admin import Admin, RetryMessage
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.steps.producing import ReadBacklog
from redisaq.brokers.steps.retrying import ReadDead
from redisaq.brokers.terms import GroupName
from redisaq.core.records import Body
from redisaq.errors import QueueFull, SettingsError
from tests.actors.group import ASYNCIO_ALONE, IN_VIRTUAL_TIME, Notebook, fresh_url, produce, quick

pytestmark = IN_VIRTUAL_TIME
GROUP = GroupName("jobs", "default_group")
SOON = RetryPolicy(backoff=0.02, max_backoff=0.05)


@pytest.fixture
def url() -> str:
    return fresh_url()


async def dead_letters(url: str, partition: int = 0) -> list[Body]:
    broker = MemoryBroker(url.removeprefix("memory://"), "redisaq")
    return [dead.body for dead in await broker.do(ReadDead(GROUP, partition, after=b"", count=1000))]


async def run(url: str, handle: Any, **options: Any) -> Notebook:
    notebook = Notebook()

    async def noting(message: Message[Any]) -> None:
        await notebook.handle(message)
        await handle(message)

    with anyio.fail_after(15):
        await Consumer("jobs", url, on_event=notebook.note, **{"retry": SOON, **options}).process(noting, until_empty=True)
    return notebook


async def test_after_its_last_attempt_a_message_is_dead_with_why(url: str) -> None:
    ids = await produce(url, 3)

    async def handle(message: Message[Any]) -> None:
        if message.payload["n"] == 1:
            raise ValueError("no good")

    notebook = await run(url, handle, retry=RetryPolicy(max_attempts=3, backoff=0.02))
    assert [message.attempt for message in notebook.messages if message.payload["n"] == 1] == [1, 2, 3]
    assert notebook.counts[ids[0]] == notebook.counts[ids[2]] == 1
    (dead,) = await dead_letters(url)
    assert dead.fields[1] == ids[1].encode()
    assert dead.failure is not None
    assert (dead.failure.error_type, dead.failure.error, dead.failure.attempts) == ("ValueError", "no good", 3)
    assert "raise ValueError" in dead.failure.traceback
    assert dead.failure.first_failed_ms <= dead.failure.last_failed_ms
    assert [one.attempt for one in notebook.of(events.MessageRetried)] == [1, 2]
    assert [one.msg_id for one in notebook.of(events.MessageDead)] == [ids[1]]


async def test_parked_retries_let_others_go_on(url: str) -> None:
    await produce(url, 5)

    async def handle(message: Message[Any]) -> None:
        if message.payload["n"] == 0 and message.attempt == 1:
            raise ValueError("later")

    notebook = await run(url, handle)
    assert notebook.numbers == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize("ordering", ["partition", "key"])
async def test_a_blocking_retry_holds_its_lane_and_nothing_else(url: str, ordering: Any) -> None:
    async with Producer("jobs", url) as producer:
        for n in range(6):
            await producer.enqueue({"n": n}, key=f"k{n % 2}")

    async def handle(message: Message[Any]) -> None:
        if message.payload["n"] == 0 and message.attempt < 3:
            raise ValueError("not yet")

    policy = RetryPolicy(backoff=0.05, jitter=False, blocking=True)
    notebook = await run(url, handle, retry=policy, ordering=ordering, concurrency=4)
    if ordering == "partition":
        assert notebook.numbers == [0, 0, 0, 1, 2, 3, 4, 5]
    else:
        assert [n for n in notebook.numbers if n % 2 == 0] == [0, 0, 0, 2, 4]
        assert notebook.numbers.index(5) < notebook.numbers.index(2)
    assert [message.attempt for message in notebook.messages if message.payload["n"] == 0] == [1, 2, 3]


async def test_a_lane_that_waited_says_when_its_message_failed_first(url: str) -> None:
    await produce(url, 1)

    async def handle(_message: Message[Any]) -> None:
        raise ValueError("no good")

    await run(url, handle, retry=RetryPolicy(max_attempts=3, backoff=0.05, factor=1.0, jitter=False, blocking=True))
    (dead,) = await dead_letters(url)
    assert dead.failure is not None
    assert dead.failure.attempts == 3
    assert 90 <= dead.failure.last_failed_ms - dead.failure.first_failed_ms < 5_000


async def test_when_a_message_failed_in_between_is_known_while_it_waits(url: str) -> None:
    await produce(url, 1)

    async def handle(message: Message[Any]) -> None:
        if message.attempt == 5:
            async with Admin(url) as admin:
                seen.extend([one async for one in admin.retries("jobs", "default_group")])
            return
        raise ValueError("no good")

    seen: list[RetryMessage] = []
    await run(url, handle, retry=RetryPolicy(max_attempts=9, backoff=1.0, factor=1.0, jitter=False))
    (found,) = seen
    assert found.first_failed is not None
    assert found.last_failed is not None
    times = [found.first_failed, *found.failed_between, found.last_failed]
    assert [round((later - one).total_seconds()) for one, later in pairwise(times)] == [1, 1, 1]


async def test_a_blocking_back_off_ends_when_the_consumer_stops(url: str) -> None:
    """T7."""
    await produce(url, 2)
    failed = anyio.Event()

    async def handle(_message: Message[Any]) -> None:
        failed.set()
        raise ValueError("for minutes")

    consumer = quick(url, retry=RetryPolicy(backoff=300.0, jitter=False, blocking=True))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.process, handle)
        await failed.wait()
        with anyio.fail_after(2):
            await consumer.stop()
    notebook = await run(url, _nothing)
    assert [(message.payload["n"], message.attempt) for message in notebook.messages] == [(0, 2), (1, 1)]


async def _nothing(_message: Message[Any]) -> None:
    pass


async def test_instructions_of_a_handler(url: str) -> None:
    ids = await produce(url, 4)

    async def handle(message: Message[Any]) -> None:
        match message.payload["n"]:
            case 0:
                raise Discard
            case 1:
                raise DeadLetter("of no use")
            case 2 if len([one for one in seen if one == 2]) < 7:
                seen.append(2)
                raise RetryAfter(0.01)

    seen: list[int] = []
    notebook = await run(url, handle, retry=RetryPolicy(max_attempts=2, backoff=0.02))
    assert notebook.counts == {ids[0]: 1, ids[1]: 1, ids[2]: 8, ids[3]: 1}
    assert {message.attempt for message in notebook.messages} == {1}  # RetryAfter uses no attempt up
    (dead,) = await dead_letters(url)
    assert dead.fields[1] == ids[1].encode()
    assert dead.failure is not None
    assert dead.failure.error == "of no use"


async def test_exceptions_to_give_up_on(url: str) -> None:
    await produce(url, 1)

    async def handle(_message: Message[Any]) -> None:
        raise KeyError("never")

    notebook = await run(url, handle, retry=RetryPolicy(give_up_on=(LookupError,)))
    assert len(notebook.messages) == len(await dead_letters(url)) == 1


async def test_a_batch_may_fail_in_part(url: str) -> None:
    await produce(url, 6)
    batches: list[list[tuple[int, int]]] = []

    async def handle(messages: list[Message[Any]]) -> None:
        batches.append([(message.payload["n"], message.attempt) for message in messages])
        bad = {message: ValueError("odd") for message in messages if message.payload["n"] % 2 and message.attempt == 1}
        if bad:
            raise PartialFailure(bad)

    with anyio.fail_after(10):
        await Consumer("jobs", url, retry=SOON).process_batch(handle, batch_size=6, until_empty=True)
    assert batches[0] == [(n, 1) for n in range(6)]
    assert sorted(one for batch in batches[1:] for one in batch) == [(1, 2), (3, 2), (5, 2)]


async def test_what_cannot_be_read_is_a_dead_letter_at_once(url: str) -> None:
    await produce(url, 2)
    broker = MemoryBroker(url.removeprefix("memory://"), "redisaq")
    await broker.append("jobs", [(0, [b"color", b"red"]), (0, [b"i", b"x", b"d", b"{no"])], maxlen=None, approximate=True)
    notebook = await run(url, _nothing)
    assert notebook.numbers == [0, 1]
    dead = await dead_letters(url)
    assert [body.fields[0] for body in dead] == [b"color", b"i"]
    assert all(body.failure is not None and body.failure.error_type == "Unreadable" for body in dead)
    assert len(notebook.of(events.EntryUnreadable)) == 2


async def test_a_payload_of_the_wrong_type_is_a_dead_letter_at_once(url: str) -> None:
    await produce(url, 1)
    notebook = await run(url, _nothing, payload_type=int)
    assert not notebook.messages
    assert len(await dead_letters(url)) == 1


async def test_a_message_that_takes_its_process_with_it_dies_after_its_attempts(url: str) -> None:
    """T5: the count is raised before the handler begins, so a crash inside it counts."""
    ids = await produce(url, 2)
    broker = MemoryBroker(url.removeprefix("memory://"), "redisaq")
    await run_until_started(url, 3)
    notebook = await run(url, _nothing, retry=RetryPolicy(max_attempts=2))
    assert notebook.counts == {ids[1]: 1}
    (dead,) = await dead_letters(url)
    assert dead.fields[1] == ids[0].encode()
    assert dead.failure is not None
    assert dead.failure.error_type == "CrashedDeliveries"
    await broker.close()


async def test_a_message_that_died_of_crashes_is_not_counted_as_a_handler_that_raised(url: str) -> None:
    await produce(url, 2)
    await run_until_started(url, 3)
    consumer = quick(url, retry=RetryPolicy(max_attempts=2))
    with anyio.fail_after(15):
        await consumer.process(_nothing, until_empty=True)
    assert len(await dead_letters(url)) == 1
    assert (consumer.statistics().handled, consumer.statistics().failed) == (1, 0)


async def run_until_started(url: str, times: int) -> None:
    """Let a handler begin on the first message and be gone with its process, so many times."""
    for _ in range(times):
        started = anyio.Event()

        async def handle(_message: Message[Any], started: anyio.Event = started) -> None:
            started.set()
            await anyio.sleep(60)

        consumer = quick(url, drain_timeout=0.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            await started.wait()
            tasks.cancel_scope.cancel()


async def test_attempts_go_on_over_parking_and_takeover(url: str) -> None:
    await produce(url, 1)
    attempts: list[int] = []

    async def fail_once(message: Message[Any]) -> None:
        attempts.append(message.attempt)
        raise ValueError("again")

    for _ in range(3):
        consumer = quick(url, retry=RetryPolicy(max_attempts=10, backoff=0.01))
        before = len(attempts)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, fail_once)
            with anyio.fail_after(5):
                while len(attempts) == before:
                    await anyio.sleep(0.005)
            await consumer.stop()
    assert attempts == list(range(1, len(attempts) + 1))
    assert len(attempts) >= 3


async def test_a_thousand_messages_of_which_every_seventh_always_fails(url: str) -> None:
    async with Producer("jobs", url, init_partitions=3) as producer:
        ids = [await producer.enqueue({"n": n}, key=f"k{n % 50}") for n in range(1000)]
    done: dict[str, list[int]] = {}

    async def handle(message: Message[Any]) -> None:
        if message.payload["n"] % 7 == 0:
            raise ValueError("always")
        done.setdefault(str(message.key), []).append(message.payload["n"])

    policy = RetryPolicy(max_attempts=2, backoff=0.001, blocking=True)
    await run(url, handle, ordering="key", concurrency=20, retry=policy)
    for key, numbers in done.items():
        assert numbers == [n for n in range(1000) if n % 7 and f"k{n % 50}" == key]
    dead = [body.fields[1].decode() for partition in range(3) for body in await dead_letters(url, partition)]
    assert sorted(dead) == sorted(ids[n] for n in range(0, 1000, 7))


async def test_delayed_messages_come_in_due_order_and_in_time(url: str) -> None:
    arrived: list[tuple[int, float]] = []

    async def handle(message: Message[Any]) -> None:
        arrived.append((message.payload["n"], anyio.current_time()))
        assert message.created_at is not None
        assert message.enqueued_at is not None
        assert message.created_at <= message.enqueued_at

    async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
        consumer = quick(url)
        await tasks.start(consumer.process, handle)
        await anyio.sleep(0.05)  # idle
        began = anyio.current_time()
        for n, delay in ((0, 0.4), (1, 0.2), (2, 0.3)):
            await producer.enqueue({"n": n}, delay=delay)
        await producer.enqueue({"n": 3})
        with anyio.fail_after(3):
            while len(arrived) < 4:
                await anyio.sleep(0.01)
        await consumer.stop()
    assert [n for n, _ in arrived] == [3, 1, 2, 0]
    for (_, at), delay in zip(arrived[1:], (0.2, 0.3, 0.4), strict=True):
        assert -1e-6 < at - began - delay < 0.01


async def test_until_empty_waits_for_delayed_and_retried_ones(url: str) -> None:
    async with Producer("jobs", url) as producer:
        await producer.enqueue({"n": 0}, delay=0.2)
        await producer.enqueue({"n": 1})

    async def handle(message: Message[Any]) -> None:
        if message.payload["n"] == 1 and message.attempt == 1:
            raise ValueError("once more")

    notebook = await run(url, handle, retry=RetryPolicy(backoff=0.1, jitter=False))
    assert sorted(notebook.numbers) == [0, 1, 1]


async def test_deduplication_answers_the_first_message(url: str) -> None:
    async with Producer("jobs", url, init_partitions=4) as producer:
        first = await producer.enqueue({"n": 0}, dedup_id="invoice-9")
        assert await producer.enqueue({"n": 1}, dedup_id="invoice-9") == first
        delayed = await producer.enqueue({"n": 2}, dedup_id="invoice-10", delay=0.1, dedup_window=60)
        assert await producer.enqueue({"n": 3}, dedup_id="invoice-10") == delayed
        short = await producer.enqueue({"n": 4}, dedup_id="invoice-11", dedup_window=0.05)
        await anyio.sleep(0.1)
        assert await producer.enqueue({"n": 5}, dedup_id="invoice-11", dedup_window=0.05) != short
        assert producer.statistics().sent == 4  # the others were there
    notebook = await run(url, _nothing)
    assert sorted(notebook.numbers) == [0, 2, 4, 5]


async def test_a_policy_without_attempts_is_refused() -> None:
    with pytest.raises(SettingsError, match="max_attempts"):
        RetryPolicy(max_attempts=0)


async def test_a_full_partition_makes_enqueue_wait_and_then_say_so(url: str) -> None:
    async with Producer("jobs", url, max_backlog=3, send_timeout=0.3) as producer:
        await producer.batch_enqueue([{"n": n} for n in range(3)])
        with pytest.raises(QueueFull):
            await producer.enqueue({"n": 3})
        with pytest.raises(QueueFull):
            await producer.batch_enqueue([{"n": n} for n in range(9)])
    async with Producer("jobs", url, max_backlog=3) as producer, anyio.create_task_group() as tasks:
        tasks.start_soon(producer.batch_enqueue, [{"n": n} for n in range(4, 7)])
        await anyio.sleep(0.05)
        assert producer.statistics().sent == 0
        consumer = quick(url)
        await tasks.start(consumer.process, _nothing)
        with anyio.fail_after(5):
            while not producer.statistics().sent:
                await anyio.sleep(0.01)
        await consumer.stop()


async def test_a_full_partition_is_looked_at_soon_and_then_each_half_second(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, times = MemoryBroker.do_each, list[float]()

    async def do_each(self: MemoryBroker, steps: Sequence[Any]) -> Any:
        if isinstance(steps[0], ReadBacklog):
            times.append(anyio.current_time())
        return await whole(self, steps)

    async with Producer("jobs", url, max_backlog=1, send_timeout=6.0) as producer:
        await producer.enqueue({"n": 0})
        monkeypatch.setattr(MemoryBroker, "do_each", do_each)
        with pytest.raises(QueueFull):
            await producer.enqueue({"n": 1})
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[:6] == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.32, 0.5], abs=0.005)
    assert pauses[6:] == pytest.approx([0.5] * (len(pauses) - 6), abs=0.005)


@ASYNCIO_ALONE  # it alone knows cancellation that no scope asked for
async def test_a_handler_that_is_cancelled_from_within_has_failed(url: str) -> None:
    import asyncio

    await produce(url, 2)

    async def handle(message: Message[Any]) -> None:
        if message.attempt == 1 and message.payload["n"] == 0:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

    notebook = await run(url, handle)
    assert notebook.numbers == [0, 1, 0]
