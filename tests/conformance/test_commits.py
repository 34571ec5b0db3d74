"""Commits: the document is replaced under its own version only, and the members with it (M2, M3, M5, M7, M8)."""

from __future__ import annotations

from typing import Unpack

import anyio
import anyio.lowlevel
import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import Beat, Heartbeat
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import EMPTY, Document
from tests.conformance.steps import SECOND, Changes, commit_document
from tests.conformance.worlds import RedisWorld, World

pytestmark = pytest.mark.anyio

TTL = 1000.0


async def commit(broker: Broker, group: GroupName, incarnation: str, version: str, epoch: int, **changes: Unpack[Changes]) -> str | None:
    return await commit_document(broker, group, incarnation, TTL, known_version=version, document=Document(epoch=epoch), **changes)


@pytest.fixture
async def version(a: Broker, group: GroupName) -> str:
    """Let A and B be members of a group that is at epoch 2; return the version."""
    first = await commit(a, group, "A", "", 1, joins=True)
    assert first is not None
    second = await commit(a, group, "B", first, 2, joins=True)
    assert second is not None
    return second


async def look(broker: Broker, group: GroupName) -> Beat:
    """Return how the group stands, for a stranger."""
    return await broker.do(Heartbeat(group, "stranger", TTL, ""))


def timeless(beat: Beat) -> tuple[object, ...]:
    """Return what does not change while nothing happens."""
    return (beat.version, beat.document, beat.expired, beat.next_expiry, beat.born, beat.frozen_until)


async def test_joining_changes_document_and_members_together(a: Broker, b: Broker, group: GroupName) -> None:
    """M2."""
    version = await commit(a, group, "A", "", 1, joins=True)
    beat = await look(b, group)
    assert beat.version == version
    assert beat.document == Document(epoch=1)
    assert beat.next_expiry is not None
    assert 990 * SECOND < beat.next_expiry - beat.now <= 1000 * SECOND
    assert (await b.do(Heartbeat(group, "A", TTL, ""))).alive


async def test_leaving_changes_document_and_members_together(a: Broker, b: Broker, group: GroupName, version: str) -> None:
    """M2."""
    assert await commit(a, group, "A", version, 3, leaves=True) is not None
    beat = await b.do(Heartbeat(group, "B", TTL, ""))
    assert beat.document == Document(epoch=3)
    assert (beat.expired, beat.next_expiry) == ((), None)
    assert not (await a.do(Heartbeat(group, "A", TTL, ""))).alive


async def test_the_document_stays_when_the_last_has_left(a: Broker, group: GroupName) -> None:
    """M8."""
    first = await commit(a, group, "A", "", 1, joins=True)
    assert first is not None
    second = await commit(a, group, "A", first, 2, leaves=True)
    beat = await look(a, group)
    assert (beat.version, beat.document) == (second, Document(epoch=2))


async def test_a_member_changes_the_document(a: Broker, b: Broker, group: GroupName, version: str) -> None:
    new = await commit(b, group, "B", version, 3)
    assert new not in (None, version)
    assert (await a.do(Heartbeat(group, "A", TTL, version))).document == Document(epoch=3)


@pytest.mark.parametrize("known", ["", "another"])
async def test_another_version_is_refused(a: Broker, b: Broker, group: GroupName, version: str, known: str) -> None:
    """M3."""
    assert version
    before = timeless(await look(b, group))
    for changes in (Changes(joins=True), Changes(), Changes(leaves=True), Changes(freeze=True)):
        assert await commit(a, group, "C" if "joins" in changes else "A", known, 9, **changes) is None
    assert timeless(await look(b, group)) == before, "nothing was changed"
    assert not (await a.do(Heartbeat(group, "C", TTL, ""))).alive


async def test_a_version_is_refused_where_no_document_is(a: Broker, group: GroupName) -> None:
    assert await commit(a, group, "A", "another", 1, joins=True) is None
    assert (await look(a, group)).version == ""
    assert not (await a.do(Heartbeat(group, "A", TTL, ""))).alive


async def test_a_repeated_commit_is_refused(a: Broker, group: GroupName, version: str) -> None:
    """An answer was lost: the caller sees by the document that its commit was done."""
    assert await commit(a, group, "A", version, 3) is not None
    assert await commit(a, group, "A", version, 3) is None


async def test_versions_never_repeat(world: World, a: Broker, group: GroupName, version: str) -> None:
    """M3: a document that was lost and made again is not mistaken for the previous one."""
    seen = {version}
    for _ in range(3):
        world.forget_group(group)
        again = await commit(a, group, "A", "", 2, joins=True)
        assert again is not None
        assert again not in seen
        seen.add(again)
        assert (await a.do(Heartbeat(group, "A", TTL, version))).document == Document(epoch=2)


async def test_one_of_many_wins(a: Broker, b: Broker, group: GroupName, version: str) -> None:
    won: list[int] = []

    async def try_it(broker: Broker, incarnation: str, epoch: int) -> None:
        if await commit(broker, group, incarnation, version, epoch) is not None:
            won.append(epoch)

    async with anyio.create_task_group() as tasks:
        for epoch in range(10, 30):
            tasks.start_soon(try_it, *((a, "A", epoch), (b, "B", epoch))[epoch % 2])
    assert len(won) == 1
    assert (await look(a, group)).document == Document(epoch=won[0])


async def test_neither_joining_nor_a_member(world: World, a: Broker, group: GroupName, version: str) -> None:
    """M5: an expired member may not even leave; another member drops it."""
    world.expire(group, "A")
    before = timeless(await look(a, group))
    for incarnation in ("stranger", "A"):
        assert await commit(a, group, incarnation, version, 3) is None
        assert await commit(a, group, incarnation, version, 3, leaves=True) is None
        assert await commit(a, group, incarnation, version, 3, expired=("A",)) is None
    assert timeless(await look(a, group)) == before


async def test_expired_members_are_removed(world: World, a: Broker, group: GroupName, version: str) -> None:
    world.expire(group, "A")
    assert await commit(a, group, "B", version, 3, expired=("A",)) is not None
    beat = await look(a, group)
    assert beat.document == Document(epoch=3)
    assert beat.expired == ()


async def test_a_joiner_may_remove_the_expired(world: World, a: Broker, group: GroupName, version: str) -> None:
    world.expire(group, "A")
    world.expire(group, "B")
    assert await commit(a, group, "C", version, 3, expired=("A", "B"), joins=True) is not None
    beat = await a.do(Heartbeat(group, "C", TTL, ""))
    assert (beat.alive, beat.expired, beat.next_expiry) == (True, (), None)


@pytest.mark.parametrize("dropped", [("A",), ("C", "A"), ("A", "C")])
async def test_who_lives_is_not_dropped(world: World, a: Broker, group: GroupName, version: str, dropped: tuple[str, ...]) -> None:
    """M5: the time is looked at again in the same step."""
    third = await commit(a, group, "C", version, 3, joins=True)
    assert third is not None
    world.expire(group, "C")
    before = timeless(await look(a, group))
    assert await commit(a, group, "B", third, 4, expired=dropped) is None
    assert timeless(await look(a, group)) == before
    assert (await a.do(Heartbeat(group, "A", TTL, ""))).alive


async def test_who_is_unknown_is_as_good_as_expired(a: Broker, group: GroupName, version: str) -> None:
    """A lease can be dropped if its holder is not in the set, since no heartbeat can bring that member back."""
    assert await commit(a, group, "A", version, 3, expired=("nobody",)) is not None


async def test_a_frozen_document(world: World, a: Broker, group: GroupName) -> None:
    """M8: if a member that knew an older document makes a new one, no member is dropped meanwhile, and everything else works."""
    first = await commit(a, group, "A", "", 1, joins=True, freeze=True)
    assert first is not None
    beat = await look(a, group)
    assert 990 * SECOND < beat.frozen_until - beat.now <= 1000 * SECOND
    second = await commit(a, group, "B", first, 2, joins=True)
    assert second is not None
    world.expire(group, "A")
    assert await commit(a, group, "B", second, 3, expired=("A",)) is None
    assert await commit(a, group, "B", second, 3, expired=("nobody",)) is None
    assert await commit(a, group, "B", second, 3) is not None
    assert (await look(a, group)).frozen_until == beat.frozen_until


async def test_a_document_without_its_version_counts_as_lost(world: World, a: Broker, group: GroupName) -> None:
    """M8: what was beside it is made again, too."""
    assert await commit(a, group, "A", "", 1, joins=True, freeze=True) is not None
    if isinstance(world, RedisWorld):
        before = await look(a, group)
        world.command("HDEL", world.group_key(group, "state"), "version")
        await anyio.sleep(0.002)
        assert await commit(a, group, "A", "", 2, joins=True) is not None
        beat = await look(a, group)
        assert (beat.document, beat.frozen_until) == (Document(epoch=2), 0)
        assert before.born < beat.born <= beat.now


async def test_a_document_in_the_place_of_another_is_frozen_if_asked(a: Broker, group: GroupName, version: str) -> None:
    second = await commit(a, group, "A", version, 3)
    assert (await look(a, group)).frozen_until == 0
    assert second is not None
    third = await commit(a, group, "A", second, 4, freeze=True)
    assert third is not None
    beat = await look(a, group)
    assert beat.now < beat.frozen_until <= beat.now + TTL * 1_000_000
    assert await commit_document(a, group, "A", TTL / 10, known_version=third, document=EMPTY, freeze=True) is not None
    assert (await look(a, group)).frozen_until == beat.frozen_until  # a member of a shorter ttl does not cut it short


async def test_frozen_runs_out(world: World, a: Broker, group: GroupName) -> None:
    first = await commit_document(a, group, "A", 0.001, known_version="", document=EMPTY, joins=True, freeze=True)
    assert first is not None
    second = await commit(a, group, "B", first, 2, joins=True)
    assert second is not None
    world.expire(group, "A")
    with anyio.fail_after(30):
        while await commit(a, group, "B", second, 3, expired=("A",)) is None:
            await anyio.lowlevel.checkpoint()


async def test_after_a_change_of_server_nobody_is_dropped(world: World, a: Broker, group: GroupName, version: str) -> None:
    """M7: neither before the first heartbeat, which notices the change, nor after it."""
    world.expire(group, "A")
    world.change_server(group)
    assert await commit(a, group, "B", version, 3, expired=("A",)) is None
    assert (await a.do(Heartbeat(group, "B", TTL, version))).alive
    assert await commit(a, group, "B", version, 3, expired=("A",)) is None
    assert await commit(a, group, "B", version, 3) is not None
    assert (await a.do(Heartbeat(group, "A", TTL, version))).alive


async def test_groups_are_apart(a: Broker, group: GroupName, version: str) -> None:
    assert version
    for other in (GroupName(group.topic, "other"), GroupName("other", group.group)):
        assert (await look(a, other)).version == ""
        assert await commit(a, other, "A", "", 1, joins=True) is not None
    beat = await look(a, group)
    assert (beat.version, beat.document) == (version, Document(epoch=2))


async def test_a_former_incarnation_goes_when_the_next_one_joins(a: Broker, b: Broker, group: GroupName, version: str) -> None:
    """M5: even if late heartbeats have extended its time; it gets no more of them."""
    assert (await b.do(Heartbeat(group, "A", TTL, ""))).alive
    assert await commit(a, group, "A again", version, 3, joins=True, former=["A"]) is not None
    assert not (await b.do(Heartbeat(group, "A", TTL, ""))).alive
    assert (await b.do(Heartbeat(group, "A again", TTL, ""))).alive
    assert (await b.do(Heartbeat(group, "B", TTL, ""))).alive
    left = await commit(a, group, "A again", (await look(b, group)).version, 4, leaves=True)
    assert left is not None


async def test_with_a_former_incarnation_the_others_are_looked_at_as_before(a: Broker, b: Broker, group: GroupName, version: str) -> None:
    """M5: a live member is not dropped as expired, whatever else the commit drops; then nothing is changed."""
    assert await commit(a, group, "A again", version, 3, joins=True, former=["A"], expired=["B"]) is None
    assert (await b.do(Heartbeat(group, "A", TTL, ""))).alive
    assert (await b.do(Heartbeat(group, "B", TTL, ""))).alive
