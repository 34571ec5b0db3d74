"""Answers to heartbeats that are heard late.

M5: one that comes when the member's own deadline has passed revives nothing, and nothing is taken on it. Any other tells little of the
server's clock.
"""

from __future__ import annotations

from typing import Any, Literal

import anyio
import pytest

from redisaq import Admin, Consumer, Producer, RetryPolicy
from redisaq.brokers.steps.coordination import Commit, Heartbeat
from redisaq.testing import virtual_run
from redisaq.testing.virtual import EPOCH
from tests.actors.group import Notebook, fresh_url, hold_up
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


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_the_time_of_a_failure_is_right_although_the_last_answer_was_heard_late(
    monkeypatch: pytest.MonkeyPatch, backend: Literal["trio", "asyncio"]
) -> None:
    failed: list[float] = []
    began = 0.0

    async def heartbeat(step: Heartbeat, do: Do) -> Any:
        answer = await do(step)
        if anyio.current_time() > began + 3.0:
            hold_up(1.5)
        return answer

    async def fail(_: Any) -> None:
        failed.append(anyio.current_time() - began)
        raise ValueError

    async def main() -> None:
        nonlocal began
        url = fresh_url()
        began = anyio.current_time()
        consumer = Consumer("jobs", url, heartbeat_interval=2.0, retry=RetryPolicy(max_attempts=1))
        async with Producer("jobs", url) as producer, Admin(url) as admin, anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, fail)
            await anyio.sleep(10.0)
            await producer.enqueue({"n": 0})
            await anyio.sleep(1.0)
            (letter,) = [one async for one in admin.dead_letters("jobs", "default_group")]
            assert letter.last_failed is not None
            failed.append(letter.last_failed.timestamp() - EPOCH)
            await consumer.stop()

    change_step(monkeypatch, Heartbeat, heartbeat)
    virtual_run(main, backend=backend)
    real, stored = failed
    assert stored == pytest.approx(real, abs=0.01)
