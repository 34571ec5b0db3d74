"""What a server's replies mean, each number in its unit, and what is asked where that is a promise.

Servers' own clocks and counts are never the same twice, so tests on servers compare them roughly. Here a reply is written down.
"""

from __future__ import annotations

from typing import Any

import pytest

from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.redis.keys import KEPT, Keys
from redisaq.brokers.redis.registry import COMMANDS
from redisaq.brokers.redis.retention import MOST
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.administration import (
    GroupView,
    NotedChange,
    PartitionView,
    ReadHistory,
    SetPaused,
    StreamView,
    ViewGroup,
    ViewPartition,
    ViewStream,
)
from redisaq.brokers.steps.coordination import Beat, GiveBack, Heartbeat, MakeGroup, ReadRunning, Wait
from redisaq.brokers.steps.growing import Passed, ReadBarrier, ReadPassed, ReadSeal
from redisaq.brokers.steps.leases import Install, Installed
from redisaq.brokers.steps.messages import (
    ListDelayed,
    ListPending,
    PendingPage,
    PendingRow,
    ReadDelayed,
    ReadStanding,
    RetryNow,
    Scheduled,
    ScheduledPage,
    Searched,
    SearchStream,
    Standing,
)
from redisaq.brokers.steps.producing import AppendOnce, Find, Found, ReadAnchor, ReadBacklog
from redisaq.brokers.steps.retention import Keeping, ReadKeeping, Sight, Sighting, Trim, Trimmed
from redisaq.brokers.steps.retrying import (
    CountDead,
    CountedDead,
    DeadKind,
    DeadLetterSummary,
    Due,
    SetAside,
    SummariseDead,
    TakeDue,
)
from redisaq.brokers.steps.schedules import ReadSchedules, Schedules, SetSchedule
from redisaq.brokers.steps.settling import Acknowledge, ReadRemaining, Remaining, Resolve, Resolved, Settled
from redisaq.brokers.steps.topics import HeldUp, ReadTopic, ReadTopics, TopicState
from redisaq.brokers.terms import GroupName, ReaderMark
from redisaq.core.entry_ids import LAST
from redisaq.core.history import NOT_READ, Change, encode_change
from redisaq.core.membership import Document, encode_document
from redisaq.core.profile import Presence, Profile, encode_profile
from redisaq.core.records import MOST_NUMBER, Body, encode_delayed, encode_retry
from redisaq.core.retention import IDLE
from redisaq.core.waiting import ASK_EVERY, FREED_LASTS, GATHER_TURN, STAYS, TURN, Freed, Newcomer, Room, encode_leases, encode_newcomer
from redisaq.errors import DamagedKeyError, ServerError, UnknownFormatError
from redisaq.settings import MOST_PARTITIONS

assert RedisBroker.__doc__, "its import registers what is asked here"

GROUP = GroupName("jobs", "g")
DOCUMENT = Document(3)
PROFILE = Profile("mara", ttl=60.0)
NOW = b"1700000000250000"
DELETED = ServerError("NOGROUP No such key")
BODY = Body(b"7-1", (b"i", b"m"), 0, 1)
STATE = [b"0", b"2", None, None, None, None, None, None]


def newcomer(name: str) -> Newcomer:
    return Newcomer(name, PROFILE)


def answer_to(step: Step[Any], reply: Any) -> Any:
    _, answer = COMMANDS[type(step)](step, Keys("ns"))
    return answer(reply)


def words_of(step: Step[Any]) -> tuple[Any, ...]:
    command, _ = COMMANDS[type(step)](step, Keys("ns"))
    return command


ANSWERS: list[tuple[Step[Any], Any, Any]] = [
    # -- administration
    (ViewStream("jobs", 0), [7, 3, [b"b", b"a", b"\xff"], 11], StreamView(7, 3, ("\\xff", "a", "b"), 11)),
    (
        ViewGroup(GROUP),
        [
            NOW,
            1,
            encode_document(DOCUMENT),
            [[b"A", b"1699999999999", b"1699999990000 " + encode_profile(PROFILE)], [b"\xff", b"5", None], [b"B", b"inf", b"x {}"]],
            b"1699999998000",
            b"acked",
            b"1500",
            b"1699999997000",
        ],
        GroupView(
            1700000000250000,
            True,
            {"A": 1699999999999000, "B": MOST_NUMBER * 1000},
            DOCUMENT,
            0.0,
            False,
            1.5,
            {"A": Presence(1699999990000000, PROFILE)},
            1699999997000000,
        ),
    ),
    (ViewGroup(GROUP), [NOW, 0, None, [], b"0", None, None, None], GroupView(int(NOW), False, {}, None)),
    (
        ViewGroup(GROUP),
        [NOW, 0, None, [[b"A", b"1699999998250", None]], b"1699999998000", b"acked", b"2000", None],
        GroupView(int(NOW), False, {"A": 1699999998250000}, None, 2.0, True, 2.0),
    ),
    (
        ViewGroup(GROUP),
        [NOW, 0, None, [], b"1699999998250", b"acked", None, None],
        GroupView(int(NOW), False, {}, None, 2.0, False, IDLE),
    ),
    (ViewGroup(GROUP), [NOW, 0, None, [], b"1700000000251", None, None, None], GroupView(int(NOW), False, {}, None)),
    (
        ViewPartition(GROUP, 0),
        [1, 9, 2, 4, 5, 6, 8, b"77", b"A", b"3-4", [2, 1, 1, 3], b"10", 11, 12, b"13", b"14", b"15-1", b"16-2", b"17", NOW],
        PartitionView(True, 9, 2, 4, 5, 6, 8, 77, "A", b"3-4", {1: 3, 2: 1}, 10, 11, 12, 13, 14, 15, 16, 17, int(NOW)),
    ),
    (
        ViewPartition(GROUP, 0),
        [0, 0, 0, 0, 0, 0, 0, None, None, b"0-0", [], None, 0, 0, None, None, None, None, None, NOW],
        PartitionView(False, 0, 0, 0, 0, 0, 0, 0, "", b"0-0", {}, now=int(NOW)),
    ),
    (
        ReadHistory(GROUP, 3),
        [[b"3-0", [b"c", encode_change(Change("paused"))]], [b"2-0", []], [b"1-0", [b"c"]]],
        [NotedChange(b"3-0", Change("paused")), NotedChange(b"2-0", NOT_READ), NotedChange(b"1-0", NOT_READ)],
    ),
    # -- coordination
    (
        Heartbeat(GROUP, "A", 60.0, ""),
        [1, NOW, b"v", encode_document(DOCUMENT), [b"C", b"B", b"\xff"], b"1700000000001", b"5", b"6", 1, 1, STATE, 0, 0, 0],
        Beat(
            True,
            int(NOW),
            "v",
            DOCUMENT,
            (),
            ("B", "C"),
            1700000000001000,
            TopicState(0, 2),
            5000,
            6000,
            paused=True,
            watched=True,
        ),
    ),
    (
        Heartbeat(GROUP, "A", 60.0, ""),
        [0, NOW, b"v", b"\xff", [], None, b"5", b"0", 0, 0, [None] * 8, 1, 0, 0],
        Beat(False, int(NOW), "v", born=5000, damaged=True, crowded=True),
    ),
    (
        Heartbeat(GROUP, "A", 60.0, ""),
        [0, NOW, b"", None, [], None, 0, 0, 0, 0, [None] * 8, 0, 2, 999],
        Beat(False, int(NOW), crowded=True),
    ),
    (Heartbeat(GROUP, "A", 60.0, ""), [0, NOW, b"", None, [], None, 0, 0, 0, 0, [None] * 8, 0, 2, 1000], Beat(False, int(NOW))),
    (Wait(GROUP, "A", None), [1, 2, 1000], Room(True)),
    (
        Wait(GROUP, "A", newcomer("A")),
        [0, 3, 999, 1500, encode_newcomer(newcomer("A")), 250, encode_newcomer(newcomer("B"))],
        Room(False, (newcomer("A"), newcomer("B")), 0.25, 1.5, 3),
    ),
    (GiveBack(GROUP, "A", {0: 7}, 0.2), [150], Freed(0.15)),
    (GiveBack(GROUP, "A", {0: 7}, 0.2), [1], Freed(0.001)),
    (GiveBack(GROUP, "A", {0: 7}, 0.2), [-1], Freed(ASK_EVERY)),
    (
        GiveBack(GROUP, "A", {0: 7}, 0.2),
        [0, b"A", encode_leases({0: 7}), b"\xff", encode_leases({5: 1}), b"B", encode_leases({1: 8, 2: 9})],
        Freed(0.0, frozenset({(0, "A", 7), (1, "B", 8), (2, "B", 9)})),
    ),
    (ReadRunning(GROUP, "A"), None, None),
    # -- growing
    (ReadSeal("jobs", 0, 0), b"2,5", (2, 5)),
    (ReadSeal("jobs", 0, 0), b"not a seal", ()),
    (ReadSeal("jobs", 0, 0), None, ()),
    (ReadSeal("jobs", 0, 0), ServerError("WRONGTYPE x"), ()),
    (ReadPassed(GROUP, 0, 1), [0, 3, b"7-1"], Passed(False, 3, b"7-1")),
    (ReadPassed(GROUP, 0, 1), [1, 0, b""], Passed(True)),
    (ReadBarrier(GROUP, 0), b"2", 2),
    (ReadBarrier(GROUP, 0), None, 0),
    # -- leases
    (
        Install(GROUP, 0, 9, "A", foreign=True),
        [1, b"9", b"B", [b"reader:8:r2", b"b:1", b"reader:7:r1", b"a:1", b"reader:0:r1", b"x"], b"3-1 5-2", b"2"],
        Installed(True, 9, "B", (ReaderMark(7, "a:1", "r1"), ReaderMark(8, "b:1", "r2")), (b"3-1", b"5-2"), 2),
    ),
    (Install(GROUP, 0, 9, "A", foreign=True), [0, None, b"", [], b"3-1", None], Installed(False, 0, "")),
    # -- messages
    (
        ListPending(GROUP, 0, b"", 5),
        [b"A", 1700000000250, [[b"7-1", 2, 50, [b"i", b"m"]], [b"8-1", 1, 0, None]]],
        PendingPage("A", (PendingRow(b"7-1", 2, 1700000000200000, [b"i", b"m"]), PendingRow(b"8-1", 1, 1700000000250000, None))),
    ),
    (ListPending(GROUP, 0, b"", 5), [None, 1, []], PendingPage("")),
    (ListDelayed("jobs", 0, None, 5), [NOW, [[b"m", b"7", b"body"]]], ScheduledPage(int(NOW), (Scheduled(b"m", b"7", 7, b"body"),))),
    (ReadDelayed("jobs", 0, b"m"), [b"7", b"body"], Scheduled(b"m", b"7", 7, b"body")),
    (ReadDelayed("jobs", 0, b"m"), [None, None], None),
    (SearchStream("jobs", 0, b"m", b"", 5), [3, None, [b"7-1", [b"i", b"m"]]], Searched(3, None, (b"7-1", [b"i", b"m"]))),
    (SearchStream("jobs", 0, b"m", b"", 5), [5, b"2-0", None], Searched(5, b"2-0")),
    (ReadStanding(GROUP, 0, b"7-1"), [b"7-1", b"A", 1700000000250, 2, 50, None, None], Standing(False, "A", 2, 1700000000200000)),
    (ReadStanding(GROUP, 0, b"7-2"), [b"7-1", None, 5, None, None, b"9", b"x"], Standing(True, "", retry=Scheduled(b"7-2", b"9", 9, b"x"))),
    # -- producing
    (ReadAnchor("jobs", 0), {b"last-generated-id": b"7-1"}, b"7-1"),
    (ReadAnchor("jobs", 0), ServerError("ERR no such key"), None),
    (Find("jobs", 0, b"0-0", [b"m", b"n"]), [1, [b"7-1", None], b"8-1", b"7-9"], Found((b"7-1", None), True, b"8-1", b"7-9")),
    (Find("jobs", 0, b"0-0", [b"m"]), [0, [None], b"8-1", None], Found((None,), False, b"8-1")),
    # -- retention
    (
        ReadKeeping(GROUP),
        [NOW, b"acked", b"1500", b"2500", b"1700000000000", b"1699999999000"],
        Keeping(True, int(NOW), 3.0, 2.5, {"g": 0.25}),
    ),
    (ReadKeeping(GROUP), [NOW, None, None, None, b"0", b"1700000000000"], Keeping(False, int(NOW), 60.0, IDLE, {"g": 0.25})),
    (ReadKeeping(GROUP), [NOW, None, None, None, b"1700000000251", b"0"], Keeping(False, int(NOW), 60.0, IDLE, {})),
    (ReadKeeping(GROUP), [NOW, None, None, None, b"0", b"0"], Keeping(False, int(NOW), 60.0, IDLE, {})),
    (ReadKeeping(GROUP), [NOW, None, None, None, None, None], Keeping(False, int(NOW), 60.0, IDLE, {})),
    (Trim("jobs", 0, Keeping(True, 1, 2.0, 3.0, {}), ()), [5, 1, 0], Trimmed(5, more=True)),
    (Trim("jobs", 0, Keeping(True, 1, 2.0, 3.0, {}), ()), [0, 0, 1], Trimmed(0, later=True)),
    (Sight(GROUP, 0, 7, None, 0), [b"7-1", 9, 2, b"5-1", b"8-1"], Sighting(b"7-1", 9, 2, b"5-1", b"8-1")),
    # -- retrying
    (
        TakeDue(GROUP, 0, 7, 9),
        [NOW, 2, [b"7-1", encode_retry(BODY)], b"80", b"70", 0, [b"3-1"], [b"m"], 4, 1],
        Due(
            (BODY,),
            2,
            70,
            int(NOW),
            (
                SetAside(b"3-1", "its body is gone, perhaps evicted: the message is lost"),
                SetAside(b"m", "its body is gone, perhaps evicted: the message is lost"),
                SetAside(b"", "4 bodies had lost their due times, perhaps evicted: they are due now"),
            ),
            unswept=True,
        ),
    ),
    (TakeDue(GROUP, 0, 7, 9), [NOW, 0, [], None, b"70", 1, [], [], 0, 0], Due((), 0, int(NOW) + 1_000_000, int(NOW))),
    (TakeDue(GROUP, 0, 7, 9), [NOW, 0, [], None, None, 0, [], [], 0, 0], Due((), 0, None, int(NOW))),
    (
        SummariseDead(GROUP, 0, b"", 3, 7),
        [
            [b"9-0"],
            [b"8-0", b"m", None, b"E", b"text", b"5", b"7-1", b"2", b"f", b"3", b"g"],
            [b"7-0", b"m", b"k", b"", b"", b"x", b"7-1", b"", b"", b"", b""],
        ],
        [
            DeadLetterSummary(b"9-0", foreign=True),
            DeadLetterSummary(b"8-0", b"m", None, b"E", b"text", 5, b"7-1", 2, (b"f", b"3", b"g")),
            DeadLetterSummary(b"7-0", b"m", b"k", b"", b"", 0, b"7-1", 0),
        ],
    ),
    (
        CountDead(GROUP, 0, b"", 3, 7),
        [3, b"7-0", [[2, b"9-0", b"8-0", b"E", b"text", b"f", b"3", b"g"], [1, b"7-0", b"7-0"]]],
        CountedDead(
            3,
            b"7-0",
            (DeadKind(2, b"9-0", b"8-0", b"E", b"text", (b"f", b"3", b"g")), DeadKind(1, b"7-0", b"7-0", foreign=True)),
        ),
    ),
    # -- schedules
    (ReadSchedules("jobs"), [NOW, [b"a", b"1", b"\xff", b"2", b"b", b"3"]], Schedules(int(NOW), {"a": b"1", "b": b"3"})),
    (SetSchedule("jobs", "a", None, b"1"), 1, True),
    (SetSchedule("jobs", "a", None, b"1"), 0, False),
    # -- settling
    (Acknowledge(GROUP, 0, 7, [b"7-1"]), b"7", Settled(True, 7)),
    (Acknowledge(GROUP, 0, 7, [b"7-1"]), [b"8", b"3-1 5-2"], Settled(False, 8, spent=True)),
    (Acknowledge(GROUP, 0, 7, [b"7-1"]), [None, None], Settled(False, 0)),
    (Resolve(GROUP, 0, 7, [], None), [b"7", [1, 0]], Resolved(True, 7, (True, False))),
    (Resolve(GROUP, 0, 7, [], None), [b"8", [], b"3-1 5-2"], Resolved(False, 8, (), spent=True)),
    (Resolve(GROUP, 0, 7, [], None), [None, [], None], Resolved(False, 0)),
    (ReadRemaining(GROUP, 0), [1, 2, 3, 4], Remaining(True, 2, 3, 4)),
    (ReadRemaining(GROUP, 0), [0, 0, 0, 0], Remaining(False, 0)),
    # -- topics
    (ReadTopics(), {b"b", b"a", b"\xff"}, ["a", "b"]),
    (ReadTopic("jobs"), [None] * 9, None),
    (ReadTopic("jobs"), [*STATE, None], TopicState(0, 2)),
    (ReadTopic("jobs"), [*STATE, b"5 0 7"], TopicState(0, 2, held_up=HeldUp(5000, 0, 7))),
    (ReadTopic("jobs"), [*STATE, b"5 1 7"], TopicState(0, 2, held_up=HeldUp(5000, 1, 7))),
    (ReadTopic("jobs"), [*STATE, b"5 0"], TopicState(0, 2)),
    (ReadTopic("jobs"), [*STATE, b"5 0 x"], TopicState(0, 2)),
    (ReadTopic("jobs"), [*STATE, b"5 0 7 7"], TopicState(0, 2)),
    (
        ReadTopic("jobs"),
        [b"1", b"5", b"acked", b"1500", b"2", b"2,5", b"6", b"77", None],
        TopicState(1, 5, True, 1.5, 2, (2, 5), 6, 77),
    ),
    (ReadTopic("jobs"), [b"1", b"5", None, None, b"2", b"2,5", b"5", None, None], TopicState(1, 5, False, 0.0, 2, (2, 5))),
    (ReadTopic("jobs"), [b"0", b"1", None, None, None, None, None, None, None], TopicState(0, 1)),
    (
        ReadTopic("jobs"),
        [b"0", b"%d" % MOST_PARTITIONS, None, None, None, None, None, None, None],
        TopicState(0, MOST_PARTITIONS),
    ),
]


@pytest.mark.parametrize(("step", "reply", "answer"), ANSWERS, ids=[f"{type(one).__name__}-{at}" for at, (one, *_) in enumerate(ANSWERS)])
def test_what_a_reply_means(step: Step[Any], reply: Any, answer: Any) -> None:
    assert answer_to(step, reply) == answer


DAMAGED: list[tuple[list[bytes | None], str]] = [
    ([b"0", b"0", *[None] * 7], "says 0 partitions in generation 0, but a topic has 1 to"),
    ([b"0", b"%d" % (MOST_PARTITIONS + 1), *[None] * 7], f"says {MOST_PARTITIONS + 1} partitions in generation 0"),
    ([b"0", None, *[None] * 7], "says no partitions in generation 0"),
    ([None, b"2", *[None] * 7], "says 2 partitions in generation None"),
    ([None, None, b"acked", *[None] * 6], "says no partitions in generation None"),
    ([b"1", b"5", None, None, b"2", b"2,6", None, None, None], "says 5 partitions, and has b'2,6' as its history"),
    ([b"1", b"5", None, None, b"2", b"5,5", None, None, None], "says 5 partitions, and has b'5,5' as its history"),
    ([b"1", b"5", None, None, b"2", b"0,5", None, None, None], "says 5 partitions, and has b'0,5' as its history"),
    ([b"1", b"5", None, None, b"2", b"5", None, None, None], "says 5 partitions, and has b'5' as its history"),
    ([b"1", b"5", None, None, b"2", b"x,5", None, None, None], "says 5 partitions, and has b'x,5' as its history"),
    ([b"x" * 50, b"2", *[None] * 7], f"has {b'x' * 40!r} as its generation"),
    ([b"0", b"2", None, b"x", *[None] * 5], "has b'x' as its send_timeout"),
    ([b"0", b"2", None, None, b"x", *[None] * 4], "has b'x' as its format"),
    ([b"0", b"2", None, None, None, None, b"x", None, None], "has b'x' as its pending"),
    ([b"0", b"2", None, None, None, None, None, b"x", None], "has b'x' as its grown"),
]


@pytest.mark.parametrize(("reply", "why"), DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_topic_is_named(reply: list[bytes | None], why: str) -> None:
    with pytest.raises(DamagedKeyError) as caught:
        answer_to(ReadTopic("jobs"), reply)
    assert why in str(caught.value)
    assert "{ns:jobs}:meta" in str(caught.value)


def test_a_layout_that_is_not_known_is_refused_before_anything_else_is_read() -> None:
    """Its other fields may mean something else."""
    with pytest.raises(UnknownFormatError):
        answer_to(ReadTopic("jobs"), [b"x", b"x", None, None, b"3", *[None] * 4])
    assert answer_to(ReadTopic("jobs"), [b"0", b"2", None, None, b"2", *[None] * 4]).format == 2
    assert TopicState(0, 2).format == 1, "members of older versions read a topic that has never grown"


def test_what_only_a_lack_tells_is_no_topic() -> None:
    """A topic is there as soon as one of its numbers, or what a producer asks, is; no other field makes one."""
    assert answer_to(ReadTopic("jobs"), [None, None, None, None, b"1", b"2,5", b"7", b"8", None]) is None


# -- what is asked ----------------------------------------------------------------------------------------------------------------------


def test_times_are_given_in_milliseconds() -> None:
    assert words_of(Heartbeat(GROUP, "A", 1.0005, "v"))[-2] == 1001, "rounded up: no lease ends too early"
    assert words_of(Wait(GROUP, "A", None))[-2:] == (round(TURN * 1000), round(STAYS * 1000))
    expected = (200, round((GATHER_TURN + 0.2) * 1000), round(FREED_LASTS * 1000))
    assert words_of(GiveBack(GROUP, "A", {0: 7}, 0.2))[-3:] == expected
    keeping = Keeping(True, 5, 2.0, 3.0, {"late": 3.0, "soon": 2.9})
    trim = words_of(Trim("jobs", 0, keeping, ("g", "late", "soon")))
    assert trim[4:] == (5, 2000, 3000, MOST, 1, "late", "g", "soon")
    assert MOST == 10_000, "the server does nothing else meanwhile"


@pytest.mark.parametrize(
    ("window", "due", "maxlen", "approximate", "words"),
    [
        (1.5, None, None, True, (1500, b"", 0, b"")),
        (0.0001, None, 7, True, (1, b"~", 7, b"")),
        (60.0, 9, 7, False, (60_000, b"=", 7, 9)),
    ],
)
def test_what_an_append_under_a_mark_asks(window: float, due: int | None, maxlen: int | None, approximate: bool, words: Any) -> None:
    """E7."""
    fields = [b"i", b"m", b"d", b"1"]
    asked = words_of(AppendOnce("jobs", 0, fields, "mine", window, due=due, maxlen=maxlen, approximate=approximate))
    keys = (b"{ns:jobs:0}:once:mine", b"{ns:jobs:0}:0", b"{ns:jobs:0}:delayed", b"{ns:jobs:0}:delayed:body")
    body = encode_delayed(fields) if due else b""
    assert asked[3:] == (*keys, b"m", *words, b"{ns:jobs:0}", body, *fields)


def test_what_a_look_for_losses_asks() -> None:
    """What was seen before counts only if its ordinal is known."""
    for since, words in (
        (None, (b"", 0)),
        (Sighting(b"7-1", 0), (b"7-1", 0)),
        (Sighting(b"7-1", 5), (b"7-1", 5)),
        (Sighting(b"7-1", None), (b"", 0)),
    ):
        assert words_of(Sight(GROUP, 0, 9, since, 4))[-5:] == ("g", 9, *words, 4)


def test_who_names_no_message_retries_none() -> None:
    assert words_of(RetryNow(GROUP, 0, [], 5))[-2:] == (0, b"")
    assert words_of(RetryNow(GROUP, 0, None, 5))[-1:] == (5,)
    assert words_of(RetryNow(GROUP, 0, [b"7-1"], 5))[-2:] == (5, b"7-1")


def test_what_is_asked_without_more_words() -> None:
    """The defaults of steps: a view counts deliveries of a thousand, a look at the tail takes ten thousand entries."""
    assert words_of(ViewPartition(GROUP, 0))[-1] == 1000
    assert words_of(ViewPartition(GROUP, 0, deliveries=False))[-1] == 0
    assert words_of(Find("jobs", 0, b"0-0", []))[-1] == 10_000
    assert words_of(ReadBacklog("jobs", 0))[-1] == 0, "it is counted however many there are"
    assert words_of(ReadPassed(GROUP, 0, 1))[-2:] == (0, b""), "it is found out only whether there is one"
    assert words_of(SetPaused(GROUP, paused=True))[-2:] == (1, b"")
    assert words_of(MakeGroup(GROUP, 0, latest=True))[-4:-1] == ("g", b"$", 0)
    assert words_of(MakeGroup(GROUP, 0, latest=False, younger=True))[-4:-1] == ("g", b"0", 1)


# -- keys -------------------------------------------------------------------------------------------------------------------------------


def test_keys_of_a_group_follow_its_topic_and_are_not_kept_without_end() -> None:
    keys = Keys("ns")
    other = GroupName("other", "g")
    for group in (GROUP, other):
        keys.of_partition(group, 0)
    keys.learn("jobs", (2, 5), keys.ask())
    assert keys.of_partition(GROUP, 0).stream == b"{ns:jobs:0}:1"
    assert keys.of_partition(other, 0).stream == b"{ns:other:0}:0"
    first = keys.of_partition(GROUP, 0)
    for partition in range(1, KEPT):
        keys.of_partition(GROUP, partition)
    assert keys.of_partition(GROUP, 0) is first
    keys.of_partition(GROUP, KEPT)
    again = keys.of_partition(GROUP, 0)
    assert again == first
    assert again is not first, "who looks at more of them makes the keys again"
    assert KEPT == 2000, "650 bytes each"


def test_the_answer_to_the_same_question_counts_again() -> None:
    keys = Keys("ns")
    question = keys.ask()
    for history in ((2, 5), (2, 5, 6)):
        keys.learn("jobs", history, question)
        assert keys.number("jobs") == len(history) - 1
    assert keys.names("jobs", 0) == [b"{ns:jobs:0}:cuts", b"{ns:jobs:0}:1", b"{ns:jobs:0}:0"]
    assert keys.names("jobs", 0, (2, 5)) == [b"{ns:jobs:0}:cuts", b"{ns:jobs:0}:0"]
    assert keys.names("other", 0) == []
    assert keys.stream("jobs", 0, 0) == b"{ns:jobs:0}:0"


def test_the_greatest_number_of_an_id() -> None:
    assert LAST == 18_446_744_073_709_551_615
