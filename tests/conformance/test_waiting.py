"""The waiting room: those that want to join wait there, and one of them lets all of them in by one change (M11)."""

from __future__ import annotations

import anyio
import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import GiveBack, Heartbeat, Wait
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import EMPTY, Document
from redisaq.core.profile import Profile
from redisaq.core.waiting import ASK_EVERY, FEW, STAYS, TURN, Freed, Newcomer, Room
from tests.conformance.census import shift_waiting
from tests.conformance.steps import SECOND, commit_document
from tests.conformance.worlds import RedisWorld, World

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns]

TTL = 1000.0


def newcomer(incarnation: str) -> Newcomer:
    return Newcomer(incarnation, Profile(f"host:{incarnation}", ttl=TTL), name=f"name of {incarnation}", former=("1", "2"))


async def wait(broker: Broker, group: GroupName, incarnation: str) -> Room:
    return await broker.do(Wait(group, incarnation, newcomer(incarnation)))


async def let_in(broker: Broker, group: GroupName, incarnation: str, known: str, *others: str) -> str | None:
    """Let one join with others that wait."""
    admitted = [newcomer(one) for one in others]
    return await commit_document(broker, group, incarnation, TTL, known_version=known, document=Document(1), joins=True, admitted=admitted)


async def test_one_of_those_that_wait_has_the_turn_and_sees_all(a: Broker, b: Broker, group: GroupName) -> None:
    alone = await wait(a, group, "A")
    assert (alone.member, alone.waiting, alone.burst) == (False, (newcomer("A"),), False)
    for other in "BC":
        assert (await wait(b, group, other)).waiting == ()
    seen = await wait(a, group, "A")
    assert set(seen.waiting) == {newcomer(one) for one in "ABC"}
    assert seen.waiting[0] == newcomer("A")
    assert 0 <= seen.newest <= seen.oldest < 10
    assert (await a.do(Heartbeat(group, "D", TTL, ""))).crowded
    assert not (await a.do(Heartbeat(GroupName(group.topic, "other"), "D", TTL, ""))).crowded


async def test_all_are_let_in_by_one_change(a: Broker, b: Broker, group: GroupName) -> None:
    for one in "ABC":
        await wait(a, group, one)
    version = await let_in(a, group, "A", "", "B", "C")
    assert version is not None
    for one in "ABC":
        beat = await b.do(Heartbeat(group, one, TTL, version))
        assert (beat.alive, beat.crowded) == (True, False)
        assert beat.next_expiry is not None
        assert 900 * SECOND < beat.next_expiry - beat.now <= 1000 * SECOND
        assert (await wait(b, group, one)).member
    assert (await wait(b, group, "D")).waiting == (newcomer("D"),), "the turn is over, and nobody else waits"


async def test_a_member_that_has_joined_has_no_turn(a: Broker, b: Broker, group: GroupName) -> None:
    """Another that waits goes on at once, not after the turn's time."""
    for one in "AB":
        await wait(a, group, one)
    assert await let_in(a, group, "A", "") is not None
    assert (await wait(b, group, "B")).waiting == (newcomer("B"),)


async def test_one_that_has_stopped_waiting_is_not_let_in(a: Broker, b: Broker, group: GroupName) -> None:
    for one in "ABC":
        await wait(a, group, one)
    assert await b.do(Wait(group, "B", None)) == Room()
    assert await let_in(a, group, "A", "", "B", "C") is None
    assert (await b.do(Heartbeat(group, "A", TTL, ""))).version == ""
    assert [one.incarnation for one in (await wait(a, group, "A")).waiting] == ["A", "C"]
    assert await let_in(a, group, "A", "", "C") is not None
    assert (await b.do(Wait(group, "C", None))).member, "too late: it must leave"
    assert (await b.do(Heartbeat(group, "C", TTL, ""))).alive


async def test_who_stops_waiting_passes_the_turn_on(a: Broker, group: GroupName) -> None:
    for one in "AB":
        await wait(a, group, one)
    await a.do(Wait(group, "A", None))
    assert (await wait(a, group, "B")).waiting == (newcomer("B"),)


async def test_a_turn_ends_by_itself(a: Broker, b: Broker, group: GroupName) -> None:
    """The one that has it may be gone."""
    await wait(a, group, "A")
    began = anyio.current_time()
    with anyio.fail_after(30):
        while not (seen := await wait(b, group, "B")).waiting:
            await anyio.sleep(0.05)
    assert anyio.current_time() - began >= TURN - 0.1
    assert {one.incarnation for one in seen.waiting} == {"A", "B"}


async def test_one_that_no_longer_asks_is_not_waited_for(world: World, a: Broker, b: Broker, group: GroupName) -> None:
    await wait(b, group, "B")
    shift_waiting(world, group, -STAYS)
    assert (await wait(a, group, "A")).waiting == (newcomer("A"),)


async def test_a_clock_that_is_set_back_neither_keeps_the_turn_nor_makes_anyone_wait_longer(
    world: World, a: Broker, b: Broker, group: GroupName
) -> None:
    """What is kept then lies in the future."""
    await wait(b, group, "B")
    shift_waiting(world, group, 1000.0)
    seen = await wait(a, group, "A")
    assert {one.incarnation for one in seen.waiting} == {"A", "B"}, "the turn lasts at most as long as a turn does"
    shift_waiting(world, group, 2000.0)
    again = await wait(a, group, "A")
    assert again.waiting[0].incarnation == "A", "it came now, where it had come in the future"
    assert 0 <= again.newest <= again.oldest < 10
    await wait(b, group, "C")
    last = await wait(a, group, "A")
    assert [one.incarnation for one in last.waiting] == ["A", "C", "B"], "and it counts as here from then on"


async def test_a_room_that_nobody_uses_expires(world: World, a: Broker, group: GroupName) -> None:
    await wait(a, group, "A")
    if isinstance(world, RedisWorld):
        assert 0 < world.command("PTTL", world.group_key(group, "room")) <= 5000


async def test_several_joins_in_a_row_are_a_burst(a: Broker, group: GroupName) -> None:
    version = ""
    for number in range(FEW):
        assert not (await a.do(Heartbeat(group, "new", TTL, ""))).crowded
        version = await let_in(a, group, f"{number}", version) or ""
    assert (await a.do(Heartbeat(group, "new", TTL, ""))).crowded
    assert (await wait(a, group, "new")).burst
    assert not (await a.do(Heartbeat(group, "0", TTL, version))).crowded, "a member does not wait"


async def test_nobody_is_let_in_on_another_version(world: World, a: Broker, group: GroupName) -> None:
    for one in "AB":
        await wait(a, group, one)
    assert await let_in(a, group, "A", "another", "B") is None
    assert not (await wait(a, group, "B")).member
    with world.full():  # S2
        assert (await wait(a, group, "A")).waiting
        assert await commit_document(a, group, "A", TTL, known_version="", document=EMPTY, joins=True, admitted=[newcomer("B")]) is not None
    assert (await a.do(Heartbeat(group, "B", TTL, ""))).alive


# -- giving back (M13) ----------------------------------------------------------------------------------------------------------------


async def give_back(broker: Broker, group: GroupName, incarnation: str, leases: dict[int, int], gather: float = 0.0) -> Freed:
    return await broker.do(GiveBack(group, incarnation, leases, gather))


async def test_one_of_those_that_give_back_hears_of_all(a: Broker, b: Broker, group: GroupName) -> None:
    """M13: it waits for others before it does; then the next one has a turn."""
    big = 9_007_199_254_740_993
    first = await give_back(a, group, "A", {0: 7, 1: big}, gather=0.2)
    assert 0.0 < first.pause <= 0.2
    assert first.leases == frozenset()
    heard = [await give_back(b, group, "B", {2: 8}, gather=0.2)]
    assert heard == [Freed(ASK_EVERY)]
    with anyio.fail_after(30):
        while heard[-1].pause:
            heard += [await give_back(a, group, "A", {0: 7, 1: big}, gather=0.2)]
            if heard[-1].pause:
                heard += [await give_back(b, group, "B", {2: 8}, gather=0.2)]
    assert heard[-1].leases == {(0, "A", 7), (1, "A", big), (2, "B", 8)}
    assert (await give_back(b, group, "B", {3: 9})).leases == {(0, "A", 7), (1, "A", big), (3, "B", 9)}, "what it said last counts"


async def test_a_turn_to_give_back_ends_by_itself(a: Broker, b: Broker, group: GroupName) -> None:
    """M13: the one that has it may be gone."""
    assert (await give_back(a, group, "A", {0: 1}, gather=0.1)).pause
    with anyio.fail_after(30):
        while (freed := await give_back(b, group, "B", {1: 1})).pause:
            await anyio.sleep(0.05)
    assert freed.leases == {(0, "A", 1), (1, "B", 1)}
