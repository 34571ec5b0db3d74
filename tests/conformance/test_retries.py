"""Settling what did not simply succeed, and trying it again (S1, S2, S3)."""

from __future__ import annotations

import msgspec
import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.leases import Install, Release, RemakeGroup
from redisaq.brokers.steps.retrying import Due, StartRetry, TakeDue
from redisaq.brokers.steps.settling import Acknowledge, ReadRemaining, Remaining, Resolve, Resolved
from redisaq.brokers.terms import GroupName
from redisaq.core.records import Body, Resolution
from redisaq.errors import LeaseLostError, ServerError
from tests.conformance.failures import HOUR, Goal, dead, delivered, due, failure, now, read, resolution, resolve, values_of
from tests.conformance.steps import SECOND, append, pending
from tests.conformance.worlds import World

pytestmark = pytest.mark.anyio


async def start(broker: Broker, group: GroupName, token: int, body: Body) -> Body:
    """Begin the next attempt; return what stands in `retry` then."""
    assert await broker.do(StartRetry(group, 0, token, entry_id=body.entry_id, life=body.life, attempt=body.attempt + 1))
    return msgspec.structs.replace(body, attempt=body.attempt + 1)


async def test_what_failed_waits_in_retry(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    first, second, third = await delivered(a, group, owned, b"1", b"2", b"3")
    soon, later = await now(a, group) + HOUR, await now(a, group) + 2 * HOUR
    assert await resolve(a, group, owned, resolution(first, "retry", due=later), resolution(third, "retry", due=soon)) == [True, True]
    assert list(await pending(b, group, 0, owned)) == [second[0]], "it has left the stream"
    assert await b.do_each([ReadRemaining(group, 0)]) == [Remaining(unread=False, pending=1, retry=2)]
    found = await due(b, group, owned)
    assert (found.retries, found.moved, found.next_due) == ((), 0, soon)


async def test_what_is_due_comes_earliest_first_and_whole(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    entries = await delivered(a, group, owned, b"1", b"2", b"3")
    sent = [resolution(entry, "retry", due=when) for entry, when in zip(entries, [30, 10, 20], strict=True)]
    assert await resolve(a, group, owned, *sent) == [True] * 3
    found = await due(b, group, owned)
    assert found.retries == tuple(one.body for one in (sent[1], sent[2], sent[0]))
    assert (found.moved, found.next_due) == (0, None)
    assert abs(found.now - await now(a, group)) < 100 * SECOND
    assert (await due(a, group, owned)).retries == found.retries, "S3: they stay until they are settled"


async def test_trimming_does_not_take_it(world: World, a: Broker, group: GroupName, owned: int) -> None:
    (entry,) = await delivered(a, group, owned, b"1")
    await resolve(a, group, owned, resolution(entry, "retry"))
    world.trim(group.topic, 0, 0)
    assert values_of((await due(a, group, owned)).retries) == [b"1"]


async def test_no_more_than_asked_for(a: Broker, group: GroupName, owned: int) -> None:
    entries = await delivered(a, group, owned, *(b"%d" % number for number in range(5)))
    coming = await now(a, group) + HOUR
    times = [10, 20, 30, 40, coming]
    await resolve(a, group, owned, *(resolution(entry, "retry", due=when) for entry, when in zip(entries, times, strict=True)))
    answers = [await due(a, group, owned, count=count) for count in (1, 3, 4, 5)]
    assert [len(answer.retries) for answer in answers] == [1, 3, 4, 4]
    assert [answer.next_due for answer in answers] == [20, 40, coming, coming]


async def test_nothing_is_due(a: Broker, group: GroupName, owned: int) -> None:
    await append(a, group.topic, 0, b"unread")
    found = await due(a, group, owned)
    assert found == Due(retries=(), moved=0, next_due=None, now=found.now)


@pytest.mark.parametrize("to", ["done", "retry", "dead"])
async def test_settling_again_changes_nothing(a: Broker, group: GroupName, owned: int, to: Goal) -> None:
    """S1: from the stream and from `retry`."""
    first, second = await delivered(a, group, owned, b"1", b"2")
    from_stream = resolution(first, to)
    assert await resolve(a, group, owned, from_stream, from_stream) == [True, False]
    await resolve(a, group, owned, resolution(second, "retry"))
    body = next(body for body in (await due(a, group, owned)).retries if body.entry_id == second[0])
    from_retry = resolution(await start(a, group, owned, body), to, due=77)
    assert await resolve(a, group, owned, from_retry) == [True]
    before = (await due(a, group, owned)).retries, await dead(a, group), await a.do_each([ReadRemaining(group, 0)])
    assert await resolve(a, group, owned, from_retry, from_stream) == [False, False]
    assert ((await due(a, group, owned)).retries, await dead(a, group), await a.do_each([ReadRemaining(group, 0)])) == before
    assert (len(before[0]), len(before[1])) == {"done": (0, 0), "retry": (2, 0), "dead": (0, 2)}[to]


async def test_from_retry_to_retry(a: Broker, group: GroupName, owned: int) -> None:
    """A new time, a new failure; the same message."""
    (entry,) = await delivered(a, group, owned, b"1")
    await resolve(a, group, owned, resolution(entry, "retry"))
    (body,) = (await due(a, group, owned)).retries
    assert (body.attempt, body.failure) == (1, failure(1))
    running = await start(a, group, owned, body)
    coming = await now(a, group) + HOUR
    assert await resolve(a, group, owned, resolution(running, "retry", due=coming)) == [True]
    found = await due(a, group, owned)
    assert (found.retries, found.next_due) == ((), coming)
    assert await resolve(a, group, owned, resolution(running, "retry", due=5)) == [True], "another time is something new"
    assert (await due(a, group, owned)).retries == (Body(entry[0], (b"i", b"1"), 0, 2, failure(2)),)
    assert await a.do_each([ReadRemaining(group, 0)]) == [Remaining(unread=False, pending=0, retry=1)]


async def test_an_attempt_that_does_not_count(a: Broker, group: GroupName, owned: int) -> None:
    """RetryAfter: stored as unused. The number goes up all the same: a settlement that arrives late must not fit the next attempt (S1)."""
    (entry,) = await delivered(a, group, owned, b"1")
    again = resolution(entry, "retry", used=False)
    await resolve(a, group, owned, again)
    for number in range(1, 4):
        (body,) = (await due(a, group, owned)).retries
        assert (body.attempt, body.unused) == (number, number)
        again = resolution(await start(a, group, owned, body), "retry", used=False)
        assert await resolve(a, group, owned, again, again) == [True, False]
    (body,) = (await due(a, group, owned)).retries
    running = await start(a, group, owned, body)
    assert await resolve(a, group, owned, again) == [False], "it parked what a later handler works on"
    assert await resolve(a, group, owned, resolution(running, "done")) == [True]


async def test_starting_a_retry(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    (entry,) = await delivered(a, group, owned, b"1")

    async def begin(attempt: int, *, life: int = 0, entry_id: bytes = entry[0], token: int = owned) -> bool:
        return await b.do(StartRetry(group, 0, token, entry_id=entry_id, life=life, attempt=attempt))

    assert not await begin(1), "it is in the stream"
    await resolve(a, group, owned, resolution(entry, "retry"))
    (before,) = (await due(a, group, owned)).retries
    assert [await begin(number) for number in (0, 3, 12)] == [False] * 3
    assert not await begin(2, life=1)
    assert not await begin(2, entry_id=b"1-1")
    assert not await begin(2, token=owned + 1)
    assert (await due(a, group, owned)).retries == (before,)
    assert [await begin(2) for _ in range(2)] == [True, True], "asked again after a lost answer"
    (body,) = (await due(a, group, owned)).retries
    assert body == Body(before.entry_id, before.fields, 0, 2, before.failure)
    for number in range(3, 12):
        assert await begin(number)
    assert not await begin(2)
    await a.do(Release(group, 0, owned))
    assert not await begin(12), "late: it would undo what was handed back before the release (T5)"
    assert (await due(a, group, owned)).retries[0].attempt == 11


async def test_a_settlement_of_another_attempt_is_refused(a: Broker, group: GroupName, owned: int) -> None:
    (entry,) = await delivered(a, group, owned, b"1")
    await resolve(a, group, owned, resolution(entry, "retry"))
    (first,) = (await due(a, group, owned)).retries
    second = await start(a, group, owned, first)
    goals: tuple[Goal, ...] = ("done", "retry", "dead")
    for to in goals:
        assert await resolve(a, group, owned, resolution(first, to, due=9)) == [False]
    other_life = Body(second.entry_id, second.fields, 1, second.attempt, second.failure)
    longer = Body(second.entry_id, second.fields, 0, 22, second.failure)
    elsewhere = Body(b"1-1", second.fields, 0, 2, second.failure)
    for to in goals:
        assert await resolve(a, group, owned, *(resolution(body, to) for body in (other_life, longer, elsewhere))) == [False] * 3
    assert (await due(a, group, owned)).retries == (second,)
    assert await dead(a, group) == []
    assert await resolve(a, group, owned, resolution(second, "done")) == [True]


@pytest.mark.parametrize("token_above", [-1, 1])
async def test_everything_is_fenced(a: Broker, b: Broker, group: GroupName, owned: int, token_above: int) -> None:
    first, second = await delivered(a, group, owned, b"1", b"2")
    await resolve(a, group, owned, resolution(first, "retry"))
    before = (await due(a, group, owned)).retries
    token = owned + token_above
    refused = await b.do(Resolve(group, 0, token, [resolution(second, "done"), resolution(before[0], "dead")], dead_maxlen=None))
    assert refused == Resolved(done=False, token=owned)
    with pytest.raises(LeaseLostError):
        await b.do(TakeDue(group, 0, token, count=10))
    assert (await due(a, group, owned)).retries == before
    assert list(await pending(a, group, 0, owned)) == [second[0]]
    assert await b.do(Resolve(group, 1, token, [], dead_maxlen=None)) == Resolved(done=False, token=0), "no token stands there"
    with pytest.raises(LeaseLostError):
        await b.do(TakeDue(group, 1, token, count=10))


async def test_the_next_owner_goes_on(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """What was begun counts, whether or not it ended (a crash)."""
    (entry,) = await delivered(a, group, owned, b"1")
    await resolve(a, group, owned, resolution(entry, "retry"))
    running = await start(a, group, owned, (await due(a, group, owned)).retries[0])
    await b.do(Install(group, 0, owned + 1, "B", foreign=True))
    assert (await due(b, group, owned + 1)).retries == (running,)
    assert not (await a.do(Resolve(group, 0, owned, [resolution(running, "done")], dead_maxlen=None))).done
    third = await start(b, group, owned + 1, running)
    assert await resolve(b, group, owned + 1, resolution(running, "done"), resolution(third, "done")) == [False, True]
    assert (await b.do_each([ReadRemaining(group, 0)]))[0].empty


async def test_what_was_acknowledged_is_not_resolved(a: Broker, group: GroupName, owned: int) -> None:
    first, second = await delivered(a, group, owned, b"1", b"2")
    await a.do_each([Acknowledge(group, 0, owned, [first[0]])])
    answers = await resolve(a, group, owned, resolution(first, "retry"), resolution(first, "dead"), resolution(second, "done"))
    assert answers == [False, False, True]
    assert (await a.do_each([ReadRemaining(group, 0)]))[0].empty
    assert await a.do_each([Acknowledge(group, 0, owned, [second[0]])])


async def test_groups_and_partitions_keep_apart(a: Broker, group: GroupName, owned: int) -> None:
    other = GroupName(group.topic, "shipping")
    await make_groups(a, other, [0], latest=False)
    await a.do(Install(other, 0, owned, "A", foreign=True))
    await a.do(Install(group, 1, owned, "A", foreign=True))
    (entry,) = await delivered(a, group, owned, b"1")
    await resolve(a, group, owned, resolution(entry, "retry"))
    assert (await due(a, other, owned)).retries == ()
    assert (await a.do(TakeDue(group, 1, owned, count=10))).retries == ()
    (same,) = await read(a, other, 0, owned)
    assert await resolve(a, other, owned, resolution(same, "dead")) == [True]
    assert len((await due(a, group, owned)).retries) == 1
    assert (await dead(a, group), len(await dead(a, other))) == ([], 1)
    assert [left.retry for left in await a.do_each([ReadRemaining(group, 0), ReadRemaining(group, 1)])] == [1, 0]
    assert [left.retry for left in await a.do_each([ReadRemaining(other, 0)])] == [0]


async def test_many_at_once(a: Broker, group: GroupName, owned: int) -> None:
    """More words than Lua can unpack."""
    total = 3000
    entries = await delivered(a, group, owned, *(b"%d" % number for number in range(total)))
    goals: tuple[Goal, ...] = ("done", "retry", "dead")
    sent = [resolution(entry, goals[number % 3]) for number, entry in enumerate(entries)]
    assert await resolve(a, group, owned, *sent) == [True] * total
    left = (await a.do_each([ReadRemaining(group, 0)]))[0]
    assert (left.pending, left.retry, len(await dead(a, group))) == (0, total / 3, total / 3)
    assert await resolve(a, group, owned, *sent) == [False] * total
    assert await a.do(Resolve(group, 0, owned, [], dead_maxlen=5)) == Resolved(done=True, token=owned)


async def test_any_bytes_come_back(a: Broker, group: GroupName, owned: int) -> None:
    fields = [b"i", b"1:2:\x00\xff", b"d", bytes(range(256)) * 40, b"k", b"", b"", b"no name"]
    await a.append(group.topic, [(0, fields)], maxlen=None, approximate=False)
    (entry,) = await read(a, group, 0, owned)
    await resolve(a, group, owned, resolution(entry, "retry"))
    (body,) = (await due(a, group, owned)).retries
    assert body.fields == tuple(fields)
    await start(a, group, owned, body)
    (body,) = (await due(a, group, owned)).retries
    assert (body.fields, body.attempt) == (tuple(fields), 2)
    await resolve(a, group, owned, resolution(body, "dead"))
    assert [one.body.fields for one in await dead(a, group)] == [tuple(fields)]


async def test_a_group_made_again_delivers_once_more(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """T6: then the message that waits in `retry` stands as it is, and is there once."""
    first, last = await delivered(a, group, owned, b"1", b"2")
    await resolve(a, group, owned, resolution(first, "retry"))
    running = await start(a, group, owned, (await due(a, group, owned)).retries[0])
    world.forget_cursor(group, 0)
    assert await resolve(a, group, owned, resolution(last, "retry")) == [False]
    await a.do(RemakeGroup(group, 0, b""))
    again, _ = await read(a, group, 0, owned)
    assert again[0] == first[0]
    assert await resolve(a, group, owned, resolution(again, "retry", due=7)) == [True]
    assert (await due(a, group, owned)).retries == (running,)


async def test_a_group_made_again_does_not_move_the_time_of_what_waits(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """T6: what stands in `retry` stays as it is, its due time, too, wherever the second delivery is to go."""
    (entry,) = await delivered(a, group, owned, b"1")
    coming = await now(a, group) + HOUR
    await resolve(a, group, owned, resolution(entry, "retry", due=coming))
    world.forget_cursor(group, 0)
    await a.do(RemakeGroup(group, 0, b""))
    (again,) = await read(a, group, 0, owned)
    assert await resolve(a, group, owned, resolution(again, "retry", due=7)) == [True]
    found = await due(a, group, owned)
    assert (found.retries, found.next_due) == ((), coming)


async def test_at_full_memory_what_is_in_hand_goes_through(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """S2: acks, retries and dead letters pass whole, whichever comes first; appends are refused."""
    entries = await delivered(a, group, owned, *(b"%d" % number for number in range(8)))
    await resolve(a, group, owned, *(resolution(entry, "retry") for entry in entries[4:]))
    bodies = (await due(a, group, owned)).retries
    with world.full():
        with pytest.raises(ServerError) as refused:
            await a.append(group.topic, [(0, [b"i", b"x"])], maxlen=None, approximate=False)
        assert refused.value.code == "OOM"
        running = [await start(a, group, owned, body) for body in bodies]
        assert (await due(a, group, owned)).retries == tuple(running)
        assert await resolve(a, group, owned, resolution(running[0], "retry", due=9)) == [True]
        assert await resolve(a, group, owned, resolution(running[1], "dead"), dead_maxlen=9) == [True]
        assert await resolve(a, group, owned, resolution(entries[0], "retry")) == [True]
        assert await resolve(a, group, owned, resolution(entries[1], "dead")) == [True]
        others = [resolution(running[1], "dead"), resolution(running[2], "dead"), resolution(entries[2], "retry")]
        assert await resolve(a, group, owned, *others) == [False, True, True]
        assert await a.do_each([Acknowledge(group, 0, owned, [entries[3][0]])])
    assert values_of([one.body for one in await dead(a, group)]) == [b"5", b"1", b"6"]
    assert sorted(values_of((await due(a, group, owned)).retries)) == [b"0", b"2", b"4", b"7"]
    assert (await a.do_each([ReadRemaining(group, 0)]))[0] == Remaining(unread=False, pending=0, retry=4)


async def test_settling_and_retry_resolutions_count_as_one_kind(a: Broker, group: GroupName, owned: int) -> None:
    (entry,) = await delivered(a, group, owned, b"1")
    done = Resolution("stream", "done", Body(entry[0], ()))
    assert await resolve(a, group, owned, done, done) == [True, False]
    assert (await a.do_each([ReadRemaining(group, 0)]))[0].empty
