"""A group is lost while a message fails: its failure finds nothing to settle, and it is not passed over when the group is made again."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from redisaq import Consumer, Message, RetryPolicy
from redisaq.brokers.base import GroupName
from redisaq.brokers.memory import MemoryBroker
from redisaq.testing import virtual_run
from tests.actors.group import produce

GROUP = GroupName("jobs", "default_group")


async def loses_its_group(url: str, attempts: int) -> tuple[list[int], int]:
    """Handle nine messages, of which the first fails while the group is lost; as long as nothing is read, nobody notices that."""
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
