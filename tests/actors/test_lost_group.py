"""A group is lost while a message fails: its failure finds nothing to settle, and it is not passed over when the group is made again."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import pytest

from redisaq import Consumer, Message, RetryPolicy
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.steps.leases import Claim, RemakeGroup
from redisaq.brokers.steps.settling import Resolve
from redisaq.brokers.terms import GroupName
from redisaq.testing import virtual_run
from tests.actors.group import produce
from tests.changing_steps import Do, change_step

GROUP = GroupName("jobs", "default_group")


async def loses_its_group(url: str, attempts: int) -> tuple[list[int], int]:
    """Handle nine messages, of which the first fails while the group is lost; while nothing is read, no one notices the loss."""
    numbers: list[int] = []
    await produce(url, 9)
    store = MemoryBroker(url.removeprefix("memory://"), "redisaq").store

    async def handle(message: Message[Any]) -> None:
        numbers.append(message.payload["n"])
        if numbers == [0]:
            store.forget_cursor(GROUP, 0)
            raise ValueError("the first time")

    retry = RetryPolicy(max_attempts=attempts, backoff=0.01, jitter=False)
    async with Consumer("jobs", url, batch_size=1, retry=retry) as consumer:
        await consumer.process(handle, until_empty=True)
    return numbers, len(store.shelf(GROUP, 0).dead)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("attempts", [1, 2])
def test_what_failed_unheard_is_read_again(attempts: int, backend: Literal["trio", "asyncio"]) -> None:
    """T6: with one attempt it is to die, with two to be tried again."""
    for seed in range(10):
        numbers, dead = virtual_run(loses_its_group, "memory://lost", attempts, seed=seed, backend=backend)
        assert set(numbers) == set(range(9))
        assert numbers.count(0) == 2 - dead
        assert attempts == 1 or not dead


async def loses_its_group_twice(url: str) -> list[int]:
    """The group is lost while message 0 fails, and once more before it is delivered again; message 1 is in hand all the time."""
    numbers: list[int] = []
    again = anyio.Event()
    await produce(url, 2, partition_key="n")
    store = MemoryBroker(url.removeprefix("memory://"), "redisaq").store
    remade = 0

    async def remake_group(step: RemakeGroup, do: Do) -> None:
        nonlocal remade
        await do(step)
        remade += 1
        if remade == 1:
            store.forget_cursor(GROUP, 0)

    async def handle(message: Message[Any]) -> None:
        numbers.append(message.payload["n"])
        if numbers.count(0) > 1:
            again.set()
        elif message.payload["n"] == 0:
            await anyio.sleep(0.1)  # both are in hand
            store.forget_cursor(GROUP, 0)
            raise ValueError("the first time")
        with anyio.move_on_after(30):
            await again.wait()

    retry = RetryPolicy(max_attempts=2, backoff=0.01, jitter=False)
    with pytest.MonkeyPatch.context() as patch:
        change_step(patch, RemakeGroup, remake_group)
        async with Consumer("jobs", url, ordering="none", concurrency=2, batch_size=1, retry=retry) as consumer:
            await consumer.process(handle, until_empty=True)
    assert remade == 2
    return numbers


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_what_failed_unheard_is_read_again_though_the_group_is_lost_once_more(backend: Literal["trio", "asyncio"]) -> None:
    """T6: until it has been delivered again, it is not settled."""
    for seed in range(5):
        numbers = virtual_run(loses_its_group_twice, "memory://lost twice", seed=seed, backend=backend)
        assert numbers.count(0) == 2


async def loses_its_group_while_it_looks(url: str) -> list[int]:
    """A failure is recorded on a server whose data is lost; the group is lost again just as its owner looks what became of that."""
    numbers: list[int] = []
    again, in_hand = anyio.Event(), anyio.Event()
    await produce(url, 2, partition_key="n")
    store = MemoryBroker(url.removeprefix("memory://"), "redisaq").store
    lost = 0

    async def resolve_unheard(step: Resolve, do: Do) -> Any:
        nonlocal lost
        answer = await do(step)
        if not lost:
            lost = 1
            store.shelf(GROUP, 0).retry.clear()
            store.forget_cursor(GROUP, 0)
            await anyio.sleep(0.5)  # meanwhile the group is made again, and what failed is delivered again
        return answer

    async def claim_late(step: Claim, do: Do) -> Any:
        nonlocal lost
        if lost == 1:
            lost = 2
            store.forget_cursor(GROUP, 0)
        return await do(step)

    async def handle(message: Message[Any]) -> None:
        numbers.append(message.payload["n"])
        if numbers.count(0) > 1:
            again.set()
        elif message.payload["n"] == 0:
            await in_hand.wait()
            raise ValueError("the first time")
        in_hand.set()
        with anyio.move_on_after(30):
            await again.wait()

    retry = RetryPolicy(max_attempts=2, backoff=0.01, jitter=False)
    with pytest.MonkeyPatch.context() as patch:
        change_step(patch, Resolve, resolve_unheard)
        change_step(patch, Claim, claim_late)
        async with Consumer("jobs", url, ordering="none", concurrency=2, batch_size=1, retry=retry) as consumer:
            await consumer.process(handle, until_empty=True)
    assert lost == 2
    return numbers


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_what_is_being_looked_at_is_not_settled(backend: Literal["trio", "asyncio"]) -> None:
    """T6: nor is what is to be looked at as soon as its settlement is answered."""
    for seed in range(5):
        numbers = virtual_run(loses_its_group_while_it_looks, "memory://looked at", seed=seed, backend=backend)
        assert numbers.count(0) == 2
