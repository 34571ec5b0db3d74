"""`Consumer.process`: every message once when nothing goes wrong, in the order that was asked for, with any kind of handler."""

from __future__ import annotations

import functools
from collections import defaultdict
from typing import Any

import anyio
import pytest

from redisaq import Admin, Consumer, Message, events
from redisaq.errors import ConsumerError, SettingsError
from tests.actors.group import IN_VIRTUAL_TIME, Notebook, fresh_url, produce, quick

pytestmark = IN_VIRTUAL_TIME


@pytest.fixture
def url() -> str:
    return fresh_url()


@pytest.mark.parametrize("ordering", ["partition", "key", "none"])
async def test_every_message_once(url: str, ordering: Any) -> None:
    ids = await produce(url, 500, partitions=3, partition_key="n")
    notebook = Notebook()
    consumer = Consumer("jobs", url, ordering=ordering, concurrency=20)
    with anyio.fail_after(20):
        await consumer.process(notebook.handle, until_empty=True)
    assert notebook.counts == dict.fromkeys(ids, 1)
    assert consumer.statistics().handled == 500
    with anyio.fail_after(20):  # all of them were acknowledged
        await consumer.process(notebook.handle, until_empty=True)
    assert len(notebook.messages) == 500


async def test_a_member_that_is_alone_works_at_once(url: str) -> None:
    """M1: its first change of the document lets it in, and it reads without waiting for another heartbeat."""
    notebook, began = Notebook(), anyio.current_time()
    await produce(url, 3, partitions=2)
    await Consumer("jobs", url, on_event=notebook.note).process(notebook.handle, until_empty=True)
    assert (len(notebook.messages), len(notebook.of(events.MemberJoined))) == (3, 1)
    assert anyio.current_time() - began < 1, "not one heartbeat_interval, 3 s"


@pytest.mark.parametrize("options", [{}, {"ordering": "none"}, {"ordering": "key"}, {"concurrency": 8}], ids=str)
async def test_one_message_waits_where_one_at_a_time_is_read_and_handled(url: str, options: Any) -> None:
    """What is read here cannot be handled elsewhere."""
    await produce(url, 50)
    consumer = Consumer("jobs", url, batch_size=1, **options)
    async with Admin(url) as admin, anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, lambda _message: anyio.sleep(100))
        await anyio.sleep(10)
        assert (await admin.group("jobs", "default_group")).pending == 2
        tasks.cancel_scope.cancel()


async def test_order_within_each_partition(url: str) -> None:
    await produce(url, 200, partitions=3)
    notebook = Notebook()
    await Consumer("jobs", url).process(notebook.handle, until_empty=True)
    by_partition: dict[int, list[int]] = defaultdict(list)
    for message in notebook.messages:
        by_partition[message.partition].append(message.payload["n"])
    assert sorted(by_partition.values()) == [[n for n in range(200) if n % 3 == p] for p in range(3)]


async def test_ordering_partition_runs_one_at_a_time(url: str) -> None:
    await produce(url, 20)
    notebook = Notebook()
    await Consumer("jobs", url, concurrency=5).process(notebook.handle_slowly, until_empty=True)
    assert notebook.most_running == 1
    assert notebook.numbers == list(range(20))


async def test_ordering_key_keeps_order_per_key_and_runs_keys_side_by_side(url: str) -> None:
    async with anyio.create_task_group() as tasks:
        from redisaq import Producer

        async with Producer("jobs", url) as producer:
            for n in range(60):
                await producer.enqueue({"n": n}, key=f"k{n % 6}")
        tasks.cancel_scope.cancel()
    notebook = Notebook()
    busy: set[str | None] = set()

    async def handle(message: Message[Any]) -> None:
        assert message.key not in busy
        busy.add(message.key)
        await notebook.handle_slowly(message)
        busy.discard(message.key)

    await Consumer("jobs", url, ordering="key", concurrency=4).process(handle, until_empty=True)
    assert notebook.most_running == 4
    for key in range(6):
        assert [n for n in notebook.numbers if n % 6 == key] == list(range(key, 60, 6))


async def test_ordering_none_runs_up_to_concurrency(url: str) -> None:
    await produce(url, 60, partitions=2)
    notebook = Notebook()
    await Consumer("jobs", url, ordering="none", concurrency=7).process(notebook.handle_slowly, until_empty=True)
    assert notebook.most_running == 7
    assert sorted(notebook.numbers) == list(range(60))


async def test_concurrency_bounds_all_partitions_together(url: str) -> None:
    await produce(url, 40, partitions=8)
    notebook = Notebook()
    await Consumer("jobs", url, concurrency=2).process(notebook.handle_slowly, until_empty=True)
    assert notebook.most_running == 2
    assert sorted(notebook.numbers) == list(range(40))


async def test_a_failed_message_comes_back_and_others_go_on(url: str) -> None:
    await produce(url, 5)
    notebook = Notebook()
    attempts: list[int] = []

    async def handle(message: Message[Any]) -> None:
        if message.payload["n"] == 1:
            attempts.append(message.attempt)
            if len(attempts) < 2:
                raise ValueError("not yet")
        await notebook.handle(message)

    with anyio.fail_after(10):
        await Consumer("jobs", url, on_event=notebook.note).process(handle, until_empty=True)
    assert attempts == [1, 2]
    assert notebook.numbers == [0, 2, 3, 4, 1]
    failed = notebook.of(events.MessageFailed)
    assert [(one.attempt, type(one.error)) for one in failed] == [(1, ValueError)]


async def test_a_timeout_is_a_failure(url: str) -> None:
    await produce(url, 1, timeout=0.05)
    notebook = Notebook()

    async def handle(message: Message[Any]) -> None:
        if message.attempt == 1:
            await anyio.sleep(30)
        await notebook.handle(message)

    with anyio.fail_after(10):
        await Consumer("jobs", url, on_event=notebook.note).process(handle, until_empty=True)
    assert [message.attempt for message in notebook.messages] == [2]
    assert [repr(one.error) for one in notebook.of(events.MessageFailed)] == ["TimeoutError('the handler took longer than 0.05 s')"]


async def test_what_is_no_message_is_reported_once_and_passed_over(url: str) -> None:
    from redisaq.brokers.memory import MemoryBroker

    await produce(url, 3)
    broker = MemoryBroker(url.removeprefix("memory://"), "redisaq")
    await broker.append("jobs", [(0, [b"color", b"red"]), (0, [b"i", b"x", b"d", b"{not json"])], maxlen=None, approximate=True)
    await produce(url, 2)
    notebook = Notebook()
    with anyio.fail_after(10):
        await Consumer("jobs", url, on_event=notebook.note).process(notebook.handle, until_empty=True)
    assert notebook.numbers == [0, 1, 2, 0, 1]
    assert len(notebook.of(events.EntryUnreadable)) == 2


async def test_process_batch_gives_lists_in_order(url: str) -> None:
    ids = await produce(url, 250, partitions=2)
    batches: list[list[Message[Any]]] = []

    async def handle(messages: list[Message[Any]]) -> None:
        batches.append(messages)

    consumer = Consumer("jobs", url, batch_size=3)
    await consumer.process_batch(handle, batch_size=50, batch_wait=0.01, until_empty=True)
    assert sorted(message.msg_id for batch in batches for message in batch) == sorted(ids)
    assert all(len({message.partition for message in batch}) == 1 for batch in batches)
    assert all(len(batch) <= 50 for batch in batches)
    assert max(len(batch) for batch in batches) == 50
    for partition in range(2):
        numbers = [message.payload["n"] for batch in batches for message in batch if message.partition == partition]
        assert numbers == sorted(numbers)


async def test_process_batch_waits_for_a_batch_to_be_full(url: str) -> None:
    batches: list[int] = []

    async def handle(messages: list[Message[Any]]) -> None:
        batches.append(len(messages))

    await produce(url, 1)
    consumer = Consumer("jobs", url)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(functools.partial(consumer.process_batch, handle, batch_size=10, batch_wait=5.0))
        await anyio.sleep(0.1)
        assert batches == []
        await produce(url, 9)
        with anyio.fail_after(3):
            while not batches:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert batches == [10]


async def test_a_batch_fails_as_a_whole(url: str) -> None:
    await produce(url, 4)
    seen: list[list[tuple[int, int]]] = []

    async def handle(messages: list[Message[Any]]) -> None:
        seen.append([(message.payload["n"], message.attempt) for message in messages])
        if len(seen) == 1:
            raise ValueError("all of them again")

    with anyio.fail_after(10):
        await Consumer("jobs", url).process_batch(handle, batch_size=4, until_empty=True)
    assert seen[0] == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert sorted(one for batch in seen[1:] for one in batch) == [(0, 2), (1, 2), (2, 2), (3, 2)]


async def test_stop_lets_the_handler_finish_and_hands_the_rest_back(url: str) -> None:
    await produce(url, 10)
    notebook = Notebook()
    started = anyio.Event()

    async def handle(message: Message[Any]) -> None:
        started.set()
        await anyio.sleep(0.05)
        await notebook.handle(message)

    consumer = quick(url)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.process, handle)
        await started.wait()
        with anyio.fail_after(5):
            await consumer.stop()
        assert consumer.statistics().state == "stopped"
    assert notebook.numbers == [0]
    after = Notebook()
    await quick(url).process(after.handle, until_empty=True)
    assert after.numbers == list(range(1, 10))
    assert {message.attempt for message in after.messages} == {1}  # T5: prefetching counts for nothing


async def test_stop_called_from_a_handler_does_not_wait_for_itself(url: str) -> None:
    await produce(url, 3)
    consumer = quick(url)
    notebook = Notebook()

    async def handle(message: Message[Any]) -> None:
        await notebook.handle(message)
        await consumer.stop()

    with anyio.fail_after(5):
        await consumer.process(handle)
    assert notebook.numbers == [0]


async def test_a_second_run_at_the_same_time_is_refused(url: str) -> None:
    await produce(url, 1)
    consumer = quick(url)
    async with anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, Notebook().handle)
        with pytest.raises(RuntimeError, match="second"):
            await consumer.process(Notebook().handle)
        tasks.cancel_scope.cancel()


async def test_an_error_inside_ends_the_consumer_as_one_consumer_error(url: str) -> None:
    await produce(url, 1)

    from redisaq.actors import Actor

    class Broken(Actor[None]):
        async def run(self) -> None:
            raise ZeroDivisionError("a bug")

    consumer = quick(url)
    consumer.attach(Broken())
    with anyio.fail_after(5), pytest.raises(ConsumerError) as caught:
        await consumer.process(Notebook().handle)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_until_empty_returns_at_once_without_a_topic(url: str) -> None:
    notebook = Notebook()
    with anyio.fail_after(2):
        await quick(url, on_event=notebook.note).process(notebook.handle, until_empty=True)
    assert len(notebook.of(events.TopicMissing)) == 1


async def test_a_consumer_may_come_before_its_topic(url: str) -> None:
    notebook = Notebook()
    consumer = quick(url, on_event=notebook.note)
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(1):
            await tasks.start(consumer.process, notebook.handle)
        await produce(url, 3)
        with anyio.fail_after(2):
            while len(notebook.messages) < 3:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert len(notebook.of(events.TopicMissing)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"group_name": "a{b"},
        {"group_name": "a\nb"},
        {"group_name": "x" * 10_000},
        {"consumer_name": ""},
        {"batch_size": 0},
        {"heartbeat_interval": 3.0, "heartbeat_ttl": 4.0},
        {"ordering": "random"},
        {"concurrency": True},
        {"timeout": float("nan")},
        {"no_such": 1},
    ],
)
async def test_a_bad_setting_is_refused_by_its_name(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=[*options][-1]):
        Consumer("jobs", "memory://x", **options)
