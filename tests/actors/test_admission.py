"""How a member enters its group and leaves it, request by request (M1, M2, M5, M8, M11, E5, G6). In virtual time."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from redisaq import events
from redisaq.brokers.steps.coordination import Beat, Commit, Heartbeat, MakeGroup, Wait
from redisaq.brokers.steps.topics import MakeTopic, TopicState
from redisaq.consuming.member import Admission, Member
from redisaq.core.membership import Document, MemberEntry
from redisaq.core.waiting import Room
from redisaq.errors import ConnectionFailed
from tests.actors.answering import Answering, surroundings_of
from tests.actors.group import TRIO_ALONE, Notebook

pytestmark = TRIO_ALONE
TOPIC = TopicState(0, 4)


def group(*names: str, partitions: int = 4) -> Document:
    """Return a document in which the first of these holds everything."""
    leases = dict.fromkeys(range(partitions), names[0])
    return Document(7, {name: MemberEntry(name) for name in names}, partitions, leases, leases, dict.fromkeys(range(partitions), 3))


class Entering:
    """A member before it has joined."""

    def __init__(self, document: Document | None = None, **settings: Any) -> None:
        self.notebook, self.ready, self.looks = Notebook(), list[Any](), list[str]()
        self.began = anyio.current_time()
        self.beat = Beat(
            alive=False, now=1_000_000, version="v" if document else "", document=document, topic=TOPIC, born=5, frozen_until=6
        )
        self.accepts, self.room = True, Room()
        self.broker = Answering(self.answer)
        self.around = surroundings_of(self.broker, self.notebook, **settings)
        self.around.look_at_growth = lambda: self.looks.append("look")
        self.member = Member(None, 12.0, self.around.environment)
        self.me = self.member.lease.incarnation
        self.admission = Admission(self.around, self.member, self.ready.append)

    def answer(self, step: Any) -> Any:
        match step:
            case Heartbeat():
                return self.beat
            case Commit():
                return self.accepts
            case Wait():
                return self.room
            case MakeTopic():
                return TopicState(1, step.partitions)
            case _:
                return None

    def steps(self) -> list[str]:
        """Return the names of the steps since the last call."""
        names = [step.name for _, step in self.broker.steps]
        self.broker.steps.clear()
        return names

    @property
    def told(self) -> list[str]:
        return [type(event).__name__ for event in self.notebook.events]

    @property
    def commit(self) -> Commit:
        return self.broker.of(Commit)[-1]  # type: ignore[no-any-return]


async def test_m2_it_joins_by_one_change_and_leaves_by_one() -> None:
    entering = Entering(group("a", "b"))
    assert await entering.admission.join() == "joined"
    commit, member = entering.commit, entering.member
    assert (commit.joins, commit.leaves, commit.freeze, commit.known_version, commit.ttl) == (True, False, False, "v", 12.0)
    assert entering.steps() == ["heartbeat", "commit"]
    assert (member.joined, member.version, member.document) == (True, commit.new_version, commit.document)
    assert (member.lease.born, member.lease.frozen_until, member.lease.deadline) == (5, 6, entering.began + 10.0)
    assert (entering.told, entering.around.bulletin.member, entering.around.contact.heartbeat) == (
        ["MemberJoined"],
        entering.me,
        entering.began,
    )
    assert await entering.admission.leave()
    assert (entering.commit.leaves, entering.commit.joins, entering.commit.known_version) == (True, False, commit.new_version)
    assert set(entering.commit.document.members) == {"a", "b"}
    assert entering.steps() == ["commit"]


@pytest.mark.parametrize("way", ["never joined", "refused", "expired"])
async def test_one_that_is_no_member_has_nothing_to_leave(way: str) -> None:
    entering = Entering(group("a"))
    if way == "refused":
        entering.accepts = False
        assert await entering.admission.join() == "refused"
        entering.admission.pause = None
    elif way == "expired":
        assert await entering.admission.join() == "joined"
        await anyio.sleep(10.0)
    entering.steps()
    assert await entering.admission.leave()
    assert entering.steps() == []


async def test_m11_one_that_is_refused_waits_next_and_stops_waiting_when_it_leaves() -> None:
    entering = Entering(group("a"))
    entering.accepts = False
    assert await entering.admission.join() == "refused"
    assert entering.admission.pause == 0.0
    entering.steps()
    assert await entering.admission.join() == "waits"
    assert entering.admission.pause == 0.25
    assert entering.steps() == ["wait"]
    assert await entering.admission.leave()
    assert [step.newcomer for step in entering.broker.of(Wait)] == [None]
    assert entering.steps() == ["wait"]
    assert entering.admission.pause is None


@pytest.mark.parametrize(("alive", "listed"), [(True, True), (False, True), (True, False)])
async def test_m11_one_that_is_let_in_as_it_leaves_finds_out_whether_it_is_a_member(*, alive: bool, listed: bool) -> None:
    entering = Entering(group("a"))
    entering.admission.pause, entering.room = 0.25, Room(member=True)
    entering.beat = replace(entering.beat, alive=alive, document=group("a", *[entering.me] * listed))
    assert await entering.admission.leave()
    is_member = alive and listed
    assert [type(step) for _, step in entering.broker.steps] == [Wait, Heartbeat, *[Commit] * is_member]
    assert entering.told == ["MemberJoined"] * is_member
    assert (entering.member.lease.born, entering.member.joined) == ((5, True) if is_member else (0, False))
    entering.steps()
    entering.member.joined = False
    assert await entering.admission.leave()
    assert entering.steps() == [], "it knows now"


async def test_m11_where_others_wait_to_join_it_waits_with_them() -> None:
    entering = Entering(group("a"))
    entering.beat = replace(entering.beat, crowded=True)
    assert await entering.admission.join() == "waits"
    assert (entering.steps(), entering.admission.pause) == (["heartbeat"], 0.0)
    entering.room = Room(member=True)
    entering.beat = replace(entering.beat, alive=True, document=group("a", entering.me))
    assert await entering.admission.join() == "joined"
    assert entering.steps() == ["wait", "heartbeat"]
    assert entering.admission.pause is None


@pytest.mark.parametrize(("after", "claims"), [(0.9, True), (1.0, False)])
async def test_m8_what_ran_here_is_claimed_until_the_deadline_and_not_at_it(after: float, *, claims: bool) -> None:
    """And who claims something does not wait with the others."""
    entering = Entering()
    entering.member.document, entering.member.partitions = group("a"), 4
    entering.beat = replace(entering.beat, crowded=True)
    entering.admission.claim([1, 2], entering.began + 1.0)
    await anyio.sleep(after)
    assert await entering.admission.join() == ("joined" if claims else "waits")
    if claims:
        leases = entering.commit.document.lease
        assert leases == {0: "", 3: ""}, "the others may have an owner that nobody knows"


async def test_m8_a_group_that_is_lost_is_frozen_and_that_is_reported_once() -> None:
    entering = Entering(start="latest")
    entering.member.document, entering.member.partitions = group("a"), 4
    entering.accepts = False
    for _ in range(2):
        assert await entering.admission.join() == "refused"
        assert entering.commit.freeze
        entering.admission.pause = None
    assert entering.told == ["GroupLost"]
    assert [(step.partition, step.latest, step.younger) for step in entering.broker.of(MakeGroup)] == [
        (p, False, False) for p in range(4)
    ] * 2
    entering.accepts = True
    assert await entering.admission.join() == "joined"
    assert set(entering.commit.document.lease.values()) == {""}, "an unknown owner may still be at work"


@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_g6_a_group_that_is_new_begins_where_its_settings_say(start: str) -> None:
    entering = Entering(start=start)
    assert await entering.admission.join() == "joined"
    assert [(step.partition, step.latest, step.younger) for step in entering.broker.of(MakeGroup)] == [
        (partition, start == "latest", False) for partition in range(4)
    ]
    assert not entering.commit.freeze
    assert entering.told == ["MemberJoined"]


async def test_g6_a_group_without_members_is_made_in_what_the_topic_has_grown_by() -> None:
    entering = Entering(replace(group("a", partitions=2), members={}, target={}, lease={}), start="latest")
    assert await entering.admission.join() == "joined"
    assert [(step.partition, step.latest, step.younger) for step in entering.broker.of(MakeGroup)] == [(2, False, True), (3, False, True)]


async def test_a_document_that_cannot_be_read_counts_as_lost() -> None:
    entering = Entering()
    entering.beat = replace(entering.beat, damaged=True, version="v")
    assert await entering.admission.join() == "joined"
    assert (entering.commit.freeze, entering.commit.known_version) == (True, "v")
    assert set(entering.commit.document.lease.values()) == {""}


async def test_a_topic_that_is_not_there_is_reported_once_until_it_is_there() -> None:
    entering = Entering()
    there = entering.beat
    for _ in range(2):
        entering.beat = replace(there, topic=None)
        for _ in range(2):
            assert await entering.admission.join() == "no topic"
            assert entering.member.topic_missing
        entering.beat = there
        entering.accepts = False
        entering.admission.pause = None
        await entering.admission.join()
        assert not entering.member.topic_missing
        entering.member.partitions, entering.admission.pause = 0, None
    assert entering.told == ["TopicMissing", "TopicMissing"]
    assert entering.ready == [(), ()], "there is nothing to assign yet"


async def test_e5_a_topic_that_was_there_and_is_lost_is_made_again() -> None:
    entering = Entering()
    assert await entering.admission.topic_there(entering.beat)
    assert entering.steps() == []
    assert await entering.admission.topic_there(replace(entering.beat, topic=None))
    assert [(step.topic, step.partitions, step.known) for step in entering.broker.of(MakeTopic)] == [("jobs", 4, TOPIC)]
    assert entering.member.topic == TopicState(1, 4)
    assert entering.notebook.of(events.TopicMissing) == []


async def test_g9_what_is_known_of_a_topic_only_grows() -> None:
    """The growth watch looks when it has grown, begins to, or has forgotten that it had."""
    entering, looks = Entering(), list[int]()
    grown = TopicState(1, 6, history=(4, 6))
    states = (TOPIC, TOPIC, replace(TOPIC, pending=6), grown, grown, TOPIC, TOPIC, grown)
    for state in states:
        assert await entering.admission.topic_there(replace(entering.beat, topic=state))
        looks.append(len(entering.looks))
        assert entering.member.forgotten == (looks[-1] > 3 and state is TOPIC)
    assert looks == [1, 1, 2, 3, 3, 4, 5, 5]
    assert (entering.member.topic, entering.member.partitions, entering.around.history) == (grown, 6, (4, 6))


async def test_one_whose_join_was_not_answered_looks_whether_it_is_a_member_before_it_leaves() -> None:
    entering = Entering(group("a"))

    def commit(step: Any) -> Any:
        if isinstance(step, Commit) and step.joins:
            raise ConnectionFailed("redis://x", "broke", maybe_executed=True)
        return entering.answer(step)

    entering.broker.answer = commit
    with pytest.raises(ConnectionFailed):
        await entering.admission.join()
    entering.beat = replace(entering.beat, alive=True, version="w", document=group("a", entering.me))
    entering.steps()
    assert await entering.admission.leave()
    assert (entering.commit.leaves, entering.commit.known_version) == (True, "w")
    assert entering.steps() == ["heartbeat", "commit"]
