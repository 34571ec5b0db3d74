"""A server that was away for longer than a lease, and comes back under another run_id with its data (M5, M7)."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import pytest

from redisaq import Consumer, Message, Producer
from redisaq.brokers.memory import MemoryBroker
from redisaq.errors import ConnectionFailed
from redisaq.testing import virtual_run
from tests.actors.group import fresh_url

TTL = 12.0


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "handler"])
@pytest.mark.parametrize("away", [TTL + 1, 3 * TTL])
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_m7_what_a_process_held_itself_is_not_foreign_to_it(
    monkeypatch: pytest.MonkeyPatch, backend: Literal["trio", "asyncio"], away: float, *, busy: bool
) -> None:
    """It joins again under a new incarnation; the holder beside the data is the one before, whose owners end a moment later."""
    url = fresh_url()
    gone = False
    whole = MemoryBroker._operate

    async def operate(self: MemoryBroker, name: str, step: Any) -> Any:
        if gone:
            await anyio.sleep(0.01)
            raise ConnectionFailed(url, "connection refused")
        return await whole(self, name, step)

    monkeypatch.setattr(MemoryBroker, "_operate", operate)

    async def main() -> float:
        nonlocal gone
        handled: list[float] = []
        started = anyio.Event()

        async def handle(_message: Message[Any]) -> None:
            started.set()
            if busy and not handled:
                handled.append(0.0)
                await anyio.sleep_forever()
            handled.append(anyio.current_time())

        consumer = Consumer("jobs", url, heartbeat_interval=2.0, heartbeat_ttl=TTL)
        async with Producer("jobs", url, init_partitions=2) as producer, anyio.create_task_group() as tasks:
            await producer.enqueue({"n": 0})
            await tasks.start(consumer.process, handle)
            await started.wait()
            gone = True
            MemoryBroker(url.removeprefix("memory://"), "redisaq").store.restart()
            await anyio.sleep(away)
            gone, back = False, anyio.current_time()
            await producer.enqueue({"n": 1})
            while not handled or handled[-1] < back:
                await anyio.sleep(0.1)
            took = handled[-1] - back
            await consumer.stop()
        return took

    assert virtual_run(main, backend=backend) < TTL / 4
