"""A herd that starts at once joins by a few changes, whichever of them dies, and whatever is lost on the way (M11, M12). In virtual time.

`python -m tests.bench.herd` shows larger herds, and real ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, get_args

import anyio
import pytest

from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.coordination import Commit, Heartbeat, Wait
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.consuming.coordinator import Leave, RebalanceCoordinator
from redisaq.core import waiting
from redisaq.errors import ConnectionFailed
from tests.actors.group import ASYNCIO_ALONE, IN_VIRTUAL_TIME, fresh_url
from tests.actors.herd import GROUP, HerdMember, Server, Trouble, is_settled, start_herd

TTL = 6.0
PARTITIONS = 10


@ASYNCIO_ALONE
async def test_sixty_members_that_start_within_a_second_join_by_a_few_changes() -> None:
    """Each by itself, they took 427 changes, and 9,308 heartbeats brought 135 MB."""
    outcome = await start_herd(60, name=fresh_url())
    assert outcome.joined < 2.0
    assert outcome.settled < 2.2
    assert outcome.server.calls["commit"] <= 20
    assert outcome.server.moved < 10_000


@ASYNCIO_ALONE
async def test_sixty_members_that_start_one_after_the_other_join_by_a_few_changes() -> None:
    """Over two seconds: those that wait for each other wait for as long as it pays."""
    outcome = await start_herd(60, within=2.0, name=fresh_url())
    assert outcome.settled < 3.5
    assert outcome.server.calls["commit"] <= 20


@ASYNCIO_ALONE
async def test_a_few_that_start_one_by_one_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """M12: so they do if nobody waits for the next one. With a crowd from 7 members on, it took 40."""
    monkeypatch.setattr(waiting, "QUIET", 0.0)
    outcome = await start_herd(6, within=2.0, name=fresh_url())
    assert outcome.server.calls["commit"] <= 25


@ASYNCIO_ALONE
async def test_a_few_members_that_start_at_one_instant_hardly_wait() -> None:
    """M11: nobody comes any more, and they know it soon."""
    outcome = await start_herd(10, within=0.0, name=fresh_url())
    assert outcome.settled < 0.25


@ASYNCIO_ALONE
async def test_those_that_give_back_to_newcomers_do_so_together() -> None:
    """M13: eighty of them have something to give back."""
    outcome = await start_herd(20, there=100, within=0.0, name=fresh_url())
    assert outcome.settled < 2.0
    assert outcome.server.calls["commit"] <= 20


async def herd_of(count: int, act: Callable[[list[HerdMember], MemoryBroker], Awaitable[None]]) -> None:
    """Start some members at the same moment, and act."""
    name = fresh_url()
    broker, server = MemoryBroker(name, "redisaq"), Server()
    await broker.do(MakeTopic("jobs", PARTITIONS))
    members = [HerdMember(name, server, heartbeat_ttl=TTL, heartbeat_interval=1.0) for _ in range(count)]
    async with anyio.create_task_group() as tasks:
        for member in members:
            tasks.start_soon(member.run)
        await act(members, broker)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("trouble", get_args(Trouble))
@ASYNCIO_ALONE
async def test_whatever_happens_to_one_of_them_the_others_join_and_share(trouble: Trouble) -> None:
    """At each of its steps, while it waits, has the turn, or lets others in: the last that came, and the first that waits."""
    met: set[str] = set()
    for which in (1, 4):
        for number in range(9):

            async def act(members: list[HerdMember], broker: MemoryBroker, which: int = which, number: int = number) -> None:
                members[which].broker.trouble = number, trouble
                lasting = [one for one in members if one is not members[which] or not trouble.startswith("dies")]
                with anyio.fail_after(1.5 * TTL if trouble.startswith("dies") else 2.5):
                    while not is_settled(broker, [one for one in lasting if not one.scope.cancel_called], PARTITIONS):
                        await anyio.sleep(0.05)
                if len(members[which].broker.steps) > number:
                    met.add(members[which].broker.steps[number])

            await herd_of(5, act)
    assert {"wait", "commit", "heartbeat"} <= met


@IN_VIRTUAL_TIME
async def test_one_that_is_stopped_while_it_waits_is_no_member() -> None:
    async def act(members: list[HerdMember], broker: MemoryBroker) -> None:
        with anyio.fail_after(5):
            while not (waiting := [one for one in members if one.broker.steps[-1:] == ["wait"]]):
                await anyio.sleep(0.0001)
            stopped = waiting[-1]
            assert stopped.coordinator is not None
            await stopped.coordinator.ref.tell(Leave(0.0))
            await stopped.left.wait()
            assert stopped.member.lease.incarnation not in broker.store.members(GROUP).members
            while not is_settled(broker, [one for one in members if one is not stopped], PARTITIONS):
                await anyio.sleep(0.05)

    await herd_of(5, act)


@IN_VIRTUAL_TIME
async def test_one_that_is_let_in_as_it_stops_leaves_the_group() -> None:
    """M11: its withdrawal comes too late."""

    async def act(members: list[HerdMember], broker: MemoryBroker) -> None:
        with anyio.fail_after(10):
            while not (waiting := [one for one in members if one.broker.steps[-1:] == ["wait"]]):
                await anyio.sleep(0.0001)
            stopped = waiting[-1]
            incarnation, do = stopped.member.lease.incarnation, stopped.broker.do

            async def late(step: Step[Any]) -> Any:
                while isinstance(step, Wait) and step.newcomer is None and incarnation not in broker.store.members(GROUP).members:
                    await anyio.sleep(0.001)
                return await do(step)

            stopped.broker.do = late  # type: ignore[method-assign]
            assert stopped.coordinator is not None
            await stopped.coordinator.ref.tell(Leave(0.0))
            await stopped.left.wait()
            assert incarnation not in broker.store.members(GROUP).members
            while not is_settled(broker, [one for one in members if one is not stopped], PARTITIONS):
                await anyio.sleep(0.05)

    await herd_of(5, act)


@IN_VIRTUAL_TIME
async def test_one_that_is_let_in_and_expires_as_it_stops_does_not_wait_again() -> None:
    """M11: somebody would let it in later, and its partitions would have no owner until it expires once more."""

    async def act(members: list[HerdMember], broker: MemoryBroker) -> None:
        with anyio.fail_after(10):
            while not (waiting := [one for one in members if one.broker.steps[-1:] == ["wait"]]):
                await anyio.sleep(0.0001)
            stopped = waiting[-1]
            incarnation, do = stopped.member.lease.incarnation, stopped.broker.do
            expired = False

            async def late(step: Step[Any]) -> Any:
                nonlocal expired
                withdraws = isinstance(step, Wait) and step.newcomer is None
                while withdraws and incarnation not in broker.store.members(GROUP).members:
                    await anyio.sleep(0.001)
                answer = await do(step)
                if withdraws:
                    expired = True
                    del broker.store.members(GROUP).members[incarnation]
                return answer

            stopped.broker.do = late  # type: ignore[method-assign]
            assert stopped.coordinator is not None
            await stopped.coordinator.ref.tell(Leave(0.0))
            await stopped.left.wait()
            assert expired
            assert incarnation not in broker.store.members(GROUP).room.waiting

    await herd_of(5, act)


@IN_VIRTUAL_TIME
async def test_one_whose_entry_was_not_answered_leaves_the_group() -> None:
    """Else the others would wait for its lease to run out."""
    member = HerdMember(fresh_url(), Server())
    store, do = member.broker.store, member.broker.do
    await do(MakeTopic("jobs", PARTITIONS))
    breaks = 2

    async def breaking(step: Step[Any]) -> Any:
        nonlocal breaks
        answer = await do(step)
        if breaks and isinstance(step, Commit | Heartbeat) and store.members(GROUP).members:
            breaks -= 1  # the second one as it leaves
            raise ConnectionFailed(store.url, "for this test", maybe_executed=True)
        return answer

    member.broker.do = breaking  # type: ignore[method-assign]
    coordinator = RebalanceCoordinator(member.around, member.member, member.owners.ref, ready=lambda _: None, left=member.left.set)
    with pytest.raises(ConnectionFailed):
        await coordinator._admission.join()
    assert list(store.members(GROUP).members) == [member.member.lease.incarnation]
    with pytest.raises(ConnectionFailed):
        await coordinator.give_up()
    await coordinator.give_up()
    assert not store.members(GROUP).members
    assert member.member.joined


@IN_VIRTUAL_TIME
async def test_one_that_the_room_takes_for_a_member_and_the_document_does_not_list_joins() -> None:
    """M8, M11: it was let in, it expired, and others made the document again without it. It cannot wait, so it enters."""
    member = HerdMember(fresh_url(), Server())
    await member.broker.do(MakeTopic("jobs", PARTITIONS))
    coordinator = RebalanceCoordinator(member.around, member.member, member.owners.ref, ready=lambda _: None, left=member.left.set)
    admission, group = coordinator._admission, member.broker.store.members(GROUP)
    admission.pause = 0.0
    group.members[member.member.lease.incarnation] = 0
    group.burst = 9, member.broker.store.now()
    assert await admission.join() == "joined"
    assert [*group.members] == [member.member.lease.incarnation]
