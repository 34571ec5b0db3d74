"""A `close` while the first call still connects: what that call opens afterwards is closed again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
import pytest

from redisaq import App, Consumer, Producer
from redisaq.brokers.access import Shared
from redisaq.errors import ConnectionFailed
from tests.actors.group import IN_VIRTUAL_TIME, fresh_url
from tests.actors.hooked import HookedBroker

pytestmark = IN_VIRTUAL_TIME

Opening: TypeAlias = Callable[[], Awaitable[Any]]

Rig: TypeAlias = "tuple[ReopenedBroker, Opening, Opening, Callable[[], bool]]"
"""A broker, how its user connects and closes, and whether the user takes itself for connected."""


class ReopenedBroker(HookedBroker):
    """A broker whose every step connects again, as those of a real server do.

    Attributes:
        open: it has a connection.
        steps: how many steps were begun.
        closes_at: after which of them `closing` is called.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url.removeprefix("memory://"))
        self.open, self.steps, self.closes_at = False, 0, 0
        self.closing: Opening
        self.after = self._after

    async def _operate(self, name: str, step: Callable[..., Any]) -> Any:
        self.open = True
        return await super()._operate(name, step)

    async def _after(self, _: str) -> None:
        self.steps += 1
        if self.steps == self.closes_at:
            await self.closing()

    async def close(self) -> None:
        self.open = False
        await super().close()


def of_producer(url: str) -> Rig:
    broker, producer = ReopenedBroker(url), Producer("jobs", url)
    producer._access.broker = broker
    return broker, producer.connect, producer.close, lambda: producer.statistics().connected


def of_consumer(url: str) -> Rig:
    broker, consumer = ReopenedBroker(url), Consumer("jobs", url, init_partitions=1)
    consumer._access.broker = broker
    return broker, consumer.connect, consumer.close, lambda: consumer._connected


def of_app(url: str) -> Rig:
    app = App(url)
    topic = app.topic("jobs")
    broker = ReopenedBroker(url)
    link = topic.producer._access._shared
    assert isinstance(link, Shared)
    link._broker = broker
    return broker, topic.producer.connect, app.close, lambda: topic.producer.statistics().connected


@pytest.mark.parametrize("of", [of_producer, of_consumer, of_app])
async def test_a_close_while_it_connects_leaves_nothing_open(of: Callable[[str], Rig]) -> None:
    broker, opening, close, connected = of(fresh_url())
    await opening()
    assert connected()
    steps = broker.steps
    for closes_at in range(1, steps + 1):
        broker, opening, close, connected = of(fresh_url())
        broker.closing, broker.closes_at = close, closes_at
        with pytest.raises(ConnectionFailed, match="closed"):
            await opening()
        assert (broker.open, connected()) == (False, False)
        await opening()
        assert connected()


async def test_a_close_also_ends_a_call_that_waits_for_another_one_to_connect() -> None:
    url = fresh_url()
    broker, producer = ReopenedBroker(url), Producer("jobs", url)
    producer._access.broker = broker
    broker.closing, broker.closes_at = producer.close, 1
    failed: list[str] = []

    async def enqueue() -> None:
        with pytest.raises(ConnectionFailed, match="closed") as caught:
            await producer.enqueue(1)
        assert not caught.value.maybe_executed
        failed.append(caught.value.reason)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(enqueue)
    assert (len(failed), broker.open) == (3, False)
    await producer.enqueue(1)
    await producer.close()
