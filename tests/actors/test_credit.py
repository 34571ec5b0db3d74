"""Who gets credit for a handler, where some are abandoned and others rest."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from redisaq import Message, Producer, RetryPolicy
from redisaq.consuming import handling
from redisaq.consuming.concurrency import Abandoned, Concurrency
from redisaq.environment import Environment
from tests.actors.group import ASYNCIO_ALONE, IN_VIRTUAL_TIME, fresh_url, quick

pytestmark = IN_VIRTUAL_TIME


async def test_who_waits_learns_that_a_thread_abandoned_meanwhile_has_returned() -> None:
    concurrency, thread = Concurrency(1), Abandoned()
    await concurrency.enter()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(concurrency.enter)
            while not concurrency.contended:
                await anyio.lowlevel.checkpoint()
            thread.started = True
            concurrency.keep_for(thread)  # its lease is over: the handler is left behind
            concurrency.leave()
            await anyio.sleep(0.01)
            assert concurrency.contended
            thread.returned = True
    assert concurrency.running == 1


async def test_who_comes_finds_no_credit_while_an_abandoned_thread_has_it() -> None:
    concurrency, thread = Concurrency(1), Abandoned()
    concurrency.keep_for(thread)
    assert not concurrency.try_enter()
    thread.returned = True
    assert concurrency.try_enter()


@ASYNCIO_ALONE
async def test_a_thread_that_is_dropped_in_the_moment_it_begins_returns_its_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not call the handler any more; who cancelled it has seen that it began, and not that it was over."""
    begun, seen, over = threading.Event(), threading.Event(), threading.Event()

    class Slow(Abandoned):
        __slots__ = ()

        def __setattr__(self, name: str, value: bool) -> None:
            super().__setattr__(name, value)
            if name == "started" and value:
                begun.set()
                seen.wait(10)
            elif name == "returned" and value:
                over.set()

    called: list[object] = []
    abandoned: list[Abandoned] = []
    monkeypatch.setattr(handling, "Abandoned", Slow)
    call: Any = handling.adapt(called.append, Environment(), lambda _, thread: abandoned.append(thread))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, None)
        await anyio.wait_all_tasks_blocked()
        assert begun.wait(10)
        tasks.cancel_scope.cancel()
    assert len(abandoned) == 1
    seen.set()
    assert over.wait(10)
    assert called == []


async def test_credit_that_is_granted_to_one_who_is_being_cancelled_goes_on_to_the_next() -> None:
    concurrency, entered = Concurrency(1), anyio.Event()
    await concurrency.enter()

    async def give_up() -> None:
        with cancelled:
            await concurrency.enter()
            concurrency.leave()  # it was awake already

    async def enter() -> None:
        await concurrency.enter()
        entered.set()

    cancelled = anyio.CancelScope()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(give_up)
            await anyio.wait_all_tasks_blocked()
            cancelled.cancel()
            concurrency.leave()
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(enter)
            await entered.wait()
    assert concurrency.running == 1


@pytest.mark.parametrize("concurrency", [None, 1, 2])
async def test_lanes_that_hold_failed_messages_leave_the_others_all_the_credit(concurrency: int | None) -> None:
    url = fresh_url()
    async with Producer("jobs", url) as producer:
        for n in range(8):
            await producer.enqueue({"n": n}, key=str(n % 4))
    done: list[int] = []

    async def handle(message: Message[Any]) -> None:
        n = message.payload["n"]
        if n % 4 < 2:
            raise ValueError("for long")
        done.append(n)

    retry = RetryPolicy(backoff=600, jitter=False, blocking=True)
    consumer = quick(url, ordering="key", concurrency=concurrency, retry=retry)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            while len(done) < 4:
                await anyio.sleep(0.01)
            await consumer.stop()
    assert sorted(done) == [2, 3, 6, 7]
