"""The steps in which a topic grows and its dead letters move: which, in which order, how many at once, and for how long they wait (G)."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from redisaq.brokers.growth import (
    COUNTED,
    REPLICATED_WITHIN,
    TOGETHER,
    close_barriers,
    complete_announced,
    make_or_grow,
    publish_again,
    redrive,
    settle_growth,
    waiting_in,
)
from redisaq.brokers.memory.registry import carry_out
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.coordination import MakeGroup
from redisaq.brokers.steps.growing import (
    Announce,
    CloseBarrier,
    NameStream,
    OpenBarrier,
    Passed,
    Publish,
    ReadBarrier,
    ReadPassed,
    ReadSeal,
    Replicate,
    ReplicateRun,
    TakeIn,
)
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.steps.producing import MOST_DELAYED, Delay, Delayed, delay
from redisaq.brokers.steps.retention import Keeping, kept_by
from redisaq.brokers.steps.retrying import ReadDead, Redrive, TakeDue, next_lives, read_retries, take_due
from redisaq.brokers.steps.settling import Resolve
from redisaq.brokers.steps.topics import MakeTopic, ReadTopic, TopicState, birth, cuts_of
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import LAST
from redisaq.core.partitioner import partition_for
from redisaq.core.records import Body, Failure, encode_dead
from redisaq.environment import Environment, time_limit, use_environment

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns]

GROUP = GroupName("jobs", "g")


class Recorder:
    """A broker of a store that notes what it is asked; `answers` gives other answers, and `before` happens before a step."""

    def __init__(self) -> None:
        self.store = MemoryStore("memory://steps", Environment(random=random.Random(7)))
        self.asked: list[Any] = []
        self.before: Callable[[Step[Any]], None] = lambda _: None
        self.answers: dict[type[Step[Any]], Callable[[Any], Any]] = {}
        self.runs: list[str] = []

    @property
    def broker(self) -> Any:
        """The same, where a broker is wanted."""
        return self

    @property
    def run_id(self) -> str:
        return self.runs.pop(0) if self.runs else self.store.run_id

    def _answer(self, step: Step[Any]) -> Any:
        self.before(step)
        known = self.answers.get(type(step))
        return carry_out(self.store, step) if known is None else known(step)

    async def do(self, step: Step[Any]) -> Any:
        self.asked.append(step)
        return self._answer(step)

    async def do_each(self, steps: Sequence[Step[Any]]) -> list[Any]:
        self.asked.append(list(steps))
        return [self._answer(step) for step in steps]

    def taken(self) -> list[Any]:
        """Return what was asked since the last time."""
        asked, self.asked = self.asked, []
        return asked


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def named(*numbers: int, history: tuple[int, ...]) -> list[NameStream]:
    return [NameStream("jobs", number, history) for number in numbers]


# -- growing ----------------------------------------------------------------------------------------------------------------------------


async def test_the_steps_of_a_growth(recorder: Recorder) -> None:
    """New streams are there before old ones are cut, and the count is published when a replica has the cuts (G1, G2, G7)."""
    assert await make_or_grow(recorder.broker, "jobs", 2) == TopicState(0, 2)
    assert recorder.taken() == [MakeTopic("jobs", 2)]
    grown = await make_or_grow(recorder.broker, "jobs", 4)
    assert (grown.partitions, grown.history) == (4, (2, 4))
    assert recorder.taken() == [
        MakeTopic("jobs", 4),
        Announce("jobs", 0, 4),
        named(2, 3, history=(2, 4)),
        named(0, 1, history=(2, 4)),
        Replicate("jobs", 2, REPLICATED_WITHIN),
        Publish("jobs", 0, (2, 4)),
    ]
    assert await make_or_grow(recorder.broker, "jobs", 4) == grown
    assert recorder.taken() == [MakeTopic("jobs", 4)]
    assert REPLICATED_WITHIN == 5.0, "producers wait, too"


async def test_many_streams_are_cut_some_at_a_time(recorder: Recorder) -> None:
    """A server does nothing else for some milliseconds then; and as many are looked at in one write."""
    assert TOGETHER == 500
    await make_or_grow(recorder.broker, "jobs", TOGETHER + 1)
    recorder.taken()
    await make_or_grow(recorder.broker, "jobs", 2 * TOGETHER + 3)
    writes: list[Any] = [one for one in recorder.taken() if isinstance(one, list)]
    assert [(write[0].partition, write[-1].partition) for write in writes] == [(501, 1000), (1001, 1002), (0, 499), (500, 500)]
    recorder.taken()
    await settle_growth(recorder.broker, "jobs")
    read, *looks = recorder.taken()
    assert read == ReadTopic("jobs")
    assert [(look[0], look[-1], len(look)) for look in looks] == [
        (ReadSeal("jobs", 0, 1), ReadSeal("jobs", 499, 1), 500),
        (ReadSeal("jobs", 500, 1), ReadSeal("jobs", 999, 1), 500),
        (ReadSeal("jobs", 1000, 1), ReadSeal("jobs", 1002, 1), 3),
    ]


async def test_another_server_that_answers_meanwhile_is_asked_to_cut_again(recorder: Recorder) -> None:
    """It may not have heard of the cuts."""
    await make_or_grow(recorder.broker, "jobs", 1)
    recorder.taken()
    recorder.runs = ["one", "other"]
    await make_or_grow(recorder.broker, "jobs", 2)
    assert [type(one) for one in recorder.taken()] == [MakeTopic, Announce, list, list, Replicate, list, list, Replicate, Publish]


@pytest.mark.parametrize(("left", "within"), [(60.0, 5.0), (10.0, 5.0), (4.0, 2.0)])
async def test_a_replica_is_waited_for_half_of_the_time_that_is_left(
    recorder: Recorder, left: float, within: float, caplog: pytest.LogCaptureFixture
) -> None:
    """G7: then it is said that none has confirmed it."""
    await make_or_grow(recorder.broker, "jobs", 2)
    recorder.taken()
    recorder.answers[Replicate] = lambda _: False
    with (
        use_environment(Environment(monotonic=lambda: 7.0)),
        time_limit(left),
        caplog.at_level(logging.WARNING, "redisaq.brokers"),
    ):
        await make_or_grow(recorder.broker, "jobs", 5)
    assert Replicate("jobs", 2, within) in recorder.taken()
    (record,) = caplog.records
    assert record.getMessage() == (
        f"topic jobs grows to 5 partitions, and no replica has confirmed within {within} s that its streams are cut: "
        "if one takes over that has not heard of it, messages of a key may run out of order"
    )


async def test_a_growth_that_others_completed_meanwhile(recorder: Recorder) -> None:
    """G3: the grower lives, and has published it, while somebody meets a seal."""
    await make_or_grow(recorder.broker, "jobs", 2)
    carry_out(recorder.store, Announce("jobs", 0, 3))
    for step in named(2, 0, 1, history=(2, 3)):
        carry_out(recorder.store, step)
    reads: list[Any] = []

    def publish_meanwhile(step: Step[Any]) -> None:
        if isinstance(step, ReadTopic):
            reads.append(step)
            if len(reads) == 2:
                carry_out(recorder.store, Publish("jobs", 0, (2, 3)))

    recorder.before = publish_meanwhile
    recorder.taken()
    state = await settle_growth(recorder.broker, "jobs")
    assert state is not None
    assert (state.generation, state.history) == (1, (2, 3))
    look, again = [ReadSeal("jobs", number, 0) for number in range(2)], [ReadSeal("jobs", number, 1) for number in range(3)]
    assert recorder.taken() == [ReadTopic("jobs"), look, ReadTopic("jobs"), again]


async def test_a_seal_is_looked_for_where_one_was_met(recorder: Recorder) -> None:
    """G9: at a partition that the topic's meta has forgotten, and nowhere else."""
    await make_or_grow(recorder.broker, "jobs", 2)
    for met, more in ((0, []), (1, []), (2, [ReadSeal("jobs", 2, 0)]), (7, [ReadSeal("jobs", 7, 0)])):
        recorder.taken()
        await settle_growth(recorder.broker, "jobs", met)
        assert recorder.taken() == [ReadTopic("jobs"), [ReadSeal("jobs", 0, 0), ReadSeal("jobs", 1, 0)], *more]


async def test_a_growth_that_was_announced_is_completed_once(recorder: Recorder) -> None:
    await make_or_grow(recorder.broker, "jobs", 2)
    announced = carry_out(recorder.store, Announce("jobs", 0, 3))
    recorder.taken()
    assert announced is not None
    await complete_announced(recorder.broker, "jobs", announced)
    assert [type(one) for one in recorder.taken()] == [list, list, Replicate, Publish]
    await complete_announced(recorder.broker, "jobs", TopicState(1, 3, history=(2, 3)))
    assert recorder.taken() == []


async def test_what_was_forgotten_is_published_one_growth_after_the_other(recorder: Recorder) -> None:
    """G9."""
    await make_or_grow(recorder.broker, "jobs", 2)
    recorder.taken()
    state = await publish_again(recorder.broker, "jobs", TopicState(2, 8, history=(2, 5, 8)))
    assert state is not None
    assert state.history == (2, 5, 8)
    assert [one for one in recorder.taken() if isinstance(one, Publish)] == [Publish("jobs", 0, (2, 5)), Publish("jobs", 1, (2, 5, 8))]
    assert await publish_again(recorder.broker, "jobs", TopicState(2, 8, history=(2, 5, 8))) == state
    assert recorder.taken() == [ReadTopic("jobs")]
    assert await publish_again(recorder.broker, "nothing", state) is None


# -- barriers ---------------------------------------------------------------------------------------------------------------------------


async def test_what_new_partitions_wait_for(recorder: Recorder) -> None:
    """G4, G5: each for the older ones, of its own growth and before; the first that is not worked off is named."""
    store = recorder.store
    for count in (1, 3, 4):
        await make_or_grow(recorder.broker, "jobs", count)
    for partition in range(4):
        carry_out(store, MakeGroup(GROUP, partition, latest=False))
        carry_out(store, Install(GROUP, partition, 1, "A", foreign=True))
    recorder.taken()
    counted: dict[int, Passed] = {0: Passed(True), 1: Passed(True), 2: Passed(False, 7, b"5-1")}
    recorder.answers[ReadPassed] = lambda step: counted[step.partition]
    assert await waiting_in(recorder.broker, GROUP, (1, 3, 4)) == {3: (2, counted[2])}
    assert recorder.taken() == [
        [ReadBarrier(GROUP, number) for number in (1, 2, 3)],
        [ReadPassed(GROUP, 0, 1, COUNTED)],
        [ReadPassed(GROUP, number, 2, COUNTED) for number in (0, 1, 2)],
    ]
    assert COUNTED == 1000
    counted[0] = Passed(False, 1, b"4-1")
    waits = (0, counted[0])
    assert await waiting_in(recorder.broker, GROUP, (1, 3, 4)) == dict.fromkeys((1, 2, 3), waits)
    for partition, growth_number in ((1, 1), (2, 2), (3, 1)):
        assert carry_out(store, OpenBarrier(GROUP, partition, 1, growth_number))
    assert await waiting_in(recorder.broker, GROUP, (1, 3, 4)) == {3: waits}, "the first two are open"
    recorder.taken()
    await close_barriers(recorder.broker, GROUP, (1, 3, 4))
    assert recorder.taken() == [[CloseBarrier(GROUP, number) for number in (1, 2, 3)]]
    await close_barriers(recorder.broker, GROUP, ())
    assert recorder.taken() == [[]]
    assert await waiting_in(recorder.broker, GROUP, ()) == {}


def test_which_growth_a_partition_came_by() -> None:
    assert [birth((2, 5, 8), number) for number in (0, 1, 2, 4, 5, 7, 8)] == [0, 0, 1, 1, 2, 2, 3]
    assert (birth((), 7), cuts_of(()), cuts_of((2, 5, 8))) == (0, 0, 2)


# -- redriving --------------------------------------------------------------------------------------------------------------------------

MOVES = next(b"%d" % number for number in range(99) if partition_for(b"%d" % number, 2) == 1)
STAYS = next(b"%d" % number for number in range(99) if partition_for(b"%d" % number, 2) == 0)


def bury(store: MemoryStore, *fields: tuple[bytes, ...], entry: bytes = b"5-1") -> list[bytes]:
    """Let there be dead letters in partition 0; return their ids."""
    dead = store.shelf(GROUP, 0).dead
    return [b"%d-%d" % dead.append(encode_dead(Body(entry, one)), 5 + number, None) for number, one in enumerate(fields)]


async def test_dead_letters_go_where_their_keys_belong(recorder: Recorder) -> None:
    """G8: one without a key stays; one from elsewhere keeps the id that tells from where."""
    state = await make_or_grow(recorder.broker, "jobs", 1)
    state = await make_or_grow(recorder.broker, "jobs", 2)
    stays, moves, plain = bury(recorder.store, (b"i", b"1", b"k", STAYS), (b"i", b"2", b"d", b"k", b"k", MOVES), (b"i", b"3"))
    recorder.taken()
    assert await redrive(recorder.broker, GROUP, 0, None, 10, state=state) == 3
    kept, put, drop = [one for one in recorder.taken() if not isinstance(one, ReadDead)]
    assert [dead_id for dead_id, _ in kept.lives] == [stays, plain]
    assert (type(kept), type(put)) == (Redrive, TakeIn)
    assert (put.partition, put.origin, put.cuts, kept.cuts) == (1, 0, 1, 1)
    assert put.letters == [(moves, Body(b"5-%d" % (1 + (1 << 40)), (b"i", b"2", b"d", b"k", b"k", MOVES), 1))]
    assert (drop.partition, drop.ids, drop.run) == (0, [moves], recorder.store.run_id)
    (late,) = bury(recorder.store, (b"i", b"4", b"k", MOVES), entry=b"5-%d" % (1 << 40))
    assert await redrive(recorder.broker, GROUP, 0, None, 10, state=state) == 1
    put = next(one for one in recorder.taken() if isinstance(one, TakeIn))
    assert put.letters == [(late, Body(b"5-%d" % (1 << 40), (b"i", b"4", b"k", MOVES), 1))]


async def test_a_topic_that_never_grew_redrives_in_one_step(recorder: Recorder) -> None:
    state = await make_or_grow(recorder.broker, "jobs", 1)
    (one,) = bury(recorder.store, (b"i", b"1", b"k", MOVES))
    recorder.taken()
    assert await redrive(recorder.broker, GROUP, 0, [one], 10, state=state) == 1
    read = ReadDead(GROUP, 0, b"%d-%d" % (5 - 1, LAST), 1)
    lives = [(one, Body(b"5-1", (b"i", b"1", b"k", MOVES), 1))]
    assert recorder.taken() == [[read], Redrive(GROUP, 0, lives, 0)]
    assert await redrive(recorder.broker, GROUP, 0, None, 10, state=state) == 0
    assert recorder.taken() == [ReadDead(GROUP, 0, b"", 10)], "where there is nothing, nothing is redriven"


async def test_a_redrive_that_meets_a_growth_begins_again(recorder: Recorder) -> None:
    """G8: it was placed before, so it is placed again; and if the topic is lost meanwhile, nothing is moved."""
    state = await make_or_grow(recorder.broker, "jobs", 1)
    await make_or_grow(recorder.broker, "jobs", 2)
    bury(recorder.store, (b"i", b"1", b"k", MOVES), (b"i", b"2"))
    assert await redrive(recorder.broker, GROUP, 0, None, 10, state=state) == 2
    assert len(recorder.store.shelf(GROUP, 1).retry) == 1
    bury(recorder.store, (b"i", b"1", b"k", MOVES))
    recorder.store.forget_topic("jobs")
    assert await redrive(recorder.broker, GROUP, 0, None, 10, state=state) == 0


async def test_a_replica_is_waited_for_where_another_run_drops(recorder: Recorder) -> None:
    """G8: in a cluster; with the time that there is."""
    state = await make_or_grow(recorder.broker, "jobs", 1)
    state = await make_or_grow(recorder.broker, "jobs", 2)
    bury(recorder.store, (b"i", b"1", b"k", MOVES))
    recorder.answers[TakeIn] = lambda step: (carry_out(recorder.store, step), "another")[1]
    confirmed = [False, True]
    recorder.answers[ReplicateRun] = lambda _: confirmed.pop(0)
    recorder.taken()
    with use_environment(Environment(monotonic=lambda: 7.0)), time_limit(4.0):
        assert await redrive(recorder.broker, GROUP, 0, None, 10, state=state) == 1
    assert [one for one in recorder.taken() if isinstance(one, ReplicateRun)] == [ReplicateRun("jobs", 1, "another", 2.0)] * 2


async def test_no_more_dead_letters_are_read_than_are_asked_for(recorder: Recorder) -> None:
    ids = bury(recorder.store, *[(b"i", b"%d" % number) for number in range(4)])
    recorder.store.shelf(GROUP, 0).dead.append([b"foreign", b"x"], 9, None)
    recorder.taken()
    assert [one for one, _ in await next_lives(recorder.broker, GROUP, 0, None, 2)] == ids[:2]
    assert recorder.taken() == [ReadDead(GROUP, 0, b"", 2)]
    assert [one for one, _ in await next_lives(recorder.broker, GROUP, 0, None, 5)] == ids
    assert recorder.taken() == [ReadDead(GROUP, 0, b"", 5), ReadDead(GROUP, 0, b"9-0", 5)]
    assert [one for one, _ in await next_lives(recorder.broker, GROUP, 0, [ids[3], b"6-7", ids[0], ids[2]], 2)] == [ids[0], ids[2]]
    first, second = recorder.taken()
    assert [one.after for one in first] == [b"4-%d" % LAST, b"6-6"]
    assert [one.after for one in second] == [b"6-%d" % LAST]
    assert {one.count for one in (*first, *second)} == {1}


# -- other steps in portions ------------------------------------------------------------------------------------------------------------


async def test_many_delayed_messages_go_in_portions(recorder: Recorder) -> None:
    """A step takes a thousand; the answers come back in the order of the messages."""
    assert MOST_DELAYED == 1000
    messages = [Delayed(number % 2, b"%d" % number, 9, [b"i", b"%d" % number]) for number in range(2 * MOST_DELAYED + 1)]
    recorder.answers[Delay] = lambda step: step.partition == 0 and len(step.messages) > 1
    kept = await delay(recorder.broker, "jobs", messages, cuts=3)
    ((first, second, third),) = recorder.taken()
    assert [(one.partition, len(one.messages), one.cuts) for one in (first, second, third)] == [(0, 1000, 3), (0, 1, 3), (1, 1000, 3)]
    assert kept == [True, False] * 1000 + [False]
    await delay(recorder.broker, "jobs", messages[:1])
    assert recorder.taken() == [[Delay("jobs", 0, messages[:1])]]


async def test_a_retry_that_cannot_be_read_is_said_to_have_failed_never() -> None:
    """Nobody knows when, or how often."""
    retries, unreadable, set_aside = read_retries([(b"7-1", b"\xff")])
    assert retries == []
    (one,), (told,) = unreadable, set_aside
    assert (one.source, one.to, one.raw, told.entry_id) == ("retry", "dead", b"\xff", b"7-1")
    assert one.body.failure == Failure("Unreadable", told.reason, "", 0, 0, 0, "")


async def test_what_can_be_read_is_not_resolved(recorder: Recorder) -> None:
    carry_out(recorder.store, MakeTopic("jobs", 1))
    carry_out(recorder.store, MakeGroup(GROUP, 0, latest=False))
    carry_out(recorder.store, Install(GROUP, 0, 1, "A", foreign=True))
    step: Any = TakeDue(GROUP, 0, 1, 5)
    await take_due(recorder.broker, step, None)
    assert recorder.taken() == [step]
    recorder.store.shelf(GROUP, 0).retry[b"7-1"] = 1, b"\xff"
    due = await take_due(recorder.broker, step, 9)
    assert recorder.taken() == [step, Resolve(GROUP, 0, 1, due.unreadable, 9)]
    assert len(due.unreadable) == 1


def test_the_retention_of_a_topic_is_that_of_all_its_groups() -> None:
    def of(**alone: float) -> Keeping:
        return Keeping(True, 5, 60.0, 3.0, alone)

    keeping = kept_by([of(a=1.0), of(b=3.0), of()])
    assert (keeping.alone, keeping.lapsed) == ({"a": 1.0, "b": 3.0}, {"b": 3.0})
