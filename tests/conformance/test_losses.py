"""Entries that trimming took before a group read them are counted once, and nothing else is."""

from __future__ import annotations

import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.administration import END, START, DropGroup, Seek, ViewPartition
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.leases import Claim, Install, RemakeGroup
from redisaq.brokers.steps.producing import ReadBacklog
from redisaq.brokers.steps.retention import Sight, Sighting
from redisaq.brokers.steps.settling import Acknowledge
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import Document
from redisaq.errors import LeaseLostError
from tests.conformance.steps import append, commit_document, deliver
from tests.conformance.worlds import RedisWorld, World

pytestmark = pytest.mark.anyio


class Owner:
    """Reads partition 0 and looks, as its owner does."""

    def __init__(self, broker: Broker, group: GroupName, token: int) -> None:
        self.broker, self.group, self.token = broker, group, token
        self.since: Sighting | None = None
        self.given = 0

    async def read(self, count: int) -> list[bytes]:
        entries = await deliver(self.broker, self.group, 0, self.token, "A", count=count)
        self.given += len(entries)
        return entries

    async def look(self) -> int:
        """Return how many were lost since the last look."""
        self.since = await self.broker.do(Sight(self.group, 0, self.token, since=self.since, read=self.given))
        self.given = 0
        return self.since.lost

    async def total(self) -> int:
        (view,) = await self.broker.do_each([ViewPartition(self.group, 0)])
        return view.lost


@pytest.fixture
def owner(a: Broker, group: GroupName, owned: int) -> Owner:
    return Owner(a, group, owned)


async def entries(broker: Broker, count: int) -> list[bytes]:
    return await append(broker, "orders", 0, *[b"x"] * count)


async def test_what_was_trimmed_before_the_first_read(a: Broker, world: World, owner: Owner) -> None:
    sent = await entries(a, 10)
    world.trim("orders", 0, 4)
    assert await owner.look() == 6
    assert owner.since is not None
    assert (owner.since.after, owner.since.before) == (b"0-0", sent[6])
    assert await owner.look() == 0
    assert await owner.read(100) == sent[6:]
    assert await owner.look() == 0
    assert await owner.total() == 6


async def test_what_was_trimmed_between_two_reads(a: Broker, world: World, owner: Owner) -> None:
    """Seen only after the read that passed over it."""
    assert await owner.look() == 0
    sent = await entries(a, 10)
    assert await owner.read(2) == sent[:2]
    assert await owner.look() == 0
    assert await owner.read(1) == sent[2:3]
    world.trim("orders", 0, 4)
    assert await owner.read(100) == sent[6:]
    assert await owner.look() == 3
    assert owner.since is not None
    assert (owner.since.after, owner.since.before) == (sent[1] if isinstance(world, RedisWorld) else sent[2], sent[6])
    assert await owner.look() == 0
    more = await entries(a, 5)
    assert await owner.read(2) == more[:2]
    world.trim("orders", 0, 1)
    assert await owner.look() == 2
    assert await owner.read(2) == more[4:]
    assert await owner.look() == 0
    assert await owner.total() == 5


async def test_a_gap_is_counted_though_the_end_is_not_reached_for_long(a: Broker, world: World, owner: Owner) -> None:
    """Redis 7.0 tells only there: and once."""
    assert await owner.look() == 0
    await entries(a, 20)
    await owner.read(2)
    world.trim("orders", 0, 10)
    lost = 0
    for _ in range(4):
        await owner.read(2)
        lost += await owner.look()
    await owner.read(100)
    lost += await owner.look()
    assert lost == 8
    assert await owner.look() == 0
    assert await owner.total() == 8


async def test_everything_was_trimmed(a: Broker, world: World, owner: Owner) -> None:
    sent = await entries(a, 5)
    assert await owner.read(2) == sent[:2]
    world.trim("orders", 0, 0)
    assert await owner.look() == 3
    assert owner.since is not None
    assert (owner.since.after, owner.since.before) == (sent[1], b"")
    assert await owner.look() == 0


async def test_several_gaps_between_two_looks(a: Broker, world: World, owner: Owner) -> None:
    assert await owner.look() == 0
    lost = 0
    for _ in range(4):
        sent = await entries(a, 10)
        await owner.read(3)
        world.trim("orders", 0, 2)
        lost += 5
        assert await owner.read(100) == sent[8:]
    assert await owner.look() == lost
    assert await owner.total() == lost


async def test_the_next_owner_counts_what_was_trimmed_since(a: Broker, b: Broker, world: World, group: GroupName, owner: Owner) -> None:
    sent = await entries(a, 10)
    assert await owner.read(2) == sent[:2]
    await a.do_each([Acknowledge(group, 0, owner.token, sent[:2])])
    world.trim("orders", 0, 3)
    await b.do(Install(group, 0, owner.token + 1, "A", foreign=True))
    following = Owner(b, group, owner.token + 1)
    assert await following.look() == 5
    assert await following.read(100) == sent[7:]
    assert await following.look() == 0
    with pytest.raises(LeaseLostError):
        await owner.look()


async def test_trimming_what_was_read_is_no_loss(a: Broker, world: World, owner: Owner) -> None:
    for count in (9, 10, 10):
        await entries(a, 10)
        await owner.read(count)
        world.trim("orders", 0, 1)
        assert await owner.look() == 0
    await owner.read(9)
    assert await owner.look() == 0


async def test_a_group_made_later_has_lost_nothing(a: Broker, world: World, group: GroupName) -> None:
    await a.do(MakeTopic("orders", 1))
    await entries(a, 10)
    world.trim("orders", 0, 3)
    for name, latest in (("early", False), ("late", True)):
        late = GroupName("orders", name)
        await make_groups(a, late, [0], latest=latest)
        assert (await a.do(Install(late, 0, 7, "A", foreign=True))).done
        owner = Owner(a, late, 7)
        assert await owner.look() == 0
        sent = await entries(a, 2)
        assert (await owner.read(100))[-2:] == sent
        assert await owner.look() == 0
        await entries(a, 4)
        world.trim("orders", 0, 3)
        assert await owner.look() == 1


async def test_a_stream_that_is_younger_than_the_group_was_the_groups_from_the_start(a: Broker, world: World, group: GroupName) -> None:
    """G6: a partition that the topic grew."""
    await a.do(MakeTopic("orders", 1))
    await entries(a, 10)
    world.trim("orders", 0, 3)
    await make_groups(a, group, [0], latest=False, younger=True)
    assert (await a.do(Install(group, 0, 7, "A", foreign=True))).done
    assert await Owner(a, group, 7).look() == 7


async def test_deleted_entries_are_no_loss(a: Broker, world: World, owner: Owner) -> None:
    assert await owner.look() == 0
    sent = await entries(a, 10)
    await owner.read(2)
    assert await owner.look() == 0
    world.delete("orders", 0, [sent[2], sent[5], sent[9]])
    assert await owner.look() == 0
    assert await owner.read(3) == [sent[3], sent[4], sent[6]]
    assert await owner.look() == 0
    await owner.read(100)
    assert await owner.look() == 0
    more = await entries(a, 3)
    assert await owner.read(100) == more
    assert await owner.look() == 0
    await entries(a, 3)
    world.delete("orders", 0, more)
    assert await owner.look() == 0
    await owner.read(100)
    assert await owner.look() == 0
    assert await owner.total() == 0


async def test_deleting_what_comes_first_is_no_loss(a: Broker, world: World, owner: Owner) -> None:
    assert await owner.look() == 0
    sent = await entries(a, 4)
    world.delete("orders", 0, sent[:2])
    assert await owner.look() == 0
    assert await owner.read(100) == sent[2:]
    assert await owner.look() == 0


async def test_what_was_deleted_early_is_not_counted_late(a: Broker, world: World, owner: Owner) -> None:
    """Redis 7.0 falls behind by what was deleted, too."""
    assert await owner.look() == 0
    sent = await entries(a, 20)
    world.delete("orders", 0, sent[:3])
    assert await owner.read(2) == sent[3:5]
    for _ in range(3):
        assert await owner.look() == 0
        owner.since, owner.given = None, 0  # another owner
        await owner.read(2)
        assert await owner.look() == 0
        await owner.read(2)
    await owner.read(100)
    assert await owner.look() == 0
    assert await owner.total() == 0


async def test_after_deletions_counting_goes_on(a: Broker, world: World, owner: Owner) -> None:
    sent = await entries(a, 6)
    await owner.read(2)
    world.delete("orders", 0, [sent[3]])
    await owner.read(100)
    assert await owner.look() == 0
    await entries(a, 5)
    world.trim("orders", 0, 2)
    assert await owner.look() == 3


@pytest.mark.parametrize("position", [START, END])
async def test_seeking_is_no_loss(a: Broker, world: World, group: GroupName, owner: Owner, position: bytes) -> None:
    await entries(a, 10)
    await owner.read(5)
    assert await owner.look() == 0
    world.trim("orders", 0, 7)
    await a.do(Seek(group, 0, position))
    owner.token = (await a.do_each([ViewPartition(group, 0)]))[0].token
    owner.since, owner.given = None, 0  # a paused owner begins at 0
    assert await owner.look() == 0
    await owner.read(100)
    assert await owner.look() == 0
    await entries(a, 4)
    world.trim("orders", 0, 1)
    assert await owner.look() == 3


async def test_a_look_after_a_seek_hides_no_loss(a: Broker, world: World, group: GroupName, owner: Owner) -> None:
    """A view counts what the group has not read, and lets the server know: what is trimmed later is missed all the same."""
    sent = await entries(a, 10)
    await owner.read(8)
    assert await owner.look() == 0
    await a.do(Seek(group, 0, sent[3]))
    (view,) = await a.do_each([ViewPartition(group, 0)])
    assert view.unread == 6
    owner.token = view.token
    owner.since, owner.given = None, 0
    assert await owner.look() == 0
    assert await owner.read(2) == sent[4:6]
    world.trim("orders", 0, 1)
    assert (await a.do_each([ViewPartition(group, 0)]))[0].unread == 1
    assert await owner.read(100) == sent[9:]
    assert await owner.look() == 3
    assert await owner.look() == 0


async def test_a_lost_group_that_was_made_again_counts_from_then(a: Broker, world: World, group: GroupName, owner: Owner) -> None:
    sent = await entries(a, 10)
    await owner.read(5)
    world.trim("orders", 0, 7)
    world.forget_cursor(group, 0)
    assert await owner.look() == 0
    await a.do(RemakeGroup(group, 0, sent[4]))
    owner.since, owner.given = None, 0
    assert await owner.read(100) == sent[5:]
    assert await owner.look() == 0
    world.forget_stream("orders", 0)
    assert await owner.look() == 0


async def test_a_sealed_stream_is_no_loss(a: Broker, world: World, owner: Owner) -> None:
    if not isinstance(world, RedisWorld):
        pytest.skip("only a server can be sealed")
    assert await owner.look() == 0
    sent = await entries(a, 5)
    await owner.read(2)
    last = f"{(1 << 64) - 1}-{(1 << 64) - 1}"
    world.command("XSETID", world.key("orders", 0, "0"), last)
    assert await owner.look() == 0
    assert await owner.read(100) == sent[2:]
    assert await owner.look() == 0
    world.trim("orders", 0, 0)
    assert await owner.look() == 0


async def test_pending_entries_that_were_trimmed_count_too(a: Broker, world: World, group: GroupName, owner: Owner) -> None:
    await entries(a, 5)
    sent = await owner.read(3)
    world.trim("orders", 0, 1)
    page = await a.do(Claim(group, 0, owner.token, after=b"", count=10))
    assert page.trimmed == tuple(sent)
    assert await owner.look() == 1
    assert await owner.total() == 4
    await a.do_each([DropGroup(group, 0)])
    assert await owner.total() == 0


async def test_the_lag_is_right_after_a_loss(a: Broker, world: World, group: GroupName, owner: Owner) -> None:
    assert await owner.look() == 0
    await entries(a, 10)
    await owner.read(1)
    world.trim("orders", 0, 5)
    await owner.read(2)
    await owner.look()
    await owner.read(3)
    await owner.look()
    await entries(a, 2)
    (view,) = await a.do_each([ViewPartition(group, 0)])
    assert view.unread == 2
    assert await a.do_each([ReadBacklog("orders", 0)]) == [2]


async def test_a_full_server_still_counts(a: Broker, world: World, owner: Owner) -> None:
    await entries(a, 5)
    await owner.look()
    world.trim("orders", 0, 1)
    with world.full():
        assert await owner.look() == 4
    assert await owner.total() == 4


async def test_nobody_joins_by_looking(a: Broker, group: GroupName, owner: Owner) -> None:
    await owner.look()
    assert await commit_document(a, group, "A", 1.0, known_version="", document=Document(), joins=True) is not None
