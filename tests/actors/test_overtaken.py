"""What is due comes on an answer that others overtake: a message that was tried meanwhile is not tried again on it (S3)."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import anyio
import pytest

from redisaq import Message, RetryPolicy
from redisaq.brokers.steps.retrying import TakeDue
from redisaq.testing import virtual_run
from tests.actors.group import fresh_url, produce, quick
from tests.changing_steps import Do, change_step


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_every_attempt_once_and_not_before_its_time(monkeypatch: pytest.MonkeyPatch, backend: Literal["trio", "asyncio"]) -> None:
    url = fresh_url()
    tries: list[tuple[int, int, float]] = []

    async def due(step: TakeDue, do: Do) -> Any:
        answer = await do(step)
        await anyio.sleep(0.03)
        return answer

    async def fail(message: Message[Any]) -> None:
        tries.append((message.payload["n"], message.attempt, anyio.current_time()))
        await anyio.sleep(0.02 * message.payload["n"])  # the first one's failure asks for what is due, the others are
        raise ValueError("again")

    async def main() -> None:
        await produce(url, 3)
        policy = RetryPolicy(max_attempts=5, backoff=0.5, factor=1.0, jitter=False)
        await quick(url, ordering="none", concurrency=3, retry=policy).process(fail, until_empty=True)

    change_step(monkeypatch, TakeDue, due)
    virtual_run(main, backend=backend)
    for number in range(3):
        begun = [(attempt, when) for n, attempt, when in tries if n == number]
        assert [attempt for attempt, _ in begun] == [1, 2, 3, 4, 5]
        assert all(later - earlier >= 0.5 for (_, earlier), (_, later) in itertools.pairwise(begun))
