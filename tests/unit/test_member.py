"""A member: what an answer tells it, when it looks next (M7 to M12). Without a broker."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from redisaq.brokers.steps.coordination import Beat
from redisaq.brokers.steps.topics import TopicState
from redisaq.consuming.member import Member
from redisaq.core.deltas import delta_of
from redisaq.core.membership import CROWD, FORGET_US, UNKNOWN, Document, MemberEntry
from redisaq.environment import Environment

NOW = 1_700_000_000_000_000
SECOND = 1_000_000
TOPIC = TopicState(0, 4)


class Half(random.Random):
    def random(self) -> float:
        return 0.5


def group(count: int) -> Document:
    names = {f"m{number}": MemberEntry(f"m{number}") for number in range(count)}
    return Document(7, names, 4, dict.fromkeys(range(4), "m0"), dict.fromkeys(range(4), "m0"), dict.fromkeys(range(4), 1))


def member_of(document: Document | None) -> Member:
    member = Member(None, 10.0, Environment(clock=lambda: 100.0, random=Half()))
    member.document, member.version, member.topic, member.partitions = document, "v", TOPIC, 4
    return member


def beat(**changes: object) -> Beat:
    return replace(Beat(alive=True, now=NOW, version="v", topic=TOPIC), **changes)


@pytest.mark.parametrize(("count", "seconds"), [(CROWD, 0.0), (CROWD + 1, (CROWD + 1) * 0.0002), (20_000, 1.0)])
def test_a_crowd_spreads_its_looks(count: int, seconds: float) -> None:
    """M12: over a time that grows with it, up to a limit."""
    member = member_of(group(count))
    assert member.spread() == pytest.approx(seconds / 2)
    member.observe(beat(next_expiry=NOW + 2 * SECOND))
    assert member.next_look == pytest.approx(102.0 + seconds / 2)


def test_it_begins_outside_the_group_and_knows_nothing_of_the_topic() -> None:
    member = Member("name", 10.0, Environment())
    assert (member.joined, member.version, member.document, member.next_look) == (False, "", None, float("inf"))
    assert (member.topic, member.partitions, member.topic_missing, member.forgotten, member.retention) == (None, 0, False, False, False)


def test_it_looks_next_when_the_first_thing_happens_that_no_ring_tells() -> None:
    """M5, M7, M8: what lies before the answer has happened already."""
    unable = replace(group(2), unable={1: {"m0": NOW - FORGET_US + 3 * SECOND}})
    member = member_of(unable)
    for changes, seconds in (
        ({}, 3.0),
        ({"next_expiry": NOW + 2 * SECOND}, 2.0),
        ({"frozen_until": NOW + SECOND}, 1.0),
        ({"frozen_until": NOW, "next_expiry": NOW - 1}, 3.0),
    ):
        member.observe(beat(**changes))
        assert member.next_look == pytest.approx(100.0 + seconds), changes
    member.observe(beat(document=group(2)))
    assert member.next_look == float("inf")


def test_a_retention_is_reported_once() -> None:
    member, reported = member_of(None), list[bool]()
    member.on_retention = lambda: reported.append(True)
    for acked in (False, True, True):
        member.observe(beat(topic=replace(TOPIC, acked=acked)))
        assert member.retention == acked
    assert reported == [True]


def test_the_newest_document_is_computed_from_deltas() -> None:
    """M10: none is better than a wrong one."""
    before = group(200)
    after = replace(before, epoch=8, token={**before.token, 0: 9})
    delta, member = delta_of(before, after), member_of(before)
    assert delta is not None
    assert member.newest(beat()) is before
    assert member.newest(beat(version="w")) is None
    assert member.newest(beat(version="w", deltas=(delta,))) == after
    assert member.newest(beat(version="w", deltas=(delta, delta))) is None, "the second one is of another document"
    assert member.newest(beat(version="w", document=after)) is after
    assert member_of(None).newest(beat(version="w", deltas=(delta,))) is None


def test_what_is_news() -> None:
    """M3, M5, M7, M8, G1: the coordinator sleeps through anything else."""
    known = group(2)
    stranger = replace(known, lease={**known.lease, 0: UNKNOWN})
    unable = replace(known, unable={1: {"m0": NOW - FORGET_US}})
    for document, changes, news in (
        (known, {}, False),
        (known, {"version": "w"}, True),
        (known, {"paused": True}, True),
        (known, {"expired": ("m1",)}, True),
        (known, {"expired": ("gone",)}, False),
        (known, {"expired": ("m1",), "frozen_until": NOW}, True),
        (known, {"expired": ("m1",), "frozen_until": NOW + 1}, False),
        (stranger, {}, True),
        (stranger, {"frozen_until": NOW + 1}, False),
        (unable, {}, True),
        (unable, {"now": NOW - 1}, False),
        (None, {}, False),
        (known, {"topic": None}, True),
        (known, {"topic": replace(TOPIC, partitions=5)}, True),
        (known, {"topic": replace(TOPIC, pending=5)}, True),
        (known, {"topic": replace(TOPIC, history=(2, 4))}, True),
    ):
        assert member_of(document).news(beat(**changes), paused=False) == news, changes
