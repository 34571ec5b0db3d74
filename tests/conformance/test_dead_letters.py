"""Dead letters: what they keep, redriving them, dropping them (S1)."""

from __future__ import annotations

import anyio
import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.leases import Install, RemakeGroup
from redisaq.brokers.steps.retrying import (
    CountDead,
    CountedDead,
    DeadKind,
    DeadLetterEntry,
    DeadLetterSummary,
    Purge,
    ReadDead,
    ReadNewestDead,
    Redrive,
    StartRetry,
    SummariseDead,
    redrive,
)
from redisaq.brokers.steps.settling import ReadRemaining, Remaining
from redisaq.brokers.terms import GroupName
from redisaq.core.failures import LIBRARIES
from redisaq.core.records import Body, Entry, Failure, Resolution
from tests.conformance.failures import dead, delivered, due, failure, now, read, resolution, resolve, value, values_of
from tests.conformance.steps import SECOND
from tests.conformance.worlds import MemoryWorld, RedisWorld, World

pytestmark = pytest.mark.anyio


async def kill(broker: Broker, group: GroupName, token: int, *values: bytes) -> list[Entry]:
    """Append these messages and make them dead letters one after the other; return their entries."""
    entries = await delivered(broker, group, token, *values)
    for entry in entries:
        assert await resolve(broker, group, token, resolution(entry, "dead")) == [True]
    return entries


def digits(count: int) -> list[bytes]:
    """Return so many values."""
    return [b"%d" % number for number in range(count)]


async def test_what_is_kept(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    (entry,) = await delivered(a, group, owned, b"1")
    why = Failure("app.TooBad", "no good: \u00e9\n\x00", "Traceback …", 5, 1_700_000_000_001, 1_700_000_000_002, "member-1")
    before = await now(a, group)
    assert await resolve(a, group, owned, Resolution("stream", "dead", Body(entry[0], (b"i", b"1"), 0, 5, why))) == [True]
    (found,) = await dead(b, group)
    assert found == DeadLetterEntry(found.dead_id, Body(entry[0], (b"i", b"1"), 0, 5, why))
    assert before // 1000 <= int(found.dead_id.split(b"-")[0]) <= await now(a, group) // 1000
    assert await a.do_each([ReadRemaining(group, 0)]) == [Remaining(unread=False, pending=0)], "it is done with"


@pytest.mark.parametrize("attempt", [0, 3])
async def test_one_that_never_failed(a: Broker, group: GroupName, owned: int, attempt: int) -> None:
    """A message that killed its process each time, say."""
    (entry,) = await delivered(a, group, owned, b"1")
    body = Body(entry[0], (b"i", b"1"), 0, attempt)
    await resolve(a, group, owned, Resolution("stream", "dead", body))
    assert [one.body for one in await dead(a, group)] == [body]


async def test_broken_characters_are_escaped(a: Broker, group: GroupName, owned: int) -> None:
    """An error may name a file whose name is no text."""
    first, second = await delivered(a, group, owned, b"1", b"2")
    why = failure(text="no file \udcff")
    await resolve(a, group, owned, Resolution("stream", "dead", Body(first[0], (b"i", b"1"), 0, 1, why)))
    await resolve(a, group, owned, Resolution("stream", "retry", Body(second[0], (b"i", b"2"), 0, 1, why), due=1))
    bodies = [*(one.body for one in await dead(a, group)), *(await due(a, group, owned)).retries]
    assert [body.failure.error for body in bodies if body.failure] == ["no file \\udcff"] * 2


ELSEWHERE = "".join(f'  File "{part}far.py", line 7, in far\n' for part in LIBRARIES)
"""Frames of code in libraries right below the root: the path begins with what tells them."""

TRACEBACK = f"""Traceback (most recent call last):
  File "/srv/shop/venv/lib/python3.13/site-packages/redisaq/handling.py", line 3, in one
  File "/srv/shop/handlers.py", line 28, in bill
    receipt = await charge(order)
  File "/srv/shop/bank.py", line 41, in charge
  File "/usr/lib/python3.13/asyncio/timeouts.py", line 125, in __aexit__
{ELSEWHERE}TimeoutError: bank did not answer
"""


async def test_summaries_have_what_is_small(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    entries = await delivered(a, group, owned, *digits(4))
    for number, entry in enumerate(entries):
        traceback = TRACEBACK.replace("in charge", "in refund") if number == 1 else TRACEBACK
        why = Failure("TimeoutError", "é" * 200, traceback, 5, 1_700_000_000_001, 1_700_000_000_002, "m") if number else None
        fields = (b"i", b"%d" % number, b"d", b"x" * 10_000, *((b"k", b"key") if number else ()))
        await resolve(a, group, owned, Resolution("stream", "dead", Body(entry[0], fields, 0, 5, why)))
    ids = [one.dead_id for one in await dead(a, group)]
    found = await b.do(SummariseDead(group, 0, b"", 3, 7))
    assert [(one.dead_id, one.msg_id) for one in found] == [(ids[3], b"3"), (ids[2], b"2"), (ids[1], b"1")]
    frame = (b"/srv/shop/bank.py", b"41", b"charge")
    assert found[0] == DeadLetterSummary(ids[3], b"3", b"key", b"TimeoutError", "ééé".encode() + b"\xc3", 5, entries[3][0], 0, frame)
    (last,) = await b.do(SummariseDead(group, 0, ids[1], 3, 7))
    assert last == DeadLetterSummary(ids[0], b"0", None, b"", b"", 5, entries[0][0], 0)
    assert await b.do(SummariseDead(group, 1, b"", 3, 7)) == []
    # ... and counted by their failures, a few at a time
    alike = DeadKind(2, ids[3], ids[2], b"TimeoutError", found[0].error, frame)
    assert await b.do(CountDead(group, 0, b"", 2, 7)) == CountedDead(2, ids[2], (alike,))
    counted = await b.do(CountDead(group, 0, ids[2], 5, 7))
    other = DeadKind(1, ids[1], ids[1], b"TimeoutError", found[0].error, (*frame[:2], b"refund"))
    rest = (other, DeadKind(1, ids[0], ids[0]))
    assert counted == CountedDead(2, ids[0], rest)
    assert await b.do(CountDead(group, 0, ids[0], 5, 7)) == CountedDead(0, b"", ())
    assert (await b.do(CountDead(group, 0, b"", 9, 7))).kinds == (alike, *rest), "another function is another failure"
    whole = (await dead(a, group))[::-1]
    assert await b.do(ReadNewestDead(group, 0, b"", 3)) == whole[:3]
    assert await b.do(ReadNewestDead(group, 0, ids[2], 3)) == whole[2:]
    assert await b.do(ReadNewestDead(group, 1, b"", 3)) == []


async def test_pages(a: Broker, group: GroupName, owned: int) -> None:
    await kill(a, group, owned, *digits(7))
    found: list[DeadLetterEntry] = []
    sizes: list[int] = []
    while page := await a.do(ReadDead(group, 0, after=found[-1].dead_id if found else b"", count=3)):
        found += page
        sizes.append(len(page))
    assert (sizes, values_of([one.body for one in found])) == ([3, 3, 1], digits(7))
    assert found == await dead(a, group)
    assert await dead(a, group, 1) == []
    assert await dead(a, GroupName("nothing", "nobody")) == []


@pytest.mark.parametrize(("most", "kept"), [(1, [6]), (3, [4, 5, 6]), (7, [*range(7)]), (0, [])])
async def test_only_the_latest_are_kept(a: Broker, group: GroupName, owned: int, most: int, kept: list[int]) -> None:
    entries = await delivered(a, group, owned, *digits(7))
    await resolve(a, group, owned, *(resolution(entry, "dead") for entry in entries), dead_maxlen=most)
    assert values_of([one.body for one in await dead(a, group)]) == [b"%d" % number for number in kept]


async def test_redriving_begins_a_new_life(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    first, second = await kill(a, group, owned, b"1", b"2")
    before = await now(a, group)
    assert await redrive(b, group, 0, None, count=100) == 2
    assert await dead(a, group) == []
    found = await due(a, group, owned)
    assert found.retries == (Body(first[0], (b"i", b"1"), 1, 0), Body(second[0], (b"i", b"2"), 1, 0))
    assert found.now <= before + 10 * SECOND, "due now"
    assert (await a.do_each([ReadRemaining(group, 0)]))[0].retry == 2
    assert await redrive(b, group, 0, None, count=100) == 0


async def test_every_redrive_is_another_life(a: Broker, group: GroupName, owned: int) -> None:
    (entry,) = await kill(a, group, owned, b"1")
    for life in range(1, 4):
        assert await redrive(a, group, 0, None, count=1) == 1
        (body,) = (await due(a, group, owned)).retries
        assert (body.life, body.attempt, body.failure) == (life, 0, None)
        assert await a.do(StartRetry(group, 0, owned, entry_id=entry[0], life=life, attempt=1))
        assert await resolve(a, group, owned, Resolution("retry", "dead", Body(entry[0], body.fields, life, 1, failure()))) == [True]
        assert [one.body.life for one in await dead(a, group)] == [life]


async def test_a_settlement_sent_again_after_a_redrive_changes_nothing(a: Broker, group: GroupName, owned: int) -> None:
    """S1: otherwise the message would be dead without having run, or lost."""
    first, second = await delivered(a, group, owned, b"1", b"2")
    await resolve(a, group, owned, resolution(second, "retry"))
    (body,) = (await due(a, group, owned)).retries
    settlements = [resolution(first, "dead"), resolution(body, "dead")]
    assert await resolve(a, group, owned, *settlements) == [True, True]
    assert await redrive(a, group, 0, None, count=100) == 2
    before = (await due(a, group, owned)).retries
    others = [resolution(body, "done"), resolution(body, "retry", due=9), resolution(first, "done"), resolution(first, "retry")]
    assert await resolve(a, group, owned, *settlements, *others) == [False] * 6
    assert not await a.do(StartRetry(group, 0, owned, entry_id=second[0], life=0, attempt=2))
    for entry in (first, second):
        assert await a.do(StartRetry(group, 0, owned, entry_id=entry[0], life=1, attempt=1))
    assert await resolve(a, group, owned, *settlements, *others) == [False] * 6, "nor when its handler has begun"
    assert [one.entry_id for one in (await due(a, group, owned)).retries] == [one.entry_id for one in before]
    assert await dead(a, group) == []


async def test_redriving_keeps_the_order_of_dying_over_many_calls(a: Broker, group: GroupName, owned: int) -> None:
    entries = await delivered(a, group, owned, *digits(30))
    # 9 and 10 stand in the wrong order by their bytes; and the last one dies first.
    for entry in [entries[-1], *entries[:-1]]:
        await resolve(a, group, owned, resolution(entry, "dead"))
    calls = 0
    while await redrive(a, group, 0, None, count=7):
        calls += 1
    assert calls == 5
    assert values_of((await due(a, group, owned)).retries) == [b"29", *digits(29)]


async def test_redriving_keeps_the_order_of_calls_whatever_the_clock_says(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """Two calls in one microsecond, or a clock that was set back: a message that is redriven later is due later."""
    await kill(a, group, owned, *digits(5))
    assert await redrive(a, group, 0, None, count=1) == 1
    ahead = await now(a, group) + SECOND // 2
    if isinstance(world, RedisWorld):
        world.command("HSET", world.key(group.topic, 0, f"g:{group.group}:lease"), "redriven", ahead)
    elif isinstance(world, MemoryWorld):
        world.store.shelf(group, 0).redriven = ahead
    for count in (2, 1, 1):
        assert await redrive(a, group, 0, None, count=count) == count
    found = await due(a, group, owned)
    assert (values_of(found.retries), found.next_due) == ([b"0"], ahead + 1)
    await anyio.sleep(0.6)
    assert values_of((await due(a, group, owned)).retries) == digits(5)


async def test_redriving_some(a: Broker, group: GroupName, owned: int) -> None:
    await kill(a, group, owned, *digits(6))
    ids = [one.dead_id for one in await dead(a, group)]
    wanted = [ids[4], ids[1], ids[4], b"1-1", ids[3], ids[1]]
    assert await redrive(a, group, 0, [], count=10) == 0
    assert await redrive(a, group, 0, [b"1-1"], count=10) == 0
    assert await redrive(a, group, 0, wanted, count=2) == 2, "where one is gone, the next one is not counted twice"
    assert values_of((await due(a, group, owned)).retries) == [b"1", b"3"]
    assert await redrive(a, group, 0, wanted, count=2) == 1
    assert await redrive(a, group, 0, wanted, count=2) == 0
    assert values_of((await due(a, group, owned)).retries) == [b"1", b"3", b"4"]
    assert values_of([one.body for one in await dead(a, group)]) == [b"0", b"2", b"5"]
    assert await redrive(a, group, 0, [b"1-1", ids[0], ids[2]], count=2) == 2, "the one after what is gone was asked for, too"


async def test_redriving_comes_after_what_was_due(a: Broker, group: GroupName, owned: int) -> None:
    await kill(a, group, owned, b"dead")
    (entry,) = await delivered(a, group, owned, b"due")
    await resolve(a, group, owned, resolution(entry, "retry", due=await now(a, group) - SECOND))
    assert await redrive(a, group, 0, None, count=1) == 1
    assert values_of((await due(a, group, owned)).retries) == [b"due", b"dead"]


async def test_redriving_what_was_delivered_once_more(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """T6: a group that was lost and made again may hold a message twice; the one that waits remains."""
    await kill(a, group, owned, b"1")
    world.forget_cursor(group, 0)
    await a.do(RemakeGroup(group, 0, b""))
    (again,) = await read(a, group, 0, owned)
    await resolve(a, group, owned, resolution(again, "retry"))
    assert await redrive(a, group, 0, None, count=10) == 1
    (body,) = (await due(a, group, owned)).retries
    assert (body.life, body.attempt) == (0, 1)


async def test_redriving_at_full_memory(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """S2: half of it would be a loss."""
    await kill(a, group, owned, *digits(3))
    with world.full():
        assert await redrive(a, group, 0, None, count=2) == 2
        assert await a.do(Purge(group, 0, None)) == 1
    assert values_of((await due(a, group, owned)).retries) == [b"0", b"1"]


async def test_redriving_what_has_gone_since_it_was_read(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """Somebody else was faster; what is still there gets its new life, once."""
    await kill(a, group, owned, *digits(4))
    lives = [(one.dead_id, Body(one.body.entry_id, one.body.fields, 1)) for one in await dead(a, group)]
    assert await b.do(Purge(group, 0, [lives[0][0]])) == 1
    assert await redrive(b, group, 0, [lives[1][0]], 1) == 1
    assert await a.do(Redrive(group, 0, [*lives, *lives], cuts=0)) == 2
    assert await a.do(Redrive(group, 0, lives, cuts=0)) == 0
    retries = (await due(a, group, owned)).retries
    assert values_of(retries) == [b"1", b"2", b"3"]
    assert {body.life for body in retries} == {1}


async def test_purging(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    await kill(a, group, owned, *digits(6))
    ids = [one.dead_id for one in await dead(a, group)]
    assert await b.do(Purge(group, 0, [ids[2], ids[0], ids[2], b"1-1"])) == 2
    assert await b.do(Purge(group, 0, [])) == 0
    assert values_of([one.body for one in await dead(a, group)]) == [b"1", b"3", b"4", b"5"]
    assert await b.do(Purge(group, 0, None)) == 4
    assert await b.do(Purge(group, 0, None)) == 0
    assert await b.do(Purge(group, 1, None)) == 0
    assert await dead(a, group) == []
    assert (await due(a, group, owned)).retries == ()
    assert await redrive(b, group, 0, ids, count=100) == 0


async def test_ids_never_come_again(a: Broker, group: GroupName, owned: int) -> None:
    """Otherwise a redrive by a known id could reach another message."""
    seen: set[bytes] = set()
    for number in range(20):
        await kill(a, group, owned, b"%d" % number)
        (one,) = await dead(a, group)
        assert value(one.body) == b"%d" % number
        assert one.dead_id not in seen
        seen.add(one.dead_id)
        await a.do(Purge(group, 0, None if number % 2 else [one.dead_id]))


async def test_groups_and_partitions_keep_apart(a: Broker, group: GroupName, owned: int) -> None:
    other = GroupName(group.topic, "shipping")
    await make_groups(a, other, [0], latest=False)
    await a.do(Install(other, 0, owned, "A", foreign=True))
    await kill(a, group, owned, b"1")
    assert await redrive(a, other, 0, None, count=10) == 0
    assert await redrive(a, group, 1, None, count=10) == 0
    assert await a.do(Purge(other, 0, None)) == 0
    assert await redrive(a, group, 0, None, count=10) == 1
    assert ((await due(a, other, owned)).retries, len((await due(a, group, owned)).retries)) == ((), 1)
