"""What the pools of partitions offer to a loop: as many as may be handed out, prepared only when they are wanted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from redisaq.consuming.pulling import Offers
from tests.actors.group import IN_VIRTUAL_TIME

pytestmark = IN_VIRTUAL_TIME


class Item:
    """Something on offer, of which it is noted when it is looked at."""

    def __init__(self, name: str, *, gone: bool = False) -> None:
        self.name = name
        self.gone = gone
        self.looks: list[float] = []

    def hand_out(self) -> str | None:
        """Return its name, if its partition has not begun to leave."""
        return None if self.gone else self.name

    def look(self) -> None:
        """Note when."""
        self.looks.append(anyio.current_time())


class Calls:
    """Calls under way, each in a task of its own, and what they returned."""

    def __init__(self, tasks: Any) -> None:
        self.tasks = tasks
        self.returned: list[Any] = []

    async def call(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> list[Any]:
        """Begin one, and return what has been returned by all once nothing moves any more."""

        async def wait() -> None:
            self.returned.append((function.__name__, await function(*arguments)))

        self.tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        return self.returned


async def test_as_many_are_prepared_as_tasks_wait_and_room_there_is() -> None:
    offers = Offers[str](2)
    wanted = ("demand", None)
    async with anyio.create_task_group() as tasks:
        calls = Calls(tasks)
        for _ in range(3):
            assert await calls.call(offers.demand) == []
        assert await calls.call(offers.take) == [wanted]
        assert await calls.call(offers.take) == [wanted] * 2
        assert await calls.call(offers.take) == [wanted] * 2, "two may be handed out"
        offers.forgo()  # it was purged
        await anyio.wait_all_tasks_blocked()
        assert calls.returned == [wanted] * 3, "the next one is wanted in its place"
        calls.returned.clear()
        offers.forgo()
        assert sorted(await calls.call(offers.offer, Item("a"))) == [("offer", None), ("take", "a")]
        calls.returned.clear()
        offers.forgo()
        assert sorted(await calls.call(offers.offer, Item("b"))) == [("offer", None), ("take", "b")]
        calls.returned.clear()
        assert await calls.call(offers.demand) == [wanted], "one more, as long as nobody works on one of those that are out"
        tasks.cancel_scope.cancel()


async def test_who_has_given_up_waiting_wants_nothing() -> None:
    offers = Offers[str](3)
    for _ in range(2):
        with anyio.move_on_after(1):
            await offers.take()
    async with anyio.create_task_group() as tasks:
        calls = Calls(tasks)
        assert await calls.call(offers.demand) == []
        assert await calls.call(offers.take) == [("demand", None)]
        assert await calls.call(offers.demand) == [("demand", None)]
        tasks.cancel_scope.cancel()


async def test_what_is_out_counts_until_it_is_settled() -> None:
    offers, items = Offers[str](2), [Item(name) for name in "abcdef"]
    async with anyio.create_task_group() as tasks:
        calls = Calls(tasks)
        for item in items:
            assert await calls.call(offers.offer, item) == []
        taken = [await offers.take() for _ in range(3)]
        assert taken == ["a", "b", "c"], "two, and one more as long as no task works on one of them"
        await anyio.wait_all_tasks_blocked()
        calls.returned.clear()
        assert await calls.call(offers.take) == []
        offers.begun(items[0])
        await anyio.wait_all_tasks_blocked()
        assert calls.returned == [], "another one is still idle"
        offers.settled(items[0])
        await anyio.wait_all_tasks_blocked()
        assert sorted(calls.returned) == [("offer", None), ("take", "d")]
        for item in items[1:4]:
            offers.begun(item)
        calls.returned.clear()
        assert await calls.call(offers.take) == []
        offers.settled(items[1])
        await anyio.wait_all_tasks_blocked()
        assert calls.returned == [], "two of two are in their bodies"
        offers.settled(items[2])
        await anyio.wait_all_tasks_blocked()
        assert sorted(calls.returned) == [("offer", None), ("take", "e")]
        tasks.cancel_scope.cancel()


async def test_what_nobody_works_on_is_looked_at_each_half_second_while_the_loop_waits() -> None:
    offers, item, other = Offers[str](1), Item("a"), Item("b")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(offers.offer, item)
        assert await offers.take() == "a"
        assert item.looks == []
        began = anyio.current_time()
        tasks.start_soon(offers.take)
        await anyio.sleep(1.75)
        assert [look - began for look in item.looks] == pytest.approx([0.0, 0.5, 1.0, 1.5])
        offers.begun(item)
        offers.left(other)
        await anyio.sleep(0.25)
        assert [look - began for look in other.looks] == pytest.approx([1.75])
        offers.settled(other)
        await anyio.sleep(10)
        assert (len(item.looks), len(other.looks)) == (4, 1)
        tasks.cancel_scope.cancel()


async def test_a_partition_that_leaves_has_its_offer_taken_and_handed_to_nobody() -> None:
    offers = Offers[str](1)
    async with anyio.create_task_group() as tasks:
        calls = Calls(tasks)
        assert await calls.call(offers.offer, Item("gone", gone=True)) == []
        assert await calls.call(offers.offer, Item("a")) == []
        assert sorted(await calls.call(offers.take), key=str) == [("offer", None), ("offer", None), ("take", "a")]


async def test_the_end_is_heard_by_all_who_wait_and_by_who_comes_later() -> None:
    offers, ends = Offers[str](1), list[bool]()

    async def take() -> None:
        with pytest.raises(anyio.EndOfStream):
            await offers.take()
        ends.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        tasks.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        assert ends == []
        offers.close()
        await anyio.wait_all_tasks_blocked()
        assert len(ends) == 2
    await take()


@pytest.mark.redisaq_seeds(20, backend="trio")
async def test_an_offer_that_is_withdrawn_in_the_moment_it_is_made_leaves_the_place_to_another() -> None:
    """A partition leaves just then; another one that prepares only what is wanted goes on, whichever task comes first."""
    offers, got = Offers[str](1), list[str]()

    async def take() -> None:
        got.append(await offers.take())

    async def demand() -> None:
        await offers.demand()
        got.append("wanted")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as leaving:
            leaving.cancel()
            tasks.start_soon(demand)
            await offers.offer(Item("a"))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert got in (["a"], ["wanted"])


async def test_who_is_cancelled_already_takes_nothing_though_something_is_on_offer() -> None:
    offers = Offers[str](1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(offers.offer, Item("a"))
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await offers.take()
        assert scope.cancelled_caught
        assert await offers.take() == "a"
