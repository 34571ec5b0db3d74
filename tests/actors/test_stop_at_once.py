"""`stop` and `close` end a run that has only just been started."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message
from tests.actors.group import IN_VIRTUAL_TIME, fresh_url, produce, quick

pytestmark = IN_VIRTUAL_TIME

ENDINGS = ["stop", "close"]
WAYS = ["process", "process_batch", "messages"]


async def consume(consumer: Consumer[Any], way: str) -> None:
    """Consume until stopped."""

    async def never(_messages: object) -> None:
        await anyio.sleep_forever()

    match way:
        case "process":
            await consumer.process(never)
        case "process_batch":
            await consumer.process_batch(never)
        case _:
            async with consumer.messages() as messages:
                async for message in messages:
                    assert isinstance(message, Message)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
async def test_a_run_that_has_only_just_been_started_is_ended(way: str, ending: str, steps: int) -> None:
    """Whichever of the two the event loop lets go first: trio decides by chance, so it is tried some times."""
    for _ in range(10):
        url = fresh_url()
        await produce(url, 3)
        consumer = quick(url, drain_timeout=0.1)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume, consumer, way)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                await getattr(consumer, ending)()
        assert consumer.assignment == {}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_consumer_that_was_stopped_before_runs_all_the_same(ending: str) -> None:
    url = fresh_url()
    await produce(url, 3)
    consumer = quick(url)
    await getattr(consumer, ending)()
    seen: list[int] = []

    async def handle(message: Message[Any]) -> None:
        seen.append(message.payload["n"])

    with anyio.fail_after(5):
        await consumer.process(handle, until_empty=True)
    assert seen == [0, 1, 2]
