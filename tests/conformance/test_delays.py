"""Delayed messages, and the doorbell of a partition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint

from redisaq.brokers.growth import make_or_grow
from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.steps.producing import delay
from redisaq.brokers.steps.retrying import TakeDue, redrive
from redisaq.brokers.steps.settling import ReadRemaining, Remaining
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import Doorbell, GroupName
from redisaq.errors import ConnectionFailed, LeaseLostError, ServerFull
from tests.conformance.failures import HOUR, dead, delivered, due, message, now, read, resolution, resolve
from tests.conformance.steps import SECOND, values
from tests.conformance.worlds import World

pytestmark = pytest.mark.anyio


async def test_what_is_delayed_is_not_there_yet(a: Broker, group: GroupName, owned: int) -> None:
    coming = await now(a, group) + HOUR
    assert await delay(a, group.topic, [message(b"later", coming), message(b"sooner", coming - 1)]) == [True, True]
    assert await delay(a, group.topic, []) == []
    assert await a.do_each([ReadRemaining(group, 0), ReadRemaining(group, 1)]) == [
        Remaining(unread=False, pending=0, delayed=2),
        Remaining(unread=False, pending=0),
    ]
    assert not (await a.do_each([ReadRemaining(group, 0)]))[0].empty
    found = await due(a, group, owned)
    assert (found.retries, found.moved, found.next_due) == ((), 0, coming - 1)
    assert await read(a, group, 0, owned) == []


async def test_what_is_due_is_moved_in_due_order(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    coming = await now(a, group) + HOUR
    times = {b"a": 30, b"b": 10, b"c": coming, b"d": 20, b"e": 20}
    assert await delay(b, group.topic, [message(name, when) for name, when in times.items()]) == [True] * 5
    found = await due(a, group, owned)
    assert (found.moved, found.next_due, found.retries) == (4, coming, ())
    assert values(await read(a, group, 0, owned)) == [b"b", b"d", b"e", b"a"]
    assert (await a.do_each([ReadRemaining(group, 0)]))[0] == Remaining(unread=False, pending=4, delayed=1)
    assert (await due(a, group, owned)).moved == 0


async def test_any_bytes_come_through(a: Broker, group: GroupName, owned: int) -> None:
    fields = [b"i", b"1", b"d", bytes(range(256)) * 40, b"k", b"", b"c", b"12:3:"]
    await delay(a, group.topic, [msg := message(b"m", 1), message(b"other", 2)])
    assert msg.fields == [b"i", b"m"]
    await delay(a, group.topic, [type(msg)(0, b"bytes", 3, fields)])
    assert (await due(a, group, owned)).moved == 3
    assert [list(found or ()) for _, found in await read(a, group, 0, owned)] == [[b"i", b"m"], [b"i", b"other"], fields]


async def test_no_more_than_asked_for(a: Broker, group: GroupName, owned: int) -> None:
    coming = await now(a, group) + HOUR
    await delay(a, group.topic, [message(b"%d" % number, 10 + number) for number in range(4)])
    entries = await delivered(a, group, owned, b"x", b"y")
    await resolve(a, group, owned, resolution(entries[0], "retry", due=5), resolution(entries[1], "retry", due=coming))
    answers = [await due(a, group, owned, count=count) for count in (1, 2, 2)]
    assert [(answer.moved, len(answer.retries), answer.next_due) for answer in answers] == [(1, 1, 11), (2, 1, 13), (1, 1, coming)]
    assert values(await read(a, group, 0, owned)) == [b"0", b"1", b"2", b"3"]


async def test_the_earlier_of_both_kinds(a: Broker, group: GroupName, owned: int) -> None:
    coming = await now(a, group) + HOUR
    (entry,) = await delivered(a, group, owned, b"x")
    await resolve(a, group, owned, resolution(entry, "retry", due=coming + 5))
    await delay(a, group.topic, [message(b"later", coming + 9)])
    assert (await due(a, group, owned)).next_due == coming + 5
    await delay(a, group.topic, [message(b"sooner", coming)])
    assert (await due(a, group, owned)).next_due == coming


async def test_each_once_by_its_id(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """So it may be sent again; the first time stands."""
    coming = await now(a, group) + HOUR
    assert await delay(a, group.topic, [message(b"1", coming), message(b"1", 5)]) == [True, True]
    assert await delay(b, group.topic, [message(b"1", 5), message(b"2", coming + 1)]) == [True, True]
    assert (await a.do_each([ReadRemaining(group, 0)]))[0].delayed == 2
    found = await due(a, group, owned)
    assert (found.moved, found.next_due) == (0, coming)


async def test_a_missing_stream_takes_nothing(a: Broker, group: GroupName, owned: int) -> None:
    """E5; what the others take is kept."""
    messages = [message(b"a", 1, 0), message(b"b", 1, 7), message(b"c", 1, 1), message(b"d", 1, 0)]
    assert await delay(a, group.topic, messages) == [True, False, True, True]
    assert await delay(a, "nothing", messages) == [False] * 4
    assert [left.delayed for left in await a.do_each([ReadRemaining(group, 0), ReadRemaining(group, 1), ReadRemaining(group, 7)])] == [
        2,
        1,
        0,
    ]
    assert [left.delayed for left in await a.do_each([ReadRemaining(GroupName("nothing", "nobody"), 0)])] == [0]


async def test_a_stream_that_is_lost_takes_nothing_for_a_second(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """S2: a delayed message leaves only once it is in the stream. When a missing stream is back, all of them are moved."""
    await delay(a, group.topic, [message(b"1", 1), message(b"2", 2)])
    world.forget_stream(group.topic, 0)
    for _ in range(2):
        found = await due(a, group, owned)
        assert (found.moved, found.next_due) == (0, found.now + SECOND)
    assert (await a.do_each([ReadRemaining(group, 0)]))[0].delayed == 2
    await make_groups(a, group, [0], latest=False)
    assert (await due(a, group, owned)).moved == 2
    assert values(await read(a, group, 0, owned)) == [b"1", b"2"]


async def test_any_group_s_owner_moves_them_for_all(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    other = GroupName(group.topic, "shipping")
    await make_groups(b, other, [0], latest=False)
    await b.do(Install(other, 0, owned + 5, "B", foreign=True))
    await delay(a, group.topic, [message(b"%d" % number, number + 1) for number in range(10)])
    moved = [0, 0]

    async def move(broker: Broker, owner: GroupName, token: int, which: int) -> None:
        while found := (await due(broker, owner, token, count=2)).moved:
            moved[which] += found

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(move, a, group, owned, 0)
        tasks.start_soon(move, b, other, owned + 5, 1)
    assert sum(moved) == 10
    for broker, owner, token, name in ((a, group, owned, "A"), (b, other, owned + 5, "B")):
        assert values(await read(broker, owner, 0, token, name)) == [b"%d" % number for number in range(10)]


async def test_moving_is_fenced(a: Broker, group: GroupName, owned: int) -> None:
    await delay(a, group.topic, [message(b"1", 1)])
    for token in (owned - 1, owned + 1):
        with pytest.raises(LeaseLostError):
            await due(a, group, token)
    assert (await a.do_each([ReadRemaining(group, 0)]))[0] == Remaining(unread=False, pending=0, delayed=1)


async def test_who_waits_for_an_entry_gets_what_is_moved(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    reader = await a.open_reader(group, 0, owned, "A")
    found: list[bytes] = []

    async def wait() -> None:
        found.extend(values(await reader.read(10, 10.0)))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await delay(b, group.topic, [message(b"1", 1)])
            assert (await due(a, group, owned)).moved == 1
    assert found == [b"1"]
    await reader.close()


async def test_at_full_memory_none_is_taken_and_all_are_moved(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """S2: what is in memory already must be worked off."""
    await delay(a, group.topic, [message(b"1", 1), message(b"2", 2)])
    with world.full():
        with pytest.raises(ServerFull):
            await delay(a, group.topic, [message(b"3", 3)])
        assert (await due(a, group, owned)).moved == 2
    assert values(await read(a, group, 0, owned)) == [b"1", b"2"]
    assert (await a.do_each([ReadRemaining(group, 0)]))[0].delayed == 0


async def test_losing_a_partition_loses_what_was_put_aside(world: World, a: Broker, group: GroupName, owned: int) -> None:
    first, second = await delivered(a, group, owned, b"1", b"2")
    await resolve(a, group, owned, resolution(first, "retry"), resolution(second, "dead"))
    await delay(a, group.topic, [message(b"3", 1)])
    world.forget_partition(group.topic, 0)
    assert await a.do_each([ReadRemaining(group, 0)]) == [Remaining(unread=False, pending=0)]
    assert await dead(a, group) == []


# -- the partition's doorbell -----------------------------------------------------------------------------------------------------


async def hush(doorbell: Doorbell) -> None:
    """Receive the rings so far, until it is silent. It may ring for nothing, but not forever."""
    with anyio.fail_after(30):
        while not await silent(doorbell):
            pass


async def silent(doorbell: Doorbell) -> bool:
    """Return True if it does not ring for a while."""
    with anyio.move_on_after(0.03):
        await doorbell.wait()
        return False
    return True


Ring = Callable[[Broker, GroupName, int], Awaitable[object]]


async def die_and_redrive(broker: Broker, group: GroupName, token: int) -> None:
    """Let a dead letter be tried again."""
    (entry,) = await delivered(broker, group, token, b"1")
    await resolve(broker, group, token, resolution(entry, "dead"))
    assert await redrive(broker, group, 0, None, count=1) == 1


RINGS: dict[str, Ring] = {
    "delay": lambda broker, group, _: delay(broker, group.topic, [message(b"1", 1)]),
    "redrive": die_and_redrive,
}


@pytest.mark.parametrize("rings", RINGS)
async def test_it_rings(a: Broker, b: Broker, group: GroupName, owned: int, rings: str) -> None:
    doorbells = [await a.listen_partition(group.topic, 0), await b.listen_partition(group.topic, 0)]
    other = await a.listen_partition(group.topic, 1)
    group_bell = await a.listen(group)
    for doorbell in (*doorbells, other, group_bell):
        await hush(doorbell)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for doorbell in doorbells:
                tasks.start_soon(doorbell.wait)
            await RINGS[rings](b, group, owned)
    assert await silent(other)
    assert await silent(group_bell)


async def test_it_rings_for_what_is_earlier_only(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """One wake-up per due time."""
    coming = await now(a, group) + HOUR
    doorbell = await a.listen_partition(group.topic, 0)
    await hush(doorbell)
    for when, rings in ((coming, True), (coming + 1, False), (coming, False), (coming - 1, True), (coming - 1, False)):
        await delay(b, group.topic, [message(b"%d" % when, when), message(b"again %d" % when, when + 10)])
        if rings:
            with anyio.fail_after(30):
                await doorbell.wait()
        assert await silent(doorbell), when
    await delay(b, group.topic, [message(b"elsewhere", 1, 1)])
    assert await silent(doorbell)
    assert (await a.do(TakeDue(group, 0, owned, count=10))).next_due == coming - 1


async def test_a_ring_is_heard_however_late(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    doorbell = await a.listen_partition(group.topic, 0)
    await delay(b, group.topic, [message(b"1", 1)])
    await anyio.sleep(0.03)
    with anyio.fail_after(30):
        await doorbell.wait()
    await hush(doorbell)


async def test_many_partitions_at_once(a: Broker, b: Broker, group: GroupName) -> None:
    await a.do(MakeTopic(group.topic, 1))
    await make_or_grow(a, group.topic, 30)
    doorbells = [await a.listen_partition(group.topic, partition) for partition in range(30)]
    heard: list[int] = []

    async def wait(partition: int) -> None:
        await doorbells[partition].wait()
        heard.append(partition)

    for doorbell in doorbells[:3]:
        await hush(doorbell)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for partition in range(30):
                tasks.start_soon(wait, partition)
            for partition in range(30):
                await delay(b, group.topic, [message(b"1", 1, partition)], cuts=1)
                while partition not in heard:
                    await checkpoint()
    assert heard == [*range(30)]


async def test_it_rings_after_each_reconnection(world: World, a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    doorbell = await a.listen_partition(group.topic, 0)
    for _ in range(2):
        await hush(doorbell)
        world.break_connections()
        with anyio.fail_after(30):
            await doorbell.wait()


@pytest.mark.parametrize("closed", ["doorbell", "broker"])
async def test_closing_ends_the_wait(a: Broker, group: GroupName, owned: int, closed: str) -> None:
    doorbell, other = await a.listen_partition(group.topic, 0), await a.listen_partition(group.topic, 0)
    await hush(doorbell)

    async def wait() -> None:
        with pytest.raises(ConnectionFailed):
            await doorbell.wait()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await (doorbell if closed == "doorbell" else a).close()
    await doorbell.close()
    if closed == "doorbell":
        await delay(a, group.topic, [message(b"1", 1)])
        with anyio.fail_after(30):
            await other.wait()
