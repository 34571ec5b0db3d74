"""A consumer that stops gives back what it had read, and what it had asked for ahead: as if it had never been delivered (T5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer

if TYPE_CHECKING:
    from tests.servers import Server

pytestmark = pytest.mark.anyio


async def test_what_was_read_ahead_is_handed_back(server: Server, namespace: str) -> None:
    """Batches of 10: one in the handler, one waiting, one asked for ahead while the first was decoded."""
    url, stream = server.url, f"{{{namespace}:jobs:0}}:0"
    async with Producer("jobs", url, namespace=namespace) as producer:
        await producer.batch_enqueue([{"n": n} for n in range(200)])
    begun: list[int] = []
    third = anyio.Event()

    async def handle(messages: list[Message[Any]]) -> None:
        begun.extend(message.payload["n"] for message in messages)
        if len(begun) == 30:
            third.set()
            await anyio.sleep_forever()

    consumer = Consumer("jobs", url, namespace=namespace, batch_size=10, drain_timeout=0.05)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            await tasks.start(consumer.process_batch, handle)
            await third.wait()
            await consumer.stop()
        counts = {entry_id: count for entry_id, _, _, count in server.command("XPENDING", stream, "default_group", "-", "+", 1000)}
        ids = [entry_id for entry_id, _ in server.command("XRANGE", stream, "-", "+")]
        assert begun == list(range(30))
        assert [counts.pop(entry_id) for entry_id in ids[20:30]] == [1] * 10, "begun, and cancelled"
        assert list(counts) == ids[30 : 30 + len(counts)], "read: the next ones, none left out"
        assert set(counts.values()) <= {0}, "never begun"
        seen: list[tuple[int, int]] = []

        async def note(message: Message[Any]) -> None:
            seen.append((message.payload["n"], message.attempt))

        await Consumer("jobs", url, namespace=namespace).process(note, until_empty=True)
    assert seen == [(n, 1) for n in range(20, 200)]
