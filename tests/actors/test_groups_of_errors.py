"""Errors from a task group in a handler: the only error in a group is treated as if the handler had raised it directly."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from redisaq import Consumer, DeadLetter, Discard, Message, PartialFailure, RetryAfter, RetryPolicy, events
from tests.actors.group import ASYNCIO_ALONE, IN_VIRTUAL_TIME, Notebook, fresh_url, produce
from tests.actors.test_failures import SOON, dead_letters, run

pytestmark = IN_VIRTUAL_TIME


@pytest.fixture
def url() -> str:
    return fresh_url()


async def _raise(error: Exception) -> None:
    raise error


async def test_what_a_handlers_own_task_group_raises_counts(url: str) -> None:
    """A single error comes out of a task group as a group of one, and of two groups as a group of that."""
    await produce(url, 4)
    errors = {0: RetryAfter(0.01), 1: Discard(), 2: DeadLetter("no such order"), 3: LookupError("gone")}

    async def handle(message: Message[Any]) -> None:
        if message.payload["n"] or len([one for one in notes if one.payload["n"] == 0]) < 3:
            notes.append(message)
            async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
                inner.start_soon(_raise, errors[message.payload["n"]])
                outer.start_soon(anyio.sleep, 0)

    notes: list[Message[Any]] = []
    await run(url, handle, retry=RetryPolicy(max_attempts=1, give_up_on=(LookupError,)))
    assert [message.payload["n"] for message in notes].count(0) == 3, "its attempts do not count"
    failures = sorted((dead.failure.error_type, dead.failure.error) for dead in await dead_letters(url) if dead.failure is not None)
    assert failures == [("DeadLetter", "no such order"), ("LookupError", "gone")]


async def test_a_partial_failure_out_of_a_task_group_counts(url: str) -> None:
    ids = await produce(url, 3)

    async def handle(messages: list[Message[Any]]) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_raise, PartialFailure({messages[1]: DeadLetter("no")}))

    with anyio.fail_after(15):
        await Consumer("jobs", url, retry=SOON).process_batch(handle, until_empty=True)
    (dead,) = await dead_letters(url)
    assert dead.fields[1] == ids[1].encode()


async def test_several_errors_at_once_are_a_failure_as_any_other(url: str) -> None:
    await produce(url, 1)

    async def handle(_message: Message[Any]) -> None:
        raise ExceptionGroup("both", [Discard(), ValueError("no good")])

    notebook = await run(url, handle, retry=RetryPolicy(max_attempts=2, backoff=0.01))
    assert [message.attempt for message in notebook.messages] == [1, 2]
    (dead,) = await dead_letters(url)
    assert dead.failure is not None
    assert dead.failure.error_type == "ExceptionGroup"


@ASYNCIO_ALONE
@pytest.mark.parametrize("batch", [False, True])
async def test_a_cancellation_among_errors_that_a_handler_gathered_is_a_failure(url: str, *, batch: bool) -> None:
    """It awaited something that was cancelled, and raises all that went wrong as one group. That is no end of the consumer."""
    await produce(url, 1)
    notebook = Notebook()

    async def handle(_messages: Any) -> None:
        call = asyncio.ensure_future(asyncio.sleep(60))
        call.cancel()
        gathered = await asyncio.gather(call, _raise(ValueError("no")), return_exceptions=True)
        raise BaseExceptionGroup("not all was done", [one for one in gathered if one is not None])

    consumer = Consumer("jobs", url, retry=RetryPolicy(max_attempts=2, backoff=0.01), on_event=notebook.note)
    with anyio.fail_after(15):
        await (consumer.process_batch if batch else consumer.process)(handle, until_empty=True)
    assert [event.attempt for event in notebook.of(events.MessageFailed)] == [1, 2]
    (dead,) = await dead_letters(url)
    assert dead.failure is not None
    assert "cancelled" in dead.failure.error
