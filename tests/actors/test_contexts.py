"""Each handler begins with the context variables of `process()`, whatever the handlers before it have set."""

from __future__ import annotations

import decimal
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from redisaq import Consumer, Message, Producer, RetryPolicy
from tests.actors.group import IN_VIRTUAL_TIME, fresh_url, produce

pytestmark = IN_VIRTUAL_TIME

OF_THE_PROGRAM: ContextVar[str] = ContextVar("of_the_program", default="default")
OF_A_HANDLER: ContextVar[Any] = ContextVar("of_a_handler")
COUNT = 12


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be compared")

    __hash__ = None  # type: ignore[assignment]


class Noter:
    """Notes what its handlers see, and changes it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any, int]] = []

    def look(self, n: int) -> None:
        self.seen.append((OF_THE_PROGRAM.get(), OF_A_HANDLER.get(None), decimal.getcontext().prec))
        if n % 3:  # some change nothing, so that what the one before did is seen by two
            OF_THE_PROGRAM.set(f"handler {n}")
            OF_A_HANDLER.set(Incomparable() if n % 2 else n)
            decimal.setcontext(decimal.Context(prec=5))

    async def asynchronous(self, message: Message[Any]) -> None:
        self.look(message.payload["n"])
        await anyio.lowlevel.checkpoint()
        await anyio.to_thread.run_sync(OF_A_HANDLER.get, None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 0)

    async def quick(self, message: Message[Any]) -> None:
        self.look(message.payload["n"])

    async def failing(self, message: Message[Any]) -> None:
        self.look(message.payload["n"])
        if message.attempt < 3:
            raise ValueError("once more")

    def plain(self, message: Message[Any]) -> None:
        self.look(message.payload["n"])

    async def batch(self, messages: list[Message[Any]]) -> None:
        self.look(messages[0].payload["n"])
        if messages[0].attempt < 2:
            raise ValueError("once more")


@pytest.mark.parametrize("ordering", ["partition", "key", "none"])
@pytest.mark.parametrize("name", ["asynchronous", "quick", "failing", "plain"])
async def test_each_handler_begins_with_the_context_of_process(ordering: Any, name: str) -> None:
    url, noter = fresh_url(), Noter()
    async with Producer("jobs", url) as producer:
        for n in range(COUNT):
            await producer.enqueue({"n": n}, key=f"k{n % 3}")
    prec = decimal.getcontext().prec
    OF_THE_PROGRAM.set("program")
    policy = RetryPolicy(max_attempts=3, backoff=0.001, blocking=True)
    with anyio.fail_after(20):
        consumer: Consumer[Any] = Consumer("jobs", url, ordering=ordering, concurrency=2, retry=policy)
        await consumer.process(getattr(noter, name), until_empty=True)
    assert noter.seen == [("program", None, prec)] * (3 * COUNT if name == "failing" else COUNT)
    assert OF_A_HANDLER.get(None) is None


async def test_each_batch_does() -> None:
    url, noter = fresh_url(), Noter()
    await produce(url, COUNT)
    prec = decimal.getcontext().prec
    OF_THE_PROGRAM.set("program")
    policy = RetryPolicy(max_attempts=2, backoff=0.001, blocking=True)
    with anyio.fail_after(20):
        await Consumer("jobs", url, retry=policy).process_batch(noter.batch, batch_size=2, until_empty=True)
    assert noter.seen == [("program", None, prec)] * COUNT


async def test_cancellation_reaches_a_handler_whose_loop_was_entered_again() -> None:
    url, began = fresh_url(), anyio.Event()
    await produce(url, 3)
    told: list[str] = []

    async def handle(message: Message[Any]) -> None:
        OF_A_HANDLER.set(message.payload["n"])
        if message.payload["n"] == 2:
            began.set()
            try:
                await anyio.sleep(60)
            except anyio.get_cancelled_exc_class():
                told.append("cancelled")
                raise

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Consumer("jobs", url).process, handle)
            await began.wait()
            tasks.cancel_scope.cancel()
    assert told == ["cancelled"]


async def test_every_attempt_gets_a_payload_of_its_own() -> None:
    """A blocking retry stays where it is, in memory; what the handler did to the message does not."""
    url = fresh_url()
    seen: list[Any] = []

    async def handle(message: Message[Any]) -> None:
        seen.append((message.payload, message.key, dict(message.headers), message.attempt))
        message.payload["n"] = "changed"
        message.payload = None
        message.key = "other"
        message.headers = {}
        if message.attempt < 3:
            raise ValueError("once more")

    for ordering in ("partition", "key"):
        async with Producer("jobs", url) as producer:
            await producer.enqueue({"n": 1}, key="k", headers={"a": "b"})
        seen.clear()
        policy = RetryPolicy(max_attempts=3, backoff=0.001, blocking=True)
        with anyio.fail_after(10):
            consumer: Consumer[Any] = Consumer("jobs", url, ordering=ordering, retry=policy)
            await consumer.process(handle, until_empty=True)
        assert [one[1:] for one in seen] == [("k", {"a": "b"}, attempt) for attempt in (1, 2, 3)]
        assert [one[0] for one in seen] == [{"n": "changed"}] * 3
        assert len({id(one[0]) for one in seen}) == 3


async def test_every_attempt_of_a_batch_does() -> None:
    url = fresh_url()
    await produce(url, 2)
    seen: list[list[int]] = []

    async def handle(messages: list[Message[Any]]) -> None:
        seen.append([message.payload.pop("n") for message in messages])
        if messages[0].attempt < 3:
            raise ValueError("once more")

    policy = RetryPolicy(max_attempts=3, backoff=0.001, blocking=True)
    with anyio.fail_after(10):
        await Consumer("jobs", url, retry=policy).process_batch(handle, batch_size=2, until_empty=True)
    assert seen == [[0, 1]] * 3


async def test_a_payload_that_reads_only_once_is_dead() -> None:
    """A deserializer that fails at the second attempt."""
    url = fresh_url()
    await produce(url, 1)
    read: list[bytes] = []

    def once(data: bytes) -> bytes:
        read.append(data)
        if len(read) > 1:
            raise ValueError("gone")
        return data

    async def handle(_message: Message[Any]) -> None:
        raise ValueError("once more")

    policy = RetryPolicy(max_attempts=3, backoff=0.001, blocking=True)
    with anyio.fail_after(10):
        consumer: Consumer[Any] = Consumer("jobs", url, retry=policy, deserializer=once)
        await consumer.process(handle, until_empty=True)
        assert consumer.statistics().failed
