"""Handlers that fail while they are being cancelled: trio raises both as one group, of which only the cancellation may go on."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest

from redisaq import Admin, Consumer, Message, RetryPolicy, events
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.terms import GroupName
from tests.actors.group import IN_VIRTUAL_TIME, Notebook, fresh_url, produce, quick

pytestmark = IN_VIRTUAL_TIME


@pytest.fixture
def url() -> str:
    return fresh_url()


async def fail_at_its_end() -> None:
    """Fail when it is cancelled."""
    try:
        await anyio.sleep_forever()
    finally:
        raise ValueError("at its end")


async def two_of_which_one_fails(began: anyio.Event) -> None:
    """Run until cancelled: one task then fails, the other does not."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail_at_its_end)
        tasks.start_soon(anyio.sleep_forever)
        began.set()


def lose(url: str) -> None:
    """Let the server forget the group: its members' leases are over."""
    MemoryBroker(url.removeprefix("memory://"), "redisaq").store.forget_group(GroupName("jobs", "default_group"))


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("way", ["lease", "drain", "cancel"])
async def test_a_failure_of_a_cancelled_handler_does_not_end_the_consumer(url: str, *, batch: bool, way: str) -> None:
    await produce(url, 1)
    notebook, began = Notebook(), anyio.Event()
    attempts: list[int] = []

    async def handle(messages: Any) -> None:
        attempts.append((messages[0] if batch else messages).attempt)
        if len(attempts) == 1:
            await two_of_which_one_fails(began)

    consumer = quick(url, drain_timeout=0.05, retry=RetryPolicy(backoff=0.01), on_event=notebook.note)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process_batch if batch else consumer.process, handle)
            await began.wait()
            if way == "cancel":
                tasks.cancel_scope.cancel()
            elif way == "drain":
                await consumer.stop()
            else:
                lose(url)
                while not notebook.of(events.MessageSucceeded):
                    await anyio.sleep(0.01)
                await consumer.stop()
        if way != "lease":
            again = quick(url)
            await (again.process_batch(handle, until_empty=True) if batch else again.process(handle, until_empty=True))
    assert len(attempts) == 2


async def test_a_failure_of_a_cancelled_body_does_not_end_the_loop(url: str) -> None:
    await produce(url, 1)
    consumer: Consumer[Any] = quick(url)
    seen: list[Message[Any]] = []
    began = anyio.Event()

    async def lose_it() -> None:
        await began.wait()
        lose(url)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, consumer.messages() as messages:
            tasks.start_soon(lose_it)
            async for message in messages:
                seen.append(message)
                async with message:
                    if len(seen) == 1:
                        await two_of_which_one_fails(began)
                if len(seen) == 2:
                    break
    assert [message.lost for message in seen] == [True, False]


async def test_a_failure_of_a_cancelled_batch_counts_as_a_failure_of_all_its_messages(url: str) -> None:
    """The partition is drained, and still owned: what failed is recorded before it is given back."""
    await produce(url, 2)
    notebook, began = Notebook(), anyio.Event()

    async def handle(_messages: list[Message[Any]]) -> None:
        await two_of_which_one_fails(began)

    consumer = quick(url, drain_timeout=0.05, retry=RetryPolicy(max_attempts=1), on_event=notebook.note)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(consumer.process_batch, handle, batch_size=2))
            await began.wait()
            await consumer.stop()
    assert len(notebook.of(events.MessageFailed)) == 2
    async with Admin(url) as admin:
        assert [letter.payload["n"] async for letter in admin.dead_letters("jobs", "default_group")] == [0, 1]
