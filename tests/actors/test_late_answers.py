"""M5: a heartbeat's answer that comes when the member's own deadline has passed revives nothing, and nothing is taken on it."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import pytest

from redisaq import Consumer, Producer
from redisaq.brokers.steps.coordination import Commit, Heartbeat
from redisaq.testing import virtual_run
from tests.actors.group import Notebook, fresh_url
from tests.changing_steps import Do, change_step


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_member_whose_deadline_has_passed_takes_no_more_partitions(
    monkeypatch: pytest.MonkeyPatch, backend: Literal["trio", "asyncio"]
) -> None:
    url = fresh_url()
    slow = False
    taken: list[tuple[float, str]] = []
    late: list[tuple[float, str]] = []

    async def heartbeat(step: Heartbeat, do: Do) -> Any:
        answer = await do(step)
        if slow:
            late.append((anyio.current_time(), step.incarnation))
            await anyio.sleep(step.ttl * 0.9)
        return answer

    async def commit(step: Commit, do: Do) -> Any:
        taken.append((anyio.current_time(), step.incarnation))
        return await do(step)

    async def main() -> None:
        nonlocal slow
        consumer, notebook = Consumer("jobs", url, heartbeat_interval=2.0, heartbeat_ttl=12.0), Notebook()
        async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, notebook.handle)
            await anyio.sleep(1.0)
            taken.clear()
            slow = True
            await producer.request_partition_increase(4)
            await anyio.sleep(5.0)
            slow = False
            await anyio.sleep(30.0)
            assert len(consumer.assignment) == 4
            await consumer.stop()

    change_step(monkeypatch, Heartbeat, heartbeat)
    change_step(monkeypatch, Commit, commit)
    virtual_run(main, backend=backend)
    (first, lapsed), *_ = late
    assert [when for when, incarnation in taken if incarnation == lapsed and when > first] == []
