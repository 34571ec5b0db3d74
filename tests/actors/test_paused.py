"""A group that is paused begins nothing, also nothing that was about to begin. In virtual time."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message, RetryPolicy
from redisaq.brokers.steps.administration import SetPaused
from redisaq.brokers.terms import GroupName
from tests.actors.group import IN_VIRTUAL_TIME, Notebook, fresh_url, produce, quick
from tests.actors.hooked import hooked

pytestmark = IN_VIRTUAL_TIME

LONG = 5.0  # seconds in which anything would have begun


async def pause(consumer: Consumer[Any], *, paused: bool) -> None:
    """Pause or resume the group, and wait until the consumer knows that."""
    assert consumer._runtime is not None
    await consumer._access.broker.do(SetPaused(GroupName("jobs", "default_group"), paused=paused))
    gate = consumer._runtime.around.gate
    with anyio.fail_after(LONG):
        while gate.closed is not paused:
            await anyio.sleep(0.01)


@pytest.mark.parametrize("ordering", ["partition", "key"])
async def test_what_is_being_counted_when_the_pause_comes_waits(ordering: Any) -> None:
    """T5: a message that failed is to begin again, and the server is asked to count that."""
    url, notebook = fresh_url(), Notebook()
    await produce(url, 1)
    consumer = quick(url, ordering=ordering, retry=RetryPolicy(backoff=0.1))
    broker, asked, told = hooked(consumer, url), anyio.Event(), anyio.Event()

    async def before(name: str) -> None:
        if name == "start_retry":
            asked.set()
            await told.wait()

    async def handle(message: Message[Any]) -> None:
        await notebook.handle(message)
        if message.attempt == 1:
            raise ValueError("for this test")

    async with anyio.create_task_group() as tasks:
        broker.before = before
        tasks.start_soon(consumer.process, handle)
        with anyio.fail_after(LONG):
            await asked.wait()
        await pause(consumer, paused=True)
        told.set()
        await anyio.sleep(LONG)
        assert [message.attempt for message in notebook.messages] == [1]
        await pause(consumer, paused=False)
        await anyio.sleep(LONG)
        assert [message.attempt for message in notebook.messages] == [1, 2]
        await consumer.stop()


async def test_what_is_on_offer_when_the_pause_comes_waits() -> None:
    """A loop that works on a message asks for the next one during the pause."""
    url, seen = fresh_url(), list[tuple[int, int]]()
    await produce(url, 3)
    consumer, going_on = quick(url, batch_size=1), anyio.Event()

    async def loop() -> None:
        async with consumer.messages() as messages:
            async for message in messages:
                async with message:
                    seen.append((message.payload["n"], message.attempt))
                    if len(seen) == 1:
                        await going_on.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(loop)
        await anyio.sleep(LONG)
        await pause(consumer, paused=True)
        going_on.set()
        await anyio.sleep(LONG)
        assert seen == [(0, 1)]
        await pause(consumer, paused=False)
        await anyio.sleep(LONG)
        assert seen == [(0, 1), (1, 1), (2, 1)]
        await consumer.stop()
