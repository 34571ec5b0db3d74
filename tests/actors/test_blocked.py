"""A handler that holds up the event loop until its lease is lost is distinguished from one whose process ended."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import Admin, Message, RetryPolicy, events
from tests.actors.group import IN_VIRTUAL_TIME, Notebook, fresh_url, hold_up, produce, quick

pytestmark = IN_VIRTUAL_TIME


@pytest.mark.parametrize("way", ["returns", "raises", "awaits", "batch", "key"])
async def test_a_handler_that_blocks_is_warned_of_and_named_in_the_dead_letter(way: str, caplog: pytest.LogCaptureFixture) -> None:
    url, notebook = fresh_url(), Notebook()
    await produce(url, 1)
    attempts: list[int] = []

    async def handle(given: Any) -> None:
        message: Message[Any] = given[0] if way == "batch" else given
        attempts.append(message.attempt)
        hold_up(0.4)
        if way == "raises":
            raise ValueError("late")
        if way == "awaits":
            await anyio.sleep(0.01)

    options = {"ordering": "key", "concurrency": 2} if way == "key" else {}
    retry = RetryPolicy(max_attempts=1, backoff=0.01)
    consumer = quick(url, on_event=notebook.note, heartbeat_interval=0.08, heartbeat_ttl=0.3, retry=retry, **options)
    with anyio.fail_after(40):
        await (consumer.process_batch if way == "batch" else consumer.process)(handle, until_empty=True)
    blocked = notebook.of(events.HandlerBlocked)
    assert attempts == [one.attempt for one in blocked] == [1, 1]  # T5: the first delivery is counted by reading
    assert [one.seconds for one in blocked] == pytest.approx([0.4, 0.4])
    assert any(record.levelname == "WARNING" and record.message.startswith("HandlerBlocked") for record in caplog.records)
    async with Admin(url) as admin:
        (dead,) = [letter async for letter in admin.dead_letters("jobs", "default_group")]
    assert dead.error_type == "HandlerBlocked"
    assert dead.error.startswith("2 handlers were begun on it, and none ended in time: the event loop")
    assert "was blocked 2 time(s), for up to 0.4 s" in dead.error


async def test_a_handler_that_awaits_until_its_lease_is_lost_has_blocked_nothing() -> None:
    url, notebook = fresh_url(), Notebook()
    await produce(url, 1)
    began = anyio.Event()

    async def handle(_message: Message[Any]) -> None:
        if not began.is_set():
            began.set()
            await anyio.sleep(60)

    consumer = quick(url, on_event=notebook.note)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: consumer.process(handle, until_empty=True))
            await began.wait()
            assert consumer._runtime is not None
            consumer._runtime.member.lease.end()
    assert not notebook.of(events.HandlerBlocked)


async def test_a_body_that_blocks_is_warned_of_as_well() -> None:
    url, notebook = fresh_url(), Notebook()
    await produce(url, 1)
    consumer = quick(url, on_event=notebook.note, heartbeat_interval=0.08, heartbeat_ttl=0.3)
    with anyio.fail_after(20):
        async with consumer.messages() as messages:
            async for message in messages:
                async with message:
                    if not notebook.of(events.HandlerBlocked):
                        hold_up(0.4)
                if message.attempt and notebook.of(events.HandlerBlocked) and not message.lost:
                    break
    (blocked,) = notebook.of(events.HandlerBlocked)
    assert blocked.seconds == pytest.approx(0.4)
