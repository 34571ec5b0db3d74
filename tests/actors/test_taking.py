"""When a member may take a partition, and what it does if it may not: moments that no ordinary run comes by (M5, M7, M8, T2)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import anyio
import pytest

from redisaq import Consumer, events
from redisaq.brokers.memory.holdings import Lease
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import Document, decode_document
from redisaq.errors import ConnectionFailed, ConsumerError, ServerError
from tests.actors.group import Backend, Notebook, on_both, play, produce, quick, store_of
from tests.actors.hooked import hooked

GROUP = GroupName("jobs", "default_group")
TTL, INTERVAL = 4.0, 0.5
BEGIN_AT_ONCE = 0.5


def document_of(url: str) -> Document:
    state = store_of(url).members(GROUP).state
    assert state is not None
    return decode_document(state.document)


def member(url: str, **more: Any) -> Consumer[Any]:
    return quick(url, **{"heartbeat_interval": INTERVAL, "heartbeat_ttl": TTL, **more})


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> float:
    """Return how many seconds it took until the condition held."""
    began = anyio.current_time()
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)
    return anyio.current_time() - began


async def nothing(_message: object) -> None:
    """Do nothing."""


# -- who holds what beside the data -----------------------------------------------------------------------------------------------


@on_both
@pytest.mark.parametrize("way", ["frozen", "young"])
def test_what_a_foreign_holder_stands_beside_is_left_alone_for_a_ttl_and_the_rest_is_not(backend: Backend, way: str) -> None:
    """M7: of a group that is frozen. M8: of one that has just been born."""

    async def scenario(url: str) -> list[float]:
        await produce(url, 2, partitions=2)
        if way == "frozen":
            await member(url).process(nothing, until_empty=True)
            await anyio.sleep(3 * TTL)
            store_of(url).restart()
        store_of(url).leases[GROUP, 0] = Lease(token=5, holder="somebody")
        consumer = member(url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, nothing)
            took = await until(lambda: 1 in consumer.assignment)
            took_foreign = took + await until(lambda: 0 in consumer.assignment)
            await consumer.stop()
        return [took, took_foreign]

    rest, foreign = play(scenario, backend)
    assert rest < BEGIN_AT_ONCE
    assert TTL <= foreign < TTL + 2 * BEGIN_AT_ONCE


@on_both
def test_a_foreign_holder_is_asked_about_soon_and_then_less_and_less(backend: Backend) -> None:
    """M8: it may release its partition at any moment, which rings nowhere."""

    async def scenario(url: str) -> list[float]:
        await produce(url, 1)
        store_of(url).leases[GROUP, 0] = Lease(token=5, holder="somebody")
        times, consumer = list[float](), member(url)

        async def before(name: str) -> None:
            if name == "install":
                times.append(anyio.current_time())

        hooked(consumer, url).before = before
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, nothing)
            await until(lambda: len(times) >= 7)
            await consumer.stop()
        return [later - earlier for earlier, later in pairwise(times[:7])]

    assert play(scenario, backend) == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.5, 0.5], abs=0.01)


@on_both
@pytest.mark.parametrize("holder", ["somebody", ""], ids=["another holder", "released"])
def test_a_token_that_stands_already_and_is_not_this_owners_is_raised(backend: Backend, holder: str) -> None:
    """T2: the same token under another holder, or released, is spent: who waited for it to go would wait forever."""

    async def scenario(url: str) -> tuple[list[int], int, int]:
        await produce(url, 3)
        notebook, consumer = Notebook(), member(url)
        tokens: list[int] = []

        async def before(name: str) -> None:
            if name == "install" and not tokens:
                tokens.append(document_of(url).token[0])
                store_of(url).leases[GROUP, 0] = Lease(token=tokens[0], holder=holder)

        hooked(consumer, url).before = before
        with anyio.fail_after(3 * TTL):
            await consumer.process(notebook.handle, until_empty=True)
        return notebook.numbers, tokens[0], min(message.token for message in notebook.messages)

    numbers, spent, token = play(scenario, backend)
    assert numbers == [0, 1, 2]
    assert token > spent


@on_both
def test_what_is_leased_here_and_meant_for_another_is_given_back_though_nothing_runs_there(backend: Backend) -> None:
    """`Duties.vacate`: an owner that has just lost its partition, while another member joins, has nothing to drain."""

    async def scenario(url: str) -> float:
        await produce(url, 4, partitions=2)
        notebook = Notebook()
        a, b = member(url, on_event=notebook.note), member(url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(a.process, nothing)
            await until(lambda: len(a.assignment) == 2)
            for partition in range(2):  # each owner finds another token, and ends
                del store_of(url).leases[GROUP, partition]
                store_of(url).ring(("jobs", partition))
            await until(lambda: len(notebook.of(events.LeaseLost)) == 2)
            tasks.start_soon(b.process, nothing)
            took = await until(lambda: len(b.assignment) == 1)
            await until(lambda: len(a.assignment) == 1)
            assert a.assignment.keys() | b.assignment.keys() == {0, 1}
            await a.stop()
            await b.stop()
        return took

    assert play(scenario, backend) < BEGIN_AT_ONCE


# -- a document that is lost ----------------------------------------------------------------------------------------------------------


@on_both
@pytest.mark.parametrize("late", [False, True])
def test_m8_what_ran_here_goes_on_at_once_until_its_own_deadline(backend: Backend, *, late: bool) -> None:
    """M8: once its deadline has passed, others may be at work there, whatever this member saw before."""

    async def scenario(url: str) -> float:
        await produce(url, 2, partitions=2)
        notebook = Notebook()
        consumer = member(url, on_event=notebook.note)
        away = False

        async def before(name: str) -> None:
            if away and name == "commit":
                raise ConnectionFailed("memory://taking", "for this test")

        hooked(consumer, url).before = before
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, nothing)
            await until(lambda: len(consumer.assignment) == 2)
            await anyio.sleep(INTERVAL / 4)
            away = late
            store_of(url).forget_group(GROUP)
            store_of(url).ring(GROUP)
            await until(lambda: len(notebook.of(events.LeaseLost)) == 2)
            await anyio.sleep(TTL + INTERVAL if late else 0.0)
            away = False
            await until(lambda: len(notebook.of(events.MemberJoined)) == 2)
            took = await until(lambda: len(consumer.assignment) == 2)
            await consumer.stop()
        return took

    took = play(scenario, backend)
    assert TTL - 0.1 < took < TTL + BEGIN_AT_ONCE if late else took < BEGIN_AT_ONCE, took


# -- joining and leaving ----------------------------------------------------------------------------------------------------------------


@on_both
def test_m5_who_expired_while_it_joined_joins_again(backend: Backend) -> None:
    """Its join was carried out and not answered; by the time it hears of that, its time has run out."""

    async def scenario(url: str) -> tuple[list[str], set[str], list[int]]:
        await produce(url, 2)
        notebook, consumer = Notebook(), member(url, on_event=(told := Notebook()).note)
        away = False

        async def before(_name: str) -> None:
            if away:
                raise ConnectionFailed("memory://taking", "for this test")

        async def after(name: str) -> None:
            nonlocal away
            if name == "commit" and not told.of(events.Disconnected):
                away = True
                raise ConnectionFailed("memory://taking", "for this test", maybe_executed=True)

        broker = hooked(consumer, url)
        broker.before, broker.after = before, after
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, notebook.handle)
            await until(lambda: away)
            (first,) = (entry.incarnation for entry in document_of(url).members.values())
            await anyio.sleep(TTL + INTERVAL)
            away = False
            await until(lambda: len(notebook.messages) == 2)
            joined = [event.member for event in told.of(events.MemberJoined)]
            members = {entry.incarnation for entry in document_of(url).members.values()}
            assert first not in joined
            await consumer.stop()
        return joined, members, notebook.numbers

    joined, members, numbers = play(scenario, backend)
    assert len(joined) == 1
    assert members == set(joined)
    assert numbers == [0, 1]


@on_both
@pytest.mark.parametrize("way", ["somebody was first", "expired"])
def test_a_member_that_fails_leaves_though_somebody_else_changes_the_group_first(backend: Backend, way: str) -> None:
    """Else the others would have to wait until its lease has run out. One that is gone already has nothing to leave."""

    async def scenario(url: str) -> tuple[float, set[str]]:
        await produce(url, 1)
        consumer = member(url)
        failed_at: float | None = None
        tries = 0

        async def before(name: str) -> None:
            nonlocal failed_at, tries
            if name == "settle":
                failed_at = anyio.current_time() if failed_at is None else failed_at
                raise ServerError("NOPERM for this test")
            if name == "commit" and failed_at is not None:
                tries += 1
                group = store_of(url).members(GROUP)
                assert group.state is not None
                if way == "expired":
                    group.members.clear()
                elif tries == 1:
                    group.state.version = "somebody's"

        hooked(consumer, url).before = before
        with pytest.raises(ConsumerError, match="NOPERM"):
            await consumer.process(nothing)
        assert tries == (2 if way == "somebody was first" else 1)
        assert failed_at is not None
        return anyio.current_time() - failed_at, set(document_of(url).members)

    took, members = play(scenario, backend)
    assert took < BEGIN_AT_ONCE
    assert members == set() or way == "expired"
