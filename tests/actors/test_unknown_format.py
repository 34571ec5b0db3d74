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


async def _pull() -> None:
    try:
        async with Consumer("orders", URL, group_name="billing").messages() as messages:
            async for _ in messages:
                pytest.fail("it was read")
    except ConsumerError as error:
        raise (error.__cause__ or error) from None


CHANGES: dict[str, Callable[[Admin], Awaitable[object]]] = {
    "topic": lambda admin: admin.topic("orders"),
    "group": lambda admin: admin.group("orders", "billing"),
    "backlog": lambda admin: admin.backlog("orders", "billing"),
    "find": lambda admin: admin.find("orders", "x-1"),
    "grow": lambda admin: admin.grow("orders", 5),
    "seek": lambda admin: admin.seek("orders", "billing", "earliest"),
    "preview_seek": lambda admin: admin.preview_seek("orders", "billing", "earliest"),
    "pause": lambda admin: admin.pause("orders", "billing"),
    "resume": lambda admin: admin.resume("orders", "billing"),
    "redrive": lambda admin: admin.redrive("orders", "billing"),
    "purge": lambda admin: admin.purge("orders", "billing"),
    "retry_now": lambda admin: admin.retry_now("orders", "billing"),
    "cancel": lambda admin: admin.cancel("orders", "x-1"),
    "delete_group": lambda admin: admin.delete_group("orders", "billing", force=True),
    "delete_topic": lambda admin: admin.delete_topic("orders", force=True),
    "messages": lambda admin: anext(admin.messages("orders")),
    "delayed": lambda admin: anext(admin.delayed("orders")),
    "pending": lambda admin: anext(admin.pending("orders", "billing")),
    "retries": lambda admin: anext(admin.retries("orders", "billing")),
    "dead_letters": lambda admin: anext(admin.dead_letters("orders", "billing")),
    "follow": lambda admin: anext(aiter(admin.follow("orders"))),
}


async def test_an_administrator_of_an_older_version_changes_nothing() -> None:
    async with Producer("orders", URL, init_partitions=2), Admin(URL) as admin:
        topics = MemoryBroker("a later version", "redisaq").store.topics
        topics["orders"] = written = replace(topics["orders"], format=FORMAT + 1)
        refused = set[str]()
        for name, change in CHANGES.items():
            try:
                await change(admin)
            except UnknownFormatError:
                refused.add(name)
        assert refused == CHANGES.keys()
        assert topics["orders"] == written
        topics["orders"] = replace(written, format=FORMAT)


@pytest.mark.parametrize("enter", [_produce, _grow, _consume, _pull, _administer])
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
