"""Rare answers to an owner: another token is current, an answer is lost, a message is no longer there (S1, S3, T2, T5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from msgspec import structs

from redisaq import Admin, Consumer, Message, RetryPolicy, events
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import START
from redisaq.core.records import decode_retry, encode_retry
from redisaq.errors import ConnectionFailed
from tests.actors.group import Backend, Notebook, on_both, play, produce, quick, store_of
from tests.actors.hooked import hooked

GROUP = GroupName("jobs", "default_group")
TTL = 4.0
SOON = RetryPolicy(max_attempts=3, backoff=0.1, factor=1, jitter=False)


def member(url: str, **more: Any) -> Consumer[Any]:
    return quick(url, **{"heartbeat_interval": 0.5, "heartbeat_ttl": TTL, "retry": SOON, **more})


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)


def kinds_of(told: Notebook, *kinds: type[events.Event]) -> list[str]:
    return [type(one).__name__ for one in told.events if isinstance(one, kinds)]


# -- another token stands ---------------------------------------------------------------------------------------------------------------


@on_both
@pytest.mark.parametrize("outcome", ["done", "retry", "dead"])
@pytest.mark.parametrize("stands", ["none", "another"])
def test_a_settlement_that_is_refused_is_sent_again_or_ends_the_ownership(backend: Backend, outcome: str, stands: str) -> None:
    """S1, T2: if there is no token beside the data, no other owner has come.

    A greater token is another owner's, and nothing is settled under it.
    """

    async def scenario(url: str) -> tuple[Counts, list[str]]:
        await produce(url, 2)
        told, consumer = Notebook(), None
        runs: list[int] = []

        async def handle(message: Message[Any]) -> None:
            runs.append(message.payload["n"])
            if len(runs) == 1:
                if stands == "none":
                    del store_of(url).leases[GROUP, 0]
                else:
                    store_of(url).leases[GROUP, 0].token += 5
                if outcome != "done":
                    raise ValueError("at first")

        retry = RetryPolicy(max_attempts=1) if outcome == "dead" else SOON
        consumer = member(url, on_event=told.note, retry=retry, batch_size=1)
        with anyio.fail_after(5 * TTL):
            await consumer.process(handle, until_empty=True)
        async with Admin(url) as admin:
            group = await admin.group("jobs", "default_group")
        settled = kinds_of(told, events.MessageRetried, events.MessageDead)
        counts = (runs.count(0), runs.count(1), group.pending, len(told.of(events.LeaseLost)), len(told.of(events.PartitionAcquired)))
        return counts, settled

    counts, settled = play(scenario, backend)
    lost = stands == "another"
    assert counts == (2 if lost or outcome == "retry" else 1, 1, 0, int(lost), 1 + lost)
    assert settled == ([] if lost or outcome == "done" else ["MessageRetried" if outcome == "retry" else "MessageDead"])


@on_both
def test_a_refused_settlement_that_finds_nothing_afterwards_is_not_reported(backend: Backend) -> None:
    """S1, T2: refused means that it did nothing. Another has settled the message meanwhile."""

    async def scenario(url: str) -> tuple[list[int], list[str]]:
        await produce(url, 1)
        told, attempts = Notebook(), list[int]()

        async def handle(message: Message[Any]) -> None:
            attempts.append(message.attempt)
            del store_of(url).leases[GROUP, 0]
            store_of(url).streams["jobs", 0].groups["default_group"].pending.clear()
            raise ValueError("at first")

        with anyio.fail_after(5 * TTL):
            await member(url, on_event=told.note).process(handle, until_empty=True)
        return attempts, kinds_of(told, events.MessageRetried, events.MessageDead)

    assert play(scenario, backend) == ([1], [])


Counts = tuple[int, int, int, int, int]


@on_both
@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize("outcome", ["retry", "dead"])
def test_a_settlement_whose_answer_is_lost_is_reported_once(backend: Backend, outcome: str, *, executed: bool) -> None:
    """S1: sent again, it finds nothing, or does what the first one did not."""

    async def scenario(url: str) -> tuple[list[str], list[int], int]:
        await produce(url, 1)
        told, attempts = Notebook(), list[int]()
        lost = False

        async def lose(name: str) -> None:
            nonlocal lost
            if name == "resolve" and not lost:
                lost = True
                raise ConnectionFailed(url, "for this test", maybe_executed=True)

        async def handle(message: Message[Any]) -> None:
            attempts.append(message.attempt)
            if message.attempt == 1:
                raise ValueError("at first")

        consumer = member(url, on_event=told.note, retry=RetryPolicy(max_attempts=1) if outcome == "dead" else SOON)
        broker = hooked(consumer, url)
        if executed:
            broker.after = lose
        else:
            broker.before = lose
        with anyio.fail_after(TTL):
            await consumer.process(handle, until_empty=True)
        return kinds_of(told, events.MessageRetried, events.MessageDead), attempts, len(store_of(url).shelf(GROUP, 0).dead)

    expected = (["MessageDead"], [1], 1) if outcome == "dead" else (["MessageRetried"], [1, 2], 0)
    assert play(scenario, backend) == expected


@on_both
@pytest.mark.parametrize("source", ["pending", "retry"])
def test_no_handler_begins_on_what_another_owner_has_taken_meanwhile(backend: Backend, source: str) -> None:
    """T5: the count, or the attempt, is raised before the handler begins, and that is refused under another token."""

    async def scenario(url: str) -> tuple[list[int], list[str], int]:
        (msg_id,) = await produce(url, 1)
        told, attempts, stale = Notebook(), list[int](), list[bool]()
        step = "set_deliveries" if source == "pending" else "start_retry"
        stolen = False

        async def before(name: str) -> None:
            nonlocal stolen
            if name == step and not stolen:
                stolen = True
                store_of(url).leases[GROUP, 0].token += 5

        async def handle(message: Message[Any]) -> None:
            assert message.msg_id == msg_id
            attempts.append(message.attempt)
            stale.append(message.token != store_of(url).leases[GROUP, 0].token)
            if source == "retry" and message.attempt == 1:
                raise ValueError("at first")

        if source == "pending":
            stream = store_of(url).streams["jobs", 0]
            stream.make_group("default_group", START)
            stream.deliver(stream.groups["default_group"], 1, 0)
        consumer = member(url, on_event=told.note)
        hooked(consumer, url).before = before
        with anyio.fail_after(5 * TTL):
            await consumer.process(handle, until_empty=True)
        assert stolen
        assert not any(stale)
        return attempts, kinds_of(told, events.LeaseLost), len(told.of(events.PartitionAcquired))

    attempts, lost, acquired = play(scenario, backend)
    assert attempts == ([1] if source == "pending" else [1, 2])
    assert (lost, acquired) == (["LeaseLost"], 2)


# -- what is no longer there ------------------------------------------------------------------------------------------------------------


@on_both
def test_a_retry_that_was_purged_meanwhile_does_not_run_and_leaves_room(backend: Backend) -> None:
    """S3: it is in hand already when an admin drops it; what comes after it is not held up."""

    async def scenario(url: str) -> tuple[list[tuple[int, int]], dict[str, Any]]:
        await produce(url, 3)
        runs: list[tuple[int, int]] = []
        purged = False

        async def before(name: str) -> None:
            nonlocal purged
            if name == "start_retry" and not purged:
                purged = True
                shelf = store_of(url).shelf(GROUP, 0)
                del shelf.retry[min(shelf.retry)]

        async def handle(message: Message[Any]) -> None:
            runs.append((message.payload["n"], message.attempt))
            if message.attempt == 1:
                raise ValueError("at first")

        consumer = member(url, batch_size=1)
        hooked(consumer, url).before = before
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            await until(lambda: len(runs) == 5)
            await anyio.sleep(1)
            runtime = consumer._runtime
            assert runtime is not None
            (owned,) = runtime.owned()
            left = {name: getattr(owned.flights, name) for name in ("flights", "waiting", "running", "ending", "sending")}
            await consumer.stop()
        return runs, left

    runs, left = play(scenario, backend)
    assert sorted(runs) == [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert not any(left.values()), left


@on_both
@pytest.mark.parametrize("outcome", ["retry", "dead"])
def test_a_failure_that_finds_nothing_to_settle_is_not_reported(backend: Backend, outcome: str) -> None:
    """T6: the group is lost meanwhile. The message comes once more, and what becomes of it then is what is reported."""

    async def scenario(url: str) -> tuple[int, list[str]]:
        await produce(url, 1)
        told, runs = Notebook(), list[int]()

        async def handle(message: Message[Any]) -> None:
            runs.append(message.attempt)
            if len(runs) == 1:
                store_of(url).forget_cursor(GROUP, 0)
                raise ValueError("at first")

        retry = RetryPolicy(max_attempts=1) if outcome == "dead" else SOON
        with anyio.fail_after(5 * TTL):
            await member(url, on_event=told.note, retry=retry).process(handle, until_empty=True)
        return len(runs), kinds_of(told, events.MessageRetried, events.MessageDead)

    assert play(scenario, backend) == (2, [])


@on_both
def test_a_retry_that_is_there_under_another_attempt_is_fetched_again_at_once(backend: Backend) -> None:
    """T5, S1: a server that took over has missed the last attempts; what this owner has in hand is out of date."""

    async def scenario(url: str) -> tuple[list[int], float]:
        await produce(url, 1)
        attempts: list[int] = []
        at = 0.0

        async def before(name: str) -> None:
            nonlocal at
            if name == "start_retry" and not at:
                at = anyio.current_time()
                shelf = store_of(url).shelf(GROUP, 0)
                ((entry_id, (due, data)),) = shelf.retry.items()
                body = decode_retry(entry_id, data)
                shelf.retry[entry_id] = due, encode_retry(structs.replace(body, attempt=body.attempt + 2))

        async def handle(message: Message[Any]) -> None:
            attempts.append(message.attempt)
            if message.attempt == 1:
                raise ValueError("at first")

        consumer = member(url, retry=RetryPolicy(max_attempts=9, backoff=0.1, jitter=False))
        hooked(consumer, url).before = before
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            await until(lambda: len(attempts) == 2)
            took = anyio.current_time() - at
            await consumer.stop()
        return attempts, took

    attempts, took = play(scenario, backend)
    assert attempts == [1, 4]
    assert took < 0.5


@on_both
def test_retries_that_were_purged_leave_room_for_what_comes(backend: Backend) -> None:
    """They fill all the room, after a message with a slow handler; then an admin drops them."""

    async def scenario(url: str) -> list[int]:
        await produce(url, 3)
        runs: list[int] = []

        async def before(name: str) -> None:
            if name == "start_retry":
                store_of(url).shelf(GROUP, 0).retry.clear()

        async def handle(message: Message[Any]) -> None:
            runs.append(message.payload["n"])
            if message.payload["n"] < 2:
                raise ValueError("at first")
            await anyio.sleep(1.0)

        consumer = member(url, batch_size=1)
        hooked(consumer, url).before = before
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            await until(lambda: len(runs) == 3)
            await anyio.sleep(0.5)
            await MemoryBroker(url.removeprefix("memory://"), "redisaq").append(
                "jobs", [(0, [b"i", b"x", b"d", b'{"n":%d}' % n]) for n in (3, 4, 5)], maxlen=None, approximate=True
            )
            await until(lambda: len(runs) == 6, 20)
            await consumer.stop()
        return runs

    assert play(scenario, backend) == [0, 1, 2, 3, 4, 5]


@on_both
def test_a_retry_whose_handlers_never_ended_dies_of_that(backend: Backend) -> None:
    """T5, also of `retry`: so many attempts as there may be have been noted, and none of them ended."""

    async def scenario(url: str) -> tuple[list[int], list[tuple[str, int]], int]:
        await produce(url, 1)
        attempts, told = list[int](), Notebook()
        retry = RetryPolicy(max_attempts=3, backoff=0.1, factor=1, jitter=False)

        async def handle(message: Message[Any]) -> None:
            attempts.append(message.attempt)
            if message.attempt == 1:
                raise ValueError("at first")
            await anyio.sleep_forever()

        async def die_with_it(attempt: int) -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(member(url, retry=retry, drain_timeout=0.0).process, handle)
                await until(lambda: attempts[-1:] == [attempt])
                tasks.cancel_scope.cancel()

        await die_with_it(2)
        await die_with_it(3)
        with anyio.fail_after(5 * TTL):
            await member(url, retry=retry, on_event=told.note).process(handle, until_empty=True)
        async with Admin(url) as admin:
            dead = [(dead.error_type, dead.attempts) async for dead in admin.dead_letters("jobs", "default_group")]
        return attempts, dead, len(told.of(events.MessageDead))

    attempts, dead, told = play(scenario, backend)
    assert attempts == [1, 2, 3]
    assert dead == [("CrashedDeliveries", 3)]
    assert told == 1


@on_both
def test_what_cannot_be_read_is_dead_wherever_it_comes_from_and_told_once(backend: Backend) -> None:
    """Out of what its predecessor left pending, and out of `retry`: the deserializer reads a message once and never again."""

    async def scenario(url: str) -> tuple[list[int], list[str], list[str]]:
        await produce(url, 2)
        told, runs, reads = Notebook(), list[int](), list[bytes]()
        stream = store_of(url).streams["jobs", 0]
        stream.make_group("default_group", START)
        stream.deliver(stream.groups["default_group"], 1, 0)

        def deserialize(data: bytes) -> Any:
            reads.append(data)
            if data == b'{"n":0}' or reads.count(data) > 1:
                raise ValueError("not this time")
            return {"n": 1}

        async def handle(message: Message[Any]) -> None:
            runs.append(message.payload["n"])
            raise ValueError("at first")

        with anyio.fail_after(5 * TTL):
            await member(url, on_event=told.note, deserializer=deserialize).process(handle, until_empty=True)
        async with Admin(url) as admin:
            dead = [dead.error_type async for dead in admin.dead_letters("jobs", "default_group")]
        return runs, kinds_of(told, events.EntryUnreadable, events.MessageDead), dead

    runs, told, dead = play(scenario, backend)
    assert runs == [1]
    assert told == ["EntryUnreadable"] * 2
    assert dead == ["Unreadable"] * 2


@on_both
def test_what_trimming_took_of_the_pending_is_reported_once(backend: Backend) -> None:
    """What the predecessor left pending is not in the stream any more: it is gone, and no handler can have it."""

    async def scenario(url: str) -> tuple[list[int], list[int], int]:
        await produce(url, 5)
        told, notebook = Notebook(), Notebook()
        store = store_of(url)
        stream = store.streams["jobs", 0]
        stream.make_group("default_group", START)
        stream.deliver(stream.groups["default_group"], 4, 0)
        store.trim("jobs", 0, 2)
        consumer = member(url, on_event=told.note, batch_size=2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, notebook.handle)
            await until(lambda: len(notebook.messages) == 2)
            await anyio.sleep(10)
            counted = consumer.statistics().trimmed
            await consumer.stop()
        return notebook.numbers, [event.count for event in told.of(events.EntriesTrimmed)], counted

    numbers, counts, counted = play(scenario, backend)
    assert numbers == [3, 4]
    assert sum(counts) == counted == 3


@on_both
def test_what_trimming_took_unread_is_reported_once(backend: Backend) -> None:
    async def scenario(url: str) -> tuple[list[int], list[int], int]:
        await produce(url, 1)
        told, notebook, consumer = Notebook(), Notebook(), None
        await member(url).process(notebook.handle, until_empty=True)
        await produce(url, 20)
        store_of(url).trim("jobs", 0, 5)
        consumer = member(url, on_event=told.note)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, notebook.handle)
            await until(lambda: len(notebook.messages) == 6)
            await anyio.sleep(100)
            counted = consumer.statistics().trimmed
            await consumer.stop()
        return notebook.numbers, [event.count for event in told.of(events.EntriesTrimmed)], counted

    assert play(scenario, backend) == ([0, *range(15, 20)], [15], 15)


# -- how much is in hand ----------------------------------------------------------------------------------------------------------------


@on_both
def test_no_more_failures_are_in_hand_than_may_be(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the server does not take what failed, reading stops: what is kept of failures is bounded."""
    monkeypatch.setattr("redisaq.core.in_flight.MOST_ENDING", 5)

    async def scenario(url: str) -> tuple[int, int]:
        await produce(url, 60)
        runs: list[int] = []
        away = True

        async def before(name: str) -> None:
            if away and name == "resolve":
                raise ConnectionFailed(url, "for this test")

        async def handle(message: Message[Any]) -> None:
            runs.append(message.payload["n"])
            raise ValueError("at first")

        consumer = member(url, retry=RetryPolicy(max_attempts=1), batch_size=2)
        hooked(consumer, url).before = before
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            await anyio.sleep(2)
            begun = len(runs)
            away = False
            await until(lambda: len(runs) == 60)
            await consumer.stop()
        return begun, len(store_of(url).shelf(GROUP, 0).dead)

    begun, dead = play(scenario, backend)
    assert 5 <= begun <= 5 + 2 * 2 + 2, "what had been read before the bound was reached"
    assert dead == 60


@on_both
@pytest.mark.parametrize(("concurrency", "most"), [(1, 1), (2, 2), (None, 3)])
def test_as_many_batches_run_at_once_as_may(backend: Backend, concurrency: int | None, most: int) -> None:
    async def scenario(url: str) -> tuple[int, int]:
        await produce(url, 30, partitions=3)
        running = highest = done = 0

        async def handle(messages: list[Message[Any]]) -> None:
            nonlocal running, highest, done
            running += 1
            highest = max(highest, running)
            await anyio.sleep(0.1)
            running -= 1
            done += len(messages)

        await member(url, concurrency=concurrency).process_batch(handle, batch_size=2, until_empty=True)
        return highest, done

    assert play(scenario, backend) == (most, 30)


@on_both
def test_a_busy_lane_gives_its_credit_up_between_two_messages(backend: Backend) -> None:
    """One handler at a time: a partition that waits has its turn long before another one has nothing left."""

    async def scenario(url: str) -> list[int]:
        order: list[int] = []
        await produce(url, 0, partitions=2)
        broker = MemoryBroker(url.removeprefix("memory://"), "redisaq")
        entry = [b"i", b"x", b"d", b"1", b"k", b"one"]
        await broker.append("jobs", [*((0, entry) for _ in range(40)), (1, entry)], maxlen=None, approximate=True)

        async def handle(message: Message[Any]) -> None:
            order.append(message.partition)
            await anyio.sleep(0.01)

        with anyio.fail_after(20):
            await member(url, concurrency=1, ordering="key", batch_size=100).process(handle, until_empty=True)
        return order

    order = play(scenario, backend)
    assert len(order) == 41
    assert order.index(1) < 5
