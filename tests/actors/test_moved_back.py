"""An admin moves a paused group back over messages that its members have in hand: each comes again, and no member ends."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest

from redisaq import Admin, Message, RetryPolicy
from tests.actors.group import fresh_url, produce, quick

pytestmark = pytest.mark.anyio


@pytest.fixture
def url() -> str:
    return fresh_url()


@pytest.mark.parametrize("ordering", ["partition", "key", "none"])
async def test_messages_that_wait_for_a_handler_come_once_and_what_a_handler_has_comes_again(url: str, ordering: Any) -> None:
    await produce(url, 8, partition_key="n")
    first, go_on = anyio.Event(), anyio.Event()
    numbers: list[int] = []

    async def handle(message: Message[Any]) -> None:
        numbers.append(message.payload["n"])
        first.set()
        await go_on.wait()

    consumer = quick(url, ordering=ordering, batch_size=10)
    with anyio.fail_after(10):
        async with Admin(url) as admin, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            await first.wait()
            await admin.pause("jobs", "default_group")
            await admin.seek("jobs", "default_group", "earliest")
            await admin.resume("jobs", "default_group")
            while (await admin.group("jobs", "default_group")).pending < 8:  # they are delivered again
                await anyio.sleep(0.01)
            go_on.set()
            while len(numbers) < 9 or (await admin.group("jobs", "default_group")).pending:
                await anyio.sleep(0.01)
            await consumer.stop()
    assert Counter(numbers) == Counter([0, *range(8)])
    assert numbers[0] == 0


async def test_what_waits_for_another_try_begins_anew(url: str) -> None:
    """Its lane goes on holding it; its attempts are those of a new message."""
    await produce(url, 2)
    attempts: list[tuple[int, int]] = []
    resting = anyio.Event()

    async def handle(message: Message[Any]) -> None:
        attempts.append((message.payload["n"], message.attempt))
        if len(attempts) < 3:
            if len(attempts) == 2:
                resting.set()
            raise ValueError("again")

    retry = RetryPolicy(max_attempts=3, backoff=0.3, factor=1.0, jitter=False, blocking=True)
    with anyio.fail_after(10):
        async with Admin(url) as admin, anyio.create_task_group() as tasks:
            consumer = quick(url, retry=retry)
            tasks.start_soon(consumer.process, handle)
            await resting.wait()
            await admin.pause("jobs", "default_group")
            await admin.seek("jobs", "default_group", "earliest")
            await admin.resume("jobs", "default_group")
            while len(attempts) < 4 or (await admin.group("jobs", "default_group")).pending:
                await anyio.sleep(0.01)
            await consumer.stop()
    assert attempts == [(0, 1), (0, 2), (0, 1), (1, 1)]
