"""What an attempt is, where a drain comes in between."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer, RetryAfter, RetryPolicy
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.leases import SetDeliveries
from redisaq.brokers.steps.retrying import StartRetry
from redisaq.brokers.steps.settling import Resolve
from redisaq.core.records import Body
from tests.actors.group import IN_VIRTUAL_TIME, fresh_url, produce, quick
from tests.changing_steps import Do, change_step

pytestmark = IN_VIRTUAL_TIME


@pytest.fixture
def url() -> str:
    return fresh_url()


@pytest.mark.parametrize("source", ["retry", "stream"])
async def test_an_attempt_whose_handler_never_began_is_given_back(url: str, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """T5: a drain that comes between noting the attempt and beginning the handler costs the message nothing."""
    await produce(url, 1)
    consumer = quick(url, retry=RetryPolicy(backoff=0.01, blocking=source == "stream"))
    calls = 0

    async def stop_behind_it(step: Step[Any], do: Do) -> object:
        nonlocal calls
        answer = await do(step)
        calls += 1
        if calls == {"retry": 1, "stream": 2}[source]:  # of the stream, the first one writes the failure down
            tasks.start_soon(consumer.stop)
            await anyio.sleep(60)
        return answer

    attempts: list[int] = []

    async def fail(message: Message[Any]) -> None:
        attempts.append(message.attempt)
        raise ValueError("again")

    kinds: dict[str, type[Step[Any]]] = {"retry": StartRetry, "stream": SetDeliveries}
    change_step(monkeypatch, kinds[source], stop_behind_it)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            await consumer.process(fail)
    monkeypatch.undo()
    with anyio.fail_after(10):
        await Consumer("jobs", url, retry=RetryPolicy(max_attempts=3, backoff=0.01)).process(fail, until_empty=True)
    assert attempts == [1, 2, 3]


async def test_pulled_messages_are_retried_whatever_the_policy_says_of_lanes(url: str) -> None:
    await produce(url, 3)
    seen: list[tuple[int, int]] = []
    policy = RetryPolicy(backoff=0.01, blocking=True)
    with anyio.fail_after(5):
        async with quick(url, retry=policy).messages(until_empty=True) as messages:
            async for message in messages:
                async with message:
                    seen.append((message.payload["n"], message.attempt))
                    if message.payload["n"] == 0 and message.attempt == 1:
                        raise ValueError("again")
    assert sorted(seen) == [(0, 1), (0, 2), (1, 1), (2, 1)]


async def test_delayed_messages_of_one_call_keep_their_order(url: str) -> None:
    async with Producer("jobs", url) as producer:
        await producer.batch_enqueue([{"n": n} for n in range(40)], delay=0.05)
    numbers: list[int] = []

    async def handle(message: Message[Any]) -> None:
        numbers.append(message.payload["n"])

    with anyio.fail_after(5):
        await Consumer("jobs", url).process(handle, until_empty=True)
    assert numbers == list(range(40))


async def test_retry_after_costs_no_attempt_where_a_parked_message_holds_its_lane(url: str) -> None:
    """The policy was changed from parking to blocking while the message waited in `retry`."""
    await produce(url, 1)
    attempts: list[int] = []

    async def fail(message: Message[Any]) -> None:
        attempts.append(message.attempt)
        tasks.cancel_scope.cancel()
        raise ValueError("park it")

    async def put_off(message: Message[Any]) -> None:
        attempts.append(message.attempt)
        if len(attempts) < 4:
            raise RetryAfter(0.01)
        raise ValueError("a failure at last")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            await quick(url, retry=RetryPolicy(backoff=0.01)).process(fail)
        await quick(url, retry=RetryPolicy(max_attempts=3, backoff=0.01, blocking=True)).process(put_off, until_empty=True)
    assert attempts == [1, 2, 2, 2, 3]


@pytest.mark.parametrize("ordering", ["partition", "key", "none", "batch"])
@pytest.mark.parametrize("source", ["retry", "stream"])
async def test_retry_after_costs_no_attempt_where_the_partition_goes_while_its_lane_waits(url: str, ordering: Any, source: str) -> None:
    """T5, T7: the server has counted the handler that put it off."""
    await produce(url, 1)
    policy = RetryPolicy(max_attempts=3, backoff=0.01, blocking=True)
    attempts: list[int] = []

    async def handle(message: Message[Any]) -> None:
        attempts.append(message.attempt)
        if len(attempts) == 1:
            if source == "retry":
                tasks.cancel_scope.cancel()
            raise ValueError("once")
        if len(attempts) < 5:
            raise RetryAfter(60)

    async def handle_all(messages: list[Message[Any]]) -> None:
        await handle(messages[0])

    def run(retry: RetryPolicy) -> Any:
        consumers.append(quick(url, retry=retry, ordering="partition" if ordering == "batch" else ordering))
        return consumers[-1].process_batch(handle_all) if ordering == "batch" else consumers[-1].process(handle)

    consumers: list[Consumer[Any]] = []
    with anyio.fail_after(20):
        if source == "retry":
            async with anyio.create_task_group() as tasks:
                await run(RetryPolicy(backoff=0.01))
        for begun in range(2, 5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, policy)
                while len(attempts) < begun:
                    await anyio.sleep(0.01)
                await anyio.sleep(0.05)  # its lane waits
                await consumers[-1].stop()
        await quick(url, retry=policy).process(handle, until_empty=True)
    assert attempts == [1, 2, 2, 2, 2]


@pytest.mark.parametrize("ordering", ["partition", "key", "none"])
async def test_what_is_given_back_keeps_its_last_failure(url: str, ordering: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It failed once and was parked, then failed otherwise and held its lane: `retry` tells of the later failure, not of the one before."""
    await produce(url, 1)
    stored: list[Body] = []

    async def listen(step: Resolve, do: Do) -> Any:
        stored.extend(one.body for one in step.resolutions)
        return await do(step)

    begun: list[float] = []

    async def handle(message: Message[Any]) -> None:
        del message
        begun.append(anyio.current_time())
        if len(begun) == 1:
            tasks.cancel_scope.cancel()
            raise ValueError("once")
        raise RetryAfter(60)

    change_step(monkeypatch, Resolve, listen)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            await quick(url, retry=RetryPolicy(backoff=3.0, jitter=False)).process(handle)
        consumer = quick(url, retry=RetryPolicy(blocking=True), ordering=ordering)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            while len(begun) < 2:
                await anyio.sleep(0.01)
            await anyio.sleep(0.05)  # its lane waits
            await consumer.stop()
    first, last = stored[0].failure, stored[-1].failure
    assert first is not None
    assert last is not None
    assert (first.error_type, first.attempts) == ("ValueError", 1)
    assert (last.error_type, last.attempts, last.first_failed_ms) == ("redisaq.outcomes.RetryAfter", 2, first.first_failed_ms)
    assert last.last_failed_ms - first.last_failed_ms == pytest.approx((begun[1] - begun[0]) * 1000, abs=200)
