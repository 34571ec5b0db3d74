"""Steps for an administrator of topics and groups: look, pause, seek, delete."""

from __future__ import annotations

from typing import Unpack

import anyio
import pytest
from msgspec.structs import replace

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.administration import (
    END,
    START,
    Disband,
    DropGroup,
    DropHistory,
    DropTopic,
    GroupView,
    Note,
    PartitionView,
    ReadHistory,
    ReadServer,
    Seek,
    SetPaused,
    StreamView,
    ViewGroup,
    ViewPartition,
    ViewStream,
)
from redisaq.brokers.steps.coordination import Heartbeat, make_groups
from redisaq.brokers.steps.leases import Claim, Install, SetDeliveries
from redisaq.brokers.steps.producing import AppendOnce, Delayed, delay
from redisaq.brokers.steps.retrying import Purge, redrive
from redisaq.brokers.steps.topics import MakeTopic, ReadTopic, ReadTopics
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import parse_id
from redisaq.core.history import KEPT, Change
from redisaq.core.membership import Document, MemberEntry
from redisaq.core.profile import Profile
from tests.conformance.failures import dead, delivered, due, now, read, resolution, resolve
from tests.conformance.steps import SECOND, Changes, append, commit_document, ids, pending, values
from tests.conformance.worlds import RedisWorld, World

pytestmark = pytest.mark.anyio

DOCUMENT = Document(members={"one": MemberEntry("A")}, partitions=3, target={0: "one"}, lease={0: "A"}, token={0: 7})


async def join(broker: Broker, group: GroupName, incarnation: str = "A", ttl: float = 60.0) -> None:
    """Let a member join a group that nobody has joined."""
    assert await commit_document(broker, group, incarnation, ttl, known_version="", document=DOCUMENT, joins=True)


async def view(broker: Broker, group: GroupName, partition: int = 0) -> PartitionView:
    """Return how the group stands in one partition."""
    (found,) = await broker.do_each([ViewPartition(group, partition)])
    return timeless(found)


def timeless(found: PartitionView) -> PartitionView:
    """Return a view without the server's time, which differs at the next look."""
    return replace(found, now=0)


def time_of(entry_id: bytes) -> int:
    return int(entry_id.split(b"-")[0])


async def once(broker: Broker, group: GroupName, partition: int, value: bytes) -> bytes | None:
    """Append it under a mark that is always the same one."""
    fields = [b"i", value]
    return await broker.do(
        AppendOnce(group.topic, partition, fields, dedup_id="mine:}", window=60.0, due=None, maxlen=None, approximate=False)
    )


# -- looking -------------------------------------------------------------------------------------------------------------------------


async def test_what_nobody_knows_is_empty(a: Broker, group: GroupName) -> None:
    found = await a.do(ViewGroup(group))
    assert found == GroupView(found.now, paused=False, members={}, document=None)
    assert found.live == ()
    assert await a.do_each([]) == []
    assert await view(a, group) == PartitionView(False, 0, 0, 0, 0, 0, 0, 0, "", START, {})
    assert await a.do_each([ViewStream("nothing", 0)]) == [StreamView(0, 0, ())]
    assert await a.do_each([]) == []


async def test_the_server(a: Broker, group: GroupName) -> None:
    found = await a.do(ReadServer())
    assert found.name.split(" ")[0] in ("Valkey", "Redis", "memory")
    assert "://" in found.url
    assert abs(found.now - await now(a, group)) < 60 * SECOND
    assert not found.evicts
    if found.memory is not None:
        assert found.memory > 0
        assert found.keys is not None


async def test_streams(a: Broker, group: GroupName, owned: int) -> None:
    del owned
    await append(a, group.topic, 0, b"1", b"2")
    await make_groups(a, GroupName(group.topic, "audit"), [0], latest=False)
    assert await delay(a, group.topic, [Delayed(1, b"x", await now(a, group) + 60 * SECOND, [b"i", b"x"])]) == [True]
    assert await a.do_each([ViewStream(group.topic, 0), ViewStream(group.topic, 1), ViewStream(group.topic, 2)]) == [
        StreamView(2, 0, ("audit", "billing"), 2),
        StreamView(0, 1, ("billing",)),
        StreamView(0, 0, ("billing",)),
    ]


async def test_a_group(a: Broker, world: World, group: GroupName) -> None:
    before = await now(a, group)
    await join(a, group)
    found = await a.do(ViewGroup(group))
    assert (found.document, found.paused, found.live) == (DOCUMENT, False, ("A",))
    assert before + 60 * SECOND - 1000 <= found.members["A"] <= found.now + 60 * SECOND + 1000
    world.expire(group, "A")
    found = await a.do(ViewGroup(group))
    assert (list(found.members), found.live) == (["A"], ())


async def test_members_say_who_they_are(world: World, a: Broker, group: GroupName) -> None:
    """For as long as they are members; a member of an older version says nothing, and drops others like any other."""
    before = await now(a, group)
    profile = Profile("anna", "a host", 7, "0.2", 60.0)
    version = ""

    async def commit(incarnation: str, **changes: Unpack[Changes]) -> None:
        nonlocal version
        found = await commit_document(a, group, incarnation, 60.0, known_version=version, document=DOCUMENT, **changes)
        assert found is not None
        version = found

    await commit("A", joins=True, profile=profile)
    await commit("B", joins=True)
    await commit("C", joins=True, profile=Profile(host="ünlike"))
    await commit("D", joins=True, profile=profile)
    presences = (await a.do(ViewGroup(group))).presences
    assert {incarnation: one.profile for incarnation, one in presences.items()} == {"A": profile, "C": Profile(host="ünlike"), "D": profile}
    assert before - 1000 <= presences["A"].since <= presences["D"].since <= await now(a, group)
    if isinstance(world, RedisWorld):
        noted = [world.command("HEXISTS", world.group_key(group, "state"), f"member:{one}") for one in "ABCD"]
        assert noted == [1, 0, 1, 1]
    await commit("A", leaves=True)
    await commit("E", joins=True, former=["D"])
    view = await a.do(ViewGroup(group))
    assert (sorted(view.members), list(view.presences)) == (["B", "C", "E"], ["C"])


async def test_a_partition(a: Broker, group: GroupName, owned: int) -> None:
    entries = await delivered(a, group, owned, b"1", b"2", b"3", b"4", b"5")
    await resolve(a, group, owned, resolution(entries[0], "retry"), resolution(entries[1], "dead"))
    assert await a.do(SetDeliveries(group, 0, owned, {entries[4][0]: 7}))
    unread, _ = await append(a, group.topic, 0, b"6", b"7")
    await delay(a, group.topic, [Delayed(0, b"x", await now(a, group) + 60 * SECOND, [b"i", b"x"])])
    assert await view(a, group) == PartitionView(
        there=True,
        length=7,
        unread=2,
        pending=3,
        retry=1,
        dead=1,
        delayed=1,
        token=owned,
        holder="A",
        last_delivered=entries[4][0],
        deliveries={1: 2, 7: 1},
        added=7,
        died=1,
        oldest_unread=time_of(unread),
        oldest_pending=time_of(entries[2][0]),
        retry_due=1,
    )


async def test_what_was_ever_added_or_died_outlives_trimming_purging_and_redriving(
    a: Broker, world: World, group: GroupName, owned: int
) -> None:
    """Rates are differences of these counts: they never fall, and redriven messages are distinguished from purged ones."""
    entries = await delivered(a, group, owned, b"1", b"2", b"3")
    await resolve(a, group, owned, *(resolution(entry, "dead") for entry in entries))
    world.trim(group.topic, 0, 0)
    assert await redrive(a, group, 0, None, 1) == 1
    assert await a.do(Purge(group, 0, None)) == 2
    found = await view(a, group)
    assert (found.added, found.died, found.redriven, found.dead, found.retry, found.length) == (3, 3, 1, 0, 1, 0)
    assert (await a.do_each([ViewStream(group.topic, 0)]))[0].added == 3
    assert found.retry_due is not None
    assert found.oldest_unread is None


async def test_a_view_tells_that_the_group_was_moved(a: Broker, group: GroupName, owned: int) -> None:
    """What a seek passes over was not handled."""
    del owned
    await append(a, group.topic, 0, b"1", b"2")
    await a.do(Seek(group, 0, END))
    await a.do(Seek(group, 0, START))
    await a.do(Seek(group, 1, START))  # nobody has ever owned it
    assert ((await view(a, group)).moves, (await view(a, group, 1)).moves) == (2, 0)


async def test_a_cheaper_view_counts_no_deliveries(a: Broker, group: GroupName, owned: int) -> None:
    await delivered(a, group, owned, b"1", b"2")
    (found,) = await a.do_each([ViewPartition(group, 0, deliveries=False)])
    assert timeless(found) == replace(await view(a, group), deliveries={})


async def test_unread_are_counted_without_what_is_gone(a: Broker, world: World, group: GroupName, owned: int) -> None:
    first, second, *_ = await append(a, group.topic, 0, *(b"%d" % number for number in range(1200)))
    world.delete(group.topic, 0, [second])
    assert (await view(a, group)).unread == 1199
    await read(a, group, 0, owned)
    assert (await view(a, group)).unread == 0
    await a.do(Seek(group, 0, first))
    assert (await view(a, group)).unread == 1198


async def test_without_the_group_all_is_unread(a: Broker, group: GroupName, owned: int) -> None:
    del owned
    await append(a, group.topic, 0, b"1", b"2")
    found = await view(a, GroupName(group.topic, "other"))
    assert (found.there, found.length, found.unread) == (False, 2, 2)


# -- pausing -------------------------------------------------------------------------------------------------------------------------


async def test_heartbeats_tell_of_a_pause(a: Broker, b: Broker, group: GroupName) -> None:
    await join(a, group)
    bell = await a.listen(group)
    assert not (await a.do(Heartbeat(group, "A", 60.0, ""))).paused
    for paused in (True, True, False, False):
        await b.do(SetPaused(group, paused=paused))
        with anyio.fail_after(30):
            await bell.wait()
        beat = await a.do(Heartbeat(group, "A", 60.0, ""))
        assert (beat.alive, beat.paused, beat.document) == (True, paused, DOCUMENT)
        assert (await a.do(ViewGroup(group))).paused is paused
    await bell.close()


async def test_a_group_may_be_paused_before_its_first_member(a: Broker, group: GroupName) -> None:
    await a.do(SetPaused(group, paused=True))
    beat = await a.do(Heartbeat(group, "A", 60.0, ""))
    assert (beat.alive, beat.version, beat.born, beat.paused) == (False, "", 0, True)
    await join(a, group)
    beat = await a.do(Heartbeat(group, "A", 60.0, ""))
    assert (beat.alive, beat.paused, beat.frozen_until) == (True, True, 0)


# -- seeking -------------------------------------------------------------------------------------------------------------------------


async def sought(broker: Broker, group: GroupName, position: bytes) -> int:
    """Move the group; return the token that the seek has left."""
    await broker.do(Seek(group, 0, position))
    return (await view(broker, group)).token


async def test_seeking(a: Broker, group: GroupName, owned: int) -> None:
    entries = ids(await delivered(a, group, owned, b"1", b"2", b"3"))
    owned = await sought(a, group, START)
    assert values(await read(a, group, 0, owned)) == [b"1", b"2", b"3"]
    owned = await sought(a, group, entries[1])
    assert values(await read(a, group, 0, owned)) == [b"3"]
    await append(a, group.topic, 0, b"4", b"5")
    owned = await sought(a, group, END)
    await append(a, group.topic, 0, b"6")
    assert values(await read(a, group, 0, owned)) == [b"6"]


async def test_beyond_the_end_is_the_end(a: Broker, group: GroupName, owned: int) -> None:
    await append(a, group.topic, 0, b"1")
    owned = await sought(a, group, b"99999999999999-18446744073709551615")
    await append(a, group.topic, 0, b"2")
    assert values(await read(a, group, 0, owned)) == [b"2"]


async def test_what_is_delivered_again_is_no_longer_pending_or_in_retry(a: Broker, group: GroupName, owned: int) -> None:
    """So each message is in only one place, and entries before the position are not forgotten."""
    entries = await delivered(a, group, owned, *(b"%d" % number for number in range(6)))
    await resolve(a, group, owned, resolution(entries[0], "retry"), resolution(entries[3], "retry"), resolution(entries[4], "dead"))
    owned = await sought(a, group, entries[2][0])
    found = await view(a, group)
    assert (found.unread, found.pending, found.retry, found.dead) == (3, 2, 1, 1)
    assert list(await pending(a, group, 0, owned)) == [entries[1][0], entries[2][0]]
    assert [body.entry_id for body in (await due(a, group, owned)).retries] == [entries[0][0]]
    assert ids(await read(a, group, 0, owned)) == ids(entries[3:])


async def test_a_retry_that_is_not_in_the_stream_any_more_stays(a: Broker, world: World, group: GroupName, owned: int) -> None:
    entries = await delivered(a, group, owned, b"1", b"2", b"3")
    await resolve(a, group, owned, resolution(entries[0], "retry"), resolution(entries[1], "retry"))
    world.trim(group.topic, 0, 2)
    owned = await sought(a, group, START)
    assert [body.entry_id for body in (await due(a, group, owned)).retries] == [entries[0][0]]
    assert values(await read(a, group, 0, owned)) == [b"2", b"3"]


async def test_what_was_deleted_while_it_was_pending_is_claimed_in_its_place(a: Broker, world: World, group: GroupName, owned: int) -> None:
    """It stays pending when the others are new again, and is behind them: a claim in pages passes over none of them."""
    entries = ids(await delivered(a, group, owned, b"1", b"2", b"3"))
    world.delete(group.topic, 0, entries[2:])
    owned = await sought(a, group, START)
    assert values(await read(a, group, 0, owned)) == [b"1", b"2"]
    page = await a.do(Claim(group, 0, owned, after=b"", count=2))
    assert (ids(page.entries), page.last) == (entries[:2], entries[1])


async def test_many_pending(a: Broker, group: GroupName, owned: int) -> None:
    await delivered(a, group, owned, *(b"%d" % number for number in range(1700)))
    assert (await view(a, group)).deliveries == {1: 1000}, "of the oldest ones"
    await sought(a, group, START)
    found = await view(a, group)
    assert (found.pending, found.unread) == (0, 1700)


@pytest.mark.parametrize("lost", ["cursor", "stream"])
async def test_seeking_makes_what_is_missing(a: Broker, world: World, group: GroupName, owned: int, lost: str) -> None:
    await append(a, group.topic, 0, b"1")
    if lost == "cursor":
        world.forget_cursor(group, 0)
    else:
        world.forget_stream(group.topic, 0)
    owned = await sought(a, group, END)
    await append(a, group.topic, 0, b"2")
    assert values(await read(a, group, 0, owned)) == [b"2"]


# -- deleting ------------------------------------------------------------------------------------------------------------------------


async def test_live_members_are_not_disbanded(a: Broker, b: Broker, world: World, group: GroupName) -> None:
    await join(a, group)
    await a.do(SetPaused(group, paused=True))
    bell = await a.listen(group)
    assert await b.do(Disband(group, force=False)) == ("A",)
    assert (await a.do(ViewGroup(group))).document == DOCUMENT
    assert await b.do(Disband(group, force=True)) == ("A",)
    with anyio.fail_after(30):
        await bell.wait()
    await bell.close()
    beat = await a.do(Heartbeat(group, "A", 60.0, ""))
    assert (beat.alive, beat.version, beat.paused) == (False, "", False)
    await join(a, group)
    world.expire(group, "A")
    assert await b.do(Disband(group, force=False)) == ()
    assert (await a.do(ViewGroup(group))).members == {}
    assert await b.do(Disband(group, force=False)) == (), "it may be repeated"


async def test_a_group_is_dropped_and_the_others_are_not(a: Broker, group: GroupName, owned: int) -> None:
    other = GroupName(group.topic, "billing2")
    await make_groups(a, other, [0, 1, 2], latest=False)
    for one in (group, other):
        assert (await a.do(Install(one, 0, owned, "A", foreign=True))).done
    entries = await delivered(a, group, owned, b"1", b"2", b"3")
    await read(a, other, 0, owned)
    for one in (group, other):
        await resolve(a, one, owned, resolution(entries[0], "retry"), resolution(entries[1], "dead"))
    stands = await view(a, other)
    for _ in range(2):
        await a.do_each([DropGroup(group, 0), DropGroup(group, 1), DropGroup(group, 2)])
        found = await view(a, group)
        assert (found.there, found.pending, found.retry, found.dead, found.token) == (False, 0, 0, 0, 0)
        assert await dead(a, group) == []
    assert await view(a, other) == stands
    assert (stands.pending, stands.retry, stands.dead) == (1, 1, 1)
    await a.do_each([])


async def test_a_topic_is_dropped_whole_and_no_other(a: Broker, group: GroupName, owned: int) -> None:
    """Neither a topic whose name begins the same way, nor one that is named like one of its partitions."""
    others = ["orders:1", "orders:2:0", "orders2", "order", "orders*", "o?ders"]
    for topic in others:
        await a.do(MakeTopic(topic, 2))
        await join(a, GroupName(topic, "billing"))
        assert (await a.do(Install(GroupName(topic, "billing"), 1, owned, "A", foreign=True))).done
        await append(a, topic, 1, b"1")
    kept = {topic: [await view(a, GroupName(topic, "billing"), number) for number in (0, 1)] for topic in others}
    entries = await delivered(a, group, owned, b"1", b"2", b"3")
    await resolve(a, group, owned, resolution(entries[0], "retry"), resolution(entries[1], "dead"))
    await delay(a, group.topic, [Delayed(0, b"x", await now(a, group) + 60 * SECOND, [b"i", b"x"])])
    assert await once(a, group, 2, b"y") == b"y"
    await join(a, group)
    await make_groups(a, group, [7], latest=False)  # a stream that the count does not reach, say since the topic was lost
    bell = await a.listen(group)
    for _ in range(2):
        await a.do(DropTopic(group.topic))
        assert await a.do(ReadTopic(group.topic)) is None
        assert await a.do(ReadTopics()) == sorted(others)
        assert (
            await a.do_each(
                [ViewStream(group.topic, 0), ViewStream(group.topic, 1), ViewStream(group.topic, 2), ViewStream(group.topic, 7)]
            )
            == [StreamView(0, 0, ())] * 4
        )
    with anyio.fail_after(30):
        await bell.wait()
    await bell.close()
    for topic in others:
        assert [await view(a, GroupName(topic, "billing"), number) for number in (0, 1)] == kept[topic]
        assert (await a.do(ViewGroup(GroupName(topic, "billing")))).live == ("A",)
    for topic in others:
        await a.do(DropTopic(topic))
    await a.do(MakeTopic(group.topic, 1))
    assert await once(a, group, 0, b"z") == b"z"


async def test_a_glob_in_a_topics_name_matches_itself_alone(a: Broker) -> None:
    for topic in ("a*[b]\\?", "axb"):
        await a.do(MakeTopic(topic, 1))
        await append(a, topic, 0, b"1")
    await a.do(DropTopic("a*[b]\\?"))
    assert await a.do(ReadTopics()) == ["axb"]
    assert await a.do_each([ViewStream("axb", 0)]) == [StreamView(1, 0, (), 1)]
    assert await a.do_each([ViewStream("a*[b]\\?", 0)]) == [StreamView(0, 0, ())]


async def test_looking_and_deleting_at_full_memory(a: Broker, world: World, group: GroupName, owned: int) -> None:
    await delivered(a, group, owned, b"1", b"2")
    await a.do(SetPaused(group, paused=True))
    with world.full():
        assert (await view(a, group)).pending == 2
        assert (await a.do(ViewGroup(group))).paused
        await a.do(Seek(group, 0, START))
        await a.do(SetPaused(group, paused=False))
        assert await a.do(Disband(group, force=False)) == ()
        await a.do_each([DropGroup(group, 0), DropGroup(group, 1), DropGroup(group, 2)])
        await a.do(DropTopic(group.topic))
    assert await a.do(ReadTopics()) == []


# -- what happened -------------------------------------------------------------------------------------------------------------------


async def history_of(broker: Broker, group: GroupName, count: int = 100, before: bytes = b"") -> list[Change]:
    return [one.change for one in await broker.do(ReadHistory(group, count, before))]


async def test_the_history_says_what_happened_the_latest_first(a: Broker, b: Broker, group: GroupName) -> None:
    assert await history_of(a, group) == []
    before = await now(a, group)
    came = Change("joined", "A", "host:1")
    version = await commit_document(a, group, "A", 60.0, known_version="", document=DOCUMENT, joins=True, changes=(came,))
    assert version
    await b.do(SetPaused(group, paused=True, change=Change("paused", by="mara")))
    await b.do(SetPaused(group, paused=False))
    moved = Change("sought", by="mara", partitions=((0, 2), (7, 7)), count=4, to="latest")
    await b.do(Note(group, moved))
    assert await history_of(a, group) == [moved, Change("paused", by="mara"), came]
    latest, *_ = await a.do(ReadHistory(group, 1))
    assert before // 1000 <= time_of(latest.entry_id) <= (await now(a, group)) // 1000 + 1
    assert await history_of(a, group, 1, latest.entry_id) == [Change("paused", by="mara")]


async def test_a_note_replaces_the_one_of_its_beginning(a: Broker, b: Broker, group: GroupName, world: World) -> None:
    begun, other = Change("seek begun", by="mara"), Change("paused")
    note = await a.do(Note(group, begun))
    before = (await a.do(ReadHistory(group, 1)))[0].entry_id
    assert note == before
    await b.do(Note(group, other))
    assert await history_of(a, group) == [other, begun]
    assert parse_id(await b.do(Note(group, Change("sought", began=1), replaces=note))) > parse_id(note)
    assert await history_of(a, group) == [Change("sought", began=1), other]
    assert await b.do(Note(group, Change("resumed"), replaces=note)), "what it replaces may be gone"
    note = await a.do(Note(group, begun))
    assert await b.do(Note(group, None, replaces=note)) == b""
    assert [one.what for one in await history_of(a, group)] == ["resumed", "sought", "paused"]
    alone = replace(group, group="alone")
    assert await b.do(Note(alone, None, replaces=await a.do(Note(alone, begun)))) == b""
    if isinstance(world, RedisWorld):
        assert world.command("KEYS", "*alone*") == [], "nothing is left of a history without a note"


async def test_a_history_tells_of_a_deletion_that_goes_on(a: Broker, group: GroupName, owned: int) -> None:
    del owned
    await a.do(Note(group, Change("deletion begun")))
    assert await a.do(Disband(group, force=False, keeps_history=True)) == ()
    assert (await a.do(ViewGroup(group))).document is None
    assert await history_of(a, group) == [Change("deletion begun")]
    await a.do(DropHistory(group))
    assert await history_of(a, group) == []


async def test_a_commit_that_is_refused_says_nothing(a: Broker, group: GroupName) -> None:
    await join(a, group)
    refused = await commit_document(a, group, "B", 60.0, known_version="other", document=DOCUMENT, joins=True, changes=(Change("joined"),))
    assert not refused
    assert await history_of(a, group) == []


async def test_the_history_is_capped_and_goes_with_its_group(a: Broker, group: GroupName, owned: int) -> None:
    del owned
    for number in range(KEPT + 400):
        await a.do(Note(group, Change("redriven", count=number + 1)))
    kept = await history_of(a, group, 5000)
    assert KEPT <= len(kept) <= KEPT + 150
    assert kept[0].count == KEPT + 400
    await a.do(Disband(group, force=True))
    assert await history_of(a, group) == []
    await a.do(Note(group, Change("purged", count=1)))
    await a.do(DropTopic(group.topic))
    assert await history_of(a, group) == []
