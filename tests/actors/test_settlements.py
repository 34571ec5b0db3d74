"""What becomes of messages, looked at one promise at a time: nothing twice, nothing forgotten, nothing too early or too late."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from redisaq import Admin, Message, Producer, RetryAfter, RetryPolicy, events
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.terms import GroupName
from redisaq.consuming import acknowledger
from redisaq.core.entry_ids import START
from tests.actors.group import Backend, Notebook, fresh_url, on_both, play, produce, quick, store_of

GROUP = GroupName("jobs", "default_group")


@on_both
@pytest.mark.parametrize("times", [1, 2])
def test_a_group_that_is_lost_with_nothing_in_flight_goes_on_where_it_was(backend: Backend, times: int) -> None:
    """T6: it does not run its whole stream again, also if it is lost twice and nothing was delivered in between."""

    async def scenario(url: str) -> list[int]:
        await produce(url, 20)
        notebook, consumer = Notebook(), quick(url)
        async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, notebook.handle)
            for _ in range(times):
                await anyio.sleep(1)
                store_of(url).forget_cursor(GROUP, 0)
            await anyio.sleep(1)
            await producer.enqueue({"n": 20})
            await anyio.sleep(1)
            await consumer.stop()
        return notebook.numbers

    assert play(scenario, backend) == list(range(21))


@on_both
def test_retries_in_hand_do_not_hold_up_those_that_come_due_behind_them(backend: Backend) -> None:
    """What is in hand stays due at the server (S3): asked for as many as one look takes, it would name these alone, again and again."""

    async def scenario(url: str) -> tuple[int, int]:
        await produce(url, 3)
        notebook, looks = Notebook(), 0
        operate = MemoryBroker._operate

        async def count(broker: MemoryBroker, name: str, step: Callable[..., Any]) -> Any:
            nonlocal looks
            looks += name == "due"
            return await operate(broker, name, step)

        async def handle(message: Message[Any]) -> None:
            if message.attempt == 1:
                raise ValueError("later")
            notebook.running += 1
            notebook.most_running = max(notebook.most_running, notebook.running)
            await anyio.sleep(5)
            notebook.running -= 1

        consumer = quick(url, ordering="none", concurrency=3, batch_size=1, retry=RetryPolicy(backoff=0.5, jitter=False))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryBroker, "_operate", count)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consumer.process, handle)
                await anyio.sleep(4)
                await consumer.stop()
        return notebook.most_running, looks

    most_running, looks = play(scenario, backend)
    assert most_running == 3
    assert looks < 30


@on_both
def test_a_retry_that_stands_under_an_earlier_attempt_is_fetched_at_once(backend: Backend) -> None:
    """T6: a replica that took over has missed the last attempt; else it would wait for the timer's next round, a ttl later."""

    async def scenario(url: str) -> list[tuple[int, float]]:
        await produce(url, 1)
        runs: list[tuple[int, float]] = []
        operate, noted = MemoryBroker._operate, 0
        retries = store_of(url).shelf(GROUP, 0).retry
        earlier: dict[bytes, tuple[int, bytes]] = {}

        async def forget_the_first(broker: MemoryBroker, name: str, step: Callable[..., Any]) -> Any:
            nonlocal noted
            if name == "start_retry":
                noted += 1
                if noted == 1:
                    earlier.update(retries)
                elif noted == 2:
                    retries.update(earlier)
            return await operate(broker, name, step)

        async def handle(message: Message[Any]) -> None:
            runs.append((message.attempt, anyio.current_time()))
            if len(runs) < 3:
                raise ValueError("later")

        consumer = quick(url, heartbeat_ttl=60, heartbeat_interval=10, retry=RetryPolicy(backoff=0.1, factor=1.0, jitter=False))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryBroker, "_operate", forget_the_first)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consumer.process, handle)
                while len(runs) < 3:
                    await anyio.sleep(0.1)
                await consumer.stop()
        return runs

    runs = play(scenario, backend)
    assert [attempt for attempt, _ in runs] == [1, 2, 2]
    assert runs[2][1] - runs[1][1] < 1


@on_both
def test_a_group_begins_at_the_beginning_of_partitions_that_come_later(backend: Backend) -> None:
    """G6: a group that began at latest misses nothing that is sent to a new partition before its members have heard of it."""

    async def scenario(url: str) -> list[int]:
        await produce(url, 1)
        notebook, consumer = Notebook(), quick(url, group_name="late", start="latest")
        operate, joined = MemoryBroker._operate, False

        async def late(broker: MemoryBroker, name: str, step: Callable[..., Any]) -> Any:
            if name == "make_groups" and joined:
                await anyio.sleep(0.3)
            return await operate(broker, name, step)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryBroker, "_operate", late)
            async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
                await tasks.start(consumer.process, notebook.handle)
                joined = True
                await producer.request_partition_increase(3)
                await producer.batch_enqueue([{"n": n} for n in range(6)])
                await anyio.sleep(2)
                await consumer.stop()
        return sorted(notebook.numbers)

    assert play(scenario, backend) == list(range(6))


@on_both
def test_what_trimming_took_just_before_the_end_is_reported_too(backend: Backend) -> None:
    """What could not be read is counted every other second: a last time before the partition is given back."""

    async def scenario(url: str) -> tuple[list[int], list[int]]:
        await produce(url, 20)
        notebook, began, go_on = Notebook(), anyio.Event(), anyio.Event()

        async def handle(message: Message[Any]) -> None:
            notebook.messages.append(message)
            began.set()
            await go_on.wait()

        consumer = quick(url, batch_size=1, on_event=notebook.note)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            await began.wait()
            await anyio.sleep(0.1)
            store_of(url).trim("jobs", 0, 5)
            tasks.start_soon(consumer.stop)
            await anyio.sleep(0.1)
            go_on.set()
        return notebook.numbers, [event.count for event in notebook.of(events.EntriesTrimmed)]

    numbers, counts = play(scenario, backend)
    assert numbers == [0]
    assert 0 < sum(counts) <= 14


@on_both
def test_a_group_that_has_much_to_do_is_asked_now_and_then_whether_it_is_empty(backend: Backend) -> None:
    async def scenario(url: str) -> int:
        await produce(url, 1, delay=20)
        looks, operate = 0, MemoryBroker._operate

        async def count(broker: MemoryBroker, name: str, step: Callable[..., Any]) -> Any:
            nonlocal looks
            looks += name == "remaining"
            assert looks < 1000
            return await operate(broker, name, step)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryBroker, "_operate", count)
            await quick(url).process(lambda _message: None, until_empty=True)
        return looks

    assert play(scenario, backend) < 100


@on_both
def test_a_member_that_was_dropped_joins_again_at_its_next_heartbeat(backend: Backend) -> None:
    """M5: not only when its own deadline has passed."""

    async def scenario(url: str) -> tuple[list[int], float]:
        await produce(url, 1)
        notebook = Notebook()
        consumer = quick(url, heartbeat_ttl=600, heartbeat_interval=1, on_event=notebook.note)
        async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, notebook.handle)
            await anyio.sleep(5)
            store_of(url).members(GROUP).members.clear()
            dropped = anyio.current_time()
            while len(notebook.of(events.MemberJoined)) < 2:
                await anyio.sleep(0.1)
            took = anyio.current_time() - dropped
            await producer.enqueue({"n": 1})
            await anyio.sleep(5)
            await consumer.stop()
        return notebook.numbers, took

    numbers, took = play(scenario, backend)
    assert numbers == [0, 1]
    assert took < 3


@on_both
@pytest.mark.parametrize("count", [6, 7, 8])
def test_a_large_acknowledgement_is_cut_and_loses_nothing(backend: Backend, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledger, "MOST_IDS", 3)

    async def scenario(url: str) -> tuple[int, list[int]]:
        await produce(url, count)
        consumer, sizes = quick(url), list[int]()

        async def handle(messages: list[Message[Any]]) -> None:
            sizes.append(len(messages))

        async with Admin(url) as admin, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process_batch, handle)
            await anyio.sleep(1)
            pending = (await admin.group("jobs", "default_group")).pending
            await consumer.stop()
        return pending, sizes

    assert play(scenario, backend) == (0, [count])


@on_both
def test_a_parked_message_is_tried_again_when_it_is_due(backend: Backend) -> None:
    async def scenario(url: str) -> list[float]:
        await produce(url, 1)
        times: list[float] = []

        async def handle(_message: Message[Any]) -> None:
            times.append(anyio.current_time())
            if len(times) < 3:
                raise ValueError("again")

        retry = RetryPolicy(max_attempts=3, backoff=10, factor=3, jitter=False)
        await quick(url, retry=retry).process(handle, until_empty=True)
        return times

    first, second, third = play(scenario, backend)
    assert second - first == pytest.approx(10, abs=0.01)
    assert third - second == pytest.approx(30, abs=0.01)


@on_both
@pytest.mark.parametrize("ordering", ["partition", "key"])
def test_a_failure_is_written_down_before_its_lane_waits(backend: Backend, ordering: Any) -> None:
    """T5: the owner that takes over after a crash counts on."""

    async def scenario(url: str) -> list[int]:
        await produce(url, 1)
        consumer = quick(url, ordering=ordering, retry=RetryPolicy(max_attempts=5, backoff=5, factor=1, jitter=False, blocking=True))
        counts: list[int] = []

        async def handle(_message: Message[Any]) -> None:
            raise ValueError("again")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            for _ in range(3):
                await anyio.sleep(5 if counts else 1)
                counts += store_of(url).streams["jobs", 0].groups["default_group"].pending.values()
            tasks.cancel_scope.cancel()
        return counts

    assert play(scenario, backend) == [2, 3, 4]  # the next attempt is that of the raised count, less one


@on_both
def test_what_is_kept_of_a_failure_says_when_it_failed_first_and_last(backend: Backend) -> None:
    async def scenario(url: str) -> tuple[float, int, int]:
        await produce(url, 1)

        async def handle(_message: Message[Any]) -> None:
            raise ValueError("again")

        await quick(url, retry=RetryPolicy(max_attempts=3, backoff=10, factor=1, jitter=False)).process(handle, until_empty=True)
        async with Admin(url) as admin:
            (dead,) = [dead async for dead in admin.dead_letters("jobs", "default_group")]
        assert dead.first_failed is not None
        assert dead.last_failed is not None
        return (dead.last_failed - dead.first_failed).total_seconds(), dead.attempts, dead.life

    apart, attempts, life = play(scenario, backend)
    assert 20 <= apart < 21
    assert (attempts, life) == (3, 0)


@on_both
def test_as_many_dead_letters_are_kept_as_the_consumer_says(backend: Backend) -> None:
    async def scenario(url: str) -> list[Any]:
        await produce(url, 5)

        async def handle(_message: Message[Any]) -> None:
            raise ValueError("dead")

        await quick(url, retry=RetryPolicy(max_attempts=1), dead_maxlen=2, batch_size=1).process(handle, until_empty=True)
        async with Admin(url) as admin:
            return [dead.payload async for dead in admin.dead_letters("jobs", "default_group")]

    assert play(scenario, backend) == [{"n": 3}, {"n": 4}]


@on_both
@pytest.mark.parametrize("to", ["retry", "dead"])
def test_a_failure_whose_token_the_server_lost_is_settled_under_it_again(backend: Backend, to: str) -> None:
    """T2: no other owner has come, so the owner installs its token again and continues."""

    async def scenario(url: str) -> tuple[list[int], int, list[str]]:
        await produce(url, 1)
        notebook, attempts = Notebook(), list[int]()

        async def handle(message: Message[Any]) -> None:
            attempts.append(message.attempt)
            if message.attempt == 1:
                store_of(url).leases.pop((GROUP, 0))
                raise ValueError("while the token is lost")

        retry = RetryPolicy(max_attempts=2 if to == "retry" else 1, backoff=0.5, jitter=False)
        await quick(url, retry=retry, on_event=notebook.note).process(handle, until_empty=True)
        kinds = (events.LeaseLost, events.MessageRetried, events.MessageDead)
        return (
            attempts,
            len(notebook.of(events.PartitionAcquired)),
            [type(one).__name__ for one in notebook.events if isinstance(one, kinds)],
        )

    retried = to == "retry"
    assert play(scenario, backend) == ([1, 2] if retried else [1], 1, ["MessageRetried" if retried else "MessageDead"])


@on_both
def test_who_dies_of_crashes_is_reported_dead_once(backend: Backend) -> None:
    """T5: as many handlers began on it as are allowed, and none ended."""

    async def scenario(url: str) -> tuple[list[int], list[tuple[int, str]], list[str]]:
        await produce(url, 2)
        notebook, attempts = Notebook(), list[int]()
        store = store_of(url)
        policy = RetryPolicy(max_attempts=2)

        async def handle(message: Message[Any]) -> None:
            attempts.append(message.payload["n"])

        stream = store.streams["jobs", 0]
        stream.make_group("default_group", START)
        ((entry, _),) = stream.after(START, 1)
        cursor = stream.groups["default_group"]
        cursor.pending[entry], cursor.last_delivered = 3, entry  # delivered three times, and never settled
        await quick(url, retry=policy, on_event=notebook.note).process(handle, until_empty=True)
        async with Admin(url) as admin:
            dead = [dead.error_type async for dead in admin.dead_letters("jobs", "default_group")]
        return attempts, [(one.attempt, one.reason) for one in notebook.of(events.MessageDead)], dead

    attempts, dead, stored = play(scenario, backend)
    assert attempts == [1]
    ((_attempt, reason),) = dead
    assert reason.startswith("2 handlers were begun on it, and none ended")
    assert stored == ["CrashedDeliveries"]


@pytest.mark.anyio
async def test_an_abandoned_thread_is_reported_and_keeps_its_credit_until_it_returns() -> None:
    url = fresh_url()
    await produce(url, 8, partitions=2)
    notebook, go_on = Notebook(), threading.Event()
    order: list[str] = []
    store = store_of(url)

    def handle(message: Message[Any]) -> None:
        order.append("began")
        if len(order) == 1:
            store.forget_group(GROUP)  # its lease is over: nobody waits for it any more
            go_on.wait(20)
            order.append("returned")

    consumer = quick(url, concurrency=1, on_event=notebook.note)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            while not notebook.of(events.HandlerAbandoned) or len(notebook.of(events.PartitionAcquired)) < 4:
                await anyio.sleep(0.01)
            await anyio.sleep(0.2)
            assert order == ["began"], "one handler at a time, and one still runs"
            go_on.set()
            while len(order) < 10:
                await anyio.sleep(0.01)
            await consumer.stop()
    assert order[:2] == ["began", "returned"]
    assert len(notebook.of(events.HandlerAbandoned)) == 1


@on_both
@pytest.mark.parametrize("blocking", [False, True])
def test_nothing_is_remembered_of_what_is_settled(backend: Backend, *, blocking: bool) -> None:
    """Over failures, pauses that do not count, deaths, a group that is moved back and one that is lost."""
    kept = ("flights", "done", "acking", "ending", "sending", "unfound", "left", "doubtful", "settled_since", "withheld", "_given_back")

    async def scenario(url: str) -> dict[str, Any]:
        await produce(url, 40, partition_key="n")
        retry = RetryPolicy(max_attempts=2, backoff=0.1, jitter=False, blocking=blocking)
        consumer = quick(url, ordering="key", concurrency=3, retry=retry)

        async def handle(message: Message[Any]) -> None:
            await anyio.sleep(0.01)
            match message.payload["n"] % 5, message.attempt:
                case (1, 1) | (2, _):
                    raise ValueError("once, or always")
                case (3, 1):
                    if put_off.setdefault(message.msg_id, message.attempt):
                        put_off[message.msg_id] = 0
                        raise RetryAfter(0.1)
                case _:
                    pass

        put_off: dict[str, int] = {}
        async with Admin(url) as admin, Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            await anyio.sleep(0.1)
            await admin.pause("jobs", "default_group")
            await admin.seek("jobs", "default_group", "earliest")
            await admin.resume("jobs", "default_group")
            await anyio.sleep(0.1)
            store_of(url).forget_cursor(GROUP, 0)
            await anyio.sleep(20)
            await producer.enqueue({"n": 0})  # a read confirms what was not found
            await producer.enqueue({"n": 0})
            await anyio.sleep(20)
            runtime = consumer._runtime
            assert runtime is not None
            (owned,) = runtime.owned()
            left = {name: getattr(owned.flights, name) for name in kept}
            group = await admin.group("jobs", "default_group")
            assert (group.pending, group.retry) == (0, 0)
            await consumer.stop()
        return {name: value for name, value in left.items() if value}

    assert play(scenario, backend) == {}
