"""A coordinator without a broker: how long it rests, after setbacks and while many partitions are given back (M12), and what it forgets."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from msgspec.structs import replace

from redisaq.actors.waiting import Reply
from redisaq.brokers.steps.coordination import Beat, Commit
from redisaq.consuming.coordinator import Leave, Look, RaiseToken, RebalanceCoordinator
from redisaq.consuming.gate import Gate
from redisaq.consuming.member import FORMER_KEPT, Member
from redisaq.consuming.owner import Ended
from redisaq.consuming.partitions import Acquire, Lose, Revoke
from redisaq.core.membership import CROWD, Document, MemberEntry
from redisaq.core.waiting import Freed
from redisaq.environment import Environment


class Most(random.Random):
    """Draws what is greatest."""

    def random(self) -> float:
        return 1.0

    def uniform(self, _a: float, b: float) -> float:
        return b


def at(now: float) -> Environment:
    """Return an environment in which it is this time."""
    return Environment(clock=lambda: now)


class Partitions:
    """Notes what it gets."""

    def __init__(self) -> None:
        self.told: list[object] = []

    async def tell(self, order: object) -> None:
        self.told.append(order)


def coordinator_of(members: int = 2, partitions: Any = None) -> RebalanceCoordinator:
    environment = Environment(clock=lambda: 100.0, random=Most())
    member = Member(None, 10.0, environment)
    member.document = Document(1, {f"m{number}": MemberEntry(f"m{number}") for number in range(members)})
    surroundings: Any = SimpleNamespace(environment=environment, settings=None)
    return RebalanceCoordinator(surroundings, member, partitions, ready=lambda _: None, left=lambda: None)


def test_the_first_setback_costs_nothing_and_the_next_ones_more_and_more() -> None:
    coordinator = coordinator_of()
    rests = list[float]()
    for coordinator._setbacks in range(8):
        rests.append(coordinator._rest())
    assert rests == pytest.approx([0.0, 0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0])


def test_who_comes_second_looks_again_at_once_and_then_after_a_rest() -> None:
    coordinator = coordinator_of()
    coordinator._look_needed = False
    rests = list[float]()
    for _ in range(3):
        coordinator._set_back()
        rests.append(coordinator._rest())
    assert rests == pytest.approx([0.0, 0.05, 0.1])
    assert coordinator._look_needed


def test_what_drains_is_given_back_by_ever_fewer_changes() -> None:
    """The first at once; where few are held, or nothing else drains, each at once."""
    coordinator = coordinator_of()
    coordinator._released, coordinator._revoked, coordinator._held = {99}, {1}, dict.fromkeys(range(17), 1)
    assert coordinator._gathering() == 0.0
    coordinator = coordinator_of()
    coordinator._look_needed = False
    coordinator._released, coordinator._revoked = {99}, {1}
    coordinator._held = dict.fromkeys(range(16), 1)
    assert [coordinator._gathering() for _ in range(3)] == [0.0] * 3
    coordinator._held[16] = 1
    pauses = [0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05]
    assert [coordinator._gathering() for _ in range(9)] == pytest.approx(pauses)
    coordinator._revoked = set()
    assert coordinator._gathering() == 0.0
    coordinator._revoked = {1}
    assert [coordinator._gathering() for _ in range(2)] == pytest.approx([0.0, 0.001]), "it begins again"
    coordinator._released = set()
    assert coordinator._gathering() == 0.0


def test_a_crowd_does_not_look_all_at_once() -> None:
    coordinator = coordinator_of(CROWD + 1)
    spread = pytest.approx((CROWD + 1) * 0.0002)
    for looks, released, pause in ((True, {1}, spread), (True, set[int](), spread), (False, {1}, spread), (False, set[int](), 0.0)):
        coordinator._look_needed, coordinator._released = looks, released
        assert coordinator._gathering() == pause


def test_an_incarnation_that_ends_leaves_nothing_to_the_next_one() -> None:
    """M5: neither what it held nor what it was about to say; its own handlers are waited for (M1)."""
    partitions = Partitions()
    coordinator = coordinator_of(partitions=partitions)
    member = coordinator._member
    before, member.joined = member.lease.incarnation, True
    coordinator._held = {1: 7, 2: 8}
    kept = (coordinator._revoked, coordinator._released, coordinator._unable, coordinator._not_before, coordinator._spent)
    coordinator._revoked |= {1}
    coordinator._released |= {3}
    coordinator._unable |= {2}
    coordinator._not_before[3] = 200.0
    coordinator._spent[4] = 9
    coordinator._look_needed = False

    async def main() -> None:
        reply = Reply[int | None]()
        coordinator._asked.append(RaiseToken(2, 8, reply))
        await coordinator._lose_all("it is over")
        assert reply.result() is None

    anyio.run(main)
    assert partitions.told == [Lose(1, "it is over"), Lose(2, "it is over")]
    assert not any((coordinator._held, coordinator._asked, *kept))
    assert (member.joined, member.lease.incarnation != before, coordinator._look_needed) == (False, True, True)
    assert coordinator._winding_up()
    for partition, token in ((1, 7), (2, 8)):
        coordinator._note(Ended(partition, token, before, released=False))
    assert not coordinator._winding_up()
    assert before in member.former


@pytest.mark.anyio
@pytest.mark.parametrize(("takes", "there"), [(4.0, True), (11.0, False)])
async def test_an_answer_that_comes_after_the_lease_grants_nothing(takes: float, there: bool) -> None:
    """M5: also where the event loop was blocked, and cancels nothing before the answer is looked at."""
    now = [100.0]
    environment = Environment(clock=lambda: now[0])
    member = Member(None, 10.0, environment)
    me = member.lease.incarnation
    member.document, newer = Document(1, {"me": MemberEntry(me)}), Document(1, {"me": MemberEntry(me)}, 2, {0: "me"}, {0: me}, {0: 5})
    old = member.document

    async def do(_step: object) -> Beat:
        now[0] += takes
        return Beat(alive=True, now=1_000_000, document=newer, version="new")

    async def topic_there(_beat: Beat) -> bool:
        return True

    around: Any = SimpleNamespace(environment=environment, settings=None, group=None, broker=SimpleNamespace(do=do))
    around.gate = Gate()
    coordinator = RebalanceCoordinator(around, member, cast("Any", Partitions()), ready=lambda _: None, left=lambda: None)
    coordinator._admission = cast("Any", SimpleNamespace(topic_there=topic_there))
    member.lease.begin(100.0)
    assert await coordinator._look() is there
    assert member.document is (newer if there else old)


async def orders_of(coordinator: RebalanceCoordinator, partitions: Partitions) -> list[object]:
    partitions.told.clear()
    await coordinator._do_duties()
    return list(partitions.told)


@pytest.mark.anyio
async def test_what_is_given_back_is_not_taken_again_under_the_same_token() -> None:
    """M13: another member of the crowd may still release it."""
    partitions = Partitions()
    coordinator = coordinator_of(partitions=partitions)
    settings: Any = SimpleNamespace(drain_timeout=1.0)
    coordinator._settings = settings
    member = coordinator._member
    me = member.lease.incarnation
    member.document = Document(1, {"me": MemberEntry(me)}, 2, {0: "me", 1: "me"}, {0: me, 1: me}, {0: 5, 1: 6})
    coordinator._released = {0}
    assert await orders_of(coordinator, partitions) == [Acquire(1, 6, member.lease)]
    coordinator._released = set()
    assert await orders_of(coordinator, partitions) == [Acquire(0, 5, member.lease)]
    coordinator._held, coordinator._not_before = {}, {0: 100.5}
    assert await orders_of(coordinator, partitions) == [Acquire(1, 6, member.lease)], "it was given up a moment ago"


@pytest.mark.anyio
async def test_what_others_have_released_for_it_is_not_released_once_more() -> None:
    """M13: what is leased to another, or to itself under a later token, is no more to be given back."""
    coordinator = coordinator_of(partitions=Partitions())
    me = coordinator._member.lease.incarnation
    members = {name: MemberEntry(name) for name in "abcdefgh"} | {"me": MemberEntry(me)}
    leases, tokens = {0: me, 1: "a", 2: me}, {0: 5, 1: 8, 2: 9}
    standing = Document(1, members, 3, dict.fromkeys(range(3), "a"), leases, tokens)
    coordinator._released, coordinator._given = {0, 1, 2}, {0: 5, 1: 6, 2: 7}
    coordinator._give_again = 200.0
    asked: list[tuple[dict[int, int], float]] = []

    async def do(step: Any) -> Freed:
        asked.append((dict(step.leases), step.gather))
        return Freed(pause=1.0)

    coordinator._around.broker = cast("Any", SimpleNamespace(do=do))
    coordinator._around.group = cast("Any", None)
    assert await coordinator._release(standing) is standing
    assert coordinator._released == {0}
    assert asked == [({0: 5}, 0.02)]
    assert (coordinator._given, coordinator._give_again) == ({0: 5}, 101.0)
    for now, times in ((100.9, 1), (101.0, 2)):
        coordinator._around.environment = at(now)
        assert await coordinator._release(standing) is standing
        assert len(asked) == times, now


def test_one_ring_at_a_time_waits_to_be_heard() -> None:
    coordinator, told = coordinator_of(), list[object]()
    coordinator.ref = cast("Any", SimpleNamespace(tell_nowait=told.append))
    for _ in range(3):
        coordinator.look()
    assert len(told) == 1
    coordinator._look_needed = False
    coordinator._note(cast("Look", told[0]))
    assert coordinator._look_needed
    coordinator.look()
    assert len(told) == 2


def test_the_handlers_of_an_incarnation_that_has_ended_are_waited_for_a_second() -> None:
    coordinator = coordinator_of(partitions=Partitions())
    coordinator._member.joined, coordinator._held = True, {1: 7}
    anyio.run(coordinator._lose_all, "it is over")
    for now, waits in ((100.0, True), (100.999, True), (101.0, False)):
        coordinator._around.environment = at(now)
        assert coordinator._winding_up() is waits, now


@pytest.mark.parametrize("joined", [True, False])
def test_an_incarnation_that_held_nothing_may_be_taken_over_at_once(*, joined: bool) -> None:
    """M1: one that was never a member has nothing to be taken over."""
    coordinator = coordinator_of(partitions=Partitions())
    coordinator._member.joined = joined
    before = coordinator._member.lease.incarnation
    anyio.run(coordinator._lose_all, "it is over")
    assert list(coordinator._member.former) == ([before] if joined else [])
    assert not coordinator._winding_up()


@pytest.mark.parametrize("holding", [True, False])
def test_only_so_many_former_incarnations_are_remembered(*, holding: bool) -> None:
    """M1: the newest, since each is sent with every attempt to join again."""
    coordinator = coordinator_of(partitions=Partitions())
    member, ended = coordinator._member, list[str]()
    for token in range(3 * FORMER_KEPT):
        ended.append(member.lease.incarnation)
        member.joined, coordinator._held = True, {1: token} if holding else {}
        anyio.run(coordinator._lose_all, "it is over")
        if holding:
            coordinator._note(Ended(1, token, ended[-1], released=False))
    assert list(member.former) == ended[-FORMER_KEPT:]


def test_what_ended_is_revoked_again_when_it_is_held_again() -> None:
    coordinator = coordinator_of()
    mine = coordinator._member.lease.incarnation
    coordinator._held, coordinator._revoked = {1: 5, 2: 6, 3: 7}, {1, 2, 3}
    for ended in (
        Ended(1, 5, mine, released=True),
        Ended(2, 6, mine, released=False),
        Ended(3, 8, mine, released=True),
        Ended(3, 7, "x", True),
    ):
        coordinator._note(ended)
    assert (coordinator._held, coordinator._revoked, coordinator._released) == ({3: 7}, {3}, {1})
    assert coordinator._spent == {2: 6}
    assert coordinator._not_before == pytest.approx({2: 100.2})


def duties_of(coordinator: RebalanceCoordinator, **fields: Any) -> None:
    coordinator._settings = cast("Any", SimpleNamespace(drain_timeout=30.0))
    me = coordinator._member.lease.incarnation
    members = {"me": MemberEntry(me), "you": MemberEntry("you")}
    leases = {partition: me if holder == "me" else holder for partition, holder in fields.pop("lease").items()}
    coordinator._member.document = Document(1, members, 4, lease=leases, **fields)


@pytest.mark.anyio
async def test_what_is_to_be_given_back_is_said_once_until_it_becomes_more_urgent() -> None:
    partitions = Partitions()
    coordinator = coordinator_of(partitions=partitions)
    coordinator._held = {0: 5, 1: 6, 2: 7}
    duties_of(coordinator, target={0: "me", 1: "you", 2: "me"}, lease={0: "me", 1: "me", 2: "you"}, token={0: 5, 1: 6, 2: 8})
    coordinator._revoked = {2}
    lost = Lose(2, "the group's document leases it to another member")
    assert await orders_of(coordinator, partitions) == [lost, Revoke(1, 30.0)]
    assert (coordinator._held, coordinator._revoked) == ({0: 5, 1: 6}, {1})
    assert await orders_of(coordinator, partitions) == []
    coordinator._note(Leave(9.0))
    assert await orders_of(coordinator, partitions) == [Revoke(0, 9.0), Revoke(1, 9.0)]
    assert await orders_of(coordinator, partitions) == []
    coordinator._note(Leave(0.0))
    assert await orders_of(coordinator, partitions) == [Revoke(0, 0.0), Revoke(1, 0.0)]


@pytest.mark.anyio
async def test_what_could_not_be_kept_is_taken_again_when_its_time_has_come() -> None:
    partitions = Partitions()
    coordinator = coordinator_of(partitions=partitions)
    duties_of(coordinator, target={0: "me", 1: "me"}, lease={0: "me", 1: "me"}, token={0: 5, 1: 6})
    coordinator._not_before = {0: 100.0, 1: 100.1}
    assert await orders_of(coordinator, partitions) == [Acquire(0, 5, coordinator._member.lease)]
    assert coordinator._not_before == {1: 100.1}


class Looking:
    """A coordinator that is a member, with a broker that gives one answer to a look, and notes the rest."""

    def __init__(self, beat: Beat, document: Document | None = None) -> None:
        self.now, self.steps, self.commits, self.accepts = 100.0, list[Any](), list[Commit](), True
        self.beat = beat
        environment = Environment(clock=lambda: self.now, random=Most())
        self.member = Member(None, 12.0, environment)
        self.me = self.member.lease.incarnation
        self.member.document = document or Document(1, {"me": MemberEntry(self.me), "m1": MemberEntry("m1")}, 2)
        self.member.version, self.member.joined, self.member.partitions = "v", True, 2
        self.member.lease.begin(95.0)
        settings = SimpleNamespace(client=None, heartbeat_interval=2.0)
        broker = SimpleNamespace(do=self.do, do_each=self.do_each)
        around: Any = SimpleNamespace(
            environment=environment, settings=settings, group=None, broker=broker, granting=broker, gate=Gate(), contact=None
        )
        self.coordinator = RebalanceCoordinator(around, self.member, cast("Any", Partitions()), ready=lambda _: None, left=lambda: None)
        self.grown = 2
        self.claimed: list[tuple[list[int], float]] = []
        self.coordinator._admission = cast("Any", SimpleNamespace(topic_there=self.topic_there, claim=self.claim))

    async def do(self, step: Any) -> Any:
        if isinstance(step, Commit):
            self.commits.append(step)
            return self.accepts
        self.steps.append(step)
        return self.beat

    async def do_each(self, steps: list[Any]) -> list[None]:
        self.steps += steps
        return [None for _ in steps]

    async def topic_there(self, _beat: Beat) -> bool:
        self.member.partitions = self.grown
        return True

    def claim(self, partitions: Any, until: float) -> None:
        self.claimed.append((list(partitions), until))


ALIVE = Beat(alive=True, now=1_000_000, version="v", next_expiry=8_000_000)


@pytest.mark.anyio
async def test_a_look_renews_the_lease_and_says_when_to_look_next() -> None:
    looking = Looking(ALIVE)
    assert await looking.coordinator._look()
    assert looking.member.lease.deadline == 110.0
    assert looking.member.next_look == 107.0
    assert not looking.coordinator._look_needed
    assert [(step.known_version, step.ttl) for step in looking.steps] == [("v", 12.0)]


@pytest.mark.anyio
async def test_g6_a_look_makes_the_group_in_the_partitions_that_are_new() -> None:
    looking = Looking(ALIVE)
    looking.grown = 4
    assert await looking.coordinator._look()
    assert [(step.partition, step.latest, step.younger) for step in looking.steps[1:]] == [(2, False, True), (3, False, True)]


@pytest.mark.anyio
async def test_m10_deltas_that_cannot_be_read_are_asked_for_as_a_document() -> None:
    looking = Looking(replace(ALIVE, version="w"))
    before = looking.member.document
    assert not await looking.coordinator._look()
    assert (looking.member.version, looking.member.document, looking.member.lease.alive()) == ("", before, True)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("changes", "claims"),
    [
        ({"alive": False}, False),
        ({"alive": False, "version": ""}, True),
        ({"version": ""}, True),
        ({"version": "w", "damaged": True}, True),
        ({"alive": False, "version": "w", "document": Document(9)}, False),
        ({"version": "w", "document": Document(9)}, False),
    ],
)
async def test_m5_m8_who_is_no_member_any_more_ends(changes: dict[str, Any], *, claims: bool) -> None:
    """Where the group is lost, nobody else can own what this member runs before its deadline has passed."""
    for late in (False, True):
        looking = Looking(replace(ALIVE, **changes))
        looking.coordinator._held = {0: 5, 1: 6}
        deadline = looking.member.lease.deadline
        looking.now += 5.0 if late else 0.0
        before = looking.member.document
        assert not await looking.coordinator._look()
        assert looking.coordinator._over == "the group no longer knows this member"
        assert not looking.member.lease.alive()
        assert looking.claimed == ([([0, 1], deadline)] if claims and not late else [])
        assert looking.member.document == changes.get("document", before)


@pytest.mark.anyio
async def test_m7_a_member_that_has_expired_is_dropped_when_the_freeze_ends_and_not_before() -> None:
    for frozen_until, expired in ((0, ("m1",)), (1_000_000, ("m1",)), (1_000_001, ())):
        looking = Looking(replace(ALIVE, expired=("m1",), frozen_until=frozen_until))
        assert await looking.coordinator._look()
        assert await looking.coordinator._change()
        assert [commit.expired for commit in looking.commits] == [expired]
        assert (looking.member.version, looking.member.document) == (looking.commits[0].new_version, looking.commits[0].document)


@pytest.mark.anyio
async def test_a_change_that_is_refused_changes_nothing_and_keeps_what_was_to_be_said() -> None:
    looking = Looking(ALIVE)
    before = looking.member.document = Document(1, {"me": MemberEntry(looking.me)}, 2, {0: "me", 1: "me"}, {0: looking.me}, {0: 5})
    coordinator = looking.coordinator
    assert await coordinator._look()
    looking.accepts = False
    coordinator._unable, coordinator._released = {0}, {1}
    assert not await coordinator._change()
    assert (looking.member.version, looking.member.document) == ("v", before)
    assert (coordinator._unable, coordinator._released) == ({0}, {1})
    looking.accepts = True
    assert await coordinator._change()
    assert (coordinator._unable, coordinator._released) == (set(), set())


@pytest.mark.anyio
async def test_who_gives_up_rests_longer_and_longer_between_its_tries() -> None:
    looking = Looking(replace(ALIVE, version="w", document=Document(9)))
    tries, sleeps = list[tuple[str, int]](), list[float]()
    looking.member.document = Document(1)

    async def leave() -> bool:
        assert looking.member.document is not None
        tries.append((looking.member.version, looking.member.document.epoch))
        return len(tries) == 5

    async def sleep(seconds: float) -> None:
        await anyio.lowlevel.checkpoint()
        sleeps.append(round(seconds, 6))

    looking.coordinator._admission = cast("Any", SimpleNamespace(leave=leave))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio, "sleep", sleep)
        await looking.coordinator.give_up()
        assert tries == [("v", 1), *[("w", 9)] * 4]
        assert sleeps == [0.0, 0.05, 0.1, 0.2]
        for gone in (replace(ALIVE, alive=False, version="w", document=Document(9)), replace(ALIVE, version="unknown")):
            tries.clear()
            looking.beat = gone
            await looking.coordinator.give_up()
            assert len(tries) == 1, "it is gone already"


@pytest.mark.anyio
async def test_setbacks_are_over_once_a_change_was_made() -> None:
    coordinator = coordinator_of()

    async def receive() -> Look:
        return Look()

    def receive_nowait() -> Look:
        raise anyio.WouldBlock

    coordinator.mailbox = cast("Any", SimpleNamespace(receive=receive, receive_nowait=receive_nowait))
    coordinator._setbacks, coordinator._look_needed = 5, False
    await coordinator._wait()
    assert (coordinator._setbacks, coordinator._look_needed) == (0, True)
