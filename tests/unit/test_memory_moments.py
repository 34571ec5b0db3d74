"""When things begin and end at a memory broker's store: to the microsecond, under a clock that is moved by hand.

The conformance tests hold what it does on every broker; a real server's clock does not stand still for them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from redisaq.brokers.memory.clients import WaitingRead
from redisaq.brokers.memory.registry import carry_out
from redisaq.brokers.memory.store import MARKS, MemoryStore
from redisaq.brokers.memory.streams import STALE, GroupCursor, Stream
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.administration import END, Seek, SetPaused, ViewGroup, ViewPartition
from redisaq.brokers.steps.coordination import (
    Beat,
    Commit,
    GiveBack,
    Heartbeat,
    MakeGroup,
    ReadRunning,
    TellRunning,
    Wait,
    Watch,
)
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.steps.messages import CountBacklog, RetryNow
from redisaq.brokers.steps.producing import AppendOnce, Delay, Delayed, ReadMark
from redisaq.brokers.steps.retention import ReadKeeping, Trim, Trimmed
from redisaq.brokers.steps.retrying import TakeDue
from redisaq.brokers.steps.settling import Acknowledge, Resolve
from redisaq.brokers.steps.topics import MakeTopic, Terms
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import format_id
from redisaq.core.membership import Document
from redisaq.core.profile import Profile
from redisaq.core.records import Body, Resolution
from redisaq.core.running import Report
from redisaq.core.waiting import ASK_EVERY, BURST, FREED_LASTS, GATHER_TURN, STAYS, TURN, Freed, Newcomer, Room
from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed, GroupGoneError

GROUP = GroupName("orders", "billing")
BEGIN = 1_700_000_000_250_000
SECOND = 1_000_000
TTL = 10.0


@dataclass
class Clock:
    """A wall clock that is moved by hand, in microseconds."""

    now: int = BEGIN

    def __call__(self) -> float:
        return self.now / SECOND


class World:
    """A store and its clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore("memory://moments", Environment(wall_clock=self.clock, random=random.Random(7)))
        self.version = ""

    def do(self, step: Step[Any]) -> Any:
        return carry_out(self.store, step)

    def at(self, seconds: float, micro: int = 0) -> None:
        """Let so much time have passed since the beginning."""
        self.clock.now = BEGIN + round(seconds * SECOND) + micro

    def commit(self, incarnation: str, ttl: float = TTL, **changes: Any) -> bool:
        """Commit under the present version."""
        step = Commit(GROUP, incarnation, ttl, self.version, f"{self.version}+", Document(), **changes)
        done: bool = self.do(step)
        self.version += "+" if done else ""
        return done

    def beat(self, incarnation: str = "stranger", ttl: float = TTL) -> Beat:
        beat: Beat = self.do(Heartbeat(GROUP, incarnation, ttl, ""))
        return beat

    def wait(self, incarnation: str) -> tuple[list[str], float, float]:
        """Let one wait; return whom it sees, and since when the last and the first of them wait."""
        room: Room = self.do(Wait(GROUP, incarnation, newcomer(incarnation)))
        return [one.incarnation for one in room.waiting], room.newest, room.oldest

    @property
    def burst(self) -> int:
        room: Room = self.do(Wait(GROUP, "nobody", None))
        return room.burst

    def own(self, *values: bytes, partition: int = 0) -> list[bytes]:
        """Make the topic with the group in it, owned under token 1, and have these delivered."""
        self.do(MakeTopic(GROUP.topic, 1))
        self.do(MakeGroup(GROUP, partition, latest=False))
        self.do(Install(GROUP, partition, 1, "A", foreign=True))
        self.store.append(GROUP.topic, [(partition, [b"i", value]) for value in values], None)
        stream = self.store.streams[GROUP.topic, partition]
        return [one for one, _ in stream.deliver(stream.groups[GROUP.group], 100, self.store.now())]

    def fail(self, *due: int) -> list[bytes]:
        """Let a message fail for each of these due times; return their ids."""
        ids = self.own(*(b"%d" % number for number in range(len(due))))
        kept = [Resolution("stream", "retry", Body(one, (b"i", b"x"), attempt=1), when) for one, when in zip(ids, due, strict=True)]
        self.do(Resolve(GROUP, 0, 1, kept, None))
        return ids

    def due_times(self) -> dict[bytes, int]:
        return {entry_id: when for entry_id, (when, _) in self.store.shelf(GROUP, 0).retry.items()}


def newcomer(incarnation: str) -> Newcomer:
    return Newcomer(incarnation, Profile(ttl=TTL))


@pytest.fixture
def world() -> World:
    return World()


# -- members ----------------------------------------------------------------------------------------------------------------------------


def test_a_member_lives_until_its_time_is_over_and_not_at_that_moment(world: World) -> None:
    """M5: for itself, for those that look, and for one that would drop it."""
    assert world.commit("A", joins=True)
    assert world.commit("B", ttl=100.0, joins=True)
    world.at(TTL, -1)
    beat = world.beat()
    assert (beat.expired, beat.next_expiry) == ((), BEGIN + 10 * SECOND)
    assert not world.commit("B", expired=["A"])
    world.at(TTL)
    beat = world.beat()
    assert (beat.expired, beat.next_expiry) == (("A",), BEGIN + 100 * SECOND)
    assert not world.beat("A").alive
    assert world.do(ViewGroup(GROUP)).live == ("B",)
    assert world.commit("B", expired=["A"])


def test_a_freeze_is_over_at_its_end(world: World) -> None:
    """M7, M8."""
    assert world.commit("A", ttl=1.0, joins=True, freeze=True)
    assert world.commit("B", joins=True)
    world.at(1.0, -1)
    assert not world.commit("B", expired=["nobody"])
    world.at(1.0)
    assert world.commit("B", expired=["A"])


def test_a_group_is_watched_and_a_report_stands_for_that_long(world: World) -> None:
    assert world.commit("A", joins=True)
    world.do(Watch(GROUP, 2.0))
    world.do(TellRunning(GROUP, "A", 2.0, Report(3)))
    world.at(2.0, -1)
    assert world.beat().watched
    assert world.do(ReadRunning(GROUP, "A")) == Report(3)
    world.at(2.0)
    assert not world.beat().watched
    assert world.do(ReadRunning(GROUP, "A")) is None


def test_since_when_a_group_is_paused(world: World) -> None:
    """Since the first of several pauses, and not since anything once it has been resumed."""
    seen: list[tuple[bool, int]] = []
    for second, paused in enumerate((True, True, False, False, True)):
        world.at(second)
        world.do(SetPaused(GROUP, paused=paused))
        view = world.do(ViewGroup(GROUP))
        seen.append((view.paused, view.paused_at))
    assert seen == [(True, BEGIN), (True, BEGIN), (False, 0), (False, 0), (True, BEGIN + 4 * SECOND)]


# -- the waiting room -------------------------------------------------------------------------------------------------------------------


def test_a_turn_lasts_for_its_time_and_no_longer(world: World) -> None:
    """M11: from the moment at which it was given, though another asks at the same one."""
    assert world.wait("A") == (["A"], 0.0, 0.0)
    assert world.wait("B") == ([], 0.0, 0.0)
    world.at(0.25)
    assert world.wait("C") == ([], 0.0, 0.0)
    world.at(0.5)
    assert world.wait("A") == (["A", "B", "C"], 0.25, 0.5)
    world.at(0.5 + TURN, -1)
    assert world.wait("B") == ([], 0.0, 0.0)
    world.at(0.5 + TURN)
    assert world.wait("B") == (["A", "B", "C"], 1.25, 1.5)


def test_one_that_no_longer_asks_counts_as_waiting_for_a_while(world: World) -> None:
    world.wait("A")
    world.at(1.0)
    world.wait("B")
    world.at(STAYS, -1)
    assert world.wait("B")[0] == ["A", "B"]
    world.at(STAYS)
    assert world.wait("B")[0] == ["B"]


def test_a_room_in_which_nobody_asks_is_gone_after_five_seconds(world: World) -> None:
    """Until then others see that it is crowded."""
    world.wait("A")
    world.at(5.0, -1)
    assert world.beat().crowded
    world.at(5.0)
    assert not world.beat().crowded


def test_who_belongs_to_a_burst(world: World) -> None:
    """Each has joined less than a second after the one before; and one that joins alone is none."""
    assert world.commit("A", joins=True)
    assert (world.burst, world.beat().crowded) == (0, False)
    world.at(BURST, -1)
    assert world.commit("B", joins=True)
    assert (world.burst, world.beat().crowded) == (2, True)
    world.at(2 * BURST, -2)
    assert world.burst == 2
    world.at(2 * BURST, -1)
    assert (world.burst, world.beat().crowded) == (0, False)
    assert world.commit("C", joins=True)
    assert world.burst == 0, "the burst was over, and another has begun"
    for one in "DEF":
        world.wait(one)
    assert world.commit("D", joins=True, admitted=[newcomer("E"), newcomer("F")])
    assert world.burst == 4


def test_members_of_a_crowd_wait_for_each_other(world: World) -> None:
    """M13."""

    def give(incarnation: str, gather: float = 0.2) -> Freed:
        freed: Freed = world.do(GiveBack(GROUP, incarnation, {ord(incarnation): 7}, gather))
        return freed

    def all_of(*incarnations: str) -> Freed:
        return Freed(0.0, frozenset((ord(one), one, 7) for one in incarnations))

    assert give("A") == Freed(0.2)
    assert give("B") == Freed(ASK_EVERY), "at the same moment another has the turn"
    world.at(0.05)
    assert give("A") == Freed(0.15)
    world.at(0.2)
    assert give("A") == all_of("A", "B")
    assert give("C") == Freed(0.2), "the turn is over"
    world.at(0.4 + GATHER_TURN, -1)
    assert give("D") == Freed(ASK_EVERY)
    world.at(0.4 + GATHER_TURN)
    assert give("D") == Freed(0.2), "it may be gone"
    world.at(0.2 + FREED_LASTS, -1)
    assert give("D", gather=0.0) == all_of("A", "C", "D")
    world.at(0.2 + FREED_LASTS)
    assert give("E", gather=0.0) == all_of("D", "E")


# -- retention --------------------------------------------------------------------------------------------------------------------------


def test_for_how_long_a_group_is_alone(world: World) -> None:
    """Since the end of its last member. It has lapsed from the moment on at which it may."""
    world.do(MakeTopic(GROUP.topic, 1, Terms(30.0, acked=True, idle=60.0)))
    assert world.commit("A", joins=True)
    for seconds, lapsed in ((59.999999, False), (60.0, True)):
        world.at(TTL + seconds)
        view = world.do(ViewGroup(GROUP))
        assert (view.alone, view.lapsed) == (seconds, lapsed)
        keeping = world.do(ReadKeeping(GROUP))
        assert (keeping.alone, [*keeping.lapsed]) == ({"billing": seconds}, ["billing"] * lapsed)


def test_an_entry_is_kept_for_that_long(world: World) -> None:
    """E3: and all of a millisecond goes together. What was settled and is old goes up to the last one."""
    sent = world.own(b"1", b"2", b"3")
    world.do(Acknowledge(GROUP, 0, 1, sent))
    world.at(2.0)
    keeping = replace(world.do(ReadKeeping(GROUP)), kept_for=2.0)
    assert world.do(Trim(GROUP.topic, 0, replace(keeping, kept_for=2.001), [])) == Trimmed(0, later=True)
    assert world.do(Trim(GROUP.topic, 0, keeping, [])) == Trimmed(2, later=False)
    assert len(world.store.streams[GROUP.topic, 0]) == 1


def test_a_lapsed_group_pins_until_its_last_read_is_as_old(world: World) -> None:
    sent = world.own(b"1", b"2", b"3")
    world.do(Acknowledge(GROUP, 0, 1, sent))
    audit = GroupName(GROUP.topic, "audit")
    world.do(MakeGroup(audit, 0, latest=False))
    world.do(Install(audit, 0, 1, "A", foreign=True))
    client = world.store.open_client(audit, 0, 1, "A")
    world.store.read(client, 1, 0.0)
    keeping = replace(world.do(ReadKeeping(GROUP)), kept_for=0.0, idle=9.0, alone={"audit": 99.0})
    world.at(9.0, -1)
    assert world.do(Trim(GROUP.topic, 0, keeping, [])) == Trimmed(0, later=True)
    world.at(9.0)
    assert world.do(Trim(GROUP.topic, 0, keeping, [])).removed == 2


# -- what is due ------------------------------------------------------------------------------------------------------------------------


def test_what_is_due_at_this_moment_is_due(world: World) -> None:
    world.fail(BEGIN + SECOND, BEGIN + SECOND + 1)
    late = [Delayed(0, b"%d" % when, BEGIN + SECOND + when, [b"i", b"1"]) for when in range(2)]
    assert world.do(Delay(GROUP.topic, 0, late))
    world.at(1.0, -1)
    assert world.do(CountBacklog(GROUP, 0)) == 0
    due = world.do(TakeDue(GROUP, 0, 1, 10))
    assert (len(due.retries), due.moved, due.next_due) == (0, 0, BEGIN + SECOND)
    world.at(1.0)
    assert world.do(CountBacklog(GROUP, 0)) == 2
    due = world.do(TakeDue(GROUP, 0, 1, 10))
    assert (len(due.retries), due.moved, due.next_due) == (1, 1, BEGIN + SECOND + 1)


def test_what_is_retried_now_is_due_after_what_is_due_already(world: World) -> None:
    """In the order in which it would have come; and what is due at this moment is due already."""
    there, later, sooner, other = world.fail(BEGIN, BEGIN + 9, BEGIN + 8, BEGIN + 7)
    assert world.do(RetryNow(GROUP, 0, [there, b"7-7", later, sooner, later], 10)) == 2
    assert world.due_times() == {there: BEGIN, sooner: BEGIN + 1, later: BEGIN + 2, other: BEGIN + 7}
    assert world.do(RetryNow(GROUP, 0, None, 1)) == 1
    assert world.due_times()[sooner] == BEGIN + 3, "later than those of the call before"


def test_what_is_retried_now_is_due_now(world: World) -> None:
    first, second = world.fail(BEGIN + 9 * SECOND, BEGIN + 8 * SECOND)
    assert world.do(RetryNow(GROUP, 0, None, 10)) == 2
    assert world.due_times() == {second: BEGIN - 1, first: BEGIN}


def test_a_mark_lasts_for_its_window(world: World) -> None:
    """E7."""
    world.do(MakeTopic(GROUP.topic, 1))

    def once(value: bytes) -> Any:
        return world.do(AppendOnce(GROUP.topic, 0, [b"i", value], "mine", 5.0, due=None, maxlen=None, approximate=False))

    assert once(b"1") == b"1"
    world.at(5.0, -1)
    assert (once(b"2"), world.do(ReadMark(GROUP.topic, 0, "mine"))) == (b"1", b"1")
    world.at(5.0)
    assert world.do(ReadMark(GROUP.topic, 0, "mine")) is None
    assert once(b"3") == b"3"


# -- bookkeeping ------------------------------------------------------------------------------------------------------------------------


def test_marks_that_have_expired_go_once_there_are_twice_as_many(world: World) -> None:
    marks = world.store.marks
    for number in range(MARKS + 1):
        world.store.keep_mark((GROUP.topic, 0, f"{number}"), b"1", BEGIN + SECOND)
    world.at(1.0)
    for number in range(MARKS + 1):
        world.store.keep_mark((GROUP.topic, 1, f"{number}"), b"1", BEGIN + 2 * SECOND)
    assert len(marks) == 2 * (MARKS + 1)
    world.store.keep_mark((GROUP.topic, 1, "one more"), b"1", BEGIN + 2 * SECOND)
    assert len(marks) == MARKS + 2, "those of the first second are gone, now that it is over"


def test_times_of_delivery_go_with_what_was_acknowledged() -> None:
    """They are kept for some more entries than are pending, not for all that ever were."""
    stream, cursor = Stream(), GroupCursor((0, 0))
    for number in range(STALE + 2):
        stream.append([b"i", b"1"], number + 1)
        ((entry, _),) = stream.deliver(cursor, 1, 7)
        if number:
            cursor.pending.popitem()
        assert cursor.delivered_at, entry
    assert len(cursor.delivered_at) == STALE + 2
    stream.append([b"i", b"1"], STALE + 3)
    stream.deliver(cursor, 1, 7)
    assert len(cursor.delivered_at) == STALE + 3
    stream.append([b"i", b"1"], STALE + 4)
    cursor.pending.popitem()
    stream.deliver(cursor, 1, 8)
    stream.append([b"i", b"1"], STALE + 5)
    cursor.pending.popitem()
    stream.deliver(cursor, 1, 9)
    assert cursor.delivered_at == {(1, 0): 7, (STALE + 5, 0): 9}


def test_who_reads_without_waiting_leaves_nothing_waiting(world: World) -> None:
    world.own()
    client = world.store.open_client(GROUP, 0, 1, "A")
    assert world.store.read(client, 1, 0.0) == []
    assert world.store.blocked_reads == 0
    world.store.read(client, 1, 0.001)
    assert world.store.blocked_reads == 1


def test_a_read_that_waits_is_refused_with_what_it_waits_over_or_for(world: World) -> None:
    """A connection that breaks may have brought entries; a group that is gone has none. Others go on waiting."""
    world.own()
    other = GroupName(GROUP.topic, "audit")
    world.do(MakeGroup(other, 0, latest=False))
    world.do(Install(other, 0, 1, "A", foreign=True))
    clients = [world.store.open_client(group, 0, 1, "A") for group in (GROUP, GROUP, other)]
    killed, gone, waits = (world.store.read(client, 1, 9.0) for client in clients)
    assert isinstance(killed, WaitingRead)
    assert isinstance(gone, WaitingRead)
    assert isinstance(waits, WaitingRead)
    world.store.kill([clients[0].mark])
    assert isinstance(killed.error, ConnectionFailed)
    assert killed.error.maybe_executed
    assert (gone.error, world.store.blocked_reads, world.store.connections) == (None, 2, 2)
    world.store.forget_cursor(GROUP, 0)
    assert isinstance(gone.error, GroupGoneError)
    assert (waits.error, world.store.blocked_reads, world.store.connections) == (None, 1, 2)
    world.store.forget_stream(GROUP.topic, 0)
    assert isinstance(waits.error, GroupGoneError)
    assert world.store.blocked_reads == 0


def test_a_seek_spends_the_token_by_one_more_even_if_that_is_ahead_of_the_clock(world: World) -> None:
    """S5, M6; and of several moves since the last install, the lowest position and the last one delivered count."""
    first, second, third = world.own(b"1", b"2", b"3")
    world.do(Install(GROUP, 0, BEGIN + 7, "A", foreign=True))
    world.do(Seek(GROUP, 0, second))
    lease = world.store.lease(GROUP, 0)
    assert lease.token == BEGIN + 8
    world.do(Seek(GROUP, 0, first))
    world.do(Seek(GROUP, 0, END))
    assert lease.token == BEGIN + 10
    refused = world.do(Install(GROUP, 0, BEGIN, "A", foreign=True))
    assert (refused.done, refused.moved) == (False, (first, third))
    assert world.do(ViewPartition(GROUP, 0)).moves == 3
    assert format_id(world.store.streams[GROUP.topic, 0].last_id) == third
