"""What cannot be read is set aside, one by one, and the rest goes on; every broker does the same."""

from __future__ import annotations

import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.administration import ViewGroup
from redisaq.brokers.steps.coordination import Heartbeat
from redisaq.brokers.steps.retrying import (
    FOUND,
    GONE,
    CountDead,
    DeadLetterSummary,
    Purge,
    ReadDead,
    ReadNewestDead,
    SetAside,
    SummariseDead,
    TakeDue,
    redrive,
    take_due,
)
from redisaq.brokers.steps.settling import Resolve
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import EMPTY, Document
from redisaq.core.records import FOREIGN, RAW, Body, Resolution, encode_delayed, encode_retry
from tests.conformance.steps import commit_document
from tests.conformance.worlds import RedisWorld, World

pytestmark = pytest.mark.anyio

FIELDS = (b"i", b"p-1", b"d", b"1")


async def delivered(a: Broker, group: GroupName, owned: int, count: int) -> list[bytes]:
    """Append and read so many; return their ids."""
    await a.append(group.topic, [(0, FIELDS)] * count, maxlen=None, approximate=False)
    reader = await a.open_reader(group, 0, owned, "A")
    ids = [entry_id for entry_id, _ in await reader.read(count, 0)]
    await reader.close()
    return ids


@pytest.mark.parametrize("data", [b"", b"\xff", b"0:0:", b"x:0:\x92\x90\xc0", b"0:" + b"9" * 30 + b":\x92\x90\xc0", b"-1:0:\x92\x90\xc0"])
async def test_a_retry_goes_to_the_dead_letters_as_it_is(world: World, a: Broker, group: GroupName, owned: int, data: bytes) -> None:
    (entry_id,) = await delivered(a, group, owned, 1)
    good = Body(entry_id, FIELDS)
    await a.do(Resolve(group, 0, owned, [Resolution("stream", "retry", good, due=2)], dead_maxlen=None))
    world.damage(group, "retry", data)
    assert (await a.do(TakeDue(group, 0, owned, count=10))).retries == (good,), "this changes nothing: it may be lost on the way"
    due = await take_due(a, TakeDue(group, 0, owned, count=10), dead_maxlen=None)
    assert due.retries == (good,)
    assert [one.entry_id for one in due.set_aside] == [b"7-1"]
    (dead,) = await a.do(ReadDead(group, 0, after=b"", count=10))
    assert (dead.body.entry_id, dead.body.fields) == (b"7-1", (RAW, data))
    assert dead.body.failure is not None
    assert not (await a.do(TakeDue(group, 0, owned, count=10))).set_aside
    assert await redrive(a, group, 0, None, count=10) == 1
    assert {body.fields for body in (await a.do(TakeDue(group, 0, owned, count=10))).retries} == {FIELDS, (RAW, data)}


@pytest.mark.parametrize("data", [b"", b"\xff", b"1:i2:p", b"1:i", b"x:i1:d", b"1:i1:x1:d"])
async def test_a_delayed_message_goes_into_the_stream_as_it_is(world: World, a: Broker, group: GroupName, owned: int, data: bytes) -> None:
    world.damage(group, "delayed", data)
    assert (await a.do(TakeDue(group, 0, owned, count=10))).moved == 1
    reader = await a.open_reader(group, 0, owned, "A")
    ((_, fields),) = await reader.read(10, 0)
    await reader.close()
    assert tuple(fields or ()) == (RAW, data)


async def test_what_a_server_has_lost_half_of_is_reported_and_due(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """It evicts whole keys: the bodies without the due times, which are due now, or the due times alone."""
    if not isinstance(world, RedisWorld):
        return
    retry, bodies = (world.key(group.topic, 0, f"g:{group.group}:{name}") for name in ("retry", "retry:body"))
    body = Body(b"7-1", FIELDS)
    world.command("HSET", bodies, "7-1", encode_retry(body))
    world.command("HSET", world.key(group.topic, 0, "delayed:body"), "n", encode_delayed(FIELDS))
    found = await a.do(TakeDue(group, 0, owned, count=10))
    assert (found.retries, found.set_aside, found.moved) == ((body,), (SetAside(b"", f"2 {FOUND}"),), 1)
    world.command("HDEL", bodies, "7-1")
    world.command("ZADD", world.key(group.topic, 0, "delayed"), 1, "m")
    assert (await a.do(TakeDue(group, 0, owned, count=10))).set_aside == (SetAside(b"7-1", GONE), SetAside(b"m", GONE))
    assert (await a.do(TakeDue(group, 0, owned, count=10))).set_aside == ()
    for score, due in (("9e16", ()), ("1e17", (body,)), ("inf", (body,))):  # only in the year 5138 could somebody have asked for these
        world.command("ZADD", retry, score, "7-1")
        world.command("HSET", bodies, "7-1", encode_retry(body))
        assert (await a.do(TakeDue(group, 0, owned, count=10))).retries == due, score


async def test_a_delayed_message_of_too_many_words_for_a_script_goes_into_the_stream_as_it_is(
    world: World, a: Broker, group: GroupName, owned: int
) -> None:
    for count in (7000, 7002):
        words = (b"i", b"m") * (count // 2)
        world.damage(group, "delayed", encode_delayed(words))
        assert (await a.do(TakeDue(group, 0, owned, count=10))).moved == 1
        reader = await a.open_reader(group, 0, owned, "A")
        ((_, fields),) = await reader.read(10, 0)
        await reader.close()
        whole = count <= 7000 or not isinstance(world, RedisWorld)
        assert tuple(fields or ()) == (words if whole else (RAW, encode_delayed(words)))


async def test_a_whole_delayed_message_is_moved_as_ever(world: World, a: Broker, group: GroupName, owned: int) -> None:
    world.damage(group, "delayed", encode_delayed(FIELDS))
    assert (await a.do(TakeDue(group, 0, owned, count=10))).moved == 1
    reader = await a.open_reader(group, 0, owned, "A")
    ((_, fields),) = await reader.read(10, 0)
    await reader.close()
    assert tuple(fields or ()) == FIELDS


async def test_a_foreign_dead_letter_is_shown_and_stays(world: World, a: Broker, group: GroupName, owned: int) -> None:
    first, second = await delivered(a, group, owned, 2)
    await a.do(Resolve(group, 0, owned, [Resolution("stream", "dead", Body(first, FIELDS))], dead_maxlen=None))
    for _ in range(3):
        world.damage(group, "dead", b"\xff")
    await a.do(Resolve(group, 0, owned, [Resolution("stream", "dead", Body(second, FIELDS))], dead_maxlen=None))
    page = await a.do(ReadDead(group, 0, after=b"", count=10))
    assert [one.body.life for one in page] == [0, FOREIGN, FOREIGN, FOREIGN, 0]
    assert page[1].body.fields == (b"foreign", b"\xff")
    summaries = await a.do(SummariseDead(group, 0, b"", 10, 7))
    assert [(one.dead_id, one.foreign) for one in summaries] == [(one.dead_id, one.body.life == FOREIGN) for one in page[::-1]]
    assert summaries[1] == DeadLetterSummary(page[3].dead_id, foreign=True)
    counted = await a.do(CountDead(group, 0, b"", 10, 7))
    assert (counted.number, counted.last) == (5, page[0].dead_id)
    assert {(kind.number, kind.foreign) for kind in counted.kinds} == {(2, False), (3, True)}
    assert [one.dead_id for one in await a.do(ReadNewestDead(group, 0, b"", 10))] == [one.dead_id for one in page[::-1]]
    assert await redrive(a, group, 0, [one.dead_id for one in page[1:3]], count=2) == 0
    assert [await redrive(a, group, 0, None, count=1) for _ in range(3)] == [1, 1, 0]
    assert await a.do(Purge(group, 0, None)) == 3


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x80x", b"\x81\xa5epoch\xa1x", b"\x81\xaapartitions\xce\x01\x31\x2d\x00"])
async def test_a_document_counts_as_lost(world: World, a: Broker, group: GroupName, owned: int, data: bytes) -> None:
    """It is replaced under the version beside it, frozen (M8)."""
    version = await commit_document(a, group, "A", 60.0, known_version="", document=EMPTY, joins=True)
    assert version
    assert not (await a.do(Heartbeat(group, "A", 60.0, ""))).damaged
    world.damage(group, "document", data)
    beat = await a.do(Heartbeat(group, "A", 60.0, version))
    assert (beat.alive, beat.damaged, beat.document) == (True, True, None)
    assert (await a.do(ViewGroup(group))).document is None
    document = Document(1, {}, 3)
    assert await commit_document(a, group, "B", 60.0, known_version=beat.version, document=document, joins=True, freeze=True)
    after = await a.do(Heartbeat(group, "B", 60.0, ""))
    assert (after.document, after.damaged) == (document, False)
    assert after.frozen_until > after.now
