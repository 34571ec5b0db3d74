"""A child made by fork uses what it inherits as its own: other ids, another connection, another hold on an embedded server.

The parent goes on with its own, whatever the child does: its event loop watches sockets of which the child has copies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from redisaq import Admin, Consumer, Message, Producer, events
from redisaq.embedded import open_embedded
from redisaq.environment import Environment, current_environment, use_environment
from redisaq.errors import RedisaqError
from tests.integration.test_embedded import processes_in, until
from tests.servers import Server

pytestmark = pytest.mark.anyio

Backend = tuple[str, dict[str, Any]]

LIMIT = 30
CHILDREN = 3
EACH = 5


class Child:
    """A process made by fork, which runs one coroutine function in an event loop of its own and ends without any clean-up."""

    def __init__(self, work: Callable[[], Awaitable[Any]], backend: Backend) -> None:
        self._end, other = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads
            self.pid = os.fork()
        if self.pid:
            os.close(other)
            return
        answer: dict[str, Any] = {}
        signal.alarm(LIMIT)  # a child that hangs dies

        def run() -> None:  # in a thread: trio would take this one for a thread in which it runs
            try:
                answer["result"] = anyio.run(work, backend=backend[0], backend_options=backend[1])
            except BaseException:  # noqa: BLE001 -- reported to the parent
                answer["error"] = traceback.format_exc()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        os.write(other, json.dumps(answer).encode())
        os._exit(0)

    async def result(self) -> Any:
        """Return what the work returned."""
        return await anyio.to_thread.run_sync(self._wait)

    def _wait(self) -> Any:
        with os.fdopen(self._end, "rb") as pipe:
            text = pipe.read()
        os.waitpid(self.pid, 0)
        answer = json.loads(text or b'{"error": "it hung, or was killed"}')
        assert "error" not in answer, answer["error"]
        return answer["result"]


@pytest.fixture
def backend(anyio_backend: Backend) -> Backend:
    return anyio_backend


@pytest.fixture(params=["redis", "embedded"])
def url(request: pytest.FixtureRequest, valkey_server: Server, tmp_path: Path) -> Iterator[str]:
    if request.param == "redis":
        yield valkey_server.url
        return
    yield f"embedded://{tmp_path}/data"
    until(lambda: not processes_in(tmp_path / "data"), "a process was left behind")


async def send(producer: Producer) -> list[str]:
    """Send some at once, some later, some under names of their own."""
    ids = [await producer.enqueue(number) for number in range(EACH)]
    ids += await producer.batch_enqueue(range(EACH), delay=3600)
    return [*ids, *[await producer.enqueue(number, dedup_id=os.urandom(8).hex()) for number in range(EACH)]]


@pytest.mark.parametrize("before", ["unused", "open", "closed", "busy"])
async def test_messages_of_forked_producers_are_all_there(before: str, backend: Backend, url: str, namespace: str) -> None:
    """Their ids are all different, and so nobody takes another's message for its own."""
    producer = Producer("jobs", url, namespace=namespace, send_timeout=20, init_partitions=2)
    ids: list[str] = []
    if before != "unused":
        ids += await send(producer)
    if before == "closed":
        await producer.close()

    async def work() -> list[str]:
        return await send(producer)

    async def go_on() -> None:
        ids.extend(await send(producer))

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            if before == "busy":  # calls wait for their answers
                for _ in range(4):
                    tasks.start_soon(go_on)
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
            children = [Child(work, backend) for _ in range(CHILDREN)]
            tasks.start_soon(go_on)  # the parent
            for child in children:
                ids += await child.result()
        assert len(set(ids)) == len(ids)
        async with Admin(url, namespace=namespace) as admin:
            partitions = (await admin.topic("jobs")).partitions
            assert sum(one.length + one.delayed for one in partitions) == len(ids)
    await producer.close()


def test_a_producer_that_was_used_in_an_event_loop_before(backend: Backend, url: str, namespace: str) -> None:
    """As under gunicorn with --preload: the fork is outside of any event loop."""
    producer = Producer("jobs", url, namespace=namespace)

    async def work() -> list[str]:
        return await send(producer)

    ids: list[str] = anyio.run(work, backend=backend[0], backend_options=backend[1])
    children = [Child(work, backend) for _ in range(CHILDREN)]
    for child in children:
        ids += child._wait()

    async def end() -> None:
        ids.extend(await send(producer))
        await producer.close()

    anyio.run(end, backend=backend[0], backend_options=backend[1])
    assert len(set(ids)) == len(ids)


async def test_a_parent_that_consumes_goes_on(backend: Backend, valkey_server: Server, namespace: str) -> None:
    """No connection of its breaks; in the child its run counts as ended, and another may begin."""
    url, seen, told = valkey_server.url, set[str](), list[events.Event]()
    some = anyio.Event()

    async def handle(message: Message[Any]) -> None:
        seen.add(message.msg_id)
        some.set()

    producer = Producer("jobs", url, namespace=namespace, init_partitions=4)
    admin = Admin(url, namespace=namespace)
    consumer: Consumer[Any] = Consumer("jobs", url, namespace=namespace, on_event=told.append)

    async def work() -> list[Any]:
        state, owned = consumer.statistics().state, dict(consumer.assignment)
        await consumer.stop()  # returns: nothing runs here
        ids = await send(producer)
        topics = await admin.topics()
        got: list[str] = []

        async def note(message: Message[Any]) -> None:
            got.append(message.msg_id)

        other = Producer("others", url, namespace=namespace)
        await other.enqueue(1)
        await consumer.close()
        own: Consumer[Any] = Consumer("others", url, namespace=namespace)
        await own.process(note, until_empty=True)
        return [state, owned, ids, topics, len(got)]

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            ids = await send(producer)
            await admin.topics()
            await tasks.start(consumer.process, handle)
            await some.wait()
            before = consumer.assignment
            state, owned, others, topics, got = await Child(work, backend).result()
            assert (state, owned, topics, got) == ("stopped", {}, ["jobs"], 1)
            ids += others + await send(producer)
            while len(seen) < len(ids) * 2 // 3:  # without the delayed ones
                await anyio.sleep(0.01)
            assert await admin.topics() == ["jobs", "others"]
            assert consumer.assignment == before
            tasks.cancel_scope.cancel()
    assert [event for event in told if isinstance(event, events.Disconnected | events.Reconnected | events.LeaseLost)] == []
    await producer.close()
    await admin.close()


async def test_a_consumer_that_is_inherited_can_run_in_the_child(backend: Backend, valkey_server: Server, namespace: str) -> None:
    """As another member: the parent's own run is not affected."""
    url = valkey_server.url
    handled: list[str] = []
    consumer: Consumer[Any] = Consumer("jobs", url, namespace=namespace, heartbeat_interval=0.2, heartbeat_ttl=20.0)
    async with Producer("jobs", url, namespace=namespace, init_partitions=4) as producer:

        async def handle(message: Message[Any]) -> None:
            handled.append(message.msg_id)

        async def work() -> list[str]:
            async with anyio.create_task_group() as tasks:
                await tasks.start(consumer.process, handle)
                while len(consumer.assignment) < 2:
                    await anyio.sleep(0.01)
                await consumer.stop()
            return handled

        with anyio.fail_after(LIMIT):
            async with anyio.create_task_group() as tasks:
                await tasks.start(consumer.process, handle)
                child = Child(work, backend)
                await child.result()
                while len(consumer.assignment) < 4:
                    await anyio.sleep(0.01)
                msg_id = await producer.enqueue(1)
                while msg_id not in handled:
                    await anyio.sleep(0.01)
                await consumer.stop()


async def test_a_memory_broker_is_a_copy(backend: Backend, namespace: str) -> None:
    """Each event loop has its own store anyway: a child begins with an empty one."""
    async with Producer("jobs", "memory://fork", namespace=namespace) as producer:
        await producer.enqueue(1)

        async def work() -> int:
            await producer.enqueue(2)
            async with Admin("memory://fork", namespace=namespace) as admin:
                return (await admin.topic("jobs")).partitions[0].length

        assert await Child(work, backend).result() == 1


async def test_seeded_randomness_is_not_repeated(backend: Backend) -> None:
    """Otherwise, a program that passes its own Random gets the same numbers in each child."""
    with use_environment(Environment(random=Random(7))):

        async def draw() -> str:
            return current_environment().new_id()

        context = current_environment()
        drawn = []
        for _ in range(3):

            async def work() -> str:
                return context.new_id()

            drawn.append(await Child(work, backend).result())
        assert len({*drawn, await draw()}) == 4


# -- embedded servers ------------------------------------------------------------------------------------------------------------


def in_use(directory: Path) -> bool:
    """Return True if somebody holds the server."""
    with contextlib.suppress(FileNotFoundError), (directory / "users.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("long", [False, True], ids=["", "through a link"])
async def test_a_child_holds_an_embedded_server_of_its_own(long: bool, backend: Backend, tmp_path: Path) -> None:
    """From its next connection on; until then it holds nothing, and its end takes nothing from the parent."""
    directory = tmp_path / (("x" * 100) if long else "data")
    with anyio.fail_after(LIMIT):
        server = await open_embedded(str(directory))
        reading, writing = os.pipe()

        async def idle() -> None:
            os.close(writing)
            await anyio.to_thread.run_sync(os.read, reading, 1)

        async def join() -> str:
            await server.ensure()
            path = server.socket_path
            await server.close()
            return path

        path = await Child(join, backend).result()
        assert (path != server.socket_path) == long
        assert Path(server.socket_path).exists()
        assert in_use(directory)
        await server.ensure()
        child = Child(idle, backend)
        await server.close()  # though the child lives, that was the last hold
        await anyio.to_thread.run_sync(until, lambda: not processes_in(directory), "the server has not ended")
        os.close(writing)
        os.close(reading)
        await child.result()


async def test_a_parent_may_go_before_its_child(backend: Backend, tmp_path: Path, namespace: str) -> None:
    directory = tmp_path / "data"
    producer = Producer("jobs", f"embedded://{directory}", namespace=namespace)
    with anyio.fail_after(LIMIT):
        await producer.enqueue(1)
        reading, writing = os.pipe()
        told, tell = os.pipe()

        async def outlive() -> int:
            await producer.enqueue(2)
            os.write(tell, b"!")
            await anyio.to_thread.run_sync(os.read, reading, 1)
            await producer.enqueue(3)
            async with Admin(f"embedded://{directory}", namespace=namespace) as admin:
                length = (await admin.topic("jobs")).partitions[0].length
            await producer.close()
            return length

        child = Child(outlive, backend)
        await anyio.to_thread.run_sync(os.read, told, 1)
        await producer.close()
        os.write(writing, b"!")
        assert await child.result() == 3
        for descriptor in (reading, writing, told, tell):
            os.close(descriptor)
        await anyio.to_thread.run_sync(until, lambda: not processes_in(directory), "the server has not ended")


async def test_a_child_of_a_process_with_a_server_of_its_own_meets_it_there(backend: Backend, namespace: str) -> None:
    """`embedded://` is one server for a program, the processes that it forks included."""
    producer = Producer("jobs", "embedded://", namespace=namespace)
    with anyio.fail_after(LIMIT):
        await producer.enqueue(1)

        async def work() -> int:
            try:
                await producer.enqueue(2)
            except RedisaqError as error:
                return repr(error)  # type: ignore[return-value]
            async with Admin("embedded://", namespace=namespace) as admin:
                return (await admin.topic("jobs")).partitions[0].length

        assert await Child(work, backend).result() == 2
    await producer.close()
