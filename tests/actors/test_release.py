"""A partition is released only when no read on it can still be carried out (T3, T4), and what had not begun is handed back whole (T5)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from redisaq import Admin, Message, RetryPolicy
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.memory.holdings import Lease
from redisaq.brokers.memory.reader import MemoryReader
from redisaq.brokers.steps.leases import Fence, Release, SetDeliveries
from redisaq.brokers.terms import GroupName, ReaderMark
from redisaq.errors import ConsumerError, ServerError
from tests.actors.group import IN_VIRTUAL_TIME, fresh_url, produce, quick, store_of
from tests.changing_steps import Do, change_step

pytestmark = IN_VIRTUAL_TIME


@pytest.mark.parametrize("settled", [True, False])
async def test_a_read_without_its_answer_is_killed_before_the_release(settled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    url = fresh_url()
    await produce(url, 1)
    steps: list[str] = []
    whole = MemoryBroker._operate

    async def operate(self: MemoryBroker, name: str, step: Any) -> Any:
        if name in ("fence", "release"):
            steps.append(name)
        return await whole(self, name, step)

    monkeypatch.setattr(MemoryBroker, "_operate", operate)
    monkeypatch.setattr(MemoryReader, "settled", settled)

    handled = anyio.Event()

    async def handle(_message: Message[Any]) -> None:
        handled.set()

    consumer = quick(url)
    async with anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, handle)
        await handled.wait()
        steps.clear()
        await consumer.stop()
    assert steps == (["release"] if settled else ["fence", "release"])


async def test_a_partition_that_is_given_back_while_it_is_taken_leaves_no_read_of_its_predecessor(monkeypatch: pytest.MonkeyPatch) -> None:
    """T3: the release takes all readers off the list, so nobody else would kill them."""
    url = fresh_url()
    await produce(url, 1)
    store = MemoryBroker(url.removeprefix("memory://"), "redisaq").store
    mark, fencing = ReaderMark(7, "memory", store.run_id), anyio.Event()
    store.leases[GroupName("jobs", "default_group"), 0] = Lease(token=5, readers=[mark])
    steps: list[Any] = []

    async def fence(step: Fence, do: Do) -> Any:
        steps.append(tuple(step.readers))
        if not fencing.is_set():
            fencing.set()
            await anyio.sleep_forever()
        return await do(step)

    async def release(step: Release, do: Do) -> Any:
        steps.append("release")
        return await do(step)

    change_step(monkeypatch, Fence, fence)
    change_step(monkeypatch, Release, release)
    consumer = quick(url)
    with anyio.fail_after(0.3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, lambda _message: None)
            await fencing.wait()
            await consumer.stop()
    assert steps == [(mark,), (mark,), "release"]


async def test_no_read_waits_in_the_server_for_longer_than_its_lease_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """T4: where connections must not be killed, this alone ends the reads of a process that hangs."""
    read, blocks = MemoryReader.read, list[float]()

    async def noted(self: MemoryReader, count: int, block: float) -> Any:
        blocks.append(block)
        return await read(self, count, block)

    monkeypatch.setattr(MemoryReader, "read", noted)
    url = fresh_url()
    await produce(url, 1)
    consumer = quick(url, heartbeat_ttl=0.6)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, lambda _message: None)
            while len(blocks) < 3:
                await anyio.sleep(0.01)
            await consumer.stop()
    assert min(blocks) > 0
    assert max(blocks) <= 0.6 - 0.1  # a sixth of the ttl is the margin for clocks that differ in speed (M5)


async def stay(_message: Message[Any]) -> None:
    await anyio.sleep_forever()


async def begin_and_cancel(url: str) -> None:
    """Let a handler begin on a message, then cancel its consumer."""
    began = anyio.Event()

    async def begin(message: Message[Any]) -> None:
        began.set()
        await stay(message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(quick(url).process, begin)
        await began.wait()
        tasks.cancel_scope.cancel()


async def test_counts_whose_raise_may_still_arrive_are_handed_back_behind_the_release_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """T5: before the release, the raise could undo that; after it, the raise is refused."""
    url = fresh_url()
    await produce(url, 1)
    await begin_and_cancel(url)

    whole, steps = MemoryBroker._operate, list[str]()
    raising, late = anyio.Event(), list[Callable[[], object]]()

    async def operate(self: MemoryBroker, name: str, step: Any) -> Any:
        if name == "set_deliveries" and not raising.is_set():
            late.append(partial(step, self.store))
            raising.set()
            await anyio.sleep_forever()
        if name in ("set_deliveries", "release"):
            steps.append(name)
        return await whole(self, name, step)

    monkeypatch.setattr(MemoryBroker, "_operate", operate)
    consumer = quick(url)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, stay)
            await raising.wait()
            await consumer.stop()
    assert steps == ["set_deliveries", "release", "set_deliveries"]
    for arrive in late:
        arrive()
    async with Admin(url) as admin:
        (partition,) = (await admin.group("jobs", "default_group")).partitions
    assert partition.deliveries == {1: 1}


async def test_an_attempt_that_may_still_arrive_is_given_back_behind_the_release_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """T5, for `retry`: before the release, the attempt could be recorded after it was given back; after the release, that is refused."""
    url = fresh_url()
    await produce(url, 1)
    whole, steps = MemoryBroker._operate, list[str]()
    noting = anyio.Event()

    async def operate(self: MemoryBroker, name: str, step: Any) -> Any:
        if name == "start_retry":
            noting.set()
            await anyio.sleep_forever()
        if noting.is_set() and name in ("resolve", "release"):
            steps.append(name)
        return await whole(self, name, step)

    async def fail(_message: Message[Any]) -> None:
        raise ValueError("later")

    monkeypatch.setattr(MemoryBroker, "_operate", operate)
    consumer = quick(url, retry=RetryPolicy(backoff=0.01))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, fail)
            await noting.wait()
            await consumer.stop()
    assert steps == ["resolve", "release", "resolve"]


async def test_what_no_handler_has_begun_on_is_handed_back_as_if_it_had_not_been_read() -> None:
    """T5: its count is 0; what a handler has begun on keeps its own."""
    url = fresh_url()
    await produce(url, 3)
    await begin_and_cancel(url)
    async with Admin(url) as admin:
        (partition,) = (await admin.group("jobs", "default_group")).partitions
    assert partition.deliveries == {0: 2, 1: 1}


async def test_it_is_handed_back_too_where_settling_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """T5: else the next owner takes what was read for an attempt whose process died."""
    url = fresh_url()
    await produce(url, 3)
    whole, steps, settling = MemoryBroker._operate, list[str](), anyio.Event()

    async def operate(self: MemoryBroker, name: str, step: Any) -> Any:
        if name == "settle":
            settling.set()
            await anyio.sleep_forever()
        if settling.is_set() and name in ("set_deliveries", "release"):
            steps.append(name)
        return await whole(self, name, step)

    async def handle(message: Message[Any]) -> None:
        if message.payload["n"]:
            await anyio.sleep_forever()

    monkeypatch.setattr(MemoryBroker, "_operate", operate)
    consumer = quick(url, drain_timeout=0.1)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            await settling.wait()
            await consumer.stop()
    async with Admin(url) as admin:
        (partition,) = (await admin.group("jobs", "default_group")).partitions
    assert partition.deliveries == {0: 1, 1: 2}, "one was done, one was begun"
    assert steps == ["set_deliveries", "release"]


async def test_a_server_that_refuses_the_counts_is_released_from_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    url = fresh_url()
    await produce(url, 3)
    began = anyio.Event()

    async def refuse(_step: SetDeliveries, _do: Do) -> Any:
        raise ServerError("NOPERM this user has no permissions to run the 'xclaim' command")

    async def handle(message: Message[Any]) -> None:
        began.set()
        await stay(message)

    change_step(monkeypatch, SetDeliveries, refuse)
    consumer = quick(url, drain_timeout=0.1)

    async def stop() -> None:
        await began.wait()
        await consumer.stop()

    async def run() -> None:
        with pytest.raises(ConsumerError, match="NOPERM"):
            await consumer.process(handle)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop)
            tasks.start_soon(run)
    assert store_of(url).leases[GroupName("jobs", "default_group"), 0].holder == ""
