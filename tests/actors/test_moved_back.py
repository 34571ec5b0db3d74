"""An admin moves a paused group back over messages that its members have in hand: each comes again, and no member ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from redisaq import Admin, Message, RetryPolicy
from redisaq.admin_views import GroupInfo
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.leases import SetDeliveries
from redisaq.brokers.steps.retrying import StartRetry
from tests.actors.group import IN_VIRTUAL_TIME, fresh_url, produce, quick
from tests.changing_steps import Do, change_step

pytestmark = IN_VIRTUAL_TIME


@pytest.fixture
def url() -> str:
    return fresh_url()


def counted(group: GroupInfo) -> Mapping[int, int]:
    """Return how many pending entries of the one partition have which delivery count."""
    (partition,) = group.partitions
    return partition.deliveries


@pytest.mark.parametrize("ordering", ["partition", "key", "none"])
async def test_messages_that_wait_for_a_handler_come_once_and_what_a_handler_has_comes_again(url: str, ordering: Any) -> None:
    await produce(url, 8, partition_key="n")
    first, go_on = anyio.Event(), anyio.Event()
    numbers: list[int] = []

    async def handle(message: Message[Any]) -> None:
        numbers.append(message.payload["n"])
        first.set()
        await go_on.wait()

    consumer = quick(url, ordering=ordering, batch_size=10)
    with anyio.fail_after(10):
        async with Admin(url) as admin, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            await first.wait()
            await admin.pause("jobs", "default_group")
            await admin.seek("jobs", "default_group", "earliest")
            await admin.resume("jobs", "default_group")
            while (await admin.group("jobs", "default_group")).pending < 8:  # they are delivered again
                await anyio.sleep(0.01)
            go_on.set()
            while len(numbers) < 9 or (await admin.group("jobs", "default_group")).pending:
                await anyio.sleep(0.01)
            await consumer.stop()
    assert Counter(numbers) == Counter([0, *range(8)])
    assert numbers[0] == 0


async def test_what_waits_for_another_try_begins_as_new(url: str) -> None:
    """Its lane goes on holding it; its attempts are those of a new message."""
    await produce(url, 2)
    attempts: list[tuple[int, int]] = []
    resting = anyio.Event()

    async def handle(message: Message[Any]) -> None:
        attempts.append((message.payload["n"], message.attempt))
        if len(attempts) < 3:
            if len(attempts) == 2:
                resting.set()
            raise ValueError("again")

    retry = RetryPolicy(max_attempts=3, backoff=0.3, factor=1.0, jitter=False, blocking=True)
    with anyio.fail_after(10):
        async with Admin(url) as admin, anyio.create_task_group() as tasks:
            consumer = quick(url, retry=retry)
            tasks.start_soon(consumer.process, handle)
            await resting.wait()
            await admin.pause("jobs", "default_group")
            await admin.seek("jobs", "default_group", "earliest")
            await admin.resume("jobs", "default_group")
            while len(attempts) < 4 or (await admin.group("jobs", "default_group")).pending:
                await anyio.sleep(0.01)
            await consumer.stop()
    assert attempts == [(0, 1), (0, 2), (0, 1), (1, 1)]


@pytest.mark.parametrize("ordering", ["partition", "key", "none"])
async def test_retries_that_a_new_owner_has_in_hand_come_as_new_ones(url: str, ordering: Any) -> None:
    """S3: it has read nothing yet, so what is delivered now is above all that it read, and in its hands nevertheless."""
    await produce(url, 3)
    parked = Counter[int]()
    runs: list[tuple[int, int]] = []
    began, go_on = anyio.Event(), anyio.Event()

    async def park(message: Message[Any]) -> None:
        parked[message.payload["n"]] += 1
        raise ValueError("later")

    async def handle(message: Message[Any]) -> None:
        runs.append((message.payload["n"], message.attempt))
        began.set()
        await go_on.wait()

    async def until(pending: int) -> None:
        while (await admin.group("jobs", "default_group")).pending != pending:
            await anyio.sleep(0.01)

    retry = RetryPolicy(backoff=0.3, jitter=False)
    with anyio.fail_after(10):
        async with Admin(url) as admin, anyio.create_task_group() as tasks:
            first = quick(url, retry=retry)
            tasks.start_soon(first.process, park)
            while len(parked) < 3 or (await admin.group("jobs", "default_group")).retry < 3:
                await anyio.sleep(0.01)
            await first.stop()
            second = quick(url, retry=retry, ordering=ordering, concurrency=1)
            tasks.start_soon(second.process, handle)
            await began.wait()
            await anyio.sleep(0.05)  # the others are in hand, too
            await admin.pause("jobs", "default_group")
            await admin.seek("jobs", "default_group", "earliest")
            await admin.resume("jobs", "default_group")
            await until(3)
            go_on.set()
            await until(0)
            await second.stop()
    assert runs[0] == (0, 2)
    assert sorted(runs[1:]) == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize("source", ["retry", "stream"])
@pytest.mark.parametrize("answered", ["before the group is moved", "afterwards"])
async def test_an_attempt_that_is_being_noted_is_not_that_of_the_new_one(
    url: str, monkeypatch: pytest.MonkeyPatch, source: str, answered: str
) -> None:
    """The server's answer about an attempt in the previous life does not apply to the message that is delivered again as new."""
    await produce(url, 1)
    kinds: dict[str, type[Step[Any]]] = {"retry": StartRetry, "stream": SetDeliveries}
    asked, moved = anyio.Event(), anyio.Event()

    async def late(step: Step[Any], do: Do) -> Any:
        if asked.is_set():
            return await do(step)
        if answered.startswith("before"):
            answer = await do(step)
            asked.set()
            await moved.wait()
            return answer
        asked.set()
        await moved.wait()
        return await do(step)

    attempts: list[int] = []
    owners = {"retry": 1, "stream": 2}[source]  # after which the next attempt would be the second

    async def handle(message: Message[Any]) -> None:
        attempts.append(message.attempt)
        if len(attempts) <= owners:
            tasks.cancel_scope.cancel()
            if source == "retry":
                raise ValueError("later")
            await anyio.sleep(60)

    with anyio.fail_after(10):
        for _ in range(owners):
            async with anyio.create_task_group() as tasks:
                await quick(url, retry=RetryPolicy(backoff=0.01)).process(handle)
        change_step(monkeypatch, kinds[source], late)
        async with Admin(url) as admin, anyio.create_task_group() as tasks:
            consumer = quick(url)
            tasks.start_soon(consumer.process, handle)
            await asked.wait()
            await admin.pause("jobs", "default_group")
            await admin.seek("jobs", "default_group", "earliest")
            await admin.resume("jobs", "default_group")
            while not (await admin.group("jobs", "default_group")).pending:
                await anyio.sleep(0.01)
            await anyio.sleep(0.05)
            moved.set()
            while len(attempts) <= owners or (await admin.group("jobs", "default_group")).pending:
                await anyio.sleep(0.01)
            await consumer.stop()
    assert attempts == [1] * owners + [1]


async def test_a_count_that_may_still_be_raised_is_set_back_for_the_new_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """T5: a raise from the previous life is on its way when the message is delivered again, and then the partition is given back."""
    await produce(url, 1)
    operate, raising = MemoryBroker._operate, anyio.Event()

    async def stay(_message: Message[Any]) -> None:
        await anyio.sleep(60)

    async def stop_at_the_raise(broker: MemoryBroker, name: str, step: Any) -> Any:
        if name == "set_deliveries" and not raising.is_set():
            raising.set()
            await anyio.sleep(60)
        return await operate(broker, name, step)

    with anyio.fail_after(10):
        for _ in range(2):  # the second one raises the count to 2
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(quick(url).process, stay)
                await anyio.sleep(0.3)
                tasks.cancel_scope.cancel()
        monkeypatch.setattr(MemoryBroker, "_operate", stop_at_the_raise)
        async with Admin(url) as admin, anyio.create_task_group() as tasks:
            consumer = quick(url)
            tasks.start_soon(consumer.process, stay)
            await raising.wait()
            assert counted(await admin.group("jobs", "default_group")) == {2: 1}
            await admin.pause("jobs", "default_group")
            await admin.seek("jobs", "default_group", "earliest")
            await admin.resume("jobs", "default_group")
            while counted(await admin.group("jobs", "default_group")) != {1: 1}:  # it is delivered again
                await anyio.sleep(0.01)
            await consumer.stop()
            assert counted(await admin.group("jobs", "default_group")) == {0: 1}
