"""Messages without a key are spread over the partitions: those of one producer in turn, those of many short-lived ones by chance."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from redisaq import Consumer, Message, Producer
from redisaq.environment import Environment, use_environment

pytestmark = pytest.mark.anyio


async def partitions_of(topic: str, url: str) -> Counter[int]:
    """Return how many messages each partition holds."""
    found: Counter[int] = Counter()

    async def count(message: Message[Any]) -> None:
        found[message.partition] += 1

    async with Consumer(topic, url) as consumer:
        await consumer.process(count, until_empty=True)
    return found


async def test_one_producer_gives_each_partition_its_turn(namespace: str) -> None:
    url = f"memory://{namespace}"
    async with Producer("orders", url, init_partitions=4) as producer:
        for number in range(4):
            await producer.enqueue(number)
        await producer.batch_enqueue(range(4, 12))
    assert await partitions_of("orders", url) == dict.fromkeys(range(4), 3)


async def test_many_producers_of_one_message_each_do_not_fill_one_partition(namespace: str) -> None:
    url = f"memory://{namespace}"
    with use_environment(Environment(random=Random(7))):
        for number in range(40):
            async with Producer("orders", url, init_partitions=4) as producer:
                await producer.enqueue(number)
        found = await partitions_of("orders", url)
    assert sum(found.values()) == 40
    assert all(5 <= found[partition] <= 20 for partition in range(4)), found
