"""A coordinator without a broker: how long it rests, after setbacks and while many partitions are given back (M12), and what it forgets."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from redisaq.actors.waiting import Reply
from redisaq.brokers.steps.coordination import Beat
from redisaq.consuming.coordinator import GATHERING, LONGEST_GATHERING, LONGEST_PAUSE, MANY_HELD, RaiseToken, RebalanceCoordinator
from redisaq.consuming.gate import Gate
from redisaq.consuming.member import SPREAD, Member
from redisaq.consuming.owner import Ended
from redisaq.consuming.partitions import Acquire, Lose
from redisaq.core.membership import CROWD, Document, MemberEntry
from redisaq.core.waiting import Freed
from redisaq.environment import Environment


class Most(random.Random):
    """Draws what is greatest."""

    def random(self) -> float:
        return 1.0

    def uniform(self, _a: float, b: float) -> float:
        return b


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
    assert rests == pytest.approx([0.0, 0.0, 0.05, 0.1, 0.2, 0.4, 0.8, LONGEST_PAUSE])


def test_what_drains_is_given_back_by_ever_fewer_changes() -> None:
    """The first at once; where few are held, or nothing else drains, each at once."""
    coordinator = coordinator_of()
    coordinator._look_needed = False
    coordinator._released, coordinator._revoked = {99}, {1}
    coordinator._held = dict.fromkeys(range(MANY_HELD), 1)
    assert [coordinator._gathering() for _ in range(3)] == [0.0] * 3
    coordinator._held[MANY_HELD] = 1
    pauses = [GATHERING * 2**number for number in range(6)]
    assert [coordinator._gathering() for _ in range(9)] == pytest.approx([0.0, *pauses, LONGEST_GATHERING, LONGEST_GATHERING])
    assert pauses[-1] < LONGEST_GATHERING
    coordinator._revoked = set()
    assert coordinator._gathering() == 0.0
    coordinator._revoked = {1}
    assert [coordinator._gathering() for _ in range(2)] == pytest.approx([0.0, GATHERING]), "it begins again"
    coordinator._released = set()
    assert coordinator._gathering() == 0.0


def test_a_crowd_does_not_look_all_at_once() -> None:
    coordinator = coordinator_of(CROWD + 1)
    spread = pytest.approx((CROWD + 1) * SPREAD)
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
    asked: list[dict[int, int]] = []

    async def do(step: Any) -> Freed:
        asked.append(dict(step.leases))
        return Freed(pause=1.0)

    coordinator._around.broker = cast("Any", SimpleNamespace(do=do))
    coordinator._around.group = cast("Any", None)
    assert await coordinator._release(standing) is standing
    assert coordinator._released == {0}
    assert asked == [{0: 5}]
