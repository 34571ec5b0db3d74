"""What may be trimmed, and what must stay (E3): retention="acked"."""

from __future__ import annotations

import anyio
import msgspec
import pytest

from redisaq.brokers.growth import make_or_grow
from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.administration import Disband, DropGroup, DropTopic, ViewGroup
from redisaq.brokers.steps.coordination import Heartbeat, make_groups
from redisaq.brokers.steps.leases import Claim, Install
from redisaq.brokers.steps.producing import Find
from redisaq.brokers.steps.retention import Keeping, ReadKeeping, Trim, Trimmed, kept_by
from redisaq.brokers.steps.settling import Acknowledge
from redisaq.brokers.steps.topics import MakeTopic, ReadTopic, Terms, TopicState
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import Document
from tests.conformance.steps import append, commit_document, deliver
from tests.conformance.worlds import World

pytestmark = pytest.mark.anyio

TERMS = Terms(send_timeout=30.0, acked=True, idle=3600.0)
AUDIT = GroupName("orders", "audit")


async def keeping_all_ages(broker: Broker, *groups: GroupName, idle: float = 3600.0) -> Keeping:
    """Return what holds for the topic, but that nothing is kept for its age."""
    return msgspec.structs.replace(kept_by(await broker.do_each([ReadKeeping(group) for group in groups])), kept_for=0.0, idle=idle)


async def trim(broker: Broker, keeping: Keeping, *groups: str) -> Trimmed:
    """Trim partition 0 until there is no more."""
    removed = 0
    await anyio.sleep(0.003)  # an entry of this very millisecond is young
    while True:
        trimmed = await broker.do(Trim("orders", 0, msgspec.structs.replace(keeping, now=keeping.now + 60_000_000), groups))
        removed += trimmed.removed
        if not trimmed.more:
            return msgspec.structs.replace(trimmed, removed=removed)


async def settle(broker: Broker, group: GroupName, token: int, *entry_ids: bytes) -> None:
    """Acknowledge in partition 0."""
    (answer,) = await broker.do_each([Acknowledge(group, 0, token, entry_ids)])
    assert answer.done


# -- what producers declare ------------------------------------------------------------------------------------------------------


async def test_times_are_the_largest_and_acked_stays(a: Broker, b: Broker, group: GroupName) -> None:
    await a.do(MakeTopic("orders", 2))
    assert await a.do(ReadTopic("orders")) == TopicState(0, 2)
    assert (await a.do(ReadKeeping(group))).acked is False
    await a.do(MakeTopic("orders", 1, terms=Terms(send_timeout=20.0)))
    assert await b.do(ReadTopic("orders")) == TopicState(0, 2, acked=False, send_timeout=20.0)
    await a.do(MakeTopic("orders", 1, terms=TERMS))
    await b.do(MakeTopic("orders", 1, terms=Terms(send_timeout=1.5)))
    await b.do(MakeTopic("orders", 1, terms=Terms(send_timeout=1.5, acked=True, idle=60.0)))
    standing = TopicState(0, 2, acked=True, send_timeout=30.0)
    assert await b.do(ReadTopic("orders")) == standing
    assert await b.do(MakeTopic("orders", 1)) == standing
    assert (await b.do(Heartbeat(group, "nobody", 1.0, ""))).topic == standing
    keeping = await b.do(ReadKeeping(group))
    assert (keeping.acked, keeping.kept_for, keeping.idle) == (True, 60.0, 3600.0)
    grown = await make_or_grow(a, "orders", 3)
    assert (grown.generation, grown.partitions, grown.acked, grown.send_timeout) == (1, 3, True, 30.0)


async def test_without_declarations_the_usual_times_hold(a: Broker, group: GroupName) -> None:
    await a.do(MakeTopic("orders", 1))
    keeping = await a.do(ReadKeeping(group))
    assert (keeping.acked, keeping.kept_for, keeping.idle) == (False, 60.0, 86_400.0)


# -- what is trimmed -------------------------------------------------------------------------------------------------------------


async def test_what_is_done_with_goes_and_the_last_stays(a: Broker, world: World, group: GroupName, owned: int) -> None:
    sent = await append(a, "orders", 0, b"1", b"2", b"3", b"4")
    keeping = await keeping_all_ages(a, group)
    assert (await trim(a, keeping, "billing")).removed == 0, "nothing was delivered"
    await deliver(a, group, 0, owned, "A", count=3)
    assert (await trim(a, keeping, "billing")).removed == 0, "all of it is pending"
    await settle(a, group, owned, sent[0], sent[2])
    assert (await trim(a, keeping, "billing")).removed == 1, "from the lowest pending entry on all stays"
    await settle(a, group, owned, sent[1])
    assert await trim(a, keeping, "billing") == Trimmed(1, more=False, later=False)
    assert world.length("orders", 0) == 2, "the last delivered one stays (T6)"
    assert (await trim(a, keeping, "billing")).removed == 0
    assert (await a.do(Claim(group, 0, owned, after=b"", count=9))).trimmed == ()
    assert await deliver(a, group, 0, owned, "A") == [sent[3]]


async def test_the_slowest_group_pins(a: Broker, group: GroupName, owned: int) -> None:
    await make_groups(a, AUDIT, [0], latest=False)
    await a.do(Install(AUDIT, 0, owned, "A", foreign=True))
    sent = await append(a, "orders", 0, b"1", b"2", b"3", b"4")
    await deliver(a, group, 0, owned, "A")
    await settle(a, group, owned, *sent)
    keeping = await keeping_all_ages(a, group, AUDIT)
    assert (await trim(a, keeping, "billing", "audit")).removed == 0
    await settle(a, AUDIT, owned, *await deliver(a, AUDIT, 0, owned, "A", count=3))
    assert (await trim(a, keeping, "billing", "audit")).removed == 2


async def test_a_group_that_is_not_in_the_stream_yet_pins_it_all(a: Broker, group: GroupName, owned: int) -> None:
    """G6: it begins at the beginning of a stream that is younger than the group."""
    sent = await append(a, "orders", 0, b"1", b"2")
    await settle(a, group, owned, *await deliver(a, group, 0, owned, "A"))
    await a.do(MakeTopic("orders", 1, terms=TERMS))
    keeping = await keeping_all_ages(a, group, AUDIT)
    assert (await trim(a, keeping, "billing", "audit")).removed == 0
    assert (await trim(a, msgspec.structs.replace(keeping, alone={"audit": 3600.0}), "billing", "audit")).removed == 1
    await make_groups(a, AUDIT, [0], latest=False)
    await a.do(Install(AUDIT, 0, owned, "A", foreign=True))
    assert await deliver(a, AUDIT, 0, owned, "A") == [sent[1]], "a new group begins with what is there"


async def test_where_no_group_pins_nothing_is_trimmed(a: Broker, group: GroupName, owned: int) -> None:
    await append(a, "orders", 0, b"1", b"2")
    keeping = await keeping_all_ages(a, group)
    await a.do_each([DropGroup(group, 0)])
    assert await trim(a, keeping) == Trimmed()
    await make_groups(a, group, [0], latest=True)
    assert await trim(a, msgspec.structs.replace(keeping, alone={"billing": 3600.0})) == Trimmed()
    assert (await trim(a, keeping)).removed == 1


async def test_a_lapsed_group_pins_nothing_unless_it_reads(a: Broker, group: GroupName, owned: int) -> None:
    await make_groups(a, AUDIT, [0], latest=False)
    await a.do(Install(AUDIT, 0, owned, "A", foreign=True))
    sent = await append(a, "orders", 0, *[b"x"] * 5)
    await settle(a, group, owned, *await deliver(a, group, 0, owned, "A"))
    await deliver(a, AUDIT, 0, owned, "A", count=1)
    read_just_now = msgspec.structs.replace(await keeping_all_ages(a, group), alone={"audit": 9999.0})
    assert (await trim(a, read_just_now)).removed == 0
    await anyio.sleep(0.06)
    assert (await trim(a, msgspec.structs.replace(read_just_now, idle=0.05))).removed == 4
    assert await deliver(a, AUDIT, 0, owned, "A") == [sent[4]]


async def test_the_young_stay_and_one_before_them(a: Broker, world: World, group: GroupName, owned: int) -> None:
    """E3, E2: a producer's tail reaches back to whatever was the last entry when it began."""
    old = await append(a, "orders", 0, b"1", b"2", b"3")
    await anyio.sleep(0.5)
    younger = anyio.current_time()
    await append(a, "orders", 0, b"4", b"5")
    await settle(a, group, owned, *await deliver(a, group, 0, owned, "A"))
    while True:
        asked = anyio.current_time()
        keeping = await a.do(ReadKeeping(group))
        if anyio.current_time() - asked < 0.2:  # else the machine is too busy to tell when that was
            break
    keeping = msgspec.structs.replace(keeping, kept_for=asked - younger + 0.25)
    assert await a.do(Trim("orders", 0, keeping, ["billing"])) == Trimmed(2, more=False, later=True)
    assert world.length("orders", 0) == 3
    found = await a.do(Find("orders", 0, old[2], [b"4", b"5", b"6"]))
    assert found.complete
    assert None not in found.present[:2]
    assert await a.do(Trim("orders", 0, msgspec.structs.replace(keeping, kept_for=60.0), ["billing"])) == Trimmed(0, more=False, later=True)


async def test_a_step_that_was_held_up_takes_no_more_than_its_caller_knew(a: Broker, group: GroupName, owned: int) -> None:
    """E3: meanwhile a producer may have come that needs entries for longer."""
    keeping = msgspec.structs.replace(await a.do(ReadKeeping(group)), kept_for=0.0)
    await anyio.sleep(0.01)
    await append(a, "orders", 0, b"1", b"2", b"3")
    await settle(a, group, owned, *await deliver(a, group, 0, owned, "A"))
    assert await a.do(Trim("orders", 0, keeping, ["billing"])) == Trimmed(0, more=False, later=True)


async def test_ten_thousands_go_in_steps(a: Broker, world: World, group: GroupName, owned: int) -> None:
    total = 25_050
    await a.append("orders", [(0, [b"i", b"%d" % number]) for number in range(total)], maxlen=None, approximate=False)
    await settle(a, group, owned, *await deliver(a, group, 0, owned, "A", count=total))
    trimmed = await trim(a, await keeping_all_ages(a, group), "billing")
    assert (trimmed.removed, world.length("orders", 0)) == (total - 1, 1)


async def test_a_missing_stream_is_nothing_to_trim(a: Broker, group: GroupName) -> None:
    assert await trim(a, await keeping_all_ages(a, group), "billing") == Trimmed()


# -- who has no member -----------------------------------------------------------------------------------------------------------


async def join(broker: Broker, group: GroupName) -> str:
    """Let incarnation A be the group's only member; return the document's version."""
    version = await commit_document(broker, group, "A", 60.0, known_version="", document=Document(), joins=True)
    assert version is not None
    return version


async def test_a_group_is_alone_from_the_end_of_its_last_member(a: Broker, world: World, group: GroupName) -> None:
    await a.do(MakeTopic("orders", 1))
    await a.do(MakeTopic("orders", 1, terms=TERMS))
    await join(a, group)
    assert (await a.do(ReadKeeping(group))).alone == {}
    assert (await a.do(ViewGroup(group))).alone == 0.0
    world.expire(group, "A")
    await anyio.sleep(0.05)
    alone = (await a.do(ReadKeeping(group))).alone["billing"]
    assert 0.04 < alone < 5.0
    assert alone <= (await a.do(ViewGroup(group))).alone < 5.0


async def test_a_group_is_alone_from_its_last_leave(a: Broker, group: GroupName) -> None:
    await a.do(MakeTopic("orders", 1))
    await a.do(MakeTopic("orders", 1, terms=TERMS))
    version = await join(a, group)
    await anyio.sleep(0.1)
    left = anyio.current_time()
    assert await commit_document(a, group, "A", 60.0, known_version=version, document=Document(), leaves=True)
    alone = (await a.do(ReadKeeping(group))).alone["billing"]
    assert 0.0 <= alone <= anyio.current_time() - left + 0.01


async def test_of_a_group_that_nobody_joined_time_counts_from_the_first_look(a: Broker, group: GroupName) -> None:
    await a.do(MakeTopic("orders", 1))
    await make_groups(a, group, [0], latest=False)
    await a.do(MakeTopic("orders", 1, terms=TERMS))
    first = (await a.do(ReadKeeping(group))).alone["billing"]
    assert first < 0.05
    await anyio.sleep(0.06)
    assert (await a.do(ReadKeeping(group))).alone["billing"] >= 0.05
    assert (await a.do(ViewGroup(group))).lapsed is False


async def test_a_lapsed_group_says_so(a: Broker, world: World, group: GroupName) -> None:
    await a.do(MakeTopic("orders", 1))
    await join(a, group)
    world.expire(group, "A")
    await anyio.sleep(0.05)
    assert (await a.do(ViewGroup(group))).lapsed is False, "nothing is trimmed there"
    await a.do(MakeTopic("orders", 1, terms=msgspec.structs.replace(TERMS, idle=0.04)))
    assert (await a.do(ViewGroup(group))).lapsed is True
    keeping = kept_by(await a.do_each([ReadKeeping(group) for group in [group, AUDIT]]))
    assert list(keeping.lapsed) == ["billing"]


async def test_at_its_memory_limit_a_server_still_trims(a: Broker, world: World, group: GroupName, owned: int) -> None:
    await append(a, "orders", 0, b"1", b"2", b"3")
    await a.do(MakeTopic("orders", 1, terms=TERMS))
    await settle(a, group, owned, *await deliver(a, group, 0, owned, "A"))
    await a.do(ReadKeeping(group))
    with world.full():
        keeping = await keeping_all_ages(a, group)
        assert (await trim(a, keeping, "billing")).removed == 2


async def test_a_deleted_group_is_not_alone_since_its_former_life(a: Broker, group: GroupName) -> None:
    other = GroupName(group.topic, "audit")
    await a.do(MakeTopic("orders", 1, terms=TERMS))
    for one in (group, other):
        await a.do(ReadKeeping(one))
    await anyio.sleep(0.05)
    await a.do(Disband(group, force=True))
    again = (await a.do(ReadKeeping(group))).alone[group.group]
    assert (await a.do(ReadKeeping(other))).alone[other.group] >= again + 0.04
    await a.do(DropTopic(group.topic))
    await a.do(MakeTopic("orders", 1, terms=TERMS))
    assert (await a.do(ReadKeeping(other))).alone[other.group] < 0.01, "this look is the first one"
