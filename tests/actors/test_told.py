"""Each event is reported as often as what it tells of happens: once for what lasts, once for each that comes again."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from redisaq import Consumer, DeadLetter, Discard, Message, RetryAfter, RetryPolicy, events
from redisaq.brokers.memory.holdings import Lease
from redisaq.brokers.terms import GroupName, ReaderMark
from redisaq.errors import ConnectionFailed, ServerError
from tests.actors.group import Backend, Notebook, fresh_url, on_both, play, produce, quick, store_of
from tests.actors.hooked import grow_at, hooked

GROUP = GroupName("jobs", "default_group")
TTL, INTERVAL = 4.0, 0.5
REMIND = 60.0


def member(url: str, **more: Any) -> Consumer[Any]:
    return quick(url, **{"heartbeat_interval": INTERVAL, "heartbeat_ttl": TTL, **more})


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)


@on_both
def test_t4_a_server_that_does_not_permit_killing_is_reported_once(backend: Backend) -> None:
    """Each of three owners finds readers of its predecessor, and each of their own connections breaks later."""

    async def scenario(url: str) -> tuple[list[int], list[events.KillNotPermitted]]:
        await produce(url, 6, partitions=3)
        store, notebook, told = store_of(url), Notebook(), Notebook()
        store.permits_killing = False
        for partition in range(3):
            store.leases[GROUP, partition] = Lease(token=1, readers=[ReaderMark(99 + partition, "memory:99", store.run_id)])
        consumer = member(url, on_event=told.note)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, notebook.handle)
            await until(lambda: len(notebook.messages) == 6)
            store.restart()
            await anyio.sleep(2 * TTL)
            await produce(url, 3, partitions=3)
            await until(lambda: len(notebook.messages) == 9)
            await consumer.stop()
        return notebook.numbers, told.of(events.KillNotPermitted)

    numbers, told = play(scenario, backend)
    assert sorted(numbers) == sorted([*range(6), *range(3)])
    (event,) = told
    assert event.token > 1


@on_both
def test_t4_nothing_is_reported_where_there_was_nobody_to_kill(backend: Backend) -> None:
    async def scenario(url: str) -> int:
        await produce(url, 1)
        told = Notebook()
        store_of(url).permits_killing = False
        await member(url, on_event=told.note).process(told.handle, until_empty=True)
        assert told.numbers == [0]
        return len(told.of(events.KillNotPermitted))

    assert play(scenario, backend) == 0


@on_both
def test_a_server_that_does_not_permit_listening_is_reported_once_and_asked_now_and_then(backend: Backend) -> None:
    async def scenario(url: str) -> tuple[list[str], float]:
        told, notebook = Notebook(), Notebook()
        await produce(url, 0, partitions=3)
        consumer = member(url, on_event=told.note)

        async def before(name: str) -> None:
            if name in {"listen", "listen_partition"}:
                raise ServerError("NOPERM this user has no permissions to access one of the channels")

        hooked(consumer, url).before = before
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, notebook.handle)
            await anyio.sleep(100)
            began = anyio.current_time()
            await produce(url, 1, partitions=3, delay=1.0)
            await until(lambda: len(notebook.messages) == 1)
            took = anyio.current_time() - began
            await consumer.stop()
        return [event.reason for event in told.of(events.NotificationsNotPermitted)], took

    reasons, took = play(scenario, backend)
    assert len(reasons) == 1
    assert "NOPERM" in reasons[0]
    assert 1.0 <= took < 2.1


@on_both
def test_a_server_that_is_away_is_reported_each_minute_and_its_return_once(backend: Backend) -> None:
    """Two kinds of steps fail; only when both have been answered is the server there again."""

    async def scenario(url: str) -> tuple[list[str], list[str]]:
        told = Notebook()
        await produce(url, 1)
        consumer = member(url, on_event=told.note)
        away = False

        async def before(_name: str) -> None:
            if away:
                raise ConnectionFailed(url, "for this test")

        hooked(consumer, url).before = before
        kinds = (events.Disconnected, events.Reconnected, events.MemberJoined, events.LeaseLost, events.PartitionAcquired)

        def names() -> list[str]:
            return [type(one).__name__ for one in told.events if isinstance(one, kinds)]

        long: list[str] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, told.handle)
            await anyio.sleep(TTL)
            for seconds in (2.5 * REMIND, TTL / 4):
                told.events.clear()
                away = True
                await anyio.sleep(seconds)
                away = False
                await anyio.sleep(2 * TTL)
                if seconds > TTL:
                    long = names()
            short = names()
            await consumer.stop()
        return long, short

    long, short = play(scenario, backend)
    assert sorted(long) == ["Disconnected"] * 3 + ["LeaseLost", "MemberJoined", "PartitionAcquired", "Reconnected"]
    assert "Disconnected" not in long[long.index("Reconnected") :]
    assert short == ["Disconnected", "Reconnected"]


@on_both
def test_a_server_is_there_again_once_nothing_fails_any_more(backend: Backend) -> None:
    """Heartbeats are answered first; what the group's document needs is still refused for a while."""

    async def scenario(url: str) -> list[str]:
        told, states = Notebook(), list[str]()
        await produce(url, 1)
        consumer = member(url, on_event=told.note)
        away: set[str] = set()

        async def before(name: str) -> None:
            if name in away:
                raise ConnectionFailed(url, "for this test")

        hooked(consumer, url).before = before
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, told.handle)
            await until(lambda: len(consumer.assignment) == 1)
            away.update(("heartbeat", "commit"))
            grow_at(store_of(url), "jobs", 2)
            for back in ("heartbeat", "commit"):
                await anyio.sleep(TTL / 4)
                away.discard(back)
                states += [type(one).__name__ for one in told.events if isinstance(one, events.Disconnected | events.Reconnected)]
                states.append(consumer.statistics().state)
                told.events.clear()
            await until(lambda: len(consumer.assignment) == 2)
            states += [type(one).__name__ for one in told.events if isinstance(one, events.Disconnected | events.Reconnected)]
            await consumer.stop()
        return states

    assert play(scenario, backend) == ["Disconnected", "disconnected", "disconnected", "Reconnected"]


@on_both
@pytest.mark.parametrize("ends", ["stop", "lose", "expire"])
def test_each_partition_begins_and_ends_once(backend: Backend, ends: str) -> None:
    async def scenario(url: str) -> list[tuple[str, int]]:
        told = Notebook()
        await produce(url, 2, partitions=2)
        consumer = member(url, on_event=told.note)
        away = False

        async def before(_name: str) -> None:
            if away:
                raise ConnectionFailed(url, "for this test")

        hooked(consumer, url).before = before
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, told.handle)
            await until(lambda: len(consumer.assignment) == 2)
            if ends == "lose":
                store_of(url).forget_group(GROUP)
                await until(lambda: len(told.of(events.LeaseLost)) == 2)
            elif ends == "expire":
                away = True
                await anyio.sleep(2 * TTL)
            if ends == "stop":
                await consumer.stop()
            else:
                tasks.cancel_scope.cancel()
        return [(type(one).__name__, one.partition) for one in told.events if isinstance(one, events.PartitionEvent)]

    found = play(scenario, backend)
    last = "PartitionRevoked" if ends == "stop" else "LeaseLost"
    assert sorted(found) == sorted((kind, partition) for kind in ("PartitionAcquired", last) for partition in range(2))
    assert [kind for kind, _ in found[:2]] == ["PartitionAcquired"] * 2


@on_both
def test_a_topic_that_is_missing_is_reported_once_and_again_when_it_is_missing_again(backend: Backend) -> None:
    async def scenario(url: str) -> list[int]:
        told, counts = Notebook(), list[int]()
        consumer = member(url, on_event=told.note)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, told.handle)
            await anyio.sleep(20)
            counts.append(len(told.of(events.TopicMissing)))
            await produce(url, 1)
            await until(lambda: len(told.messages) == 1)
            await anyio.sleep(20)
            counts += [len(told.of(events.TopicMissing)), len(told.of(events.MemberJoined))]
            await consumer.stop()
        return counts

    assert play(scenario, backend) == [1, 1, 1]


@pytest.mark.anyio
async def test_an_abandoned_batch_is_reported_once_for_each_message() -> None:
    url = fresh_url()
    ids = await produce(url, 3)
    told, began, go_on = Notebook(), threading.Event(), threading.Event()

    def handle(_messages: list[Message[Any]]) -> None:
        if not began.is_set():
            began.set()
            go_on.wait(20)

    consumer = quick(url, on_event=told.note, drain_timeout=0.05)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process_batch, handle)
            while not began.is_set():
                await anyio.sleep(0.01)
            await consumer.stop()
    go_on.set()
    assert sorted(event.msg_id for event in told.of(events.HandlerAbandoned)) == sorted(ids)


class Later(RetryAfter):
    """A user's own."""


@on_both
@pytest.mark.parametrize(
    ("error", "level"),
    [
        (ValueError("odd"), "WARNING"),
        (RetryAfter(0.5), "INFO"),
        (Later(0.5), "INFO"),
        (ExceptionGroup("", [ExceptionGroup("", [RetryAfter(0.5)])]), "INFO"),
        (ExceptionGroup("", [RetryAfter(0.5), ValueError("odd")]), "WARNING"),
        (Discard(), "INFO"),
        (DeadLetter("odd"), "WARNING"),
    ],
    ids=repr,
)
def test_what_a_handler_decides_is_logged_without_a_traceback(
    backend: Backend, error: Exception, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(url: str) -> None:
        runs = itertools.count()

        async def handle(_: Message[Any]) -> None:
            if next(runs) == 0:
                raise error

        await produce(url, 1)
        consumer = quick(url, retry=RetryPolicy(backoff=0.1))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            await anyio.sleep(3)
            await consumer.stop()

    caplog.set_level(logging.INFO, "redisaq")
    play(scenario, backend)
    (record,) = [record for record in caplog.records if record.message.startswith("MessageFailed")]
    assert record.levelname == level
    assert (record.exc_info is None) == (level == "INFO")
