"""Handlers of batches that fail: what they name as failed, and what becomes of the rest; how long they may take."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import Admin, Consumer, Message, PartialFailure, Producer, RetryPolicy
from redisaq.errors import SettingsError
from tests.actors.group import IN_VIRTUAL_TIME, fresh_url, produce

pytestmark = IN_VIRTUAL_TIME


@pytest.mark.parametrize("error", ["no text", 5, None, ValueError, KeyboardInterrupt()])
async def test_what_is_no_exception_is_refused(error: Any) -> None:
    with pytest.raises(SettingsError, match="an exception for each message"):
        PartialFailure({Message("jobs", 1): error})


async def test_what_is_no_message_is_refused() -> None:
    names: Any = {"a-1": ValueError("odd")}
    with pytest.raises(SettingsError, match="a-1"):
        PartialFailure(names)
    messages: Any = [Message("jobs", 1)]
    with pytest.raises(SettingsError, match="takes a mapping"):
        PartialFailure(messages)


def stranger(messages: list[Message[Any]]) -> Any:
    return {messages[0]: KeyError("mine"), Message("jobs", messages[1].payload, msg_id=messages[1].msg_id): ValueError("whose?")}


def identifier(messages: list[Message[Any]]) -> Any:
    return {messages[0].msg_id: ValueError("odd")}


def text(messages: list[Message[Any]]) -> Any:
    return {messages[0]: "odd"}


@pytest.mark.parametrize(("failures", "kinds"), [(stranger, ["KeyError", "", ""]), (identifier, [""] * 3), (text, [""] * 3)])
async def test_a_batch_fails_whole_if_nobody_can_tell_what_failed_of_it(failures: Any, kinds: list[str]) -> None:
    """Nothing of it is taken for done, and the consumer goes on."""
    url = fresh_url()
    await produce(url, 3)
    batches: list[int] = []

    async def handle(messages: list[Message[Any]]) -> None:
        batches.append(len(messages))
        raise PartialFailure(failures(messages))

    with anyio.fail_after(10):
        await Consumer("jobs", url, retry=RetryPolicy(max_attempts=1)).process_batch(handle, batch_size=3, until_empty=True)
    assert batches == [3]
    async with Admin(url) as admin:
        dead = {letter.payload["n"]: letter.error_type async for letter in admin.dead_letters("jobs", "default_group")}
    assert dead == {n: kind or "redisaq.errors.SettingsError" for n, kind in enumerate(kinds)}


@pytest.mark.parametrize(
    ("own", "common", "cut"),
    [
        ([None, 20.0], 0.05, True),
        ([20.0, 0.05], None, True),
        ([20.0, 20.0], 0.05, False),
        ([None, 20.0], None, False),
    ],
)
async def test_a_batch_has_as_long_as_the_most_hurried_of_its_messages(own: list[float | None], common: float | None, cut: bool) -> None:
    """A message that says nothing has the consumer's timeout."""
    url = fresh_url()
    async with Producer("jobs", url) as producer:
        for n, timeout in enumerate(own):
            await producer.enqueue({"n": n}, timeout=timeout)
    ended: list[int] = []

    async def handle(messages: list[Message[Any]]) -> None:
        await anyio.sleep(0.2)
        ended.append(len(messages))

    consumer = Consumer("jobs", url, timeout=common, retry=RetryPolicy(max_attempts=1))
    with anyio.fail_after(10):
        await consumer.process_batch(handle, batch_size=2, batch_wait=5, until_empty=True)
    assert ended == ([] if cut else [2])
    async with Admin(url) as admin:
        dead = [(dead.error_type, dead.error) async for dead in admin.dead_letters("jobs", "default_group")]
    assert dead == [("TimeoutError", "the handler took longer than 0.05 s")] * 2 * cut
