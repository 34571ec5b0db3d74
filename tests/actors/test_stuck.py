"""Partitions that are owned and cannot be read, and a server that refuses what a consumer needs. In virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import anyio
import pytest
from msgspec import structs

from redisaq import Consumer, Producer, events
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.administration import SetPaused
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import Document, decode_document
from redisaq.errors import ConnectionFailed, ConsumerError, ServerError, ServerFull
from redisaq.testing import virtual_run
from tests.actors.group import Notebook, fresh_url

Backend = Literal["trio", "asyncio"]
TTL, INTERVAL = 6.0, 1.0

each_backend = pytest.mark.parametrize("backend", ["trio", "asyncio"])


class RefusingBroker(MemoryBroker):
    """Raises what `refuses` gives for a step, instead of doing it."""

    def __init__(self, url: str, refuses: Callable[[str, tuple[Any, ...]], Exception | None]) -> None:
        super().__init__(url.removeprefix("memory://"), "redisaq")
        self.refuses = refuses

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or name in {"store", "refuses", "close", "connect"}:
            return found

        async def call(*args: Any, **more: Any) -> Any:
            await anyio.lowlevel.checkpoint()
            asked, words = name, args
            if name in {"do", "do_each"}:
                step: Step[Any] = args[0] if name == "do" else args[0][0]
                asked, words = step.name, structs.astuple(step)
            if (error := self.refuses(asked, words)) is not None:
                raise error
            return await found(*args, **more)

        return call


def member(url: str, notebook: Notebook, refuses: Callable[[str, tuple[Any, ...]], Exception | None] = lambda *_: None) -> Consumer[Any]:
    consumer = Consumer("jobs", url, heartbeat_interval=INTERVAL, heartbeat_ttl=TTL, on_event=notebook.note)
    consumer._access.broker = RefusingBroker(url, refuses)
    return consumer


def full() -> ServerFull:
    return ServerFull("OOM command not allowed when used memory > 'maxmemory'.")


def too_many() -> ConnectionFailed:
    return ConnectionFailed("redis://x", "the server refused the connection (ERR max number of clients reached)")


def document_of(url: str) -> Document:
    state = MemoryBroker(url.removeprefix("memory://"), "redisaq").store.members(GroupName("jobs", "default_group")).state
    assert state is not None
    return decode_document(state.document)


async def until(done: Callable[[], bool], *, most: float) -> float:
    """Return how many seconds it took until `done`."""
    began = anyio.current_time()
    with anyio.fail_after(most):
        while not done():
            await anyio.sleep(0.05)
    return anyio.current_time() - began


@pytest.mark.backends_take_turns
@pytest.mark.parametrize("step", ["open_reader", "claim", "install", "read"])
@pytest.mark.parametrize("error", [too_many, full], ids=["maxclients", "oom"])
@each_backend
def test_what_one_member_cannot_read_goes_to_another(
    backend: Backend, step: str, error: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = False

    def refuses(name: str, args: tuple[Any, ...]) -> Exception | None:
        return error() if broken and name == step and args[1] in (0, 1) else None

    if step == "read":
        whole = MemoryBroker.open_reader

        async def open_reader(self: MemoryBroker, group: GroupName, partition: int, *args: Any) -> Any:
            reader = await whole(self, group, partition, *args)
            if isinstance(self, RefusingBroker) and self.refuses("read", (group, partition)):

                async def read(*_args: Any) -> None:
                    await anyio.sleep(0.05)
                    raise error()

                monkeypatch.setattr(reader, "read", read, raising=False)
            return reader

        monkeypatch.setattr(MemoryBroker, "open_reader", open_reader)

    async def main() -> None:
        nonlocal broken
        url, ours, theirs = fresh_url(), Notebook(), Notebook()
        a, b = member(url, ours, refuses), member(url, theirs)
        async with Producer("jobs", url, init_partitions=4) as producer, anyio.create_task_group() as tasks:
            await producer.enqueue({"n": 0})
            broken = True
            tasks.start_soon(a.process, ours.handle)
            # Alone, it keeps them, and says so each minute.
            took = await until(lambda: len(ours.of(events.PartitionStuck)) == 2, most=3 * TTL)
            assert took >= TTL
            assert {event.partition for event in ours.of(events.PartitionStuck)} == {0, 1}
            assert "OOM" in ours.of(events.PartitionStuck)[0].reason or "clients" in ours.of(events.PartitionStuck)[0].reason
            await anyio.sleep(61.0)
            assert len(ours.of(events.PartitionStuck)) == 4
            assert set(document_of(url).unable) == {0, 1}
            assert len(ours.of(events.MemberJoined)) == 1
            tasks.start_soon(b.process, theirs.handle)
            await until(lambda: {0, 1} <= b.assignment.keys(), most=TTL)
            assert b.assignment.keys() | a.assignment.keys() >= {0, 1, 2, 3}
            for n in range(8):
                await producer.enqueue({"n": n})
            await until(lambda: {*ours.numbers, *theirs.numbers} == set(range(8)), most=TTL)
            broken = False  # what is forgotten may come back
            await anyio.sleep(310.0)
            assert sorted([*a.assignment, *b.assignment]) == [0, 1, 2, 3]
            assert len(a.assignment) == 2
            await a.stop()
            await b.stop()

    virtual_run(main, backend=backend)


@pytest.mark.parametrize("step", ["heartbeat", "commit", "make_groups"])
@pytest.mark.parametrize("error", [too_many, full], ids=["refused", "oom"])
@each_backend
def test_what_passes_is_reported_and_tried_forever(backend: Backend, step: str, error: Callable[[], Exception]) -> None:
    broken = True

    async def main() -> None:
        nonlocal broken
        url, notebook = fresh_url(), Notebook()
        consumer = member(url, notebook, lambda name, _args: error() if broken and name == step else None)
        async with Producer("jobs", url, init_partitions=1) as producer, anyio.create_task_group() as tasks:
            await producer.enqueue({"n": 0})
            tasks.start_soon(consumer.process, notebook.handle)
            await anyio.sleep(125.0)
            told = notebook.of(events.Disconnected)
            assert len(told) == 3
            assert "OOM" in told[0].reason or "clients" in told[0].reason
            assert consumer.statistics().state == "disconnected"
            broken = False
            await anyio.sleep(3.0)
            assert notebook.numbers == [0]
            assert len(notebook.of(events.Reconnected)) == 1
            await consumer.stop()

    virtual_run(main, backend=backend)


@pytest.mark.parametrize("step", ["heartbeat", "commit", "install", "open_reader", "claim", "due", "settle"])
@pytest.mark.parametrize("text", ["NOPERM this user has no permissions to run it", "WRONGTYPE Operation against a key of another kind"])
@each_backend
def test_what_does_not_pass_ends_the_consumer(backend: Backend, step: str, text: str) -> None:
    async def main() -> None:
        url, notebook = fresh_url(), Notebook()
        consumer = member(url, notebook, lambda name, _args: ServerError(text) if name == step else None)
        async with Producer("jobs", url, init_partitions=1) as producer:
            await producer.enqueue({"n": 0})
        with anyio.fail_after(5.0), pytest.raises(ConsumerError, match=text[:8]):
            await consumer.process(notebook.handle)

    virtual_run(main, backend=backend)


@pytest.mark.parametrize("step", ["heartbeat", "install"])
@each_backend
def test_what_fails_before_the_first_assignment_has_never_started(backend: Backend, step: str) -> None:
    """`nursery.start` raises the error, so that no program goes on as if messages were handled now."""

    async def main() -> None:
        url, notebook = fresh_url(), Notebook()
        consumer = member(url, notebook, lambda name, _args: ServerError("NOPERM for this test") if name == step else None)
        async with Producer("jobs", url, init_partitions=1) as producer:
            await producer.enqueue({"n": 0})
        async with anyio.create_task_group() as tasks:
            with pytest.raises(ConsumerError, match="NOPERM"):
                await tasks.start(consumer.process, notebook.handle)
        with pytest.raises(ConsumerError, match="NOPERM"):
            async with consumer.messages():
                pytest.fail("the block was entered")

    virtual_run(main, backend=backend)


@each_backend
def test_a_slow_handler_or_a_pause_is_no_trouble(backend: Backend) -> None:
    async def main() -> None:
        url, notebook = fresh_url(), Notebook()
        consumer = member(url, notebook)

        async def slow(_message: Any) -> None:
            await anyio.sleep(5 * TTL)

        async with Producer("jobs", url, init_partitions=1) as producer, anyio.create_task_group() as tasks:
            await producer.batch_enqueue([{"n": n} for n in range(100)])
            tasks.start_soon(consumer.process, slow)
            await anyio.sleep(3 * TTL)
            await consumer._access.broker.do(SetPaused(GroupName("jobs", "default_group"), paused=True))
            await anyio.sleep(3 * TTL)
            assert notebook.of(events.PartitionStuck) == []
            await consumer.close()

    virtual_run(main, backend=backend)


def test_what_is_not_to_be_read_for_a_while_is_in_no_trouble_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read breaks just before a pause, and another one after it, longer than a ttl later."""
    pauses = 0

    async def main() -> None:
        url, notebook = fresh_url(), Notebook()
        consumer, group = member(url, notebook), GroupName("jobs", "default_group")
        whole = MemoryBroker.open_reader

        async def open_reader(self: MemoryBroker, *args: Any) -> Any:
            reader = await whole(self, *args)
            read = reader.read

            async def breaks_before_a_pause(*words: Any) -> Any:
                nonlocal pauses
                if pauses == 2:
                    return await read(*words)
                pauses += 1
                assert consumer._runtime is not None
                await self.do(SetPaused(group, paused=True))
                consumer._runtime.around.gate.move(closed=True)
                raise too_many()

            monkeypatch.setattr(reader, "read", breaks_before_a_pause, raising=False)
            return reader

        monkeypatch.setattr(MemoryBroker, "open_reader", open_reader)
        async with Producer("jobs", url, init_partitions=1) as producer, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, notebook.handle)
            for n in range(2):
                await anyio.sleep(3 * TTL)
                assert pauses == n + 1
                await producer.enqueue({"n": n})
                await consumer._access.broker.do(SetPaused(group, paused=False))
            await until(lambda: notebook.numbers == [0, 1], most=TTL)
            await consumer.stop()
        assert notebook.of(events.PartitionStuck) == []

    virtual_run(main, backend="asyncio")
