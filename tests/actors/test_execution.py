"""Running a handler on one partition's messages: who is woken when, what the server is asked, and what is kept and reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from redisaq import Message, Producer, RetryPolicy, events
from redisaq.actors import Actor, Supervisor
from redisaq.brokers.steps.leases import SetDeliveries
from redisaq.brokers.steps.retrying import StartRetry
from redisaq.consuming.context import Blocked
from redisaq.consuming.handler_pool import Batch, BatchPool, LanePool, SerialPool
from redisaq.consuming.handling import Execution
from redisaq.consuming.owned import OwnedPartition
from redisaq.core.in_flight import Claim, Flight
from redisaq.core.records import Body
from tests.actors.group import IN_VIRTUAL_TIME, Notebook, fresh_url, quick
from tests.actors.scripted import around
from tests.unit.owning import FIELDS, owned_partition, read

pytestmark = IN_VIRTUAL_TIME


def claimed(owned: OwnedPartition, deliveries: int, entry: bytes = b"1-0") -> Flight:
    """Let the server name an entry that was delivered so many times before."""
    claim = owned.flights.next_read(0)
    assert isinstance(claim, Claim)
    (flight,) = owned.flights.claimed(claim, [(entry, FIELDS, deliveries)], None, 0)
    return flight


def run_by(way: str, execution: Execution, flight: Flight) -> Any:
    return execution.one(flight) if way == "one" else execution.many([flight])


@pytest.mark.parametrize("way", ["one", "many"])
async def test_who_waits_for_room_has_it_when_a_handler_begins(way: str) -> None:
    surroundings, _, _ = around(on_event=None)
    owned, go_on = owned_partition(4), anyio.Event()

    async def handle(_given: object) -> None:
        await go_on.wait()

    execution = Execution(surroundings, owned, handle, timeout=None)
    flights = read(owned, 1, 3)
    async with anyio.create_task_group() as tasks:
        waiting = anyio.Event()

        async def wait() -> None:
            waiting.set()
            await owned.wait_for_room(2)
            go_on.set()

        tasks.start_soon(wait)
        await waiting.wait()
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(1):
            await run_by(way, execution, flights[0])


@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("way", ["one", "many"])
async def test_what_a_handler_has_done_is_rung_for_once_and_who_waits_for_its_end_is_woken(way: str, *, dirty: bool) -> None:
    surroundings, _, _ = around(on_event=None)
    rung: list[OwnedPartition] = []
    owned, go_on, begun = owned_partition(ring=rung.append), anyio.Event(), anyio.Event()
    owned.dirty = dirty  # the acknowledger has been rung before

    async def handle(_given: object) -> None:
        begun.set()
        await go_on.wait()

    execution = Execution(surroundings, owned, handle, timeout=None)
    (flight,) = read(owned, 1, 1)
    with anyio.fail_after(1):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_by, way, execution, flight)
            await begun.wait()
            tasks.start_soon(owned.wait_finished)
            await anyio.wait_all_tasks_blocked()
            go_on.set()
    assert len(rung) == (0 if dirty else 1)
    assert owned.flights.done == [b"1-0"]
    assert surroundings.runs._runs == {}, "nobody asked for it"


@pytest.mark.parametrize("way", ["one", "many"])
async def test_t5_what_was_delivered_before_is_counted_before_its_handler_begins(way: str) -> None:
    """The count only ever rises: a raise that is late must not undo a later one."""
    surroundings, broker, _ = around(lambda _step: True)
    owned = owned_partition()
    asked: list[int] = []

    async def handle(_given: object) -> None:
        asked.append(len(broker.asked))

    execution = Execution(surroundings, owned, handle, timeout=None)
    await run_by(way, execution, claimed(owned, 3))
    assert asked == [1]
    assert broker.of(SetDeliveries) == [SetDeliveries(surroundings.group, 0, 1, {b"1-0": 4}, raising=True)]


async def test_what_was_purged_meanwhile_makes_room_and_makes_the_timer_look_again() -> None:
    surroundings, broker, _ = around(lambda step: False if isinstance(step, StartRetry) else type("Answer", (), {"spent": False}))
    owned = owned_partition(4)
    handled: list[object] = []
    rung: list[bool] = []
    owned.ring_timer = lambda: rung.append(True)
    execution = Execution(surroundings, owned, handled.append, timeout=None)
    (retry,) = owned.flights.due([Body(b"1-0", FIELDS, attempt=1)], 0)
    read(owned, 2, 3)
    with anyio.fail_after(1):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(owned.wait_for_room, 2)
            await anyio.wait_all_tasks_blocked()
            assert await execution.one(retry) is None
    (step,) = broker.of(StartRetry)
    assert (step.entry_id, step.life, step.attempt, step.token) == (b"1-0", 0, 2, 1)
    assert (handled, rung, retry.state) == ([], [True], "gone")


ENDED = "until the lease was lost (call what blocks in a thread)"


def begun(handlers: int, times: int, seconds: str, more: str = "") -> str:
    """Return why a message is dead on which so many handlers began, so many of which blocked the event loop."""
    blocked = f"the event loop of this process was blocked {times} time(s), for up to {seconds} s, {ENDED}"
    return f"{handlers} handlers were begun on it, and none ended in time: {blocked}{more}"


@pytest.mark.parametrize(
    ("blocked", "kind", "reason"),
    [
        (None, "CrashedDeliveries", "2 handlers were begun on it, and none ended: each time its process did, or lost its lease"),
        (Blocked(1, 4.25), "HandlerBlocked", begun(2, 1, "4.2", "; the other times the process ended, or lost its lease")),
        (Blocked(2, 0.5), "HandlerBlocked", begun(2, 2, "0.5")),
        (Blocked(3, 0.5), "HandlerBlocked", begun(3, 3, "0.5")),
    ],
)
@pytest.mark.parametrize("way", ["one", "many"])
async def test_t5_a_message_on_which_all_handlers_were_begun_in_vain_is_dead_and_says_why(
    way: str, blocked: Blocked | None, kind: str, reason: str
) -> None:
    surroundings, _, _ = around(lambda _step: True)
    rung: list[OwnedPartition] = []
    owned, handled = owned_partition(ring=rung.append), list[object]()
    owned.flights._policy = RetryPolicy(max_attempts=2)
    if blocked is not None:
        surroundings.blocked[0, b"1-0"] = blocked
    flight = claimed(owned, 3)
    execution = Execution(surroundings, owned, handled.append, timeout=None)
    assert await run_by(way, execution, flight) is None
    assert handled == []
    (ending,) = owned.flights.ending
    failure = ending.resolution.body.failure
    assert failure is not None
    assert (ending.reason, ending.resolution.to, failure.error, failure.error_type) == (reason, "dead", reason, kind)
    assert failure.attempts == 2
    assert surroundings.blocked == {}
    assert rung == [owned]


@pytest.mark.parametrize("end", [lambda owned: owned.lease.end(), lambda owned: owned.lose("for this test")], ids=["lease", "lost"])
async def test_m4_what_fails_once_the_lease_has_ended_is_no_failure(end: Callable[[OwnedPartition], None]) -> None:
    """The message stays where it is, and its next owner handles it again."""
    surroundings, _, notebook = around()
    owned = owned_partition()

    async def handle(_message: object) -> None:
        end(owned)
        raise ValueError("too late")

    (flight,) = read(owned, 1, 1)
    assert await Execution(surroundings, owned, handle, timeout=None).one(flight) is None
    assert owned.flights.failures == 0
    assert owned.flights.ending == []
    assert flight.state == "gone"
    assert owned.flights.left == {b"1-0"}
    assert notebook.of(events.MessageFailed) == []
    assert notebook.of(events.HandlerBlocked) == []


async def test_a_handler_that_blocked_is_reported_once_with_milliseconds() -> None:
    surroundings, _, notebook = around()
    owned = owned_partition(partition=2)
    execution = Execution(surroundings, owned, lambda _message: None, timeout=None)
    flights = read(owned, 1, 2)
    execution.look_back(flights)
    assert notebook.events == []
    owned.lease.end()
    execution.look_back(flights)
    assert notebook.events == [], "it has ended in time"
    owned.lease.stood_still = 1.23456
    execution.look_back(flights[:1])
    execution.look_back(flights)
    assert [(event.entry_id, event.seconds) for event in notebook.of(events.HandlerBlocked)] == [("1-0", 1.235), ("2-0", 1.235)]
    assert surroundings.blocked == {(2, b"1-0"): Blocked(1, 1.23456), (2, b"2-0"): Blocked(1, 1.23456)}


async def test_a_batch_whose_messages_wait_for_different_times_waits_for_the_longest() -> None:
    """T7: it is one lane."""
    surroundings, broker, notebook = around(lambda _step: True)
    owned = owned_partition()
    owned.flights._policy = RetryPolicy(backoff=4.0, factor=3.0, jitter=False, blocking=True)
    flights = [*read(owned, 2, 2)]
    flights[0].attempt = 2

    async def handle(_messages: object) -> None:
        raise ValueError("again")

    flights += read(owned, 3, 3)
    execution = Execution(surroundings, owned, handle, timeout=None)
    held = await execution.many(flights)
    assert held is not None
    assert held[0] == 12.0
    assert [(event.again_in, event.blocking) for event in notebook.of(events.MessageRetried)] == [(12.0, True), (4.0, True)]
    began = anyio.current_time()
    await execution.rest(held)
    assert anyio.current_time() - began == pytest.approx(12.0)
    assert [step.counts for step in broker.of(SetDeliveries)] == [{b"2-0": 3, b"3-0": 2}]
    assert [flight.state for flight in held[1]] == ["repeat", "repeat"]


# -- pools -----------------------------------------------------------------------------------------------------------------------------


CALM: dict[str, Any] = {"heartbeat_interval": 10.0, "heartbeat_ttl": 100.0}


def workers() -> int:
    """Return how many tasks of lanes there are."""
    return sum("/worker-" in (task.name or "") for task in anyio.get_running_tasks())


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_lanes_have_as_many_tasks_as_handlers_may_run_beside_those_that_rest(concurrency: int) -> None:
    url = fresh_url()
    async with Producer("jobs", url) as producer:
        for n in range(12):
            await producer.enqueue({"n": n}, key=str(n % 6))
    notebook, most = Notebook(), list[int]()

    async def handle(message: Message[Any]) -> None:
        await notebook.handle_slowly(message)
        most.append(workers())
        if message.payload["n"] < 3 and message.attempt == 1:
            raise ValueError("once")

    retry = RetryPolicy(backoff=50.0, jitter=False, blocking=True)
    consumer = quick(url, ordering="key", concurrency=concurrency, retry=retry, batch_size=50, **CALM)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.process, handle)
        await anyio.sleep(25)
        assert sorted(notebook.numbers) == [0, 1, 2, 3, 4, 5, 9, 10, 11], "three keys rest, the others are done"
        assert most[0] <= concurrency
        assert max(most) <= concurrency + 3
        await anyio.sleep(50)
        assert sorted(notebook.numbers) == sorted([*range(12), 0, 1, 2])
        assert notebook.most_running == concurrency
        assert workers() == concurrency
        await consumer.stop()
    assert workers() == 0


@pytest.mark.parametrize("together", [True, False])
async def test_a_full_batch_begins_at_once_and_another_when_its_first_message_has_waited(together: bool) -> None:
    url, notebook = fresh_url(), Notebook()
    times: list[tuple[float, int]] = []

    async def handle(messages: list[Message[Any]]) -> None:
        times.append((anyio.current_time() - began, len(messages)))

    consumer = quick(url, on_event=notebook.note, **CALM)
    async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
        await producer.connect()
        tasks.start_soon(lambda: consumer.process_batch(handle, batch_size=3, batch_wait=5.0))
        await anyio.sleep(2)
        began = anyio.current_time()
        if together:
            await producer.batch_enqueue([{"n": n} for n in range(3)])
        else:
            for n in range(3):
                await producer.enqueue({"n": n})
                await anyio.sleep(1)
        await anyio.sleep(7)
        await producer.batch_enqueue([{"n": n} for n in range(4)])
        await anyio.sleep(4)
        await producer.enqueue({"n": 0})
        await anyio.sleep(10)
        await consumer.stop()
    last = 7.0 if together else 10.0
    assert [count for _, count in times] == [3, 3, 2]
    assert [time for time, _ in times] == pytest.approx([0.0 if together else 2.0, last, last + 5.0], abs=0.05)


@pytest.mark.parametrize("way", ["one", "many"])
@pytest.mark.parametrize("end", ["cancelled", "interrupted"])
async def test_a_handler_that_is_cancelled_has_neither_failed_nor_succeeded(way: str, end: str) -> None:
    """T6: its message is still pending, and stays where it is."""
    surroundings, _, notebook = around()
    owned, begun = owned_partition(), anyio.Event()
    (flight,) = read(owned, 1, 1)

    async def handle(_given: object) -> None:
        begun.set()
        if end == "interrupted":
            raise KeyboardInterrupt
        await anyio.sleep(100)

    execution = Execution(surroundings, owned, handle, timeout=None)
    async with anyio.create_task_group() as tasks:
        with pytest.raises(KeyboardInterrupt) if end == "interrupted" else anyio.move_on_after(1):
            await run_by(way, execution, flight)
        with anyio.fail_after(1):
            await owned.wait_finished()
        tasks.cancel_scope.cancel()
    assert (flight.state, owned.flights.left, owned.flights.running) == ("gone", {b"1-0"}, 0)
    assert (owned.flights.handled, owned.flights.failures) == (0, 0)
    assert [type(event).__name__ for event in notebook.events] == ["MessageStarted"]


async def test_bodies_that_begin_make_room_and_those_that_end_are_waited_for() -> None:
    surroundings, _, _ = around(on_event=None)
    owned, woken = owned_partition(4), list[str]()
    execution = Execution(surroundings, owned, None, timeout=None)
    flights = read(owned, 1, 4)

    async def wait(name: str, function: Callable[..., Any], *arguments: object) -> None:
        await function(*arguments)
        woken.append(name)

    async def woken_by(act: Callable[[Flight], object], flight: Flight) -> list[str]:
        woken.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, "room", owned.wait_for_room, 2)
            if owned.flights.running:
                tasks.start_soon(wait, "finished", owned.wait_finished)
            await anyio.wait_all_tasks_blocked()
            act(flight)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        return woken

    assert await woken_by(execution.began, flights[0]) == []
    assert await woken_by(execution.began, flights[1]) == ["room"]
    execution.succeeded(flights[1])
    assert "finished" in await woken_by(execution.taken_back, flights[0])
    execution.began(flights[0])
    woken.clear()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "finished", owned.wait_finished)
        await anyio.wait_all_tasks_blocked()
        execution.cancelled(flights[0])
        await anyio.wait_all_tasks_blocked()
        assert woken == ["finished"]
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("when", ["before", "while it is paused"])
async def test_t5_nothing_is_counted_for_a_partition_that_drains(when: str) -> None:
    surroundings, broker, _ = around(lambda _step: True)
    owned = owned_partition()
    execution = Execution(surroundings, owned, None, timeout=None)
    flight = claimed(owned, 1)
    if when == "before":
        owned.begin_drain()
        assert await execution.ready((flight,)) == []
    else:
        surroundings.gate.move(closed=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(execution.ready, (flight,))
            await anyio.sleep(1)
            owned.begin_drain()
    assert (broker.asked, flight.state) == ([], "repeat")


def pool(kind: str, execution: Execution) -> Actor[Batch]:
    """Return a pool of this kind."""
    match kind:
        case "serial":
            return SerialPool(execution, unlimited=False)
        case "lanes":
            return LanePool(execution, "none")
        case _:
            return BatchPool(execution, size=2, wait=0.0, unlimited=False)


@pytest.mark.parametrize("kind", ["serial", "lanes", "batch"])
async def test_a_pool_that_is_closed_ends_once_its_handlers_have_ended(kind: str) -> None:
    surroundings, _, _ = around(concurrency=3, on_event=None)
    owned, ended = owned_partition(), list[float]()

    async def handle(_given: object) -> None:
        await anyio.sleep(5)
        ended.append(anyio.current_time() - began)

    began = anyio.current_time()
    async with Supervisor(stop_timeout=1000.0) as supervisor:
        workers = await supervisor.start(pool(kind, Execution(surroundings, owned, handle, timeout=None)))
        await workers.tell(read(owned, 1, 2))
        await anyio.sleep(1)
        await supervisor.stop(workers)
        assert ended == {"serial": [5.0, 10.0], "lanes": [5.0, 5.0], "batch": [5.0]}[kind]
        assert anyio.current_time() - began == ended[-1]
        assert surroundings.concurrency.running == 0
        again = await supervisor.start(pool(kind, Execution(surroundings, owned, handle, timeout=None)))
        await again.tell(read(owned, 3, 3))
        await anyio.sleep(100)
        idle = anyio.current_time()
        await supervisor.stop(again)
        assert anyio.current_time() == idle
    assert owned.flights.handled == 3


@pytest.mark.parametrize("kind", ["serial", "lanes", "batch"])
async def test_what_waits_for_credit_when_the_partition_begins_to_drain_is_not_begun(kind: str) -> None:
    surroundings, _, _ = around(concurrency=1, on_event=None)
    owned, begun = owned_partition(), list[object]()
    await surroundings.concurrency.enter()

    async def handle(given: object) -> None:
        begun.append(given)

    async with Supervisor() as supervisor:
        workers = await supervisor.start(pool(kind, Execution(surroundings, owned, handle, timeout=None)))
        await workers.tell(read(owned, 1, 2))
        await anyio.sleep(1)
        assert surroundings.concurrency.contended
        owned.begin_drain()
        surroundings.concurrency.leave()
        await anyio.sleep(1)
        assert (begun, surroundings.concurrency.running) == ([], 0)
    assert owned.flights.hand_back() == {b"1-0": 0, b"2-0": 0}


@pytest.mark.parametrize("kind", ["serial", "lanes", "batch"])
async def test_t7_a_message_that_waits_for_its_next_try_when_the_partition_begins_to_drain_is_not_begun_again(kind: str) -> None:
    surroundings, _, _ = around(lambda _step: True, concurrency=1, on_event=None)
    owned, begun = owned_partition(), list[object]()
    owned.flights._policy = RetryPolicy(backoff=60.0, jitter=False, blocking=True)

    async def handle(given: object) -> None:
        begun.append(given)
        raise ValueError("again")

    async with Supervisor() as supervisor:
        workers = await supervisor.start(pool(kind, Execution(surroundings, owned, handle, timeout=None)))
        await workers.tell(read(owned, 1, 1))
        await anyio.sleep(1)
        owned.begin_drain()
        await anyio.sleep(1)
        assert (len(begun), surroundings.concurrency.running) == (1, 0)
        assert not surroundings.concurrency.contended
        await owned.wait_finished()
    assert [flight.state for flight in owned.flights.flights.values()] == ["repeat"]
    assert owned.flights.failures == 1


@pytest.mark.parametrize("source", ["new", "repeat"])
@pytest.mark.parametrize("way", ["one", "many"])
async def test_nothing_begins_while_the_group_is_paused(way: str, source: str) -> None:
    surroundings, broker, notebook = around(lambda _step: True)
    owned = owned_partition()
    flight = claimed(owned, 1) if source == "repeat" else read(owned, 1, 1)[0]
    execution = Execution(surroundings, owned, notebook.handle, timeout=None)
    surroundings.gate.move(closed=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_by, way, execution, flight)
        await anyio.sleep(1)
        assert (flight.state, broker.asked, notebook.events) == (source, [], [])
        surroundings.gate.move(closed=False)
    assert flight.state == "done"
    assert len(broker.asked) == (1 if source == "repeat" else 0)
