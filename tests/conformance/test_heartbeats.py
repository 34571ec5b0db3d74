"""Heartbeats: which members are alive, and what the group agreed on (M2 to M9)."""

from __future__ import annotations

import time

import anyio
import pytest

from redisaq.brokers.growth import make_or_grow
from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import Beat, Heartbeat
from redisaq.brokers.steps.topics import MakeTopic, TopicState
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import Document, MemberEntry
from tests.conformance.steps import SECOND, Changes, commit_document
from tests.conformance.worlds import RedisWorld, World

pytestmark = pytest.mark.anyio

TTL = 1000.0
DOCUMENT = Document(
    epoch=7,
    members={"a name": MemberEntry("A", ("A2", "A3")), "прывітанне": MemberEntry("B")},
    partitions=3,
    target={0: "a name", 1: "a name", 2: "прывітанне"},
    lease={0: "A", 2: "B"},
    token={0: 1_700_000_000_123_457, 1: 5, 2: 1_700_000_000_123_458},
)


async def join(broker: Broker, group: GroupName, *incarnations: str, ttl: float = TTL) -> str:
    """Let incarnations join, one after another, and return the version."""
    version = (await broker.do(Heartbeat(group, "nobody", ttl, ""))).version
    for incarnation in incarnations:
        made = await commit_document(broker, group, incarnation, ttl, known_version=version, document=DOCUMENT, joins=True)
        assert made is not None
        version = made
    return version


async def test_nothing_is_there(a: Broker, group: GroupName) -> None:
    beat = await a.do(Heartbeat(group, "A", TTL, ""))
    assert beat == Beat(alive=False, now=beat.now)


async def test_now_is_the_servers_time_and_never_goes_back(a: Broker, b: Broker, group: GroupName) -> None:
    times = [(await broker.do(Heartbeat(group, "A", TTL, ""))).now for broker in (a, b) * 10]
    assert times == sorted(times)
    assert abs(times[0] / SECOND - time.time()) < 60


async def test_an_unknown_incarnation_is_only_answered(a: Broker, b: Broker, group: GroupName) -> None:
    version = await join(a, group, "A")
    beat = await b.do(Heartbeat(group, "stranger", TTL, ""))
    assert not beat.alive
    assert beat.version == version
    assert beat.document == DOCUMENT
    again = await a.do(Heartbeat(group, "A", TTL, version))
    assert (again.next_expiry, again.expired) == (None, ()), "the stranger did not become a member"


async def test_a_heartbeat_extends(a: Broker, b: Broker, group: GroupName) -> None:
    await join(a, group, "A", ttl=100)
    before = await b.do(Heartbeat(group, "B", TTL, ""))
    assert before.next_expiry is not None
    assert 90 * SECOND < before.next_expiry - before.now <= 100 * SECOND
    assert (await a.do(Heartbeat(group, "A", TTL, ""))).alive
    after = await b.do(Heartbeat(group, "B", TTL, ""))
    assert after.next_expiry is not None
    assert 990 * SECOND < after.next_expiry - after.now <= 1000 * SECOND


async def test_an_expired_member_is_never_revived(world: World, a: Broker, b: Broker, group: GroupName) -> None:
    """M5: a late heartbeat changes nothing."""
    await join(a, group, "A", "B")
    world.expire(group, "A")
    for _ in range(2):
        assert not (await a.do(Heartbeat(group, "A", TTL, ""))).alive
        assert (await b.do(Heartbeat(group, "B", TTL, ""))).expired == ("A",)


async def test_time_runs_out_by_itself(a: Broker, b: Broker, group: GroupName) -> None:
    await join(a, group, "A", ttl=0.001)
    beat = await b.do(Heartbeat(group, "B", TTL, ""))
    while not beat.expired:
        beat = await b.do(Heartbeat(group, "B", TTL, ""))
    assert beat.expired == ("A",)
    assert beat.next_expiry is None
    assert not (await a.do(Heartbeat(group, "A", TTL, ""))).alive


async def test_expired_are_sorted_and_never_oneself(world: World, a: Broker, group: GroupName) -> None:
    await join(a, group, "D", "B", "A", "C")
    for incarnation in ("D", "A", "B"):
        world.expire(group, incarnation)
    assert (await a.do(Heartbeat(group, "C", TTL, ""))).expired == ("A", "B", "D")
    assert (await a.do(Heartbeat(group, "B", TTL, ""))).expired == ("A", "D")


async def test_next_expiry_is_the_earliest_of_another_that_lives(world: World, a: Broker, group: GroupName) -> None:
    await join(a, group, "A", ttl=100)
    await join(a, group, "B", ttl=200)
    await join(a, group, "C", ttl=300)

    async def seconds(incarnation: str, ttl: float) -> int:
        beat = await a.do(Heartbeat(group, incarnation, ttl, ""))
        assert beat.next_expiry is not None
        return round((beat.next_expiry - beat.now) / SECOND / 100) * 100

    assert await seconds("B", 200) == 100
    assert await seconds("A", 100) == 200
    world.expire(group, "B")
    assert await seconds("A", 100) == 300


async def test_the_document_comes_if_its_version_is_news(a: Broker, b: Broker, group: GroupName) -> None:
    version = await join(a, group, "A")
    known = await a.do(Heartbeat(group, "A", TTL, version))
    assert (known.version, known.document) == (version, None)
    for other in ("", "another"):
        news = await b.do(Heartbeat(group, "B", TTL, other))
        assert (news.version, news.document) == (version, DOCUMENT)


async def test_the_topic_comes_along(a: Broker, b: Broker, group: GroupName) -> None:
    """M9, whether or not the group is there."""
    assert (await a.do(Heartbeat(group, "A", TTL, ""))).topic is None
    await a.do(MakeTopic(group.topic, 2))
    assert (await b.do(Heartbeat(group, "A", TTL, ""))).topic == TopicState(generation=0, partitions=2)
    version = await join(a, group, "A")
    grown = await make_or_grow(b, group.topic, 4)
    assert (await a.do(Heartbeat(group, "A", TTL, version))).topic == grown


async def test_a_freeze_that_no_ttl_reaches_ends(world: World, a: Broker, group: GroupName) -> None:
    """M7: redisaq did not write it. It is shortened once, and not by each heartbeat."""
    assert await commit_document(a, group, "A", TTL, known_version="", document=Document(), joins=True) is not None
    if isinstance(world, RedisWorld):
        world.command("HSET", world.group_key(group, "state"), "frozen_until", 1 << 52)
        beat = await a.do(Heartbeat(group, "A", TTL, ""))
        assert beat.now < beat.frozen_until <= beat.now + TTL * 1_000_000
        await anyio.sleep(0.003)
        again = await a.do(Heartbeat(group, "A", TTL, ""))
        assert (again.frozen_until, again.born) == (beat.frozen_until, beat.born)


async def test_born_stays(world: World, a: Broker, group: GroupName) -> None:
    """M8: the state has the time at which it was made, until it is lost and made again."""
    before = (await a.do(Heartbeat(group, "A", TTL, ""))).now
    await join(a, group, "A")
    first = await a.do(Heartbeat(group, "A", TTL, ""))
    assert before // 1000 * 1000 <= first.born <= first.now
    await join(a, group, "B")
    assert (await a.do(Heartbeat(group, "A", TTL, ""))).born == first.born
    world.forget_group(group)
    assert (await a.do(Heartbeat(group, "A", TTL, ""))).born == 0
    lost = (await a.do(Heartbeat(group, "A", TTL, ""))).now
    await join(a, group, "A")
    assert (await a.do(Heartbeat(group, "A", TTL, ""))).born >= lost // 1000 * 1000


async def test_a_changed_server_freezes_the_group_and_extends_everybody(world: World, a: Broker, b: Broker, group: GroupName) -> None:
    """M7: this server's knowledge of B's time may be old, so B may be alive."""
    version = await join(a, group, "A", "B", "C", ttl=100)
    assert (await a.do(Heartbeat(group, "A", TTL, version))).frozen_until == 0
    world.expire(group, "B")
    world.expire(group, "C")
    world.change_server(group)
    beat = await a.do(Heartbeat(group, "A", TTL, version))
    assert beat.alive
    assert beat.expired == ()
    assert 990 * SECOND < beat.frozen_until - beat.now <= 1000 * SECOND
    assert beat.next_expiry is not None
    assert 990 * SECOND < beat.next_expiry - beat.now <= 1000 * SECOND
    assert (await b.do(Heartbeat(group, "B", TTL, version))).alive
    assert (await b.do(Heartbeat(group, "B", TTL, version))).frozen_until == beat.frozen_until, "once, not with every heartbeat"


async def test_who_looks_finds_the_changed_server(world: World, a: Broker, b: Broker, group: GroupName) -> None:
    """M7, for a newcomer: it must not take what a live owner holds."""
    version = await join(a, group, "A")
    world.expire(group, "A")
    world.change_server(group)
    beat = await b.do(Heartbeat(group, "newcomer", TTL, ""))
    assert not beat.alive
    assert beat.expired == ()
    assert beat.frozen_until > beat.now
    assert (await a.do(Heartbeat(group, "A", TTL, version))).alive


async def test_a_changed_server_cuts_nobodys_time(world: World, a: Broker, group: GroupName) -> None:
    version = await join(a, group, "A")
    world.change_server(group)
    beat = await a.do(Heartbeat(group, "stranger", 10, version))
    assert beat.next_expiry is not None
    assert beat.next_expiry - beat.now > 900 * SECOND


async def test_a_full_server_still_takes_heartbeats_and_commits(world: World, a: Broker, group: GroupName) -> None:
    """S2: else the group could not work off what fills it."""
    version: str | None = await join(a, group, "A", "B")
    world.expire(group, "B")
    with world.full():
        assert (await a.do(Heartbeat(group, "A", TTL, version or ""))).alive
        for incarnation, changes in (
            ("A", Changes()),
            ("C", Changes(joins=True)),
            ("A", Changes(expired=("B",))),
            ("C", Changes(leaves=True)),
        ):
            version = await commit_document(a, group, incarnation, TTL, known_version=version or "", document=DOCUMENT, **changes)
            assert version is not None
