"""A server that no longer answers, whose connections do not break either: a consumer ends all the same, within bounds. In virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import anyio
import pytest

from redisaq import Consumer, Message
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.terms import GroupName
from redisaq.consuming.runtime import LEAVE_LIMIT, SILENCE_LIMIT
from redisaq.errors import ConnectionFailed
from redisaq.testing import virtual_run
from tests.actors.group import fresh_url, produce, quick
from tests.actors.hooked import hooked

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


@pytest.mark.parametrize("backend", get_args(Backend))
@pytest.mark.parametrize("seconds", [0.5 * SILENCE_LIMIT, 3 * SILENCE_LIMIT])
def test_a_server_that_answers_is_waited_for_while_one_step_takes_long(backend: Backend, seconds: float) -> None:
    """The consumer gives its partition back, and leaves."""

    async def main() -> tuple[str, float]:
        url = fresh_url()
        await produce(url, 1)
        consumer = quick(url, heartbeat_interval=3.0, heartbeat_ttl=12.0)

        async def before(name: str) -> None:
            if name == "release":
                await anyio.sleep(seconds)

        hooked(consumer, url).before = before
        handled = anyio.Event()

        async def handle(_message: Message[Any]) -> None:
            handled.set()

        async with anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, handle)
            await handled.wait()
            await anyio.sleep(1)
            began = anyio.current_time()
            await consumer.stop()
        store = MemoryBroker(url.removeprefix("memory://"), "redisaq").store
        return store.leases[GroupName("jobs", "default_group"), 0].holder, anyio.current_time() - began

    holder, took = virtual_run(main, backend=backend)
    assert holder == ""
    assert seconds <= took < LEAVE_LIMIT


async def end_while_refused(*, busy: float, drain_timeout: float, again: float | None = None) -> list[float]:
    """Stop a consumer whose server refuses to take its partition back; return after how many seconds its handler, and then it, has ended.

    Args:
        busy: for how long the handler would run.
        drain_timeout: the consumer's.
        again: seconds until it is stopped another time.
    """
    url = fresh_url()
    await produce(url, 1)
    consumer = quick(url, heartbeat_interval=30.0, heartbeat_ttl=1000.0, drain_timeout=drain_timeout)
    stopping, began, ended = False, anyio.Event(), list[float]()

    async def before(name: str) -> None:
        if stopping and name in ("release", "commit"):
            raise ConnectionFailed(url, "for this test")

    hooked(consumer, url).before = before

    async def handle(_message: Message[Any]) -> None:
        began.set()
        try:
            await anyio.sleep(busy)
        finally:
            ended.append(anyio.current_time())

    async with anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, handle)
        await began.wait()
        stopping, at = True, anyio.current_time()
        tasks.start_soon(consumer.stop)
        if again is not None:
            await anyio.sleep(again)
            await consumer.stop()
    return [ended[0] - at, anyio.current_time() - at]


@pytest.mark.parametrize("backend", get_args(Backend))
@pytest.mark.parametrize(
    ("busy", "drain_timeout", "again", "ends"),
    [
        (3.0, 1000.0, None, [3.0, 13.0]),  # ten seconds after the last handler, whatever time is left
        (1000.0, 5.0, None, [5.0, 15.0]),
        (1000.0, 5.0, 4.0, [5.0, 15.0]),  # to stop it again gives no more time
    ],
)
def test_a_server_that_refuses_has_ten_seconds_once_the_handlers_have_ended(
    backend: Backend, busy: float, drain_timeout: float, again: float | None, ends: list[float]
) -> None:
    async def main() -> list[float]:
        return await end_while_refused(busy=busy, drain_timeout=drain_timeout, again=again)

    assert virtual_run(main, backend=backend) == pytest.approx(ends, abs=0.02)
