"""A server that no longer answers, whose connections do not break either: a consumer ends all the same, within bounds. In virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import anyio
import pytest

from redisaq import Consumer, Message
from redisaq.consuming.runtime import SILENCE_LIMIT
from redisaq.testing import virtual_run
from tests.actors.group import fresh_url, produce

Backend = Literal["trio", "asyncio"]


class FreezingBroker:
    """A broker that stops to answer when told to."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self.frozen = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def step(*args: Any, **options: Any) -> Any:
            if self.frozen and name != "close":
                await anyio.sleep_forever()
            return await getattr(self._broker, name)(*args, **options)

        return step


async def end_while_frozen(*, stop: bool, drain_timeout: float) -> float:
    """Freeze the server while a handler runs, end the consumer, and return how many seconds that took."""
    url = fresh_url()
    await produce(url, 20, partitions=3)
    consumer = Consumer("jobs", url, drain_timeout=drain_timeout)
    frozen: Any = FreezingBroker(consumer._access.broker)
    consumer._access.broker = frozen
    running = anyio.Event()

    async def handle(_message: Message[Any]) -> None:
        running.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, handle)
        await running.wait()
        frozen.frozen = True
        began = anyio.current_time()
        if stop:
            await consumer.stop()
        else:
            tasks.cancel_scope.cancel()
    took = anyio.current_time() - began
    assert consumer.statistics().state == "stopped"
    await consumer.close()
    return took


@pytest.mark.parametrize("backend", get_args(Backend))
def test_cancelling_ends_within_the_limit(backend: Backend) -> None:
    async def main() -> float:
        return await end_while_frozen(stop=False, drain_timeout=30.0)

    assert virtual_run(main, backend=backend) <= SILENCE_LIMIT + 0.1


@pytest.mark.parametrize("backend", get_args(Backend))
def test_stopping_ends_within_drain_timeout_and_the_limit(backend: Backend) -> None:
    async def main() -> float:
        return await end_while_frozen(stop=True, drain_timeout=2.0)

    assert virtual_run(main, backend=backend) <= 2.0 + SILENCE_LIMIT + 0.1
