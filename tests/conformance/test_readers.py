"""Readers: new entries, each once; reads that block, are cancelled or break (T3, T4, T6)."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.leases import Fence, Install, Release, RemakeGroup
from redisaq.brokers.terms import GroupName, Reader, ReaderMark
from redisaq.core.records import Entry
from redisaq.errors import ConnectionFailed, GroupGoneError, LeaseLostError
from tests.conformance.steps import append, deliver, pending, values
from tests.conformance.worlds import World

pytestmark = pytest.mark.anyio


class Blocked:
    """A read in a task of its own that blocks at the store."""

    def __init__(self, reader: Reader, count: int = 10, block: float = 60.0) -> None:
        self._reader = reader
        self._count = count
        self._block = block
        self.entries: list[Entry] = []
        self.error: Exception | None = None
        self.ended = anyio.Event()
        self.scope = anyio.CancelScope()

    async def run(self) -> None:
        try:
            with self.scope:
                self.entries = list(await self._reader.read(self._count, self._block))
        except (ConnectionFailed, GroupGoneError) as error:
            self.error = error
        finally:
            self.ended.set()


async def until_blocked(world: World) -> None:
    """Return when a read waits at the server."""
    with anyio.fail_after(30):
        while not world.blocked_reads():
            await anyio.sleep(0.001)


async def test_up_to_count_in_order_each_once(a: Broker, group: GroupName, owned: int) -> None:
    await append(a, group.topic, 0, *(b"%d" % number for number in range(25)))
    reader = await a.open_reader(group, 0, owned, "A")
    seen = [values(await reader.read(10, 0)) for _ in range(4)]
    assert [len(part) for part in seen] == [10, 10, 5, 0]
    assert [value for part in seen for value in part] == [b"%d" % number for number in range(25)]


async def test_what_was_read_is_pending_once_delivered(a: Broker, group: GroupName, owned: int) -> None:
    sent = await append(a, group.topic, 0, b"1", b"2")
    reader = await a.open_reader(group, 0, owned, "A")
    assert [entry_id for entry_id, _ in await reader.read(10, 0)] == sent
    assert await pending(a, group, 0, owned) == dict.fromkeys(sent, 1)


async def test_readers_share_the_groups_position(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    await append(a, group.topic, 0, b"1", b"2", b"3")
    first, second = await a.open_reader(group, 0, owned, "A"), await b.open_reader(group, 0, owned, "A")
    assert values(await first.read(2, 0)) == [b"1", b"2"]
    assert values(await second.read(2, 0)) == [b"3"]


async def test_each_group_reads_all(a: Broker, group: GroupName, owned: int) -> None:
    other = GroupName(group.topic, "other")
    await append(a, group.topic, 0, b"1", b"2")
    assert len(await deliver(a, group, 0, owned, "A")) == 2
    await make_groups(a, other, [0], latest=False)
    await a.do(Install(other, 0, 1, "X", foreign=False))
    assert len(await deliver(a, other, 0, 1, "X")) == 2


async def test_a_read_that_does_not_wait(a: Broker, group: GroupName, owned: int) -> None:
    reader = await a.open_reader(group, 0, owned, "A")
    with anyio.fail_after(30):
        assert list(await reader.read(10, 0)) == []


async def test_a_read_waits_as_long_as_asked(a: Broker, group: GroupName, owned: int) -> None:
    reader = await a.open_reader(group, 0, owned, "A")
    start = anyio.current_time()
    assert list(await reader.read(10, 0.05)) == []
    assert 0.045 <= anyio.current_time() - start < 30
    assert reader.settled


async def test_a_waiting_read_gets_the_first_entry(world: World, a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    reader = await a.open_reader(group, 0, owned, "A")
    blocked = Blocked(reader)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(blocked.run)
        await until_blocked(world)
        assert not reader.settled
        await append(b, group.topic, 1, b"elsewhere")
        assert not blocked.ended.is_set()
        await append(b, group.topic, 0, b"1")
    assert values(blocked.entries) == [b"1"]
    assert reader.settled
    assert list(reader.take_leftover()) == []


async def test_a_stale_token_opens_no_reader(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    for token in (owned - 1, owned + 1):
        with pytest.raises(LeaseLostError):
            await a.open_reader(group, 0, token, "A")
    with pytest.raises(LeaseLostError):
        await a.open_reader(group, 1, owned, "A")
    await b.do(Install(group, 0, owned + 1, "B", foreign=True))
    with pytest.raises(LeaseLostError):
        await a.open_reader(group, 0, owned, "A")
    assert (await b.do(Install(group, 0, owned + 1, "B", foreign=True))).readers == ()


async def test_a_released_token_opens_no_reader(a: Broker, group: GroupName, owned: int) -> None:
    await a.do(Release(group, 0, owned))
    with pytest.raises(LeaseLostError):
        await a.open_reader(group, 0, owned, "A")


async def test_readers_are_registered(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """T3: the next owner hears of each, also if its install is repeated, until it has fenced them."""
    readers = [await a.open_reader(group, 0, owned, "A") for _ in range(2)]
    marks = {reader.mark for reader in readers}
    assert len(marks) == 2
    assert len({mark.run_id for mark in marks}) == 1
    assert (await b.do(Install(group, 0, owned - 1, "B", foreign=True))).readers == ()
    for _ in range(2):
        assert set((await b.do(Install(group, 0, owned + 1, "B", foreign=True))).readers) == marks
    own = await b.open_reader(group, 0, owned + 1, "B")
    await readers[0].close()
    assert set((await b.do(Install(group, 0, owned + 1, "B", foreign=True))).readers) == {*marks, own.mark}, "closing takes none off"
    assert await b.do(Fence(group, 0, owned + 1, tuple(marks)))
    assert (await b.do(Install(group, 0, owned + 1, "B", foreign=True))).readers == (own.mark,)


async def test_a_superseded_reader_that_was_not_fenced_still_gets_entries(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """T3: this is why it must be fenced before the next owner claims: a server knows nothing of tokens."""
    reader = await a.open_reader(group, 0, owned, "A")
    await b.do(Install(group, 0, owned + 1, "B", foreign=True))
    await append(b, group.topic, 0, b"1")
    assert values(await reader.read(10, 0)) == [b"1"]


@pytest.mark.parametrize("token_above", [0, 1])
async def test_a_fence_kills_a_blocked_read(  # noqa: PLR0917 -- by name
    world: World, a: Broker, b: Broker, group: GroupName, owned: int, token_above: int
) -> None:
    """T3: by the next owner, and by the owner itself."""
    reader = await a.open_reader(group, 0, owned, "A")
    if token_above:
        assert (await b.do(Install(group, 0, owned + 1, "B", foreign=True))).readers == (reader.mark,)
    blocked = Blocked(reader)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(blocked.run)
        await until_blocked(world)
        assert await b.do(Fence(group, 0, owned + token_above, [reader.mark]))
        sent = await append(b, group.topic, 0, b"1")
        with anyio.fail_after(30):
            await blocked.ended.wait()
    assert isinstance(blocked.error, ConnectionFailed)
    assert blocked.error.maybe_executed
    with pytest.raises(ConnectionFailed):
        await reader.read(10, 0)
    assert await pending(b, group, 0, owned + token_above) == {}, "nothing was delivered over the killed connection"
    assert await deliver(b, group, 0, owned + token_above, "AB"[token_above]) == sent


async def test_a_fence_spares_other_connections(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """T3: ids are given again after a restart, and a proxy gives addresses again; all three must fit."""
    reader = await a.open_reader(group, 0, owned, "A")
    mark = reader.mark
    others = [ReaderMark(mark.client_id, mark.address, "another"), ReaderMark(mark.client_id + 1_000_000, mark.address, mark.run_id)]
    assert await b.do(Fence(group, 0, owned, others))
    assert mark in (await a.do(Install(group, 0, owned, "A", foreign=True))).readers
    assert await b.do(Fence(group, 0, owned, [ReaderMark(mark.client_id, "192.0.2.1:1", mark.run_id)]))
    await append(b, group.topic, 0, b"1")
    assert values(await reader.read(10, 0)) == [b"1"]


async def test_a_stale_fence_takes_nothing_off_the_list(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    reader = await a.open_reader(group, 0, owned, "A")
    assert await b.do(Fence(group, 0, owned - 1, [reader.mark]))
    assert (await a.do(Install(group, 0, owned, "A", foreign=True))).readers == (reader.mark,)


async def test_a_fence_may_be_repeated(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    reader = await a.open_reader(group, 0, owned, "A")
    for _ in range(2):
        assert await b.do(Fence(group, 0, owned, [reader.mark]))
    assert await b.do(Fence(group, 0, owned, []))


async def test_a_fence_that_is_not_permitted(world: World, group: GroupName, a: Broker, owned: int) -> None:
    """T4: the answer says so, and the reader stays on the list."""
    weak = world.weak_broker()
    reader = await a.open_reader(group, 0, owned, "A")
    assert not await weak.do(Fence(group, 0, owned, [reader.mark]))
    assert (await a.do(Install(group, 0, owned, "A", foreign=True))).readers == (reader.mark,)
    await append(a, group.topic, 0, b"1")
    assert values(await reader.read(10, 0)) == [b"1"]
    await weak.close()


async def test_a_cancelled_read_leaves_nothing_behind(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    reader = await a.open_reader(group, 0, owned, "A")
    with anyio.move_on_after(0.05) as scope:
        await reader.read(10, 5)
    assert scope.cancelled_caught
    assert reader.settled
    assert list(reader.take_leftover()) == []
    sent = await append(b, group.topic, 0, b"1")
    assert await pending(b, group, 0, owned) == {}, "the read no longer waits at the store"
    assert [entry_id for entry_id, _ in await reader.read(10, 0)] == sent, "and can be used again"


async def test_cancelling_a_read_loses_nothing(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """Whatever comes while it is being cancelled is returned or left over: no entry is delivered unseen."""
    reader = await a.open_reader(group, 0, owned, "A")
    seen: list[bytes] = []
    for number in range(40):
        blocked = Blocked(reader)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(blocked.run)
            for _ in range(number % 8):
                await anyio.lowlevel.checkpoint()
            if number % 3 == 0:
                await anyio.sleep(0.003)
            async with anyio.create_task_group() as race:
                race.start_soon(append, b, group.topic, 0, b"%d" % number)
                for _ in range(number % 5):
                    await anyio.lowlevel.checkpoint()
                blocked.scope.cancel()
        assert reader.settled
        assert blocked.error is None
        seen += values(blocked.entries) + values(reader.take_leftover())
        assert list(reader.take_leftover()) == [], "once"
        assert len(await pending(b, group, 0, owned)) == len(seen)
    seen += values(await reader.read(100, 0))
    assert seen == [b"%d" % number for number in range(40)]


Loss = Callable[[World, GroupName], None]
LOSSES: list[Loss] = [
    lambda world, group: world.forget_cursor(group, 0),
    lambda world, group: world.forget_partition(group.topic, 0),
    lambda world, _: world.flush(),
]


@pytest.mark.parametrize("lose", LOSSES, ids=["group", "partition", "everything"])
async def test_a_lost_group_ends_a_blocked_read(world: World, a: Broker, group: GroupName, owned: int, lose: Loss) -> None:
    """T6: with GroupGoneError, or with nothing where the server does not say why; then the next read says it."""
    reader = await a.open_reader(group, 0, owned, "A")
    blocked = Blocked(reader, block=60)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(blocked.run)
        await until_blocked(world)
        lose(world, group)
        with anyio.fail_after(30):
            await blocked.ended.wait()
    if blocked.error is None:
        assert blocked.entries == []
        with pytest.raises(GroupGoneError):
            await reader.read(10, 60)
    else:
        assert isinstance(blocked.error, GroupGoneError)


async def test_another_groups_loss_ends_no_read(world: World, a: Broker, group: GroupName, owned: int) -> None:
    other = GroupName(group.topic, "other")
    await make_groups(a, other, [0], latest=False)
    reader = await a.open_reader(group, 0, owned, "A")
    blocked = Blocked(reader, block=60)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(blocked.run)
        await until_blocked(world)
        world.forget_cursor(other, 0)
        await append(a, group.topic, 0, b"1")
    assert blocked.error is None
    assert values(blocked.entries) == [b"1"]


@pytest.mark.parametrize("lose", LOSSES, ids=["group", "partition", "everything"])
@pytest.mark.parametrize("block", [0, 60.0])
async def test_a_lost_group_is_read_from_no_more(  # noqa: PLR0917 -- by name
    world: World, a: Broker, group: GroupName, owned: int, lose: Loss, block: float
) -> None:
    """T6: made again, the same reader goes on."""
    await append(a, group.topic, 0, b"1")
    reader = await a.open_reader(group, 0, owned, "A")
    lose(world, group)
    with anyio.fail_after(30), pytest.raises(GroupGoneError):
        await reader.read(10, block)
    await a.do(RemakeGroup(group, 0, b""))
    await append(a, group.topic, 0, b"2")
    assert values(await reader.read(10, 0))[-1] == b"2"


async def test_closing_a_reader_ends_its_read(world: World, a: Broker, group: GroupName, owned: int) -> None:
    reader = await a.open_reader(group, 0, owned, "A")
    blocked = Blocked(reader)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(blocked.run)
        await until_blocked(world)
        await reader.close()
        with anyio.fail_after(30):
            await blocked.ended.wait()
    assert isinstance(blocked.error, ConnectionFailed)
    with pytest.raises(ConnectionFailed):
        await reader.read(10, 0)
    await reader.close()
    await append(a, group.topic, 0, b"1")
    assert len(await deliver(a, group, 0, owned, "A")) == 1


async def test_closing_the_broker_ends_its_reads(world: World, a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    reader = await a.open_reader(group, 0, owned, "A")
    blocked = Blocked(reader)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(blocked.run)
        await until_blocked(world)
        await a.close()
        with anyio.fail_after(30):
            await blocked.ended.wait()
    assert isinstance(blocked.error, ConnectionFailed)
    assert (await b.do(Install(group, 0, owned + 1, "B", foreign=True))).readers == (reader.mark,), "the registration stays"


async def test_a_broken_connection_ends_its_read(world: World, a: Broker, group: GroupName, owned: int) -> None:
    reader = await a.open_reader(group, 0, owned, "A")
    blocked = Blocked(reader)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(blocked.run)
        await until_blocked(world)
        world.break_connections()
        with anyio.fail_after(30):
            await blocked.ended.wait()
    assert isinstance(blocked.error, ConnectionFailed)
    assert blocked.error.maybe_executed
    with pytest.raises(ConnectionFailed):
        await reader.read(10, 0)


async def test_a_full_server_is_still_read_from(world: World, a: Broker, group: GroupName, owned: int) -> None:
    await append(a, group.topic, 0, b"1")
    with world.full():
        reader = await a.open_reader(group, 0, owned, "A")
        assert values(await reader.read(10, 0)) == [b"1"]
