"""Looking after topics and groups: look, pause, seek, delete."""

from __future__ import annotations

import anyio
import pytest

from redisaq.brokers.administration import END, START, GroupView, PartitionView, StreamView
from redisaq.brokers.base import Broker, GroupName
from redisaq.brokers.producing import Delayed
from redisaq.core.membership import Document, MemberEntry
from tests.conformance.failures import dead, delivered, due, now, read, resolution, resolve
from tests.conformance.steps import SECOND, append, ids, pending, values
from tests.conformance.worlds import World

pytestmark = pytest.mark.anyio

DOCUMENT = Document(members={"one": MemberEntry("A")}, partitions=3, target={0: "one"}, lease={0: "A"}, token={0: 7})


async def join(broker: Broker, group: GroupName, incarnation: str = "A", ttl: float = 60.0) -> None:
    """Let a member join a group that nobody has joined."""
    assert await broker.commit(group, incarnation, ttl, known_version="", document=DOCUMENT, joins=True)


async def view(broker: Broker, group: GroupName, partition: int = 0) -> PartitionView:
    """Return how the group stands in one partition."""
    (found,) = await broker.view_partitions(group, [partition])
    return found


async def once(broker: Broker, group: GroupName, partition: int, value: bytes) -> bytes | None:
    """Append it under a mark that is always the same one."""
    fields = [b"i", value]
    return await broker.append_once(
        group.topic, partition, fields, dedup_id="mine:}", window=60.0, due=None, maxlen=None, approximate=False
    )


# -- looking -------------------------------------------------------------------------------------------------------------------------


async def test_what_nobody_knows_is_empty(a: Broker, group: GroupName) -> None:
    found = await a.view_group(group)
    assert found == GroupView(found.now, paused=False, members={}, document=None)
    assert found.live == ()
    assert await a.view_partitions(group, []) == []
    assert await view(a, group) == PartitionView(False, 0, 0, 0, 0, 0, 0, 0, "", START, {})
    assert await a.view_streams("nothing", [0]) == [StreamView(0, 0, ())]
    assert await a.view_streams("nothing", []) == []


async def test_streams(a: Broker, group: GroupName, owned: int) -> None:
    del owned
    await append(a, group.topic, 0, b"1", b"2")
    await a.make_groups(GroupName(group.topic, "audit"), [0], latest=False)
    assert await a.delay(group.topic, [Delayed(1, b"x", await now(a, group) + 60 * SECOND, [b"i", b"x"])]) == [True]
    assert await a.view_streams(group.topic, [0, 1, 2]) == [
        StreamView(2, 0, ("audit", "billing")),
        StreamView(0, 1, ("billing",)),
        StreamView(0, 0, ("billing",)),
    ]


async def test_a_group(a: Broker, world: World, group: GroupName) -> None:
    before = await now(a, group)
    await join(a, group)
    found = await a.view_group(group)
    assert (found.document, found.paused, found.live) == (DOCUMENT, False, ("A",))
    assert before + 60 * SECOND - 1000 <= found.members["A"] <= found.now + 60 * SECOND + 1000
    world.expire(group, "A")
    found = await a.view_group(group)
    assert (list(found.members), found.live) == (["A"], ())


async def test_a_partition(a: Broker, group: GroupName, owned: int) -> None:
    entries = await delivered(a, group, owned, b"1", b"2", b"3", b"4", b"5")
    await resolve(a, group, owned, resolution(entries[0], "retry"), resolution(entries[1], "dead"))
    assert await a.set_deliveries(group, 0, owned, {entries[4][0]: 7})
    await append(a, group.topic, 0, b"6", b"7")
    await a.delay(group.topic, [Delayed(0, b"x", await now(a, group) + 60 * SECOND, [b"i", b"x"])])
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
    )


async def test_unread_are_counted_without_what_is_gone(a: Broker, world: World, group: GroupName, owned: int) -> None:
    first, second, *_ = await append(a, group.topic, 0, *(b"%d" % number for number in range(1200)))
    world.delete(group.topic, 0, [second])
    assert (await view(a, group)).unread == 1199
    await read(a, group, 0, owned)
    assert (await view(a, group)).unread == 0
    await a.seek(group, 0, first)
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
    assert not (await a.heartbeat(group, "A", 60.0, "")).paused
    for paused in (True, True, False, False):
        await b.set_paused(group, paused=paused)
        with anyio.fail_after(30):
            await bell.wait()
        beat = await a.heartbeat(group, "A", 60.0, "")
        assert (beat.alive, beat.paused, beat.document) == (True, paused, DOCUMENT)
        assert (await a.view_group(group)).paused is paused
    await bell.close()


async def test_a_group_may_be_paused_before_its_first_member(a: Broker, group: GroupName) -> None:
    await a.set_paused(group, paused=True)
    beat = await a.heartbeat(group, "A", 60.0, "")
    assert (beat.alive, beat.version, beat.born, beat.paused) == (False, "", 0, True)
    await join(a, group)
    beat = await a.heartbeat(group, "A", 60.0, "")
    assert (beat.alive, beat.paused, beat.frozen_until) == (True, True, 0)


# -- seeking -------------------------------------------------------------------------------------------------------------------------


async def test_seeking(a: Broker, group: GroupName, owned: int) -> None:
    entries = ids(await delivered(a, group, owned, b"1", b"2", b"3"))
    await a.seek(group, 0, START)
    assert values(await read(a, group, 0, owned)) == [b"1", b"2", b"3"]
    await a.seek(group, 0, entries[1])
    assert values(await read(a, group, 0, owned)) == [b"3"]
    await append(a, group.topic, 0, b"4", b"5")
    await a.seek(group, 0, END)
    await append(a, group.topic, 0, b"6")
    assert values(await read(a, group, 0, owned)) == [b"6"]


async def test_beyond_the_end_is_the_end(a: Broker, group: GroupName, owned: int) -> None:
    await append(a, group.topic, 0, b"1")
    await a.seek(group, 0, b"99999999999999-18446744073709551615")
    await append(a, group.topic, 0, b"2")
    assert values(await read(a, group, 0, owned)) == [b"2"]


async def test_what_is_delivered_anew_is_no_longer_pending_or_in_retry(a: Broker, group: GroupName, owned: int) -> None:
    """So each message is in one place only; and what stands before the position is not forgotten."""
    entries = await delivered(a, group, owned, *(b"%d" % number for number in range(6)))
    await resolve(a, group, owned, resolution(entries[0], "retry"), resolution(entries[3], "retry"), resolution(entries[4], "dead"))
    await a.seek(group, 0, entries[2][0])
    found = await view(a, group)
    assert (found.unread, found.pending, found.retry, found.dead) == (3, 2, 1, 1)
    assert list(await pending(a, group, 0, owned)) == [entries[1][0], entries[2][0]]
    assert [body.entry_id for body in (await due(a, group, owned)).retries] == [entries[0][0]]
    assert ids(await read(a, group, 0, owned)) == ids(entries[3:])


async def test_a_retry_that_is_not_in_the_stream_any_more_stays(a: Broker, world: World, group: GroupName, owned: int) -> None:
    entries = await delivered(a, group, owned, b"1", b"2", b"3")
    await resolve(a, group, owned, resolution(entries[0], "retry"), resolution(entries[1], "retry"))
    world.trim(group.topic, 0, 2)
    await a.seek(group, 0, START)
    assert [body.entry_id for body in (await due(a, group, owned)).retries] == [entries[0][0]]
    assert values(await read(a, group, 0, owned)) == [b"2", b"3"]


async def test_many_pending(a: Broker, group: GroupName, owned: int) -> None:
    await delivered(a, group, owned, *(b"%d" % number for number in range(1700)))
    assert (await view(a, group)).deliveries == {1: 1000}, "of the oldest ones"
    await a.seek(group, 0, START)
    found = await view(a, group)
    assert (found.pending, found.unread) == (0, 1700)


@pytest.mark.parametrize("lost", ["cursor", "stream"])
async def test_seeking_makes_what_is_missing(a: Broker, world: World, group: GroupName, owned: int, lost: str) -> None:
    await append(a, group.topic, 0, b"1")
    if lost == "cursor":
        world.forget_cursor(group, 0)
    else:
        world.forget_stream(group.topic, 0)
    await a.seek(group, 0, END)
    await append(a, group.topic, 0, b"2")
    assert values(await read(a, group, 0, owned)) == [b"2"]


# -- deleting ------------------------------------------------------------------------------------------------------------------------


async def test_live_members_are_not_disbanded(a: Broker, b: Broker, world: World, group: GroupName) -> None:
    await join(a, group)
    await a.set_paused(group, paused=True)
    bell = await a.listen(group)
    assert await b.disband(group, force=False) == ("A",)
    assert (await a.view_group(group)).document == DOCUMENT
    assert await b.disband(group, force=True) == ("A",)
    with anyio.fail_after(30):
        await bell.wait()
    await bell.close()
    beat = await a.heartbeat(group, "A", 60.0, "")
    assert (beat.alive, beat.version, beat.paused) == (False, "", False)
    await join(a, group)
    world.expire(group, "A")
    assert await b.disband(group, force=False) == ()
    assert (await a.view_group(group)).members == {}
    assert await b.disband(group, force=False) == (), "it may be repeated"


async def test_a_group_is_dropped_and_the_others_are_not(a: Broker, group: GroupName, owned: int) -> None:
    other = GroupName(group.topic, "billing2")
    await a.make_groups(other, [0, 1, 2], latest=False)
    for one in (group, other):
        assert (await a.install(one, 0, owned, "A", foreign=True)).done
    entries = await delivered(a, group, owned, b"1", b"2", b"3")
    await read(a, other, 0, owned)
    for one in (group, other):
        await resolve(a, one, owned, resolution(entries[0], "retry"), resolution(entries[1], "dead"))
    stands = await view(a, other)
    for _ in range(2):
        await a.drop_group(group, [0, 1, 2])
        found = await view(a, group)
        assert (found.there, found.pending, found.retry, found.dead, found.token) == (False, 0, 0, 0, 0)
        assert await dead(a, group) == []
    assert await view(a, other) == stands
    assert (stands.pending, stands.retry, stands.dead) == (1, 1, 1)
    await a.drop_group(group, [])


async def test_a_topic_is_dropped_whole_and_no_other(a: Broker, group: GroupName, owned: int) -> None:
    """Not one whose name begins so, and not one that has the name of a partition of it."""
    others = ["orders:1", "orders:2:0", "orders2", "order", "orders*", "o?ders"]
    for topic in others:
        await a.make_topic(topic, 2)
        await join(a, GroupName(topic, "billing"))
        assert (await a.install(GroupName(topic, "billing"), 1, owned, "A", foreign=True)).done
        await append(a, topic, 1, b"1")
    kept = {topic: await a.view_partitions(GroupName(topic, "billing"), [0, 1]) for topic in others}
    entries = await delivered(a, group, owned, b"1", b"2", b"3")
    await resolve(a, group, owned, resolution(entries[0], "retry"), resolution(entries[1], "dead"))
    await a.delay(group.topic, [Delayed(0, b"x", await now(a, group) + 60 * SECOND, [b"i", b"x"])])
    assert await once(a, group, 2, b"y") == b"y"
    await join(a, group)
    await a.make_groups(group, [7], latest=False)  # a stream that the count does not reach, say since the topic was lost
    bell = await a.listen(group)
    for _ in range(2):
        await a.drop_topic(group.topic)
        assert await a.topic(group.topic) is None
        assert await a.topics() == sorted(others)
        assert await a.view_streams(group.topic, [0, 1, 2, 7]) == [StreamView(0, 0, ())] * 4
    with anyio.fail_after(30):
        await bell.wait()
    await bell.close()
    for topic in others:
        assert await a.view_partitions(GroupName(topic, "billing"), [0, 1]) == kept[topic]
        assert (await a.view_group(GroupName(topic, "billing"))).live == ("A",)
    for topic in others:
        await a.drop_topic(topic)
    await a.make_topic(group.topic, 1)
    assert await once(a, group, 0, b"z") == b"z"


async def test_a_glob_in_a_topics_name_matches_itself_alone(a: Broker) -> None:
    for topic in ("a*[b]\\?", "axb"):
        await a.make_topic(topic, 1)
        await append(a, topic, 0, b"1")
    await a.drop_topic("a*[b]\\?")
    assert await a.topics() == ["axb"]
    assert await a.view_streams("axb", [0]) == [StreamView(1, 0, ())]
    assert await a.view_streams("a*[b]\\?", [0]) == [StreamView(0, 0, ())]


async def test_looking_and_deleting_at_full_memory(a: Broker, world: World, group: GroupName, owned: int) -> None:
    await delivered(a, group, owned, b"1", b"2")
    await a.set_paused(group, paused=True)
    with world.full():
        assert (await view(a, group)).pending == 2
        assert (await a.view_group(group)).paused
        await a.seek(group, 0, START)
        await a.set_paused(group, paused=False)
        assert await a.disband(group, force=False) == ()
        await a.drop_group(group, [0, 1, 2])
        await a.drop_topic(group.topic)
    assert await a.topics() == []
