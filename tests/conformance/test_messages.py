"""Single messages, as administrators look at them: lists in pages, searches, cancelling, retrying now."""

from __future__ import annotations

import anyio
import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.administration import Seek, ViewPartition
from redisaq.brokers.steps.leases import Release, SetDeliveries
from redisaq.brokers.steps.messages import (
    CancelDelayed,
    CancelRetry,
    CountBacklog,
    CountDue,
    Counted,
    CountEntries,
    EntrySummary,
    ListDelayed,
    ListPending,
    ListRetries,
    PendingPage,
    ReadDelayed,
    ReadEntries,
    ReadStanding,
    RetryNow,
    Scheduled,
    ScheduledPage,
    SearchDead,
    Searched,
    SearchStream,
    Standing,
    SummariseEntries,
)
from redisaq.brokers.steps.producing import delay
from redisaq.brokers.steps.retrying import StartRetry, redrive
from redisaq.brokers.terms import GroupName
from redisaq.core.records import Entry, decode_delayed, decode_retry
from tests.conformance.failures import HOUR, dead, delivered, due, message, now, resolution, resolve
from tests.conformance.steps import SECOND, append
from tests.conformance.worlds import World

pytestmark = pytest.mark.anyio


async def retries(broker: Broker, group: GroupName, count: int = 2) -> list[Scheduled]:
    """Return all messages of `retry`, page by page."""
    found: list[Scheduled] = []
    while page := (await broker.do(ListRetries(group, 0, found[-1] if found else None, count))).rows:
        found += page
    return found


async def put_off(broker: Broker, group: GroupName, token: int, *pauses: int) -> list[Entry]:
    """Let a message fail for each pause, microseconds from now; return their entries."""
    entries = await delivered(broker, group, token, *(b"%d" % number for number in range(len(pauses))))
    at = await now(broker, group)
    moved = await resolve(
        broker, group, token, *(resolution(one, "retry", due=at + pause) for one, pause in zip(entries, pauses, strict=True))
    )
    assert moved == [True] * len(pauses)
    return entries


async def test_nothing_is_there(a: Broker, group: GroupName) -> None:
    """Neither the group, nor the stream, nor the topic."""
    at = await now(a, group)
    assert await a.do(ListPending(group, 0, b"", 5)) == PendingPage("")
    for page in (await a.do(ListRetries(group, 0, None, 5)), await a.do(ListDelayed(group.topic, 0, None, 5))):
        assert page == ScheduledPage(page.now)
        assert at <= page.now <= await now(a, group)
    assert await a.do(ReadEntries(group.topic, 0, None, 5)) == []
    assert await a.do(SearchStream(group.topic, 0, b"1", b"", 5)) == await a.do(SearchDead(group, 0, b"1", b"", 5)) == Searched(0)
    assert await a.do(ReadStanding(group, 0, b"7-1")) == Standing(unread=True, holder="")
    assert not await a.do(CancelDelayed(group.topic, 0, b"1"))
    assert not await a.do(CancelRetry(group, 0, b"7-1"))
    assert await a.do(RetryNow(group, 0, None, 5)) == await a.do(RetryNow(group, 0, [b"7-1"], 5)) == await a.do(CountBacklog(group, 0)) == 0


async def test_pending(a: Broker, b: Broker, world: World, group: GroupName, owned: int) -> None:
    before = await now(a, group)
    entries = await delivered(a, group, owned, b"1", b"2", b"3")
    assert await a.do(SetDeliveries(group, 0, owned, {entries[1][0]: 7}))
    world.delete(group.topic, 0, [entries[2][0]])
    first = await b.do(ListPending(group, 0, b"", 2))
    second = await b.do(ListPending(group, 0, first.rows[-1].entry_id, 2))
    rows = (*first.rows, *second.rows)
    assert (first.holder, len(second.rows)) == ("A", 1)
    assert [(row.entry_id, row.deliveries, None if row.fields is None else tuple(row.fields)) for row in rows] == [
        (entries[0][0], 1, (b"i", b"1")),
        (entries[1][0], 7, (b"i", b"2")),
        (entries[2][0], 1, None),
    ]
    after = await now(a, group)
    assert all(before - 1000 <= row.since <= after for row in rows)
    assert await b.do(ListPending(group, 0, entries[2][0], 2)) == PendingPage("A")
    assert await a.do(Release(group, 0, owned))
    assert (await b.do(ListPending(group, 0, b"", 1))).holder == ""


async def test_retries_come_by_due_time_in_pages(a: Broker, group: GroupName, owned: int) -> None:
    """Many may be due at the same microsecond; and one after which a page begins may be gone by then."""
    entries = await put_off(a, group, owned, 2 * HOUR, HOUR, HOUR, HOUR, HOUR, 1, 3 * HOUR)
    found = await retries(a, group)
    order = [entries[number][0] for number in (5, 1, 2, 3, 4, 0, 6)]
    assert [one.id for one in found] == order
    assert [decode_retry(one.id, one.body or b"").fields for one in found] == [(b"i", b"%d" % number) for number in (5, 1, 2, 3, 4, 0, 6)]
    assert sorted(one.due or 0 for one in found) == [one.due for one in found]
    gone = found[2]
    assert await a.do(CancelRetry(group, 0, gone.id))
    page = await a.do(ListRetries(group, 0, gone, 3))
    assert [one.id for one in page.rows] == order[3:6]
    assert (found[0].due or 0) <= page.now < (found[1].due or 0)


async def test_delayed_come_by_due_time_in_pages(a: Broker, group: GroupName, owned: int) -> None:
    del owned
    at = await now(a, group)
    names = [b"b", b"a", b"\xffz", b"a-1", b"c", b"Z"]
    await delay(a, group.topic, [message(name, at + (2 if name == b"c" else 1) * HOUR) for name in names])
    found: list[Scheduled] = []
    while page := (await a.do(ListDelayed(group.topic, 0, found[-1] if found else None, 2))).rows:
        found += page
    assert [one.id for one in found] == [b"Z", b"a", b"a-1", b"b", b"\xffz", b"c"], "in the order of bytes, whatever the locale"
    assert [decode_delayed(one.body or b"") for one in found] == [[b"i", one.id] for one in found]
    assert [one.due for one in found] == [at + HOUR] * 5 + [at + 2 * HOUR]
    assert [await a.do(ReadDelayed(group.topic, 0, name)) for name in (b"a-1", b"nothing")] == [found[2], None]
    moments = [at + HOUR, at + HOUR + 1, at + 2 * HOUR, at + 3 * HOUR]
    assert [await a.do(CountDue(group.topic, number, moments)) for number in (0, 1)] == [[0, 5, 5, 6], [0, 0, 0, 0]]


async def test_summaries_of_entries(a: Broker, group: GroupName, owned: int) -> None:
    del owned
    big = b"x" * 5000
    entries = [[b"i", b"%d" % number, b"d", b"[%d]" % number] for number in range(21)]
    entries += [[b"k", b"\xff" + b"k" * 20, b"i", b"last", b"d", big], [b"foreign", b"one"]]
    ids = [one or b"" for one in await a.append(group.topic, [(0, fields) for fields in entries], maxlen=None, approximate=False)]
    newest = await a.do(SummariseEntries(group.topic, 0, b"", 3, 8))
    assert newest == [
        EntrySummary(ids[22], b"", None, b"", 0),
        EntrySummary(ids[21], b"last", b"\xff" + b"k" * 7, big[:8], 5000),
        EntrySummary(ids[20], b"20", None, b"[20]", 4),
    ]
    found = await a.do(SummariseEntries(group.topic, 0, ids[20], 15, 0))
    assert [(one.entry_id, one.start, one.size) for one in found] == [(ids[n], b"", 3 + (n > 9)) for n in range(19, 4, -1)]
    assert [one.entry_id for one in await a.do(SummariseEntries(group.topic, 0, ids[2], 100, 1))] == [ids[1], ids[0]]
    assert await a.do(SummariseEntries(group.topic, 1, b"", 9, 9)) == []
    following = await a.do(SummariseEntries(group.topic, 0, b"", 15, 0, ids[4]))
    assert [one.entry_id for one in following] == ids[5:20]
    assert await a.do(SummariseEntries(group.topic, 0, b"", 9, 9, ids[-1])) == []


async def test_entries_and_searches(a: Broker, world: World, group: GroupName, owned: int) -> None:
    entries = await delivered(a, group, owned, *(b"%d" % number for number in range(250)))
    ids = [entry_id for entry_id, _ in entries]
    assert [entry_id for entry_id, _ in await a.do(ReadEntries(group.topic, 0, None, 3))] == ids[:-4:-1]
    assert [entry_id for entry_id, _ in await a.do(ReadEntries(group.topic, 0, b"", 2))] == ids[:2]
    assert [entry_id for entry_id, _ in await a.do(ReadEntries(group.topic, 0, ids[247], 9))] == ids[248:]
    assert await a.do(CountEntries(group.topic, 0, b"0-0", b"", 249)) == Counted(249, ids[248])
    assert await a.do(CountEntries(group.topic, 0, ids[248], b"", 249)) == Counted(1)
    assert await a.do(CountEntries(group.topic, 0, b"0-0", b"", 101)) == Counted(101, ids[100])
    assert await a.do(CountEntries(group.topic, 0, b"0-0", b"", 1)) == Counted(1, ids[0])
    assert (
        await a.do(CountEntries(group.topic, 0, ids[9], ids[19], 100))
        == await a.do(CountEntries(group.topic, 0, ids[9], ids[19], 11))
        == Counted(10)
    )
    assert await a.do(CountEntries(group.topic, 1, b"0-0", b"", 9)) == Counted(0)
    found = await a.do(SearchStream(group.topic, 0, b"247", b"", 100))
    assert (found.looked, found.before, found.found and found.found[0]) == (3, None, ids[247])
    part = await a.do(SearchStream(group.topic, 0, b"7", b"", 205))
    assert (part.looked, part.before, part.found) == (205, ids[45], None)
    found = await a.do(SearchStream(group.topic, 0, b"7", part.before or b"", 205))
    assert (found.looked, found.found and found.found[0]) == (38, ids[7])
    assert await a.do(SearchStream(group.topic, 0, b"nothing", ids[45], 205)) == Searched(45)
    await resolve(a, group, owned, resolution(entries[3], "dead"), resolution(entries[4], "dead"))
    world.trim(group.topic, 0, 1)
    letter = await a.do(SearchDead(group, 0, b"3", b"", 10))
    assert (letter.looked, letter.found and letter.found[0]) == (2, (await dead(a, group))[0].dead_id)
    assert await a.do(SearchDead(group, 0, b"5", b"", 10)) == Searched(2)


async def test_standings(a: Broker, group: GroupName, owned: int) -> None:
    before = await now(a, group)
    entries = await put_off(a, group, owned, HOUR)
    (waits,) = await delivered(a, group, owned, b"waits")
    (new,) = await append(a, group.topic, 0, b"new")
    assert await a.do(ReadStanding(group, 0, new)) == Standing(unread=True, holder="A")
    assert await a.do(ReadStanding(GroupName(group.topic, "other"), 0, waits[0])) == Standing(unread=True, holder="")
    found = await a.do(ReadStanding(group, 0, waits[0]))
    assert (found.unread, found.holder, found.deliveries, found.retry) == (False, "A", 1, None)
    assert before - 1000 <= found.since <= await now(a, group)
    assert await a.do(SetDeliveries(group, 0, owned, {waits[0]: 0}))
    assert (await a.do(ReadStanding(group, 0, waits[0]))).deliveries == 0, "handed back before a handler began: it is pending"
    found = await a.do(ReadStanding(group, 0, entries[0][0]))
    assert (found.unread, found.deliveries, found.since, [found.retry]) == (False, None, 0, await retries(a, group))
    assert await a.do(CancelRetry(group, 0, entries[0][0]))
    assert await a.do(ReadStanding(group, 0, entries[0][0])) == Standing(unread=False, holder="A")


async def test_what_is_cancelled_is_gone(a: Broker, b: Broker, world: World, group: GroupName, owned: int) -> None:
    """S1: a member that works on it finds nothing to begin or to settle. Memory may be full."""
    entries = await put_off(a, group, owned, 1, 1)
    at = await now(a, group)
    await delay(a, group.topic, [message(b"later", at + HOUR), message(b"latest", at + HOUR)])
    bodies = (await due(a, group, owned)).retries
    with world.full():
        assert [await b.do(CancelRetry(group, 0, entries[0][0])) for _ in range(2)] == [True, False]
        assert [await b.do(CancelDelayed(group.topic, 0, b"later")) for _ in range(2)] == [True, False]
    assert not await a.do(StartRetry(group, 0, owned, entry_id=bodies[0].entry_id, life=0, attempt=2))
    assert await resolve(a, group, owned, resolution(bodies[0], "retry", due=9), resolution(bodies[1], "dead")) == [False, True]
    found = await a.do(ViewPartition(group, 0))
    assert (found.retry, found.dead, found.delayed, found.moves) == (0, 1, 1, 1)


async def test_retrying_now_keeps_the_order(a: Broker, b: Broker, world: World, group: GroupName, owned: int) -> None:
    """After what is due already, and before what is redriven later. Memory may be full."""
    entries = await put_off(a, group, owned, 3 * HOUR, 2 * HOUR, HOUR, 1, HOUR)
    ids = [entry_id for entry_id, _ in entries]
    (lost,) = await delivered(a, group, owned, b"lost")
    await resolve(a, group, owned, resolution(lost, "dead"))
    bell = await a.listen_partition(group.topic, 0)
    while [one.entry_id for one in (await due(a, group, owned)).retries] != [ids[3]]:
        pass
    with world.full():
        assert await b.do(RetryNow(group, 0, [ids[1], b"7-1", ids[2], ids[1], ids[3]], 10)) == 2
    with anyio.fail_after(30):
        await bell.wait()
    await bell.close()
    assert [one.entry_id for one in (await due(a, group, owned)).retries] == [ids[3], ids[2], ids[1]]
    assert await b.do(RetryNow(group, 0, None, 1)) == 1
    assert await b.do(RetryNow(group, 0, None, 9)) == 1
    assert await b.do(RetryNow(group, 0, None, 9)) == 0
    assert await redrive(b, group, 0, None, count=9) == 1
    expected = [ids[3], ids[2], ids[1], ids[4], ids[0], lost[0]]
    while len(found := (await due(a, group, owned)).retries) < len(expected):
        pass
    assert [one.entry_id for one in found] == expected


async def test_the_backlog(a: Broker, world: World, group: GroupName, owned: int) -> None:
    """What could be worked on now: unread, pending, and what is due."""
    entries = await put_off(a, group, owned, 1, 1, HOUR)
    at = await now(a, group)
    await delay(a, group.topic, [message(b"due", at - SECOND), message(b"later", at + HOUR)])
    assert await a.do(CountBacklog(group, 0)) == 3
    await delivered(a, group, owned, b"4", b"5")
    await append(a, group.topic, 0, b"6", b"7", b"8")
    assert await a.do(CountBacklog(group, 0)) == 8
    assert await a.do(CountBacklog(GroupName(group.topic, "other"), 0)) == 9, "all of the stream, and what is due of the delayed"
    second, _ = await append(a, group.topic, 0, b"9", b"10")
    world.delete(group.topic, 0, [second])
    assert await a.do(CountBacklog(group, 0)) == 9, "counted without what is gone"
    await a.do(Seek(group, 0, entries[0][0]))
    assert await a.do(CountBacklog(group, 0)) == 10
