"""Delivered entries: claiming, counting, settling, and groups made again (T5, T6, S1, G6)."""

from __future__ import annotations

import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.leases import Claim, Install, Page, Release, RemakeGroup, SetDeliveries
from redisaq.brokers.steps.settling import Acknowledge, ReadRemaining, Remaining, Settled
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import GroupName
from redisaq.errors import LeaseLostError
from tests.conformance.steps import append, deliver, ids, pending, values
from tests.conformance.worlds import World

pytestmark = pytest.mark.anyio


async def pages(broker: Broker, group: GroupName, token: int, count: int) -> list[Page]:
    """Claim all pages of partition 0."""
    found: list[Page] = []
    after: bytes | None = b""
    while after is not None:
        page = await broker.do(Claim(group, 0, token, after=after, count=count))
        found.append(page)
        after = page.last
    return found


async def test_nothing_is_pending(a: Broker, group: GroupName, owned: int) -> None:
    await append(a, group.topic, 0, b"unread")
    assert await a.do(Claim(group, 0, owned, after=b"", count=10)) == Page((), (), None)


async def test_the_next_owner_claims_what_the_last_one_read(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    await append(a, group.topic, 0, b"1", b"2", b"3")
    sent = await deliver(a, group, 0, owned, "A", count=2)
    await b.do(Install(group, 0, owned + 1, "B", foreign=True))
    page = await b.do(Claim(group, 0, owned + 1, after=b"", count=10))
    assert ids(page.entries) == sent
    assert values(page.entries) == [b"1", b"2"]
    assert [entry.deliveries for entry in page.entries] == [1, 1]
    assert (page.trimmed, page.last) == ((), None)


async def test_ten_thousand_in_order(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """T5: in pages, in id order, each once, and no count is raised, however often they are claimed."""
    total = 10_000
    await a.append(group.topic, [(0, [b"i", b"%d" % number]) for number in range(total)], maxlen=None, approximate=False)
    await deliver(a, group, 0, owned, "A", count=total)
    await b.do(Install(group, 0, owned + 1, "B", foreign=True))
    found = await pages(b, group, owned + 1, 1000)
    assert [len(page.entries) for page in found] == [1000] * 10
    assert values([entry for page in found for entry in page.entries]) == [b"%d" % number for number in range(total)]
    again = await b.do(Claim(group, 0, owned + 1, after=b"", count=1000))
    assert {entry.deliveries for page in (*found, again) for entry in page.entries} == {1}


@pytest.mark.parametrize(("count", "sizes"), [(2, [2, 2]), (2, [2, 2, 1]), (3, [3]), (4, [3])])
async def test_the_last_page_says_so(a: Broker, group: GroupName, owned: int, count: int, sizes: list[int]) -> None:
    await append(a, group.topic, 0, *[b"x"] * sum(sizes))
    await deliver(a, group, 0, owned, "A")
    found = await pages(a, group, owned, count)
    assert [len(page.entries) for page in found] == sizes
    assert [page.last for page in found[:-1]] == [page.entries[-1].entry_id for page in found[:-1]]


async def test_after_is_an_id_like_any_other(a: Broker, group: GroupName, owned: int) -> None:
    sent = await append(a, group.topic, 0, b"1", b"2", b"3", b"4")
    await deliver(a, group, 0, owned, "A")
    await a.do_each([Acknowledge(group, 0, owned, [sent[1]])])
    assert ids((await a.do(Claim(group, 0, owned, after=sent[1], count=10))).entries) == sent[2:]
    assert ids((await a.do(Claim(group, 0, owned, after=sent[0], count=1))).entries) == sent[2:3]
    assert (await a.do(Claim(group, 0, owned, after=sent[3], count=10))).entries == ()


async def test_trimmed_entries_are_reported_and_acknowledged(world: World, a: Broker, group: GroupName, owned: int) -> None:
    sent = await append(a, group.topic, 0, *(b"%d" % number for number in range(6)))
    await deliver(a, group, 0, owned, "A")
    world.trim(group.topic, 0, 4)
    world.delete(group.topic, 0, [sent[4]])
    assert (await a.do_each([ReadRemaining(group, 0)]))[0].pending == 6, "not before a member has heard it"
    found = await pages(a, group, owned, 2)
    assert [entry_id for page in found for entry_id in page.trimmed] == [sent[0], sent[1], sent[4]]
    assert [value for page in found for value in values(page.entries)] == [b"2", b"3", b"5"]
    assert (await a.do_each([ReadRemaining(group, 0)]))[0].pending == 3
    assert await pending(a, group, 0, owned) == dict.fromkeys([sent[2], sent[3], sent[5]], 1)


async def test_trimming_under_maxlen_takes_pending_entries_too(a: Broker, group: GroupName, owned: int) -> None:
    sent = await append(a, group.topic, 0, b"1", b"2")
    await deliver(a, group, 0, owned, "A")
    await a.append(group.topic, [(0, [b"i", b"3"])], maxlen=2, approximate=False)
    page = await a.do(Claim(group, 0, owned, after=b"", count=10))
    assert (page.trimmed, ids(page.entries)) == ((sent[0],), sent[1:])
    reader = await a.open_reader(group, 0, owned, "A")
    assert values(await reader.read(10, 0)) == [b"3"], "the group's position is not moved by trimming"


@pytest.mark.parametrize("token_above", [-1, 1])
async def test_claiming_is_fenced(world: World, a: Broker, group: GroupName, owned: int, token_above: int) -> None:
    await append(a, group.topic, 0, b"1")
    await deliver(a, group, 0, owned, "A")
    world.trim(group.topic, 0, 0)
    with pytest.raises(LeaseLostError):
        await a.do(Claim(group, 0, owned + token_above, after=b"", count=10))
    assert (await a.do_each([ReadRemaining(group, 0)]))[0].pending == 1, "the trimmed entry was not acknowledged"


async def test_set_deliveries(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """T5: up when a handler starts again, and back when it never started."""
    sent = await append(a, group.topic, 0, b"1", b"2", b"3")
    await deliver(a, group, 0, owned, "A")
    assert await a.do(SetDeliveries(group, 0, owned, {sent[0]: 7, sent[2]: 2}))
    assert await pending(b, group, 0, owned) == {sent[0]: 7, sent[1]: 1, sent[2]: 2}
    assert await a.do(SetDeliveries(group, 0, owned, {sent[0]: 1}))
    assert await pending(b, group, 0, owned) == {sent[0]: 1, sent[1]: 1, sent[2]: 2}
    assert await a.do(SetDeliveries(group, 0, owned, {}))


async def test_set_deliveries_is_fenced(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    sent = await append(a, group.topic, 0, b"1")
    await deliver(a, group, 0, owned, "A")
    for token in (owned - 1, owned + 1):
        assert not await b.do(SetDeliveries(group, 0, token, {sent[0]: 7}))
    assert not await b.do(SetDeliveries(group, 1, owned, {sent[0]: 7}))
    assert await pending(a, group, 0, owned) == {sent[0]: 1}


async def test_set_deliveries_passes_over_what_is_not_pending(world: World, a: Broker, group: GroupName, owned: int) -> None:
    sent = await append(a, group.topic, 0, *[b"x"] * 5)
    await deliver(a, group, 0, owned, "A", count=4)
    await a.do_each([Acknowledge(group, 0, owned, [sent[0]])])
    world.delete(group.topic, 0, [sent[1]])
    assert await a.do(SetDeliveries(group, 0, owned, {**dict.fromkeys(sent, 9), b"1-1": 9}))
    page = await a.do(Claim(group, 0, owned, after=b"", count=10))
    assert page.trimmed == (sent[1],), "a trimmed one is still there to be reported"
    assert [(entry.entry_id, entry.deliveries) for entry in page.entries] == [(sent[2], 9), (sent[3], 9)]
    assert (await a.do_each([ReadRemaining(group, 0)]))[0].unread, "the last one was not delivered by this"


async def test_settle(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    sent = await append(a, group.topic, 0, b"1", b"2", b"3")
    await deliver(a, group, 0, owned, "A")
    assert await b.do_each([Acknowledge(group, 0, owned, [sent[0], sent[2]])]) == [Settled(done=True, token=owned)]
    assert await pending(a, group, 0, owned) == {sent[1]: 1}


async def test_settle_may_be_repeated(a: Broker, group: GroupName, owned: int) -> None:
    sent = await append(a, group.topic, 0, b"1", b"2")
    await deliver(a, group, 0, owned, "A")
    for _ in range(2):
        assert await a.do_each([Acknowledge(group, 0, owned, sent[:1])]) == [Settled(done=True, token=owned)]
    assert await a.do_each([Acknowledge(group, 0, owned, [b"1-1", *sent, *sent])]) == [Settled(done=True, token=owned)]
    assert await pending(a, group, 0, owned) == {}


async def test_settle_is_fenced_as_a_whole(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """S1."""
    sent = await append(a, group.topic, 0, b"1")
    await deliver(a, group, 0, owned, "A")
    await b.do(Install(group, 0, owned + 1, "B", foreign=True))
    assert await a.do_each([Acknowledge(group, 0, owned, sent)]) == [Settled(done=False, token=owned + 1)]
    assert await a.do_each([Acknowledge(group, 0, owned + 2, sent)]) == [Settled(done=False, token=owned + 1)]
    assert await pending(b, group, 0, owned + 1) == {sent[0]: 1}


async def test_settle_several_partitions(a: Broker, group: GroupName, owned: int) -> None:
    """Each is a step of its own, answered in the order asked."""
    await a.do(Install(group, 1, 5, "A", foreign=True))
    sent = {partition: await append(a, group.topic, partition, b"1", b"2") for partition in (0, 1)}
    await deliver(a, group, 0, owned, "A")
    await deliver(a, group, 1, 5, "A")
    asked = [(1, 4, sent[1]), (0, owned, sent[0]), (2, 9, [b"1-1"]), (1, 5, sent[1][:1])]
    assert await a.do_each([Acknowledge(group, *one) for one in asked]) == [
        Settled(done=False, token=5),
        Settled(done=True, token=owned),
        Settled(done=False, token=0),
        Settled(done=True, token=5),
    ]
    assert await pending(a, group, 0, owned) == {}
    assert await pending(a, group, 1, 5) == {sent[1][1]: 1}


async def test_settle_nothing(a: Broker, group: GroupName, owned: int) -> None:
    assert await a.do_each([]) == []
    assert await a.do_each([Acknowledge(group, 0, owned, [])]) == [Settled(done=True, token=owned)]


async def test_settle_very_many(a: Broker, group: GroupName, owned: int) -> None:
    """More than a Lua script can unpack at once."""
    await a.append(group.topic, [(0, [b"i", b"1"])] * 9_000, maxlen=None, approximate=False)
    delivered = await deliver(a, group, 0, owned, "A", count=9_000)
    assert await a.do_each([Acknowledge(group, 0, owned, delivered)]) == [Settled(done=True, token=owned)]
    assert (await a.do_each([ReadRemaining(group, 0)]))[0] == Remaining(unread=False, pending=0)


async def test_settle_after_release(a: Broker, group: GroupName, owned: int) -> None:
    """The token is still current, so no other owner has begun: a late settlement counts."""
    sent = await append(a, group.topic, 0, b"1")
    await deliver(a, group, 0, owned, "A")
    assert await a.do(Release(group, 0, owned))
    assert await a.do_each([Acknowledge(group, 0, owned, sent)]) == [Settled(done=True, token=owned)]
    assert (await a.do_each([ReadRemaining(group, 0)]))[0].pending == 0


async def test_a_full_server_still_settles(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """S2."""
    sent = await append(a, group.topic, 0, b"1", b"2")
    await deliver(a, group, 0, owned, "A")
    with world.full():
        assert await a.do_each([Acknowledge(group, 0, owned, sent[:1])]) == [Settled(done=True, token=owned)]
        assert len((await a.do(Claim(group, 0, owned, after=b"", count=10))).entries) == 1


async def test_a_lost_group_has_nothing_pending(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """The owner learns of the loss by its next read (T6); what it still settles is gone anyway."""
    sent = await append(a, group.topic, 0, b"1")
    await deliver(a, group, 0, owned, "A")
    world.forget_cursor(group, 0)
    assert await a.do(Claim(group, 0, owned, after=b"", count=10)) == Page((), (), None)
    assert await a.do_each([Acknowledge(group, 0, owned, sent)]) == [Settled(done=True, token=owned)]
    assert await a.do(SetDeliveries(group, 0, owned, {sent[0]: 3}))
    assert (await a.do_each([ReadRemaining(group, 0)]))[0] == Remaining(unread=True, pending=0)


async def test_remaining(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    nothing = Remaining(unread=False, pending=0)
    assert await b.do_each([ReadRemaining(group, 0), ReadRemaining(group, 1), ReadRemaining(group, 2)]) == [nothing] * 3
    assert nothing.empty
    sent = await append(a, group.topic, 0, b"1", b"2")
    assert await b.do_each([ReadRemaining(group, 2), ReadRemaining(group, 0), ReadRemaining(group, 0)]) == [
        nothing,
        *[Remaining(unread=True, pending=0)] * 2,
    ]
    await deliver(a, group, 0, owned, "A", count=1)
    assert await b.do_each([ReadRemaining(group, 0)]) == [Remaining(unread=True, pending=1)]
    await deliver(a, group, 0, owned, "A")
    assert await b.do_each([ReadRemaining(group, 0)]) == [Remaining(unread=False, pending=2)]
    await a.do_each([Acknowledge(group, 0, owned, sent)])
    assert await b.do_each([ReadRemaining(group, 0)]) == [nothing]
    assert await b.do_each([]) == []


async def test_remaining_where_nothing_is(a: Broker, group: GroupName) -> None:
    nothing = Remaining(unread=False, pending=0)
    assert await a.do_each([ReadRemaining(group, 0), ReadRemaining(group, 5)]) == [nothing, nothing]
    await a.do(MakeTopic(group.topic, 1))
    assert await a.do_each([ReadRemaining(group, 0)]) == [nothing]
    await append(a, group.topic, 0, b"1")
    assert await a.do_each([ReadRemaining(group, 0)]) == [Remaining(unread=True, pending=0)], "all is unread to a group that is not there"


async def test_unread_entries_that_were_removed_do_not_remain(world: World, a: Broker, group: GroupName, owned: int) -> None:
    assert owned
    sent = await append(a, group.topic, 0, b"1", b"2")
    world.delete(group.topic, 0, sent)
    assert not (await a.do_each([ReadRemaining(group, 0)]))[0].unread


async def test_make_groups_at_the_beginning(a: Broker, group: GroupName) -> None:
    await a.do(MakeTopic(group.topic, 2))
    await append(a, group.topic, 0, b"1")
    await make_groups(a, group, [0, 1], latest=False)
    await a.do(Install(group, 0, 1, "A", foreign=False))
    assert len(await deliver(a, group, 0, 1, "A")) == 1


async def test_make_groups_at_the_end(world: World, a: Broker, group: GroupName) -> None:
    """G6: what comes after the group's birth is never skipped."""
    await a.do(MakeTopic(group.topic, 3))
    await append(a, group.topic, 0, b"1")
    world.delete(group.topic, 1, await append(a, group.topic, 1, b"1"))
    await make_groups(a, group, [0, 1, 2], latest=True)
    for partition in range(3):
        sent = await append(a, group.topic, partition, b"2")
        await a.do(Install(group, partition, 1, "A", foreign=False))
        assert await deliver(a, group, partition, 1, "A") == sent


@pytest.mark.parametrize("latest", [False, True])
async def test_make_groups_leaves_what_is_there(a: Broker, b: Broker, group: GroupName, owned: int, latest: bool) -> None:
    sent = await append(a, group.topic, 0, b"1", b"2")
    await deliver(a, group, 0, owned, "A", count=1)
    await make_groups(b, group, [0, 1, 2], latest=latest)
    assert await pending(a, group, 0, owned) == {sent[0]: 1}
    assert await deliver(a, group, 0, owned, "A") == sent[1:]


async def test_make_groups_makes_streams(a: Broker, group: GroupName) -> None:
    await make_groups(a, group, [0, 4], latest=False)
    found = await a.append(group.topic, [(0, [b"i", b"1"]), (4, [b"i", b"1"]), (1, [b"i", b"1"])], maxlen=None, approximate=False)
    assert [entry_id is None for entry_id in found] == [False, False, True]
    await make_groups(a, group, [], latest=False)


async def test_remake_group_after_the_last_handled_entry(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """T6: nothing that was settled comes again where the server knows that it was."""
    sent = await append(a, group.topic, 0, b"1", b"2", b"3")
    world.forget_cursor(group, 0)
    await a.do(RemakeGroup(group, 0, sent[1]))
    assert await deliver(a, group, 0, owned, "A") == sent[2:]


@pytest.mark.parametrize("last_id", [None, b"", b"1-1", b"99999999999999-1"])
async def test_remake_group_from_the_beginning(world: World, a: Broker, group: GroupName, owned: int, last_id: bytes | None) -> None:
    """T6: the last handled entry is not there, so this may be another stream under the same name. None: it was removed."""
    sent = await append(a, group.topic, 0, b"1", b"2", b"3")
    world.forget_cursor(group, 0)
    world.delete(group.topic, 0, [sent[1]])
    await a.do(RemakeGroup(group, 0, sent[1] if last_id is None else last_id))
    assert await deliver(a, group, 0, owned, "A") == [sent[0], sent[2]]


async def test_remake_group_after_what_was_in_flight(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """T6: with `start` the last id is only the evidence that this is the same stream; what is in flight is delivered once more."""
    sent = await append(a, group.topic, 0, b"1", b"2", b"3", b"4")
    world.forget_cursor(group, 0)
    await a.do(RemakeGroup(group, 0, sent[2], start=sent[0]))
    assert await deliver(a, group, 0, owned, "A") == sent[1:]
    world.forget_cursor(group, 0)
    await a.do(RemakeGroup(group, 0, b"1-1", start=sent[0]))
    assert await deliver(a, group, 0, owned, "A") == sent, "not the same stream"


async def test_remake_group_makes_the_stream(world: World, a: Broker, group: GroupName, owned: int) -> None:
    world.forget_partition(group.topic, 0)
    await a.do(RemakeGroup(group, 0, b"5-5"))
    sent = await append(a, group.topic, 0, b"1")
    await a.do(Install(group, 0, owned, "A", foreign=True))
    assert await deliver(a, group, 0, owned, "A") == sent


async def test_remake_group_leaves_a_group_that_is_there(a: Broker, group: GroupName, owned: int) -> None:
    sent = await append(a, group.topic, 0, b"1", b"2", b"3")
    await deliver(a, group, 0, owned, "A", count=2)
    await a.do(RemakeGroup(group, 0, sent[0]))
    assert await pending(a, group, 0, owned) == dict.fromkeys(sent[:2], 1)
    assert await deliver(a, group, 0, owned, "A") == sent[2:]


async def test_a_raise_that_arrives_late_lowers_no_count(a: Broker, group: GroupName, owned: int) -> None:
    """T5: the caller gave an earlier raise up, and sent it again, and then a later one."""
    sent = await append(a, group.topic, 0, b"1", b"2")
    await deliver(a, group, 0, owned, "A")
    assert await a.do(SetDeliveries(group, 0, owned, {sent[0]: 3}, raising=True))
    assert await a.do(SetDeliveries(group, 0, owned, {sent[0]: 2, sent[1]: 2}, raising=True))
    assert await pending(a, group, 0, owned) == {sent[0]: 3, sent[1]: 2}


async def test_a_raise_that_arrives_behind_the_release_raises_nothing(a: Broker, group: GroupName, owned: int) -> None:
    """T5: the counts have been handed back."""
    sent = await append(a, group.topic, 0, b"1")
    await deliver(a, group, 0, owned, "A")
    assert await a.do(Release(group, 0, owned))
    assert not await a.do(SetDeliveries(group, 0, owned, {sent[0]: 3}, raising=True))
    assert await pending(a, group, 0, owned) == {sent[0]: 1}
    assert await a.do(SetDeliveries(group, 0, owned, {sent[0]: 0}))
    assert await pending(a, group, 0, owned) == {sent[0]: 0}
