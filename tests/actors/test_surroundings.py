"""What the actors of a consumer share: reports that come once, what is remembered of blocked handlers, runs, scopes and statistics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from redisaq import events
from redisaq.consuming.acknowledger import Acknowledger
from redisaq.consuming.concurrency import Abandoned, Concurrency
from redisaq.consuming.contact import LONGEST_REST
from redisaq.consuming.context import Blocked
from redisaq.consuming.handler_pool import BatchPool, LanePool, SerialPool
from redisaq.consuming.owned import Barrier
from redisaq.consuming.pulling import PullPool
from redisaq.consuming.retry_timer import RetryTimer
from redisaq.consuming.scopes import Scopes
from redisaq.consuming.statistics import ConsumerStatistics, PartitionStatistics, RunningMessage, statistics_of
from redisaq.consuming.trimmer import Trimmer
from redisaq.core.in_flight import Ending
from redisaq.core.records import Body, Resolution
from tests.actors.group import IN_VIRTUAL_TIME
from tests.actors.scripted import around
from tests.actors.test_hand_over import Workers
from tests.unit.owning import FIELDS, owned_partition, read

pytestmark = IN_VIRTUAL_TIME


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# -- reports -----------------------------------------------------------------------------------------------------------------------------


async def test_a_loss_is_reported_once_for_half_a_minute_and_to_each_place_once() -> None:
    clock = Clock()
    surroundings, _, notebook = around(clock=clock)
    counts: list[int] = []
    for now, where in (
        (0.0, 0),
        (1.0, 1),
        (2.0, None),
        (29.5, 3),
        (30.0, 4),
        (31.0, 5),
        (32.0, 4),
        (33.0, 6),
        (33.5, None),
        (61.5, 7),
        (62.0, 8),
    ):
        clock.now = 1000.0 + now
        surroundings.tell_group_lost(where)
        counts.append(len(notebook.of(events.GroupLost)))
    assert counts == [1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 4]


async def test_what_the_server_does_not_permit_is_reported_once() -> None:
    surroundings, _, notebook = around()
    owned = owned_partition(partition=3, token=7)
    assert not surroundings.kill_refused
    assert not surroundings.deaf
    assert not surroundings.given_up
    for _ in range(3):
        surroundings.tell_kill_refused(owned)
        surroundings.notifications_refused("NOPERM")
    (kill, listen) = notebook.events
    assert isinstance(kill, events.KillNotPermitted)
    assert (kill.partition, kill.token) == (3, 7)
    assert isinstance(listen, events.NotificationsNotPermitted)
    assert listen.reason == "NOPERM"


async def test_of_a_thousand_entries_it_is_remembered_that_the_loop_was_blocked() -> None:
    """The latest ones, with the number of times and the longest."""
    surroundings, _, _ = around()
    for number in range(1000):
        surroundings.note_blocked(0, b"%d-0" % number, 1.0)
    assert len(surroundings.blocked) == 1000
    surroundings.note_blocked(0, b"0-0", 3.0)
    surroundings.note_blocked(0, b"0-0", 2.0)
    assert len(surroundings.blocked) == 1000
    assert surroundings.blocked[0, b"0-0"] == Blocked(3, 3.0)
    assert surroundings.blocked[0, b"1-0"] == Blocked(1, 1.0)
    surroundings.note_blocked(1, b"1-0", 1.0)
    assert len(surroundings.blocked) == 1000
    assert (0, b"1-0") not in surroundings.blocked
    assert (0, b"2-0") in surroundings.blocked


async def test_what_is_settled_is_reported_by_where_it_went() -> None:
    surroundings, _, _ = around()
    owned = owned_partition()
    (flight,) = read(owned, 1, 1)

    def report(to: Any, reason: str, pause: float = 0.0) -> events.Event | None:
        return surroundings.report(owned, Ending(flight, Resolution("stream", to, Body(b"1-0", FIELDS)), reason, pause))

    assert report("done", "") is None
    assert report("done", "Discard: ") is None
    assert report("retry", "") is None, "it was handed back, and has not failed"
    retried, dead = report("retry", "ValueError: no", 2.5), report("dead", "ValueError: no")
    assert isinstance(retried, events.MessageRetried)
    assert (retried.again_in, retried.blocking, retried.entry_id) == (2.5, False, "1-0")
    assert isinstance(dead, events.MessageDead)
    assert (dead.reason, dead.attempt) == ("ValueError: no", 1)
    flight.attempt = 0  # one that cannot be read has none
    unreadable = report("dead", "no id")
    assert isinstance(unreadable, events.EntryUnreadable)
    assert (unreadable.reason, unreadable.entry_id, unreadable.partition, unreadable.token) == ("no id", "1-0", 0, 1)


# -- mailboxes and restarts ----------------------------------------------------------------------------------------------------------


async def test_how_much_waits_for_each_actor_and_when_its_rests_are_short_again() -> None:
    surroundings, _, _ = around(ordering="key")
    owned, execution = owned_partition(), cast("Any", SimpleNamespace(owned=None))
    workers = [
        SerialPool(execution, unlimited=True),
        LanePool(execution, "key"),
        BatchPool(execution, size=1, wait=0.0, unlimited=True),
        PullPool(execution, cast("Any", None)),
    ]
    assert [(pool.name, pool.mailbox.capacity, pool.restart) for pool in workers] == [("handler_pool", 4, None)] * 4
    timer = RetryTimer(surroundings, owned, Workers().ref, count=1)
    assert (timer.name, timer.mailbox.capacity, timer.restart) == ("retry_timer", 1, None)
    member = cast("Any", SimpleNamespace(retention=False))
    for actor in (Acknowledger(surroundings), Trimmer(surroundings, member, list)):
        assert actor.name in ("acknowledger", "trimmer")
        assert actor.mailbox.capacity == 1
        assert actor.restart is not None
        assert (actor.restart.reset_after, actor.restart.max_backoff) == (5.0, LONGEST_REST)
    assert surroundings.taking.total_tokens == 32


# -- credit ----------------------------------------------------------------------------------------------------------------------------


async def test_credit_is_as_large_as_what_is_owned_but_one_at_least() -> None:
    concurrency = Concurrency(None)
    limits: list[int] = []
    for owned in (0, 1, 2, 5):
        concurrency.owned = owned
        limits.append(concurrency.limit)
    assert limits == [1, 1, 2, 5]
    assert Concurrency(3).limit == 3
    thread = Abandoned()
    assert (thread.started, thread.returned, thread.dropped) == (False, False, False)


async def test_credit_is_taken_and_given_back_one_by_one_in_line() -> None:
    concurrency, entered = Concurrency(2), list[int]()
    assert (concurrency.running, concurrency.abandoned, concurrency.contended) == (0, 0, False)
    assert [concurrency.try_enter() for _ in range(3)] == [True, True, False]
    assert concurrency.running == 2

    async def enter(number: int) -> None:
        await concurrency.enter()
        entered.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(enter, number)
            await anyio.wait_all_tasks_blocked()
        assert concurrency.contended
        assert not concurrency.try_enter()
        for so_far in ([0], [0, 1], [0, 1, 2]):
            concurrency.leave()
            await anyio.wait_all_tasks_blocked()
            assert (entered, concurrency.running) == (so_far, 2)
    assert not concurrency.contended
    concurrency.leave()
    concurrency.leave()
    assert concurrency.running == 0


async def test_who_waits_behind_an_abandoned_thread_notices_within_a_tenth_of_a_second_that_it_has_returned() -> None:
    concurrency, threads = Concurrency(2), [Abandoned(), Abandoned()]
    for thread in threads:
        concurrency.keep_for(thread)
    assert (concurrency.abandoned, concurrency.try_enter()) == (2, False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(concurrency.enter)
        await anyio.sleep(1.05)
        assert concurrency.running == 0
        threads[0].returned = True
        await anyio.sleep(0.1)
        assert concurrency.running == 1
    assert (concurrency.abandoned, concurrency.try_enter()) == (1, False)


async def test_who_gives_up_waiting_for_credit_leaves_the_line() -> None:
    concurrency = Concurrency(1)
    await concurrency.enter()
    with anyio.move_on_after(1) as scope:
        await concurrency.enter()
    assert scope.cancelled_caught
    assert (concurrency.contended, concurrency.running) == (False, 1)


# -- runs ------------------------------------------------------------------------------------------------------------------------------


async def test_a_run_is_timed_by_the_local_clock_and_its_wait_by_the_servers() -> None:
    clock = Clock()
    surroundings, _, notebook = around(clock=clock, slow_after=5.0)
    owned = owned_partition()
    owned.lease._clock = clock
    (flight,) = owned.flights.delivered([(b"990500-7", FIELDS)], 0)
    runs = surroundings.runs
    assert runs.began(flight, owned) == pytest.approx(9.5)
    clock.now += 2.0
    took, waited = runs.ended(flight)
    assert (took, waited) == (2.0, 9.5)
    assert runs.ended(flight) == (None, None), "it is forgotten"
    assert runs.began(flight, owned) == pytest.approx(11.5)
    flight.attempt += 1
    assert runs.ended(flight) == (None, None), "that was another run"
    (early,) = owned.flights.delivered([(b"5000000-0", FIELDS)], 0)
    assert runs.began(early, owned) == 0.0, "clocks differ"
    assert notebook.events == []


async def test_a_run_is_slow_from_the_very_moment_on_and_reported_once() -> None:
    clock = Clock()
    surroundings, _, notebook = around(clock=clock, slow_after=5.0)
    owned = owned_partition()
    flights = read(owned, 1, 3)
    runs = surroundings.runs
    for flight in flights[:2]:
        owned.flights.start(flight)
    counts: list[int] = []
    for now in (0.0, 4.9, 5.0, 7.0):
        clock.now = 1000.0 + now
        runs.look([owned])
        counts.append(len(notebook.of(events.HandlerSlow)))
    assert counts == [0, 0, 2, 2]
    assert [(event.took, event.waited) for event in notebook.of(events.HandlerSlow)] == [(5.0, None)] * 2
    owned.flights.start(flights[2])
    assert runs.running([owned]) == [(flights[0], 7.0), (flights[1], 7.0), (flights[2], 0.0)]
    owned.flights.returned(flights[0])
    runs.look([owned])
    assert [flight for flight, _ in runs.running([owned])] == flights[1:]
    assert runs.ended(flights[0]) == (None, None), "nothing is kept of what does not run any more"
    clock.now += 1.0
    flights[1].attempt = 2
    assert runs.running([owned]) == [(flights[2], 1.0), (flights[1], 0.0)], "longest first; a new attempt is a new run"


# -- scopes ----------------------------------------------------------------------------------------------------------------------------


async def test_scopes_end_together_and_are_forgotten_when_they_are_left() -> None:
    scopes, others = Scopes(), Scopes()
    with scopes.open(over=False, deadline=anyio.current_time() + 100, beside=others) as first, scopes.open(over=False) as second:
        assert list(scopes.entered) == [first, second]
        assert list(others.entered) == [first]
        assert not first.cancel_called
        scopes.move(anyio.current_time() + 5)
        assert first.deadline == second.deadline == anyio.current_time() + 5
        others.cancel()
        assert (first.cancel_called, second.cancel_called) == (True, False)
        scopes.cancel()
        assert second.cancel_called
    assert (scopes.entered, others.entered) == ({}, {})
    with scopes.open(over=True) as third:
        assert third.cancel_called
        await anyio.sleep(1)
    assert third.cancelled_caught


# -- statistics --------------------------------------------------------------------------------------------------------------------------


async def test_statistics_are_those_of_all_runs_and_of_what_is_owned_now() -> None:
    clock = Clock()
    surroundings, _, _ = around(clock=clock)
    one, two, three = (owned_partition(partition=partition, token=partition + 10) for partition in range(3))
    flights = read(one, 1, 4)
    for flight in flights[:3]:
        one.flights.start(flight)
    one.flights.returned(flights[0])
    one.flights.failures, one.flights.trimmed = 2, 5
    two.barrier = Barrier(since=990.0, passed=False, waiting_for=0, messages=7)
    three.barrier = Barrier(since=980.0, passed=True)
    runtime: Any = SimpleNamespace(
        around=surroundings,
        owned=lambda: [one, two, three],
        counts=lambda: (100, 20, 3),
        member=SimpleNamespace(joined=False, lease=SimpleNamespace(incarnation="me")),
        stopping=False,
    )

    def look() -> ConsumerStatistics:
        return statistics_of(runtime, 1000, 200, 30)

    assert statistics_of(None, 1000, 200, 30) == ConsumerStatistics("stopped", "", (), 1000, 200, 30, connected=False, last_heartbeat=None)
    joining = look()
    assert (joining.state, joining.connected, joining.last_heartbeat) == ("joining", True, None)
    runtime.member.joined, surroundings.contact.heartbeat = True, 998.5
    assert look() == ConsumerStatistics(
        state="running",
        member="me",
        partitions=(
            PartitionStatistics(0, 10, "4-0", in_flight=2, waiting=1, handled=1, failed=2, trimmed=5),
            PartitionStatistics(1, 11, "", 0, 0, 0, 0, trimmed=0, waiting_for=0, waiting_for_messages=7, waited=10.0),
            PartitionStatistics(2, 12, "", 0, 0, 0, 0, trimmed=0, waiting_for=None, waiting_for_messages=None, waited=None),
        ),
        handled=1100,
        failed=220,
        trimmed=33,
        connected=True,
        last_heartbeat=1.5,
        running=tuple(RunningMessage("1", 0, None, 0.0, f"{number}-0", 1) for number in (2, 3)),
    )
    surroundings.contact.failed("heartbeat", "for this test")
    silent = look()
    assert (silent.state, silent.connected) == ("disconnected", False)
    runtime.stopping = True
    assert look().state == "draining"


async def test_what_is_not_given_of_statistics_is_nothing() -> None:
    partition = PartitionStatistics(0, 1, "", 0, 0, 0, 0)
    assert (partition.trimmed, partition.waiting_for, partition.waiting_for_messages, partition.waited) == (0, None, None, None)
    consumer = ConsumerStatistics("stopped", "", (), 0, 0)
    assert (consumer.trimmed, consumer.connected, consumer.last_heartbeat, consumer.running) == (0, False, None, ())
