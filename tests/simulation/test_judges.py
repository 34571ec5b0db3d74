"""Each judge of a simulation finds its violation: it reports a small fault built into the product, and is silent without it."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio
import msgspec
import pytest

from redisaq import DeadLetter, Message, RetryPolicy, events
from redisaq.administering import asking
from redisaq.brokers.memory import retrying as retrying_steps
from redisaq.brokers.memory.shelf import Shelf
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps.administration import DropTopic, Seek
from redisaq.consuming.bulletin import Bulletin
from redisaq.consuming.handling import Execution
from redisaq.consuming.member import Member
from redisaq.consuming.reader import PartitionReader
from redisaq.consuming.retry_timer import RetryTimer
from redisaq.core import in_flight
from redisaq.core.codec import EntryDecoder
from redisaq.core.in_flight import Flight, InFlight
from redisaq.core.lanes import Lanes
from redisaq.core.records import Resolution
from redisaq.errors import ConnectionFailed
from redisaq.testing import Fault, Simulation
from tests.simulation.judged import simulate
from tests.simulation.variants.breaking import Change, Function, taken_out
from tests.simulation.variants.crowd import GROUP, TOPIC, complain, owned, topic, until
from tests.simulation.variants.variant import BACKENDS, Backend

both = pytest.mark.parametrize("backend", BACKENDS)


async def work(sim: Simulation) -> None:
    """Messages with keys and headers, delayed and retried; a member comes, one leaves, and one crashes."""
    producer = await topic(sim, 4)

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(0.05)
        if message.payload["n"] % 3 == 0 and message.attempt < 3:
            raise ValueError(f"attempt {message.attempt}")

    parked = RetryPolicy(max_attempts=3, backoff=1.0, jitter=False)
    options: dict[str, Any] = {"ordering": "key", "concurrency": 4, "retry": parked, "heartbeat_interval": 0.5, "heartbeat_ttl": 2.5}
    for name in "ab":
        sim.member(name, TOPIC, handle, **options)
    await until(lambda: len(owned(sim, "a")) == len(owned(sim, "b")) == 2)
    await producer.enqueue({"n": 1}, delay=2.0)
    await producer.batch_enqueue([{"n": n, "key": f"k{n}"} for n in range(12)], partition_key="key", headers={"trace": "7"}, timeout=9.0)
    await anyio.sleep(20.0)
    sim.member("c", TOPIC, handle, **options)
    await anyio.sleep(20.0)
    await sim.leave("a")
    await anyio.sleep(20.0)
    await sim.crash("b")
    await anyio.sleep(20.0)
    await producer.batch_enqueue([{"n": n} for n in range(8)])
    await sim.until_quiet()


async def dying(sim: Simulation) -> None:
    """One at a time, blocking: messages that fail until they are dead."""
    producer = await topic(sim, 1)

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(0.05)
        raise ValueError(f"attempt {message.attempt}")

    sim.member("a", TOPIC, handle, retry=RetryPolicy(max_attempts=3, backoff=3.0, jitter=False, blocking=True))
    await producer.batch_enqueue([{"n": n} for n in range(2)])
    await sim.until_quiet()


async def retrying(sim: Simulation) -> None:
    """A message that fails once is parked; its member looks by itself after a ttl at the latest."""
    producer = await topic(sim, 1)

    async def handle(message: Message[Any]) -> None:
        if message.attempt == 1:
            raise ValueError("the first time")

    sim.member("a", TOPIC, handle, retry=RetryPolicy(backoff=2.0, jitter=False))
    await anyio.sleep(30.0)
    await producer.enqueue({})
    await sim.until_quiet()


async def leaving(sim: Simulation) -> None:
    """A member leaves; the other, whose heartbeats are rare, hears of it at once."""
    producer = await topic(sim, 4)
    for name in "ab":
        sim.member(name, TOPIC, lambda _message: None, heartbeat_interval=10.0, heartbeat_ttl=40.0)
    await until(lambda: len(owned(sim, "a")) == len(owned(sim, "b")) == 2)
    await anyio.sleep(60.0)
    await sim.leave("a")
    await producer.enqueue({})
    await sim.until_quiet()


async def deleting(sim: Simulation) -> None:
    """A topic is worked empty and deleted."""
    producer = await topic(sim, 1)
    await producer.enqueue({}, dedup_id="once")
    sim.member("a", TOPIC, lambda _message: None)
    await sim.until_quiet()
    await sim.leave("a")
    await producer.close()
    async with sim.admin() as asked:
        await asked.delete_topic(TOPIC, force=True)


async def moving(sim: Simulation) -> None:
    """A group is paused with messages in hand, parked and done, and moved back to the first of them."""
    producer = await topic(sim, 1)

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(0.5)
        if message.attempt == 1 and message.payload["n"] % 2:
            raise ValueError("the first time")

    sim.member("a", TOPIC, handle, retry=RetryPolicy(max_attempts=5, backoff=5.0, jitter=False))
    await producer.batch_enqueue([{"n": n} for n in range(8)])
    await anyio.sleep(2.2)
    async with sim.admin() as asked:
        await asked.pause(TOPIC, GROUP.group)
        await asked.seek(TOPIC, GROUP.group, "earliest")
        await asked.resume(TOPIC, GROUP.group)
    await sim.until_quiet()


async def unheard(sim: Simulation) -> None:
    """A delayed message comes while its member, which looks after a ttl at the latest, hears no notification."""
    producer = await topic(sim, 1)
    sim.member("a", TOPIC, lambda _message: None)
    await anyio.sleep(30.0)
    await producer.enqueue({}, delay=1.0)
    await sim.until_quiet()


async def hurried(sim: Simulation) -> None:
    """An admin with little time asks a server that is silent for long."""
    await topic(sim, 1)
    async with sim.admin(timeout=3.0) as asked:
        await sim.silence(20.0)
        with contextlib.suppress(ConnectionFailed):
            await asked.topics()


async def keys(sim: Simulation) -> None:
    """Six keys of one partition, each of whose messages takes a second."""
    producer = await topic(sim, 1)

    async def handle(_message: Message[Any]) -> None:
        await anyio.sleep(1.0)

    sim.member("a", TOPIC, handle, ordering="key", concurrency=6)
    await until(lambda: owned(sim, "a") == {0})
    await producer.batch_enqueue([{"n": n, "key": f"k{n}"} for n in range(6)], partition_key="key")
    await sim.until_quiet()


async def side_by_side(sim: Simulation) -> None:
    """Four keys of one partition, each of whose messages takes a second."""
    producer = await topic(sim, 1)

    async def handle(_message: Message[Any]) -> None:
        await anyio.sleep(1.0)

    sim.member("a", TOPIC, handle, ordering="key", concurrency=4)
    await until(lambda: owned(sim, "a") == {0})
    began = anyio.current_time()
    await producer.batch_enqueue([{"n": n, "key": f"k{n}"} for n in range(4)], partition_key="key")
    await sim.until_quiet()
    if anyio.current_time() > began + 2.0:
        complain(sim, "the keys took turns")


# -- what is broken ----------------------------------------------------------------------------------------------------------------------


def due_early(original: Function) -> Function:
    return lambda shelf, now, count: original(shelf, now + 2_000_000, count)


def delayed_early(original: Function) -> Function:
    return lambda store, place, now, count: original(store, place, now + 5_000_000, count)


def due_late(original: Function) -> Function:
    async def fetch(timer: RetryTimer) -> float:
        left: float = await original(timer)
        return left * 10

    return fetch


def longer_pauses(original: Function) -> Function:
    def judge(*arguments: Any) -> Any:
        verdict = original(*arguments)
        return replace(verdict, pause=verdict.pause * 3)

    return judge


def decoded_otherwise(change: Callable[[Message[Any]], None]) -> Change:
    def changed(original: Function) -> Function:
        def decode(*arguments: Any) -> Any:
            messages, unreadable = original(*arguments)
            for message in messages:
                change(message)
            return messages, unreadable

        return decode

    return Change(EntryDecoder, "decode", changed)


def no_headers(message: Message[Any]) -> None:
    message.headers = {}


def no_timeout(message: Message[Any]) -> None:
    message.timeout = None


def other_payload(message: Message[Any]) -> None:
    message.payload = {**message.payload, "more": 1}


def other_key(message: Message[Any]) -> None:
    message.key = "other"


def other_type(original: Function) -> Function:
    def describe(error: Exception) -> tuple[str, str, str]:
        _, text, trace = original(error)
        return "Exception", text, trace

    return describe


def reading_late(original: Function) -> Function:
    async def read(reader: PartitionReader, *arguments: Any) -> Any:
        entries = await original(reader, *arguments)
        await anyio.sleep(3.0)
        return entries

    return read


def failed_twice(original: Function) -> Function:
    def fail(flights: InFlight, *arguments: Any, **options: Any) -> Any:
        flights.failures += 1
        return original(flights, *arguments, **options)

    return fail


def other_text(original: Function) -> Function:
    def describe(error: Exception) -> tuple[str, str, str]:
        kind, _, trace = original(error)
        return kind, "something", trace

    return describe


def failure_changed(**changes: Callable[[Any], Any]) -> Callable[[Function], Function]:
    def without(original: Function) -> Function:
        def body(*arguments: Any, **options: Any) -> Any:
            made = original(*arguments, **options)
            failure = msgspec.structs.replace(made.failure, **{name: change(made.failure) for name, change in changes.items()})
            return msgspec.structs.replace(made, failure=failure)

        return body

    return without


def telling(kind: type[events.Event], times: int) -> Callable[[Function], Function]:
    def without(original: Function) -> Function:
        def tell(bulletin: Bulletin, event: events.Event) -> None:
            for _ in range(times if isinstance(event, kind) else 1):
                original(bulletin, event)

        return tell

    return without


def short_of_time(original: Function) -> Function:
    async def one(execution: Execution, message: Message[Any]) -> Any:
        with anyio.CancelScope() as scope:
            if message.payload["n"] == 1 and message.attempt == 1:
                scope.deadline = anyio.current_time() + 0.02
            return await original(execution, message)
        return None

    return one


def counted_twice(original: Function) -> Function:
    def returned(flights: InFlight, flight: Flight) -> None:
        flights.handled += 1
        original(flights, flight)

    return returned


def marks_stay(original: Function) -> Function:
    def drop_topic(store: MemoryStore, step: DropTopic) -> None:
        marks = store.marks.copy()
        original(store, step)
        store.marks.update(marks)

    return drop_topic


def no_look_at_expiry(original: Function) -> Function:
    def observe(member: Member, beat: Any) -> None:
        original(member, beat)
        member.next_look = math.inf

    return observe


def seldom_told_of_expiry(original: Function) -> Function:
    def news(member: Member, beat: Any, **options: Any) -> bool:
        seen = beat if beat.now // 10_000_000 % 2 else msgspec.structs.replace(beat, expired=())
        return bool(original(member, seen, **options))

    return news


def seek_that(*keeps: str) -> Callable[[Function], Function]:
    """Make a seek leave one thing unchanged: the group's position, the pending entries, or the parked messages."""

    def without(original: Function) -> Function:
        def seek(store: MemoryStore, step: Seek) -> None:
            group, partition = step.group, step.partition
            cursor = store.streams[group.topic, partition].groups[group.group]
            shelf = store.shelf(group, partition)
            last, pending, retry = cursor.last_delivered, dict(cursor.pending), dict(shelf.retry)
            original(store, step)
            if "position" in keeps:
                cursor.last_delivered = last
            if "pending" in keeps:
                cursor.pending.update(pending)
            if "retry" in keeps:
                shelf.retry.update(retry)

        return seek

    return without


def without_limit(_original: Function) -> Function:
    return contextlib.nullcontext


UNHEARD = [Fault("a", number, "silent_notifications", 120.0) for number in range(1, 12)]
"""From its beginning on, whichever of its first operations is a heartbeat."""


@dataclass(frozen=True)
class Mutant:
    """A fault built in, the sentence that names it, and the faults that it takes besides."""

    changes: list[Change]
    harm: str
    scenario: Callable[[Simulation], Awaitable[None]] = work
    faults: Sequence[Fault] = ()


MUTANTS: dict[str, Mutant] = {
    "retries before they are due": Mutant([Change(Shelf, "due", due_early)], "s before it was due"),
    "delayed messages before they are due": Mutant(
        [Change(retrying_steps, "_move_delayed", delayed_early)], "was put into .* before it was due"
    ),
    "parked retries ten times too late": Mutant([Change(RetryTimer, "_fetch", due_late)], "after it could have", retrying),
    "pauses that are none of the policy's": Mutant([Change(in_flight, "judge", longer_pauses)], "wait for .* not from"),
    "messages without their headers": Mutant([decoded_otherwise(no_headers)], "was handed .* its producer was given"),
    "messages without their timeout": Mutant([decoded_otherwise(no_timeout)], "was handed .* its producer was given"),
    "messages with another payload": Mutant([decoded_otherwise(other_payload)], "was handed .* its producer was given"),
    "messages with another key": Mutant([decoded_otherwise(other_key)], "was handed .* its entry says"),
    "readers that keep what they have read": Mutant([Change(PartitionReader, "_read_entries", reading_late)], "it had nothing else to do"),
    "owners that leave in silence": Mutant(
        [Change(MemoryStore, "ring", lambda _original: lambda _store, _channel: None)], "s after it was given back", leaving
    ),
    "another error's type": Mutant([Change(in_flight, "describe", other_type)], "stored Exception: 'attempt"),
    "the last failure's time is the first one's": Mutant(
        [Change(InFlight, "_body", failure_changed(last_failed_ms=lambda failure: failure.first_failed_ms))], "failed last", dying
    ),
    "another error's text": Mutant([Change(in_flight, "describe", other_text)], "stored ValueError: 'something'"),
    "attempts miscounted": Mutant(
        [Change(InFlight, "_body", failure_changed(attempts=lambda failure: failure.attempts + 1))], "stored 2 attempts of .* attempt 1"
    ),
    "the first failure's time is the last one's": Mutant(
        [Change(InFlight, "_body", failure_changed(first_failed_ms=lambda failure: failure.last_failed_ms))], "failed first", dying
    ),
    "runs that are reported twice": Mutant([Change(Bulletin, "tell", telling(events.MessageSucceeded, 2))], "no handler had returned"),
    "runs that nobody reports": Mutant([Change(Bulletin, "tell", telling(events.MessageSucceeded, 0))], "never reported that"),
    "beginnings that nobody reports": Mutant([Change(Bulletin, "tell", telling(events.MessageStarted, 0))], "had not reported it"),
    "retries that are reported twice": Mutant([Change(Bulletin, "tell", telling(events.MessageRetried, 2))], "more often than the server"),
    "deaths that nobody reports": Mutant([Change(Bulletin, "tell", telling(events.MessageDead, 0))], "never reported that .* died", dying),
    "owners that nobody reports": Mutant([Change(Bulletin, "tell", telling(events.PartitionAcquired, 0))], "had not reported that it has"),
    "handlers that are cancelled for nothing": Mutant([Change(Execution, "one", short_of_time)], "and its lease went on"),
    "a group that never rests": Mutant([Change(RetryTimer, "_longest", lambda _original: lambda _timer: 0.1)], "had nothing to do"),
    "handlers that are counted twice": Mutant([Change(InFlight, "returned", counted_twice)], "counts .* handled"),
    "failures that are counted twice": Mutant([Change(InFlight, "failed", failed_twice)], "counts .* failed", dying),
    "topics that leave their marks": Mutant([Change(DropTopic, "", marks_stay)], "is gone, and has left", deleting),
    "one key at a time": Mutant(
        [
            Change(Lanes, "add", lambda original: lambda lanes, item, key: original(lanes, item, key and "one")),
            Change(Lanes, "done", lambda original: lambda lanes, key: original(lanes, key and "one")),
        ],
        "the keys took turns",
        side_by_side,
    ),
    "keys that take turns": Mutant(
        [
            Change(Lanes, "add", lambda original: lambda lanes, item, key: original(lanes, item, key and "one")),
            Change(Lanes, "done", lambda original: lambda lanes, key: original(lanes, key and "one")),
        ],
        "it had room, and its lane was free",
        keys,
    ),
    "a seek that moves nothing": Mutant([Change(Seek, "", seek_that("position"))], "the position of .* not", moving),
    "a seek that leaves what is pending": Mutant(
        [Change(Seek, "", seek_that("pending"))], "is delivered again, and pending as well", moving
    ),
    "a seek that leaves what is parked": Mutant(
        [Change(Seek, "", seek_that("retry"))], "is delivered again, and to be tried again as well", moving
    ),
    "a timer that relies on notifications": Mutant(
        [Change(RetryTimer, "_longest", lambda _original: lambda _timer: math.inf)], "after it could have been", unheard, UNHEARD
    ),
    "an admin that waits forever": Mutant([Change(asking, "time_limit", without_limit)], "with a timeout of 3 s", hurried),
    "expired members that nobody looks for": Mutant(
        [Change(Member, "observe", no_look_at_expiry), Change(Member, "news", seldom_told_of_expiry)], "after its owner had crashed"
    ),
}


@pytest.mark.backends_take_turns
@both
@pytest.mark.parametrize("name", MUTANTS)
def test_a_judge_finds(name: str, backend: Backend) -> None:
    mutant = MUTANTS[name]
    with taken_out(*mutant.changes) as uses:
        report = simulate(mutant.scenario, 1, backend, mutant.faults, raises=False)
    assert not uses.unused
    assert any(re.search(mutant.harm, one) for one in report.violations), report.violations


@both
@pytest.mark.parametrize("scenario", [work, dying, retrying, leaving, deleting, side_by_side, moving, hurried, keys])
def test_without_a_fault_no_judge_speaks(scenario: Callable[[Simulation], Awaitable[None]], backend: Backend) -> None:
    report = simulate(scenario, 1, backend)
    assert report.ok, report.violations


@both
def test_a_notification_that_is_not_heard_costs_a_ttl_and_no_more(backend: Backend) -> None:
    report = simulate(unheard, 1, backend, UNHEARD)
    assert report.ok, report.violations
    assert "silent_notifications" in {fault.kind for fault in report.faults}
    assert len(report.deliveries) == 1


async def unreadable_and_broken(sim: Simulation) -> None:
    """An unreadable message becomes a dead letter, however many times its settlement has to be sent."""
    producer = await topic(sim, 2)
    await producer.batch_enqueue([{"n": 1}] * 4)
    sim.store.append(TOPIC, [(0, [b"foreign", b"1"]), (1, [b"i", b"m-1", b"d", b"{"])], None)
    sim.member("a", TOPIC, lambda _message: None)
    await sim.until_quiet()


@both
def test_what_cannot_be_read_is_no_violation(backend: Backend) -> None:
    report = simulate(unreadable_and_broken, 1, backend)
    assert report.ok, report.violations
    assert sum(settle.to == "dead" for settle in report.settles) == 2


@both
def test_what_dies_unread_though_it_can_be_read_is_one(backend: Backend) -> None:
    def never_told(original: Function) -> Function:
        return telling(events.EntryUnreadable, 0)(original)

    with taken_out(Change(Bulletin, "tell", never_told)):
        report = simulate(unreadable_and_broken, 1, backend)
    assert any("die after 0 runs" in one for one in report.violations), report.violations


async def dying_at_once(sim: Simulation) -> None:
    """One step writes more dead letters than are kept: the first of them are gone before anybody could have seen them."""
    producer = await topic(sim, 1)

    def die(_message: Message[Any]) -> None:
        raise DeadLetter("for good")

    sim.member("a", TOPIC, die, ordering="none", concurrency=6, dead_maxlen=2)
    await until(lambda: owned(sim, "a") == {0})
    await producer.batch_enqueue([{"n": n} for n in range(6)])
    await sim.until_quiet()
    assert len(sim.store.shelf(GROUP, 0).dead) == 2


@both
def test_dead_letters_without_room_are_no_violation(backend: Backend) -> None:
    report = simulate(dying_at_once, 1, backend)
    assert report.ok, report.violations


@both
def test_a_dead_letter_that_was_never_written_is_one(backend: Backend) -> None:
    def never_first(original: Function) -> Function:
        puts = itertools.count()

        def put(shelf: Shelf, resolution: Resolution, *arguments: Any) -> None:
            if next(puts):
                original(shelf, resolution, *arguments)

        return put

    with taken_out(Change(Shelf, "put", never_first)):
        report = simulate(dying_at_once, 1, backend)
    assert any("is not among the dead letters" in one for one in report.violations), report.violations
