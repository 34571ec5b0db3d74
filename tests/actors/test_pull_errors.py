"""What leaves a block of `messages()`: errors as they are, never in a group that the block made of them; the block's own before others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from redisaq import Consumer
from redisaq.actors import Actor
from redisaq.brokers.memory import MemoryBroker
from redisaq.errors import ConnectionFailed, ConsumerError
from tests.actors.group import ASYNCIO_ALONE, IN_VIRTUAL_TIME, TRIO_ALONE, Notebook, fresh_url, produce, quick

pytestmark = IN_VIRTUAL_TIME


@pytest.fixture
def url() -> str:
    return fresh_url()


class Interrupt(BaseException):
    """No error, and no cancellation."""


class Broken(Actor[None]):
    """Ends its consumer."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    async def run(self) -> None:
        """Fail soon."""
        await anyio.sleep(0.05)
        raise self.error


def group_of(text: str) -> Exception:
    return ExceptionGroup("the user's own", [ValueError(text)])


@pytest.mark.parametrize("make", [ValueError, Interrupt, group_of])
@pytest.mark.parametrize("where", ["before the first message", "beside a message"])
async def test_an_error_of_the_block_passes_as_it_is(url: str, make: Callable[[str], BaseException], where: str) -> None:
    await produce(url, 2)
    error = make("mine")

    async def block() -> None:
        async with quick(url).messages() as messages:
            if where.startswith("before"):
                raise error
            async for message in messages:
                async with message:
                    pass
                raise error

    with anyio.fail_after(5), pytest.raises(type(error)) as raised:
        await block()
    assert raised.value is error
    notebook = Notebook()
    await quick(url).process(notebook.handle, until_empty=True)
    assert [message.attempt for message in notebook.messages] == [1] * (2 if where.startswith("before") else 1)


async def test_an_interrupt_in_a_body_passes_as_it_is_and_uses_no_attempt(url: str) -> None:
    await produce(url, 1)
    interrupt = Interrupt("mine")
    attempts: list[int] = []

    async def block() -> None:
        async with quick(url).messages() as messages:
            async for message in messages:
                async with message:
                    attempts.append(message.attempt)
                    raise interrupt

    for _ in range(3):
        with anyio.fail_after(5), pytest.raises(Interrupt) as raised:
            await block()
        assert raised.value is interrupt
    assert attempts == [1, 1, 1]


@pytest.mark.parametrize("where", ["waiting", "in a body", "in a task of its own"])
async def test_what_ended_the_consumer_passes_as_it_is(url: str, where: str) -> None:
    await produce(url, 1)
    consumer = quick(url)
    consumer.attach(Broken(ValueError("broken")))

    async def block() -> None:
        async with consumer.messages() as messages:
            async for message in messages:
                async with message:
                    if where == "in a body":
                        await anyio.sleep(20)
                if where == "in a task of its own":
                    async with anyio.create_task_group() as tasks:
                        for _ in range(2):
                            tasks.start_soon(anyio.sleep, 20)

    with anyio.fail_after(5), pytest.raises(ConsumerError, match="ValueError: broken") as raised:
        await block()
    assert isinstance(raised.value.__cause__, ValueError)


@pytest.mark.parametrize("alone", [True, False])
async def test_the_error_of_the_block_wins_over_the_consumers(url: str, *, alone: bool) -> None:
    """On trio it may come in one group with the cancellation that the consumer's end has brought."""
    consumer = quick(url)
    consumer.attach(Broken(ValueError("broken")))

    async def fail_at_its_end() -> None:
        try:
            await anyio.sleep(20)
        finally:
            raise KeyError("mine")

    async def block() -> None:
        async with consumer.messages():
            if alone:
                await fail_at_its_end()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fail_at_its_end)
                tasks.start_soon(anyio.sleep, 20)

    with anyio.fail_after(5), pytest.raises(KeyError if alone else ExceptionGroup) as raised:
        await block()
    if not alone:
        group: Any = raised.value
        assert [type(error) for error in group.exceptions] == [KeyError]


async def test_the_error_of_the_block_wins_over_a_cancellation_from_outside(url: str) -> None:
    """As in any task group: it was raised first."""

    async def block() -> None:
        async with quick(url).messages():
            scope.cancel()
            raise ValueError("own")

    with anyio.CancelScope() as scope, pytest.raises(ValueError, match="own"):
        await block()


@TRIO_ALONE  # asyncio's loop ends of it at once
async def test_an_interrupt_that_the_consumer_ended_of_passes_as_it_is(url: str) -> None:
    """Trio raises it in whichever task runs, and that may be one of the consumer's."""
    consumer = quick(url)
    consumer.attach(Broken(KeyboardInterrupt()))

    async def block() -> None:
        async with consumer.messages() as messages:
            async for _ in messages:
                pass

    with anyio.fail_after(5), pytest.raises(KeyboardInterrupt):
        await block()


async def test_a_consumer_that_cannot_connect_says_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(_broker: MemoryBroker) -> None:
        raise ConnectionFailed(url, "nobody listens")

    monkeypatch.setattr(MemoryBroker, "connect", connect)
    with pytest.raises(ConnectionFailed, match="nobody listens"):
        async with Consumer("jobs", url).messages():
            pytest.fail("it has not connected")


async def test_a_second_run_of_one_consumer_is_refused_and_the_first_goes_on(url: str) -> None:
    await produce(url, 1)
    consumer = quick(url)
    notebook = Notebook()
    async with consumer.messages() as messages:
        with pytest.raises(RuntimeError, match="runs already"):
            async with consumer.messages():
                pytest.fail("it runs already")
        with pytest.raises(RuntimeError, match="runs already"):
            await consumer.process(notebook.handle)
        message = await messages.__anext__()
        async with message:
            pass


async def test_two_blocks_of_two_consumers_may_be_nested(url: str) -> None:
    await produce(url, 4, partitions=2)
    seen: list[int] = []
    with anyio.fail_after(10):
        async with quick(url).messages() as outer, quick(url, group_name="other").messages() as inner:
            for _ in range(4):
                async with await outer.__anext__() as one, await inner.__anext__() as other:
                    seen += [one.payload["n"], other.payload["n"]]
    assert sorted(seen) == [0, 0, 1, 1, 2, 2, 3, 3]


@ASYNCIO_ALONE  # it alone has Task.cancel()
async def test_native_cancellation_in_a_body_ends_the_loop_and_uses_no_attempt(url: str) -> None:
    import asyncio

    await produce(url, 1)
    attempts: list[int] = []

    async def loop(began: anyio.Event) -> None:
        async with quick(url).messages() as messages:
            async for message in messages:
                async with message:
                    attempts.append(message.attempt)
                    began.set()
                    await anyio.sleep(20)

    with anyio.fail_after(10):
        for times in (1, 2, 1):
            began = anyio.Event()
            task = asyncio.ensure_future(loop(began))
            await began.wait()
            for _ in range(times):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
    assert attempts == [1, 1, 1]


async def test_a_block_is_entered_once_and_iterated_inside(url: str) -> None:
    messages = quick(url).messages(until_empty=True)
    await produce(url, 1)
    with pytest.raises(RuntimeError, match="iterate inside `async with"):
        await messages.__anext__()
    async with messages:
        with pytest.raises(RuntimeError, match="one block of messages\\(\\) can be entered once"):
            await messages.__aenter__()
        async for message in messages:
            assert message.payload == {"n": 0}
            async with message:
                pass
    with pytest.raises(RuntimeError, match="can be entered once"):
        await messages.__aenter__()
    with pytest.raises(StopAsyncIteration):
        await messages.__anext__()
