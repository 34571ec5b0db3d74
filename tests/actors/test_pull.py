"""`Consumer.messages()`: the same guarantees in a loop of one's own."""

from __future__ import annotations

import contextlib
import gc
import warnings
from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer, RetryPolicy, events
from tests.actors.group import ASYNCIO_ALONE, IN_VIRTUAL_TIME, Notebook, fresh_url, produce, quick

pytestmark = IN_VIRTUAL_TIME


@pytest.fixture
def url() -> str:
    return fresh_url()


async def rest(url: str, **more: Any) -> list[tuple[int, int]]:
    """Return (number, attempt) of what the group has left."""
    notebook = Notebook()
    with anyio.fail_after(10):
        await quick(url, **more).process(notebook.handle, until_empty=True)
    return [(message.payload["n"], message.attempt) for message in notebook.messages]


async def test_leaving_the_body_acknowledges(url: str) -> None:
    await produce(url, 50, partitions=2)
    seen: list[int] = []
    async with quick(url).messages(until_empty=True) as messages:
        async for message in messages:
            async with message:
                seen.append(message.payload["n"])
    assert sorted(seen) == list(range(50))
    assert await rest(url) == []


async def test_break_and_return_acknowledge(url: str) -> None:
    await produce(url, 3)

    async def first(consumer: Consumer[Any]) -> int:
        async with consumer.messages() as messages:
            async for message in messages:
                async with message:
                    return int(message.payload["n"])
        raise AssertionError

    assert await first(quick(url)) == 0
    async with quick(url).messages() as messages:
        async for message in messages:
            assert message.payload["n"] == 1
            async with message:
                break
    assert await rest(url) == [(2, 1)]


async def test_an_exception_is_recorded_and_swallowed(url: str) -> None:
    await produce(url, 2)
    notebook = Notebook()
    seen: list[tuple[int, int]] = []
    async with quick(url, on_event=notebook.note).messages(until_empty=True) as messages:
        async for message in messages:
            async with message:
                seen.append((message.payload["n"], message.attempt))
                if len(seen) == 1:
                    raise ValueError("not now")
    assert seen == [(0, 1), (1, 1), (0, 2)]
    assert [type(one.error) for one in notebook.of(events.MessageFailed)] == [ValueError]


async def test_cancellation_from_outside_passes_and_leaves_the_message_pending(url: str) -> None:
    await produce(url, 2)
    with anyio.move_on_after(0.2) as scope:
        async with quick(url).messages() as messages:
            async for message in messages:
                async with message:
                    await anyio.sleep(30)
    assert scope.cancelled_caught
    assert await rest(url) == [(0, 1), (1, 1)]


async def test_a_message_never_entered_is_redelivered(url: str) -> None:
    await produce(url, 3)
    async with quick(url).messages() as messages:
        kept = [await messages.__anext__() for _ in range(2)]
        async with kept[1]:
            pass
    async with kept[0]:
        await anyio.sleep(1)
        pytest.fail("the message is somebody else's by now")
    assert kept[0].lost
    assert await rest(url) == [(0, 1), (2, 1)]


async def test_at_most_batch_size_are_unsettled(url: str) -> None:
    """And one more, as long as one of them is not entered."""
    await produce(url, 20, partitions=3)
    async with quick(url, batch_size=4).messages() as messages:
        kept = [await messages.__anext__() for _ in range(5)]
        with anyio.move_on_after(0.2) as scope:
            await messages.__anext__()
        assert scope.cancelled_caught
        async with kept[0]:
            pass
        with anyio.fail_after(1):
            kept.append(await messages.__anext__())
        async with contextlib.AsyncExitStack() as bodies:
            for message in kept[1:5]:
                await bodies.enter_async_context(message)
            async with kept[5]:  # the one more: then four are in their bodies, and no other is handed out beside them
                pass
            with anyio.move_on_after(0.2) as scope:
                await messages.__anext__()
        assert scope.cancelled_caught  # not in the bodies: these swallow errors


async def test_a_lost_lease_cancels_the_body_and_the_loop_goes_on(url: str) -> None:
    from redisaq.brokers.memory import MemoryBroker

    await produce(url, 1)
    lost: list[Message[Any]] = []
    seen: list[int] = []
    store = MemoryBroker(url.removeprefix("memory://"), "redisaq").store
    with anyio.fail_after(10):
        async with quick(url).messages() as messages:
            async for message in messages:
                async with message:
                    if not lost:
                        lost.append(message)
                        store.forget_group(groups_name())
                        await anyio.sleep(30)
                    seen.append(message.attempt)
                assert message.lost == (not seen)
                if seen:
                    break
    assert seen == [1]
    assert lost[0].lost


@pytest.mark.parametrize(("own", "common"), [(0.05, None), (None, 0.05), (0.05, 20.0), (20.0, 0.05), (None, None)])
async def test_a_body_that_takes_too_long_is_cancelled_and_has_failed(url: str, own: float | None, common: float | None) -> None:
    """The message's timeout counts, else the consumer's."""
    await produce(url, 1, timeout=own)
    limit = common if own is None else own
    notebook = Notebook()
    ended: list[int] = []
    options: dict[str, Any] = {"timeout": common, "retry": RetryPolicy(max_attempts=2, backoff=0.01), "on_event": notebook.note}
    with anyio.fail_after(10):
        async with quick(url, **options).messages(until_empty=True) as messages:
            async for message in messages:
                notebook.messages.append(message)
                async with message:
                    await anyio.sleep(0.2)
                    ended.append(message.attempt)
                assert not message.lost
    cut = limit == 0.05
    assert ended == ([] if cut else [1])
    assert [message.attempt for message in notebook.messages] == ([1, 2] if cut else [1])
    assert [repr(one.error) for one in notebook.of(events.MessageFailed)] == ["TimeoutError('the body took longer than 0.05 s')"] * 2 * cut
    assert len(notebook.of(events.MessageDead)) == cut


async def test_a_body_with_a_timeout_is_cancelled_from_outside_as_any_other(url: str) -> None:
    await produce(url, 1, timeout=20)
    with anyio.move_on_after(0.2) as scope:
        async with quick(url).messages() as messages:
            async for message in messages:
                async with message:
                    await anyio.sleep(5)
    assert scope.cancelled_caught
    assert await rest(url) == [(0, 1)]


def groups_name() -> Any:
    from redisaq.brokers.terms import GroupName

    return GroupName("jobs", "default_group")


async def test_a_message_of_a_handler_has_no_body(url: str) -> None:
    await produce(url, 1)
    errors: list[str] = []

    async def handle(message: Message[Any]) -> None:
        try:
            async with message:
                pass
        except RuntimeError as error:
            errors.append(str(error))

    await quick(url).process(handle, until_empty=True)
    assert "settles by returning" in errors[0]


async def test_stop_inside_a_body_does_not_wait_for_itself(url: str) -> None:
    await produce(url, 5)
    consumer = quick(url)
    seen: list[int] = []
    with anyio.fail_after(5):
        async with consumer.messages() as messages:
            async for message in messages:
                async with message:
                    seen.append(message.payload["n"])
                    await consumer.stop()
    assert seen == [0]
    assert await rest(url) == [(n, 1) for n in range(1, 5)]


async def test_a_block_that_is_cancelled_while_it_is_entered_leaves_nothing_open(url: str) -> None:
    await produce(url, 1)
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with Consumer("jobs", url).messages():
            pytest.fail("it was cancelled before")
    assert scope.cancelled_caught
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()  # what was left open would tell of it here
    assert [str(one.message) for one in caught if "Unclosed" in str(one.message)] == []


@ASYNCIO_ALONE  # it alone knows cancellation that no scope asked for
async def test_who_is_cancelled_natively_while_it_waits_takes_nothing(url: str) -> None:
    """In whichever step after a message was offered that comes: the next call gets the message."""
    import asyncio

    async with Producer("jobs", url) as producer, quick(url, batch_size=1).messages() as messages:
        for steps in range(12):
            waits = asyncio.ensure_future(messages.__anext__())
            await asyncio.sleep(0.005)
            await producer.enqueue({"n": steps})
            for _ in range(steps):
                await asyncio.sleep(0)
            waits.cancel()
            try:
                message = await waits
            except asyncio.CancelledError:
                with anyio.fail_after(5):
                    message = await messages.__anext__()
            async with message:
                pass
            assert message.payload["n"] == steps
