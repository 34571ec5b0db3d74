"""One object belongs to one event loop at a time: another thread's call gets an error at once, and nobody hangs.

Plain handlers run in worker threads.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

import redisaq
from redisaq import Admin, Consumer, Message, Producer
from redisaq.errors import RedisaqError, SettingsError, WrongThreadError
from tests.actors.group import Notebook, fresh_url, produce
from tests.servers import Server

pytestmark = pytest.mark.anyio

Backend = tuple[str, dict[str, Any]]
LIMIT = 20


class Elsewhere:
    """Runs coroutine functions in an event loop of another thread's."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def __call__(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what it returns, or the error of redisaq's that it raises."""

        def run() -> Any:
            try:
                return anyio.run(work, backend=self._backend[0], backend_options=self._backend[1])
            except RedisaqError as error:
                return error
            except BaseExceptionGroup as group:  # of a block of messages()
                return group.exceptions[0]

        return await anyio.to_thread.run_sync(run)


@pytest.fixture
def elsewhere(anyio_backend: Backend) -> Elsewhere:
    return Elsewhere(anyio_backend)


def check_refused(error: object, name: str) -> None:
    """The error says what to do instead."""
    assert isinstance(error, WrongThreadError), error
    assert isinstance(error, RuntimeError)
    assert "anyio.from_thread.run" in str(error)
    assert f"make a {name} for each thread" in str(error)


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "redis"])
async def test_a_producer_in_use_is_refused_to_other_threads(
    memory: bool, elsewhere: Elsewhere, valkey_server: Server, namespace: str
) -> None:
    """Its owner goes on, and its thread may call it as often as it wants; free again, anybody may have it."""
    url = fresh_url() if memory else valkey_server.url
    producer = Producer("jobs", url, namespace=namespace, max_backlog=1, send_timeout=LIMIT)
    with anyio.fail_after(LIMIT):
        await producer.enqueue(1)
        ids: list[str] = []

        async def wait_for_room() -> None:
            ids.append(await producer.enqueue(2))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_room)
            await anyio.wait_all_tasks_blocked()
            calls: list[Callable[[], Awaitable[Any]]] = [
                lambda: producer.enqueue(3),
                lambda: producer.enqueue(3, delay=60),
                lambda: producer.batch_enqueue([3]),
                lambda: producer.request_partition_increase(2),
                producer.connect,
                producer.close,
            ]
            for call in calls:
                check_refused(await elsewhere(call), "Producer")
            await producer.connect()
            assert producer.statistics().waiting == 1
            await Consumer[Any]("jobs", url, namespace=namespace).process(lambda _: None, until_empty=True)
        assert len(ids) == 1
        if not memory:  # where each event loop has a store of its own
            await Consumer[Any]("jobs", url, namespace=namespace).process(lambda _: None, until_empty=True)
        assert isinstance(await elsewhere(lambda: producer.enqueue(4)), str)
    await producer.close()


async def test_threads_that_share_a_producer_do_not_hang(anyio_backend: Backend, valkey_server: Server, namespace: str) -> None:
    """What is not refused is there, once; a call made through the owner's loop is never refused."""
    producer = Producer("jobs", valkey_server.url, namespace=namespace, send_timeout=LIMIT)
    sent: list[str] = []
    wrong: list[BaseException] = []
    start = threading.Barrier(4)

    async def send() -> None:
        start.wait()
        for number in range(100):
            try:
                sent.append(await producer.enqueue(number))
            except WrongThreadError:
                await anyio.lowlevel.checkpoint()

    def run() -> None:
        try:
            anyio.run(send, backend=anyio_backend[0], backend_options=anyio_backend[1])
        except BaseException as error:  # noqa: BLE001 -- shown below
            wrong.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join, LIMIT)
        assert not thread.is_alive(), "it hangs"
    assert wrong == []
    async with Admin(valkey_server.url, namespace=namespace) as admin:
        assert (await admin.topic("jobs")).partitions[0].length == len(sent) == len(set(sent)) > 0
    await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(producer.enqueue, 1))
    await producer.close()


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "redis"])
async def test_a_consumer_that_runs_is_refused_to_other_threads(
    memory: bool, elsewhere: Elsewhere, valkey_server: Server, namespace: str
) -> None:
    url = fresh_url() if memory else valkey_server.url
    consumer: Consumer[Any] = Consumer("jobs", url, namespace=namespace, init_partitions=1)
    seen: list[Message[Any]] = []

    async def handle(message: Message[Any]) -> None:
        seen.append(message)

    async def pull() -> None:
        async with consumer.messages():
            pass

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, handle)
            for call in (lambda: consumer.process(handle), pull, consumer.connect, consumer.stop, consumer.close):
                check_refused(await elsewhere(call), "Consumer")
            async with Producer("jobs", url, namespace=namespace) as producer:
                await producer.enqueue(1)
            while not seen:
                await anyio.sleep(0.01)
            await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(consumer.stop))


async def test_an_admin_in_use_is_refused_to_other_threads(elsewhere: Elsewhere, breakable_server: Server, namespace: str) -> None:
    """While a call waits for a server that stands still."""
    admin = Admin(breakable_server.url, namespace=namespace)
    with anyio.fail_after(LIMIT):
        await admin.topics()
        async with anyio.create_task_group() as tasks:
            breakable_server.pause()
            tasks.start_soon(admin.topics)
            await anyio.wait_all_tasks_blocked()
            dead = admin.dead_letters("jobs", "billing")
            for call in (admin.topics, lambda: admin.pause("jobs", "billing"), dead.__anext__, admin.close):
                check_refused(await elsewhere(call), "Admin")
            breakable_server.resume()
        assert await elsewhere(admin.topics) == []
    await admin.close()


async def test_run_is_for_the_main_thread(anyio_backend: Backend) -> None:
    """Only that one can receive signals."""

    async def work() -> None:
        raise AssertionError

    name: Any = "trio" if anyio_backend[0] == "trio" else "uvloop" if anyio_backend[1].get("use_uvloop") else "asyncio"
    with pytest.raises(SettingsError, match=r"main thread.*anyio\.run"):
        await anyio.to_thread.run_sync(lambda: redisaq.run(work, backend=name))


def test_what_a_claim_costs() -> None:
    """Nanoseconds: every enqueue pays for it."""
    import timeit

    from redisaq.brokers.access import Access

    access = Access("memory://", "redisaq", user="Producer")

    def claim() -> None:
        access.enter()
        access.leave()

    assert min(timeit.repeat(claim, number=1000, repeat=20)) / 1000 < 2e-6


class _Callable:
    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook

    async def __call__(self, message: Message[Any]) -> None:
        await self._notebook.handle(message)


async def test_any_kind_of_handler() -> None:
    url, notebook = fresh_url(), Notebook()
    ids = await produce(url, 5)
    threads: set[int] = set()

    def plain(message: Message[Any]) -> None:
        threads.add(threading.get_ident())
        notebook.messages.append(message)

    async def with_more(_more: int, message: Message[Any]) -> None:
        await notebook.handle(message)

    handlers: list[Any] = [
        plain,
        lambda message: notebook.handle(message),  # noqa: PLW0108 -- a plain function that returns an awaitable is the point
        functools.partial(with_more, 1),
        functools.partial(plain),
        _Callable(notebook),
    ]
    for number, handler in enumerate(handlers):
        await Consumer("jobs", url, group_name=f"g{number}").process(handler, until_empty=True)
        assert notebook.counts == dict.fromkeys(ids, number + 1)
    assert threading.get_ident() not in threads
