"""Snapshots are made of reports alone: rates, gaps, curves, colours, owners, in virtual time."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from redisaq.admin_views import DeadSummary, GroupInfo, HistoryEntry, MemberInfo, PartitionInfo, StreamInfo, TopicInfo
from redisaq.core.history import Taker
from redisaq.watching.accumulator import Accumulator
from redisaq.watching.curves import Series
from redisaq.watching.snapshot import Curve, GroupView, Snapshot

T0 = 1_764_360_000.0  # a multiple of 20 s and of 5 minutes


def moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


class Scene:
    """One topic and one group, whose partitions are reported as the test says."""

    def __init__(self, partitions: int = 1, members: tuple[MemberInfo, ...] | None = None) -> None:
        self.now = T0
        self.seen = Accumulator()
        self.partitions = partitions
        self.counts = {
            number: dict.fromkeys(("unread", "pending", "retry", "dead", "added", "died", "redriven", "moves", "lost"), 0)
            for number in range(partitions)
        }
        self.members = (MemberInfo("a", "A", 9.0, tuple(range(partitions))),) if members is None else members
        self.oldest: float | None = None
        self.group: dict[str, Any] = {}

    def look(self, seconds: float = 2.0, *numbers: int) -> GroupView:
        """Let time pass, report these partitions (default: all), and return the group."""
        self.now += seconds
        at = moment(self.now)
        self.seen.saw_topics(["orders"], self.now)
        count = self.partitions
        self.seen.saw_topic(TopicInfo("orders", 0, (), ("billing",), count, acked=True), self.now)
        infos = [self.info(number, at) for number in numbers or range(count)]
        self.seen.saw_group(
            GroupInfo("orders", "billing", members=self.members, partitions=tuple(infos), now=at, **{"paused": False, **self.group})
        )
        self.seen.server_answered(self.now)
        found = self.snapshot().group("orders", "billing")
        assert found is not None
        return found

    def looks(self, times: int, **by: int) -> GroupView:
        """Look so many times, and let partition 0 change before each."""
        view: GroupView | None = None
        for _ in range(times):
            self.add(**by)
            view = self.look()
        assert view is not None
        return view

    def info(self, number: int, at: datetime) -> PartitionInfo:
        counts = self.counts[number]
        return PartitionInfo(
            number,
            "",
            "",
            7,
            length=counts["added"],
            delayed=0,
            last_delivered="0-0",
            deliveries={},
            oldest_unread=self.oldest,
            now=at,
            waits=None,
            **counts,
        )

    def snapshot(self) -> Snapshot:
        return self.seen.snapshot(self.now)

    def add(self, number: int = 0, **by: int) -> None:
        for name, more in by.items():
            self.counts[number][name] += more


def test_rates_are_differences() -> None:
    scene = Scene()
    assert (scene.look().arriving, scene.look().handled) == (None, 0.0)
    view = scene.looks(6, added=20, unread=12)  # 10/s in, 4/s out
    assert view.arriving == pytest.approx(10.0)
    assert view.handled == pytest.approx(4.0)
    assert (view.unread, view.caught_up_in) == (72, math.inf)
    view = scene.looks(6, added=2, unread=-6)
    assert view.caught_up_in == pytest.approx(36 / 3)


def test_trimming_breaks_no_rate() -> None:
    """`added` counts on, whatever the length does."""
    scene = Scene()
    scene.look()
    view = scene.looks(4, added=20)
    assert view.arriving == pytest.approx(10.0)


def test_a_redrive_is_not_negative_work_and_a_purge_is_none() -> None:
    scene = Scene()
    scene.add(dead=100, died=100)
    scene.look()
    scene.add(dead=-60, redriven=60, retry=60)
    assert scene.look().handled == 0.0
    scene.add(dead=-40)  # purged
    assert scene.look().handled == 0.0
    scene.add(retry=-60)
    assert scene.look(6.0).handled == pytest.approx(60 / 10)


def test_what_dies_is_handled_and_fresh_for_five_minutes() -> None:
    scene = Scene()
    scene.look()
    scene.add(added=1, dead=1, died=1)
    assert (scene.look().fresh, scene.look(240.0).fresh, scene.look(61.0).fresh) == (1, 1, 0)


@pytest.mark.parametrize("how", [{"moves": 1, "unread": -500}, {"added": -900, "unread": -500}], ids=["seek", "stream lost"])
def test_what_was_moved_or_lost_is_a_gap(how: dict[str, int]) -> None:
    scene = Scene()
    scene.add(added=1000, unread=600)
    scene.look()
    scene.add(**how)
    assert scene.look().handled is None
    assert scene.look(6.0).handled is None
    assert scene.look(6.0).handled == 0.0


def test_partitions_that_are_looked_at_in_turn_add_up() -> None:
    """Of thousands of partitions each is looked at at another time; the rate is right, and its age is said."""
    scene = Scene(partitions=4)
    view = scene.look()
    for turn in range(40):
        for number in range(4):
            scene.add(number, added=5)
        view = scene.look(1.0, turn % 4)
    assert view.arriving == pytest.approx(20.0, rel=0.15)
    assert view.within == 3.0


def test_curves_have_gaps_where_nobody_looked() -> None:
    scene = Scene()
    view = scene.looks(31, added=20)
    assert view.arriving_curve is not None
    assert list(view.arriving_curve.near.values[-3:]) == pytest.approx([10.0] * 3)
    scene.now += 100
    view = scene.look()
    near = view.arriving_curve
    assert near is not None
    later = scene.look(20.0).arriving_curve
    assert later is not None
    assert later.near.values[-6:-2] == (None,) * 4
    assert len(later.near.data) == 4 * 90
    assert len(later.far.data) == 4 * 288


def test_a_series_keeps_half_an_hour_and_a_day() -> None:
    series = Series()
    for number in range(1, 4321):
        series.put(T0 + 20 * number, float(number % 15))
    assert series.curves.near.values == tuple(float(number % 15) for number in range(4231, 4321))
    assert list(series.curves.far.values) == pytest.approx([7.0] * 288)
    series.put(T0 + 20 * 4320 + 7200, 1.0)
    assert series.curves.near.values == (None,) * 89 + (1.0,)
    assert [value is None for value in series.curves.far.values[-25:]] == [False] + [True] * 23 + [False]
    series.put(T0, 5.0)  # a server whose clock is behind
    assert series.curves.near.values[-1] == 1.0


def test_a_curve_is_bytes_for_a_browser() -> None:
    curve = Curve.of(20, T0, [1.0, None, 2.5])
    assert curve.data == b"\x00\x00\x80?" + curve.data[4:8] + b"\x00\x00 @"
    assert curve.values == (1.0, None, 2.5)


def member(name: str, *partitions: int, expires_in: float | None = 9.0) -> MemberInfo:
    return MemberInfo(name, name.upper(), expires_in, partitions)


def test_members_keep_their_slots() -> None:
    scene = Scene(partitions=3, members=(member("a", 0), member("b", 1), member("c", 2)))
    assert [(one.slot, one.tag, one.name) for one in scene.look().members] == [(0, "A", "a"), (1, "B", "b"), (2, "C", "c")]
    scene.members = (member("b", 0, 1), member("c", 2))
    view = scene.look()
    assert [(one.slot, one.name) for one in view.members] == [(1, "b"), (2, "c")]
    assert [(one.slot, one.name, one.gone, one.went) for one in view.gone] == [(0, "a", scene.now, "left")]
    assert [one.owner for one in view.partitions] == [1, 1, 2]
    scene.members = (member("b", 0, 1), member("c", 2), member("d"))
    assert [(one.slot, one.tag) for one in scene.look().members] == [(1, "B"), (2, "C"), (3, "D")]
    again = MemberInfo("a", "A2", 9.0, ())
    scene.members = (member("b", 0, 1), member("c", 2), member("d"), again)
    assert next((one.slot, one.name) for one in scene.look().members) == (0, "a")
    scene.members = (member("b", 0, 1), member("c", 2))
    scene.look()
    scene.look(3601.0)
    scene.members = (member("b", 0, 1), member("c", 2), member("e"))
    assert [(one.slot, one.name) for one in scene.look().members] == [(0, "e"), (1, "b"), (2, "c")]


def test_the_longest_serving_member_has_the_first_slot() -> None:
    young = MemberInfo("young", "A", 9.0, host="h", pid=2, version="2", since=moment(T0 - 5), ttl=12.0)
    old = MemberInfo("old", "B", 3.0, host="h", pid=1, version="1", since=moment(T0 - 50), ttl=12.0)
    scene = Scene(members=(MemberInfo("silent", "0", 9.0), young, old))
    first, second, third = scene.look().members
    assert (first.name, second.name, third.name) == ("old", "young", "silent")
    assert (first.place, first.since, first.heartbeat, first.ttl, first.version) == ("h:1", T0 - 50, 9.0, 12.0, "1")
    assert (third.place, third.since, third.heartbeat) == ("silent", None, None)
    assert scene.look().ttl == 12.0


def test_a_member_that_went_without_a_word_was_taken_for_dead() -> None:
    scene = Scene(members=(member("a", 0, expires_in=-0.5), member("b")))
    scene.look()
    scene.members = (member("b", 0),)
    assert [(one.name, one.went) for one in scene.look().gone] == [("a", "taken for dead")]


def test_a_partition_without_an_owner() -> None:
    scene = Scene(partitions=2, members=(member("a", 0), member("b", 1)))
    assert [one.unowned for one in scene.look().partitions] == [None, None]
    scene.members = (member("a", 0), member("b", 1, expires_in=0.0))
    view = scene.looks(5)
    assert [(one.owner, one.unowned) for one in view.partitions] == [(0, None), (None, scene.now - 8.0)]
    (found,) = scene.snapshot().attention
    assert (found.subject, found.more, found.screen.partition) == ("orders/1", "b owned it last.", 1)
    scene.members = (member("a", 0, 1),)
    scene.look()
    scene.look()
    assert scene.snapshot().attention == ()


def test_states() -> None:
    scene = Scene()
    assert (scene.look().state, scene.snapshot().well) == ("keeps up", "Nothing. Every group keeps up; nothing waits.")
    scene.seen.saw_history("orders", "billing", [entry("resumed", T0 - 3 * 86_400, by="mara")])  # the clock alone would say today
    scene.look()
    assert scene.snapshot().well.endswith(" The last thing here: 25 Nov 20:00 UTC, orders › billing: resumed by mara.")
    scene.group = {"paused": True}
    view = scene.look()
    assert (view.state, view.severity) == ("paused", "calm")
    scene.group, scene.members = {"alone": 60.0}, ()
    scene.add(unread=4, added=4)
    scene.look()
    view = scene.look()
    assert (view.state, view.severity, view.oldest) == ("no members", "warn", None)
    scene.members, scene.group = (member("a", 0),), {}
    for passed in range(0, 80, 2):
        scene.oldest = 700.0 + passed
        view = scene.look()
    assert (view.state, view.severity, view.oldest) == ("behind", "bad", 778.0)
    assert scene.snapshot().well == ""


def test_a_server_that_is_away_keeps_the_last_numbers() -> None:
    scene = Scene()
    scene.add(added=5, unread=5)
    scene.look()
    since = scene.now + 2
    for _ in range(3):
        scene.now += 2
        scene.seen.server_failed("Connection refused", scene.now)
    found = scene.snapshot()
    assert (found.server.state, found.server.since, found.server.error) == ("away", since, "Connection refused")
    assert found.totals.backlog == 5
    assert (found.attention[0].key, found.within) == ("server", 6.0)
    scene.look()
    assert (scene.snapshot().server.state, scene.snapshot().attention) == ("here", ())


def test_what_is_gone_is_forgotten() -> None:
    scene = Scene()
    scene.group = {"paused": True}
    scene.look()
    scene.seen.missing_group("orders", "billing")
    found = scene.snapshot()
    assert ([topic.groups for topic in found.topics], found.attention) == ([()], ())
    scene.look()
    scene.seen.saw_topics([], scene.now)
    assert (scene.snapshot().topics, scene.snapshot().attention) == ((), ())


def test_a_topic_without_groups() -> None:
    seen = Accumulator()
    for turn in range(3):
        at = T0 + 2 * turn
        seen.saw_topics(["sessions"], at)
        seen.saw_topic(TopicInfo("sessions", 0, (StreamInfo(0, 40, 1, 40 + 20 * turn), StreamInfo(1, 1, 0, 1)), (), 2), at)
    found = seen.snapshot(T0 + 4)
    (topic,) = found.topics
    assert topic.arriving == pytest.approx(10.0)
    assert (topic.length, topic.lengths, topic.delayed) == (41, (40, 1), 1)
    assert [one.key for one in found.attention] == ["nobody:sessions"]


def test_the_same_reports_make_the_same_snapshots() -> None:
    def tell() -> Snapshot:
        scene = Scene(partitions=3, members=(member("b", 0), member("a", 1)))
        for turn in range(12):
            scene.add(turn % 3, added=7, unread=turn % 2)
            scene.look()
        return scene.snapshot()

    assert tell() == tell()


def test_only_so_many_groups_have_curves() -> None:
    seen = Accumulator()
    names = [f"t{number:04}" for number in range(600)]
    seen.saw_topics(names, T0)
    curves = [topic.arriving_curve is not None for topic in seen.snapshot(T0).topics]
    assert (sum(curves), curves[0], curves[-1]) == (500, True, False)


def entry(what: str, at: float, **more: Any) -> HistoryEntry:
    values: dict[str, Any] = {"member": "", "name": "", "by": "", "partitions": (), "count": None, "to": "", **more}
    return HistoryEntry(f"{int(at * 1000)}-0", moment(at), what, **values)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (entry("joined", T0, member="A", name="host-2:7"), "host-2:7 joined"),
        (entry("left", T0, member="A", name="host-2:7"), "host-2:7 left"),
        (
            entry("taken for dead", T0, name="host-2:7", by="host-1:1", partitions=((3, 3),), count=1),
            "host-2:7 was taken for dead by host-1:1: partition 3 lost its owner",
        ),
        (
            entry("taken for dead", T0, name="host-2:7", partitions=((3, 4), (9, 9)), count=3),
            "host-2:7 was taken for dead: partitions 3–4, 9 lost their owner",
        ),
        (
            entry(
                "taken for dead",
                T0,
                name="b",
                partitions=((3, 4),),
                count=2,
                takers=(Taker("C", "c", ((3, 3),)), Taker("D", "d", ((4, 4),))),
            ),
            "b was taken for dead: partitions 3–4 lost their owner; c takes over 3; d takes over 4",
        ),
        (entry("unreadable", T0), "a change that this version of redisaq cannot read"),
        (entry("grown", T0, partitions=((4, 7),), count=8), "grown to 8 partitions"),
        (entry("paused", T0, by="mara@ops-1"), "paused by mara@ops-1"),
        (entry("sought", T0, by="mara", partitions=((0, 3),), count=4, to="latest"), "moved to latest by mara: 4 partitions"),
        (entry("redriven", T0, by="mara", count=1204), "1,204 dead letters redriven by mara"),
        (entry("blessed", T0, by="a later version"), "blessed by a later version"),
    ],
)
def test_history_reads_as_sentences(found: HistoryEntry, sentence: str) -> None:
    scene = Scene()
    scene.look()
    scene.seen.saw_history("orders", "billing", [found])
    history = scene.look().history
    assert history is not None
    assert [(one.sentence, one.at) for one in history] == [(sentence, T0)]


def test_those_who_take_over_are_named_by_their_process() -> None:
    scene = Scene(members=(member("a", 0), member("b")))
    scene.look()
    takers = (Taker("B", "b", ((0, 0),)), Taker("X", "x", ((1, 1),)))
    scene.seen.saw_history("orders", "billing", [entry("taken for dead", T0, name="a", partitions=((0, 1),), count=2, takers=takers)])
    view = scene.look()
    assert view.history is not None
    assert view.history[0].takers == ((1, (0,)),)
    assert f"; {view.members[1].place} takes over 0; x takes over 1" in view.history[0].sentence


def test_the_history_tells_how_a_member_went_and_who_paused() -> None:
    scene = Scene(members=(member("a", 0), member("b")))
    scene.look()
    scene.members, scene.group = (member("b", 0),), {"paused": True}
    scene.look()
    scene.seen.saw_history("orders", "billing", [entry("paused", T0 + 3, by="mara"), entry("taken for dead", T0 + 1, member="A")])
    (gone,) = scene.look().gone
    assert (gone.went, gone.gone) == ("taken for dead", T0 + 1)
    (found,) = scene.snapshot().attention
    assert (found.sentence, found.since) == ("has been paused for 3 s by mara.", T0 + 3)


def test_new_dead_letters_are_explained() -> None:
    scene = Scene(partitions=3)
    scene.look()
    assert scene.seen.unexplained_dead("orders", "billing") == []
    scene.add(1, dead=2, died=2, added=2)
    scene.look()
    assert scene.seen.unexplained_dead("orders", "billing") == [1]
    letter = DeadSummary(
        "orders", "billing", 1, "1-0", "m", "1-0", None, "TimeoutError", "", 5, moment(scene.now - 20), 0, "bank.py:41", "k"
    )
    scene.seen.saw_dead("orders", "billing", [letter])
    assert scene.seen.unexplained_dead("orders", "billing") == []
    scene.look(0.1)
    (found,) = scene.snapshot().attention
    assert (found.subject, found.code, found.more) == ("2 new dead letters", "TimeoutError", "at bank.py:41, 20 s ago.")


def test_names_with_colons_are_not_taken_for_others() -> None:
    """Topic "a" has a group "b:c", and topic "a:b" a group "c": each keeps its own state."""
    seen = Accumulator()
    for step in range(3):
        at = T0 + 2 * step
        seen.saw_topics(["a", "a:b"], at)
        for topic, group, paused in (("a", "b:c", True), ("a:b", "c", False)):
            seen.saw_topic(TopicInfo(topic, 0, (StreamInfo(0, 0, 0, 0),), (group,), 1), at)
            seen.saw_group(GroupInfo(topic, group, paused, (MemberInfo("m", "M", 9.0, (0,)),), (), now=moment(at)))
    snapshot = seen.snapshot(T0 + 6)
    states = {(topic.topic, group.group): group.state for topic in snapshot.topics for group in topic.groups}
    assert states == {("a", "b:c"): "paused", ("a:b", "c"): "keeps up"}
    assert [one.key for one in snapshot.attention] == ["paused:a:b%3Ac"]
