"""Variants of the rules about members (M), each with the scenario that shows the harm.

Most are directed, because the necessary coincidences are too rare for chance. In all of them, two members come to work on one partition, or
none does.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator
from typing import Any

import anyio
from msgspec import structs

from redisaq.brokers.memory.members import Coordination, GroupState, Returns, WaitingRoom
from redisaq.brokers.steps.coordination import Commit, GiveBack
from redisaq.consuming import lease as lease_module, member as consumers, owner as partition_owner
from redisaq.consuming.lease import Lease
from redisaq.consuming.member import Member
from redisaq.core import deltas, membership
from redisaq.core.deltas import read_delta
from redisaq.core.membership import EMPTY, Document
from redisaq.core.records import microseconds
from redisaq.core.waiting import GATHER_TURN, TURN, Newcomer, read_newcomers
from redisaq.testing import FaultPlan, Simulation
from tests.simulation.variants.breaking import Change, Function
from tests.simulation.variants.crowd import (
    GROUP,
    QUICK,
    TOPIC,
    after_heartbeat,
    complain,
    incarnation,
    lose_rings,
    owned,
    takes,
    topic,
    until,
)
from tests.simulation.variants.variant import Variant
from tests.simulation.variants.wire import Wire

TWO_AT_ONCE = r"began .* while \w+ runs|still ran .* after another had begun"

# -- M1 --------------------------------------------------------------------------------------------------------------------------------


def _named_by_hand(original: Function) -> Function:
    def renew_incarnation(member: Member) -> None:
        original(member)
        member.lease.incarnation = member.name or member.lease.incarnation

    return renew_incarnation


async def one_name_twice(sim: Simulation) -> None:
    """Two processes are started under one name."""
    producer = await topic(sim, 2)
    for name in "ab":
        sim.member(name, TOPIC, takes(0.2), consumer_name="worker", batch_size=1)
    for _ in range(8):
        await producer.batch_enqueue([{}] * 4)
        await anyio.sleep(0.5)
    await sim.leave("a")
    await sim.until_quiet()


M1 = Variant(
    name="M1",
    without="an incarnation is the consumer's name, the same at each start",
    changes=[Change(Member, "renew_incarnation", _named_by_hand)],
    scenario=one_name_twice,
    harm=TWO_AT_ONCE,
)

# -- M3 --------------------------------------------------------------------------------------------------------------------------------


def _counted_versions(original: Function) -> Function:
    def commit(coordination: Coordination, step: Commit, **options: Any) -> Any:
        before = int(coordination.state.version) if coordination.state is not None else 0
        return original(coordination, structs.replace(step, new_version=str(before + 1)), **options)

    return commit


async def document_made_again(sim: Simulation) -> None:
    """The document is lost while a join based on the old one is under way, and a member of the old one crashes meanwhile."""
    wire = Wire(sim)
    producer = await topic(sim, 4)
    for name in "ab":
        sim.member(name, TOPIC, takes(0.05), **QUICK)
    await until(lambda: len(owned(sim, "a")) == len(owned(sim, "b")) == 2)
    state = sim.store.members(GROUP).state
    assert state is not None
    known = state.version

    def stands_again() -> bool:
        again = sim.store.members(GROUP).state
        return again is not None and again is not state and again.version == known

    wire.hold_until("c", "commit", stands_again, 30.0)
    sim.member("c", TOPIC, takes(0.05), **QUICK)
    await until(lambda: bool(wire.befallen))
    await sim.crash("b")
    await sim.crash("c")
    sim.store.forget_group(GROUP)
    for name in "defghi":
        await anyio.sleep(0.5)
        sim.member(name, TOPIC, takes(0.05), **QUICK)
    await producer.batch_enqueue([{}] * 20)
    await sim.until_quiet(timeout=60)


M3 = Variant(
    name="M3",
    without="a version counts up from 1",
    changes=[Change(Coordination, "commit", _counted_versions)],
    scenario=document_made_again,
    harm="not quiet .* partitions are owned|which are not the members that run|the document says",
)

# -- M5 --------------------------------------------------------------------------------------------------------------------------------


async def wakes_past_its_lease(sim: Simulation) -> None:
    """A member is suspended for longer than its lease, in the middle of a handler."""
    producer = await topic(sim, 2)
    wire = Wire(sim)
    for name in "ab":
        sim.member(name, TOPIC, takes(1.0), **QUICK)
    await until(lambda: bool(owned(sim, "a")) and bool(owned(sim, "b")))
    await producer.batch_enqueue([{}] * 12)
    await anyio.sleep(0.3)
    wire.slow("a", 0.4)  # nobody tells it at once
    await sim.pause("a", 4.0)
    await sim.until_quiet()


def _no_deadline(_original: Function) -> Function:
    return lambda sent, ttl: sent + ttl + math.inf


def _from_the_answer(original: Function) -> Function:
    return lambda lease, _sent: original(lease, lease._clock())


def _without_margin(_original: Function) -> Function:
    return lambda sent, ttl: sent + ttl


async def cut_off(sim: Simulation, ttl: float, late: float) -> None:
    """A member whose answers take long is cut off from the server, with much to do."""
    wire = Wire(sim)
    producer = await topic(sim, 2)
    wire.slow("a", late)
    sim.member("a", TOPIC, takes(0.2), heartbeat_interval=0.2, heartbeat_ttl=ttl, batch_size=100)
    await producer.batch_enqueue([{}] * 200)
    await until(lambda: owned(sim, "a") == {0, 1})
    sim.member("b", TOPIC, takes(0.2), heartbeat_interval=0.2, heartbeat_ttl=ttl)
    await until(lambda: bool(owned(sim, "a")) and bool(owned(sim, "b")))
    await anyio.sleep(2 * late)
    wire.cut("a")
    await anyio.sleep(2 * ttl)
    wire.mend("a")
    await sim.until_quiet()


async def cut_off_with_slow_answers(sim: Simulation) -> None:
    """See `cut_off`."""
    await cut_off(sim, 3.0, 0.8)


async def cut_off_with_another_clock(sim: Simulation) -> None:
    """See `cut_off`; the server's clock is another one."""
    await cut_off(sim, 6.0, 0.0)


M5_DEADLINE = Variant(
    name="M5 deadline",
    without="a lease has no deadline of its own",
    changes=[Change(lease_module, "lease_deadline", _no_deadline)],
    scenario=wakes_past_its_lease,
    harm=TWO_AT_ONCE,
)
M5_SENT = Variant(
    name="M5 sent",
    without="the deadline is counted from the answer",
    changes=[Change(Lease, "_extend", _from_the_answer)],
    scenario=cut_off_with_slow_answers,
    harm=TWO_AT_ONCE,
)
M5_MARGIN = Variant(
    name="M5 margin",
    without="the deadline has no margin",
    changes=[Change(lease_module, "lease_deadline", _without_margin)],
    scenario=cut_off_with_another_clock,
    harm=TWO_AT_ONCE,
    plan=FaultPlan(clock_drift=0.1),
)

# -- M7 --------------------------------------------------------------------------------------------------------------------------------


def _blind_to_run_id(original: Function) -> Function:
    def step(coordination: Coordination, *args: Any, **options: Any) -> Any:
        if coordination.state is not None:
            coordination.state.run_id = options["run_id"]
        return original(coordination, *args, **options)

    return step


async def replica_takes_over(sim: Simulation) -> None:
    """A replica that missed a member's last heartbeats takes over; the member takes two seconds to find it."""
    wire = Wire(sim)
    producer = await topic(sim, 4)
    sim.member("a", TOPIC, takes(0.4), heartbeat_interval=3.0, heartbeat_ttl=6.0)
    await until(lambda: len(owned(sim, "a")) == 4)  # all of them
    sim.member("b", TOPIC, takes(0.4), heartbeat_interval=0.2, heartbeat_ttl=6.0)
    await until(lambda: bool(owned(sim, "b")) and len(owned(sim, "a")) == 2)  # half of them
    await anyio.sleep(8.0)  # the group is older than a ttl
    await producer.batch_enqueue([{}] * 60)
    await after_heartbeat(sim, "a")
    await anyio.sleep(0.5)  # its next heartbeat is 2.5 s away
    sim.store.members(GROUP).members[incarnation(sim, "a")] = sim.store.now() - 1
    wire.cut("a")
    sim.store.restart()
    await anyio.sleep(2.0)
    wire.mend("a")
    await sim.until_quiet()


M7 = Variant(
    name="M7",
    without="a server that is another one is taken for the one before",
    changes=[Change(Coordination, "heartbeat", _blind_to_run_id), Change(Coordination, "commit", _blind_to_run_id)],
    scenario=replica_takes_over,
    harm=TWO_AT_ONCE,
)

# -- M8 --------------------------------------------------------------------------------------------------------------------------------


def _made_plain(_original: Function) -> Function:
    def made_again(_known: Document | None, *, partitions: int) -> Document:
        del partitions
        return EMPTY

    return made_again


def _never_frozen(original: Function) -> Function:
    return lambda coordination, step, **options: original(coordination, structs.replace(step, freeze=False), **options)


async def coordination_is_lost(sim: Simulation) -> None:
    """Document and holders are lost, as in a FLUSHALL; of two members the one that beats more often sees it first."""
    producer = await topic(sim, 4)
    sim.member("a", TOPIC, takes(0.3), heartbeat_interval=3.0, heartbeat_ttl=9.0)
    await until(lambda: len(owned(sim, "a")) == 4)  # all of them
    sim.member("b", TOPIC, takes(0.3), heartbeat_interval=0.2, heartbeat_ttl=9.0)
    await until(lambda: len(owned(sim, "a")) == len(owned(sim, "b")) == 2)  # half of them
    await producer.batch_enqueue([{}] * 60)
    await after_heartbeat(sim, "a")
    await anyio.sleep(0.1)
    lose_rings(sim)
    sim.store.forget_group(GROUP)
    for partition in range(4):
        sim.store.lease(GROUP, partition).holder = ""
    await sim.until_quiet()


M8_FREEZE = Variant(
    name="M8 freeze",
    without="who makes a lost document again makes a plain one",
    changes=[Change(membership, "made_again", _made_plain), Change(Coordination, "commit", _never_frozen)],
    scenario=coordination_is_lost,
    harm=TWO_AT_ONCE,
)


def _foreign_holders_do_not_count(_original: Function) -> Function:
    def may_acquire_foreign(_now: int, *, frozen_until: int, born: int, ttl_us: int) -> bool:
        del frozen_until, born, ttl_us
        return True

    return may_acquire_foreign


async def newcomer_makes_the_document(sim: Simulation) -> None:
    """The group's coordination is lost, and the first member to come has never known the group."""
    producer = await topic(sim, 4)
    sim.member("a", TOPIC, takes(0.3), heartbeat_interval=3.0, heartbeat_ttl=9.0)
    await until(lambda: len(owned(sim, "a")) == 4)  # all of them
    await producer.batch_enqueue([{}] * 80)
    await after_heartbeat(sim, "a")
    await anyio.sleep(0.1)
    lose_rings(sim)
    sim.store.forget_group(GROUP)
    sim.member("b", TOPIC, takes(0.3), heartbeat_interval=0.2, heartbeat_ttl=9.0)
    await sim.until_quiet()


M8_HOLDER = Variant(
    name="M8 holder",
    without="a partition whose data names a foreign holder is taken at once",
    changes=[Change(partition_owner, "may_acquire_foreign", _foreign_holders_do_not_count)],
    scenario=newcomer_makes_the_document,
    harm=TWO_AT_ONCE,
)


def _without_the_last(original: Function) -> Function:
    def renew_incarnation(member: Member) -> None:
        original(member)
        member.lease.former = frozenset(member.former)

    return renew_incarnation


async def away_for_longer_than_a_lease(sim: Simulation) -> None:
    """The server is unreachable until the only member's time has run out; its partitions are its own again once the server is back."""
    producer = await topic(sim, 2)
    sim.member("a", TOPIC, takes(0.2), heartbeat_interval=0.5, heartbeat_ttl=6.0)
    await until(lambda: owned(sim, "a") == {0, 1})
    await producer.batch_enqueue([{}] * 60)
    await sim.outage(8.0)
    with anyio.move_on_after(3.0):
        await until(lambda: owned(sim, "a") == {0, 1})
    if owned(sim, "a") != {0, 1}:
        complain(sim, "3 s after the server was back nobody worked on what a had")
    await sim.until_quiet()


M7_FORMER = Variant(
    name="M7 former",
    without="what this process held itself until its time ran out is a foreign holder's",
    changes=[Change(Member, "renew_incarnation", _without_the_last)],
    scenario=away_for_longer_than_a_lease,
    harm="after the server was back nobody worked",
)


# -- M10 -------------------------------------------------------------------------------------------------------------------------------


def _the_last_alone(_original: Function) -> Function:
    def since(state: GroupState, version: str) -> Any:
        last = [delta for new, delta in state.deltas.values() if new == state.version]
        return tuple(map(read_delta, last)) if version != state.version else ()

    return since


def _to_any_document(original: Function) -> Function:
    return lambda document, delta: original(structs.replace(document, epoch=delta.before), delta)


async def changes_are_missed(sim: Simulation) -> None:
    """Members come while no ring is heard, so that the others look only at their heartbeats, and miss some of the changes."""
    whole, deltas.SMALL = deltas.SMALL, 0
    try:
        producer = await topic(sim, 6)
        lose_rings(sim)
        for name, every in zip("abcd", (0.7, 0.9, 1.1, 1.3), strict=True):
            sim.member(name, TOPIC, takes(0.2), heartbeat_interval=every, heartbeat_ttl=6.0)
            await anyio.sleep(0.1)
        await producer.batch_enqueue([{}] * 60)
        await sim.until_quiet(timeout=20)
    finally:
        deltas.SMALL = whole


M10 = Variant(
    name="M10",
    without="a member hears the last change alone, whichever document it knows",
    changes=[Change(GroupState, "since", _the_last_alone), Change(consumers, "apply_delta", _to_any_document)],
    scenario=changes_are_missed,
    harm=TWO_AT_ONCE + r"|took .* while \w has it",
)


# -- M11 -------------------------------------------------------------------------------------------------------------------------------


def _forever(original: Function) -> Function:
    def ask(room: WaitingRoom, newcomer: Newcomer, now: int) -> Any:
        room.until = room.until and now + microseconds(TURN)  # a later one would count as of a clock that was set back
        return original(room, newcomer, now)

    return ask


async def one_that_has_the_turn_dies(sim: Simulation) -> None:
    """Members start at once, and the one that is to let the others in crashes before it does."""
    producer = await topic(sim, 6)
    for name in "abcdef":
        sim.member(name, TOPIC, takes(0.05), **QUICK, client=name)
    room = sim.store.members(GROUP).room
    await until(lambda: len(room.waiting) > 2 and room.holder in room.waiting)
    (holder,) = read_newcomers([room.waiting[room.holder][2]])
    await sim.crash(holder.profile.client)
    await producer.batch_enqueue([{}] * 20)
    await sim.until_quiet(timeout=20)


M11 = Variant(
    name="M11",
    without="the turn to let others in has no end",
    changes=[Change(WaitingRoom, "ask", _forever)],
    scenario=one_that_has_the_turn_dies,
    harm="not quiet",
)


# -- M12 -------------------------------------------------------------------------------------------------------------------------------


def _before_it_is_free(original: Function) -> Function:
    def grant(before: Document, after: Document, *, now: int) -> Any:
        names = {entry.incarnation: name for name, entry in after.members.items()}
        kept = {p: holder for p, holder in after.lease.items() if names.get(holder) == after.target.get(p)}
        return original(before, structs.replace(after, lease=kept), now=now)

    return grant


@contextlib.contextmanager
def everyone_a_crowd() -> Generator[None]:
    """Let two members count as a crowd."""
    crowd, membership.CROWD = membership.CROWD, 1
    try:
        yield
    finally:
        membership.CROWD = crowd


async def one_more_joins_a_crowd(sim: Simulation) -> None:
    """A member joins others that have all partitions, and hear of it only at their heartbeats."""
    with everyone_a_crowd():
        producer = await topic(sim, 6)
        lose_rings(sim)
        for name, every in zip("abcd", (0.7, 0.9, 1.1, 1.3), strict=True):
            sim.member(name, TOPIC, takes(0.3), heartbeat_interval=every, heartbeat_ttl=6.0)
            await producer.batch_enqueue([{}] * 60)
            await anyio.sleep(2.0)
        await sim.until_quiet(timeout=60)


M12 = Variant(
    name="M12",
    without="a change leases what it means for another at once, and not only what is free",
    changes=[Change(membership, "grant", _before_it_is_free)],
    scenario=one_more_joins_a_crowd,
    harm=TWO_AT_ONCE,
)


# -- M13 -------------------------------------------------------------------------------------------------------------------------------


def _under_any_token(original: Function) -> Function:
    def free(document: Document, *, leases: Any) -> Any:
        return original(document, leases={(p, holder, document.token.get(p)) for p, holder, _ in leases})

    return free


async def partitions_come_back(sim: Simulation) -> None:
    """Members join a crowd and leave it again, so that partitions come back to members that have just given them back."""
    with everyone_a_crowd():
        producer = await topic(sim, 8)
        lose_rings(sim)
        for name, every in zip("abc", (0.3, 0.5, 1.3), strict=True):
            sim.member(name, TOPIC, takes(0.2), heartbeat_interval=every, heartbeat_ttl=6.0)
        for name in "def":
            await until(lambda: sum(len(owned(sim, one)) for one in "abc") == 8)
            await producer.batch_enqueue([{}] * 60)
            sim.member(name, TOPIC, takes(0.2), heartbeat_interval=0.1, heartbeat_ttl=6.0)
            await until(lambda name=name: len(owned(sim, name)) == 2)  # type: ignore[misc]
            await sim.leave(name)
        await sim.until_quiet(timeout=60)


M13 = Variant(
    name="M13",
    without="what was given back is free, whatever token it has by now",
    changes=[Change(membership, "free", _under_any_token)],
    scenario=partitions_come_back,
    harm=TWO_AT_ONCE,
)


def _turn_without_end(original: Function) -> Function:
    def give_back(returns: Returns, step: GiveBack, now: int) -> Any:
        returns.began = max(returns.began, now - microseconds(GATHER_TURN))
        return original(returns, step, now)

    return give_back


async def one_that_gives_back_dies(sim: Simulation) -> None:
    """A member joins a crowd, and the first of those that have something to give back crashes before it changes the document."""
    with everyone_a_crowd():
        producer = await topic(sim, 8)
        for name in "abc":
            sim.member(name, TOPIC, takes(0.05), heartbeat_interval=0.5, heartbeat_ttl=2.5)
        await until(lambda: sum(len(owned(sim, name)) for name in "abc") == 8)
        sim.member("d", TOPIC, takes(0.05), heartbeat_interval=0.5, heartbeat_ttl=2.5)
        returns = sim.store.members(GROUP).freed
        await until(lambda: bool(returns.holder) and len(returns.given) > 1)
        await sim.crash(next(name for name in "abc" if incarnation(sim, name) == returns.holder))
        await producer.batch_enqueue([{}] * 20)
        await sim.until_quiet(timeout=20)


M13_TURN = Variant(
    name="M13 turn",
    without="the turn to change the document for all that give back has no end",
    changes=[Change(Returns, "give_back", _turn_without_end)],
    scenario=one_that_gives_back_dies,
    harm="not quiet",
)
