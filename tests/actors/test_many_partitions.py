"""A consumer of many partitions takes them a few at a time, so that heartbeats do not queue after them. In virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import anyio
import pytest

from redisaq import Consumer, Producer
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.steps.leases import Install
from redisaq.consuming.context import AT_ONCE
from redisaq.testing import virtual_run
from tests.actors.group import Notebook, fresh_url
from tests.changing_steps import change_step


@pytest.mark.parametrize("step", ["install", "open_reader"])
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_partitions_are_taken_a_few_at_a_time_also_after_a_restart_of_the_server(
    backend: Literal["trio", "asyncio"], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = most = 0
    open_reader = MemoryBroker.open_reader

    async def slow(call: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            await anyio.sleep(0.1)
            return await call()
        finally:
            under_way -= 1

    if step == "install":
        change_step(monkeypatch, Install, lambda install, do: slow(lambda: do(install)))
    else:
        monkeypatch.setattr(MemoryBroker, step, lambda *args: slow(lambda: open_reader(*args)))

    async def main() -> None:
        url, notebook = fresh_url(), Notebook()
        consumer = Consumer("jobs", url, heartbeat_interval=1.0, heartbeat_ttl=4.0, on_event=notebook.note)
        async with Producer("jobs", url, init_partitions=3 * AT_ONCE) as producer, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, notebook.handle)
            for restarts in range(2):
                await anyio.sleep(2.0)
                assert len(consumer.assignment) == 3 * AT_ONCE
                await producer.batch_enqueue([{"n": n} for n in range(4 * AT_ONCE)])
                await anyio.sleep(2.0)
                assert len(notebook.messages) == 4 * AT_ONCE * (restarts + 1)
                MemoryBroker(url.removeprefix("memory://"), "redisaq").store.restart()
            await consumer.stop()

    virtual_run(main, backend=backend)
    assert most == AT_ONCE
