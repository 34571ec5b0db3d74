"""A topic that a later version wrote is refused at every entrance, with an error that says what to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from redisaq import Admin, Consumer, Producer
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.steps.topics import FORMAT
from redisaq.errors import ConsumerError, UnknownFormatError

pytestmark = pytest.mark.anyio

URL = "memory://a later version"


async def _produce() -> None:
    async with Producer("orders", URL) as producer:
        await producer.enqueue(1)


async def _grow() -> None:
    async with Producer("orders", URL) as producer:
        await producer.request_partition_increase(5)


async def _consume() -> None:
    with pytest.raises(ConsumerError) as caught:
        await Consumer("orders", URL, group_name="billing").process(print, until_empty=True)
    assert caught.value.__cause__ is not None
    raise caught.value.__cause__


async def _administer() -> None:
    async with Admin(URL) as admin:
        await admin.topic("orders")


@pytest.mark.parametrize("enter", [_produce, _grow, _consume, _administer])
async def test_a_later_format_is_refused(enter: Callable[[], Awaitable[None]]) -> None:
    async with Producer("orders", URL, init_partitions=2) as producer:
        topics = MemoryBroker("a later version", "redisaq").store.topics
        topics["orders"] = written = replace(topics["orders"], format=FORMAT + 1)
        with pytest.raises(UnknownFormatError, match="install a later one"):
            await enter()
        with pytest.raises(UnknownFormatError):
            await producer.request_partition_increase(5)
        assert topics["orders"] == written
        topics["orders"] = replace(written, format=FORMAT)
