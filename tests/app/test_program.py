"""An App on a real server: how many connections it has, and how it ends as a program."""

from __future__ import annotations

import signal
import sys
import textwrap
from collections.abc import Iterator

import anyio
import pytest

from redisaq import App, Message
from redisaq.errors import ConnectionFailed
from tests.server_fixtures import ServerPool
from tests.servers import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
def own_server(server_pool: ServerPool) -> Iterator[Server]:
    """Serve nobody else: its connections are counted."""
    server = server_pool.new("valkey9")
    yield server
    server.close()


async def test_an_app_shares_two_links(own_server: Server, namespace: str) -> None:
    app = App(own_server.url, namespace=namespace)
    topics = [app.topic(name, int, partitions=1) for name in ("orders", "mails", "bills")]
    handled = list[int]()
    for topic in topics:

        @topic.consumer("workers")
        async def work(message: Message[int]) -> None:
            handled.append(message.payload)

    def shared() -> int:
        """Count the connections that neither read a partition nor listen to notifications."""
        lines = own_server.command("CLIENT", "LIST").decode().splitlines()
        return sum("name=redisaq" in line and "cmd=xreadgroup" not in line and "cmd=ssubscribe" not in line for line in lines)

    async with app:
        for number, topic in enumerate(topics):
            await topic.enqueue(number)
        await app.admin.topics()
        assert shared() == 1
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            with anyio.fail_after(30):
                while len(handled) < 3 or shared() != 2:  # a connection that has just been opened has not read yet
                    await anyio.sleep(0.01)
            await app.stop()
    with anyio.fail_after(30):
        while b"name=redisaq" in own_server.command("CLIENT", "LIST"):
            await anyio.sleep(0.01)


async def test_an_app_whose_server_does_not_answer_is_not_healthy(own_server: Server, namespace: str) -> None:
    app = App(own_server.url, namespace=namespace)

    @app.topic("orders", int).consumer("billing", heartbeat_interval=0.1, heartbeat_ttl=1.0)
    async def bill(message: Message[int]) -> None:
        pass

    async def until(healthy: bool) -> None:
        with anyio.fail_after(30):
            while app.healthy() != healthy:
                await anyio.sleep(0.01)

    async with anyio.create_task_group() as tasks:
        await tasks.start(app.serve)
        assert app.healthy()
        own_server.pause()
        await until(healthy=False)
        own_server.resume()
        await until(healthy=True)
        await app.stop()


async def test_several_consumers_that_cannot_connect_are_one_error(own_server: Server, namespace: str) -> None:
    app = App(own_server.url, namespace=namespace)
    topic = app.topic("orders", int)
    for group in ("billing", "mail", "archive"):

        @topic.consumer(group)
        async def work(message: Message[int]) -> None:
            pass

    async with app:
        own_server.close()
        with anyio.fail_after(30), pytest.raises(ConnectionFailed):
            await app.serve()


PROGRAM = textwrap.dedent(
    """
    import sys
    import anyio
    import redisaq
    from redisaq import App, Message

    app = App(sys.argv[1], namespace=sys.argv[2])
    orders = app.topic("orders", int)

    @orders.consumer("billing")
    async def bill(message: Message[int]) -> None:
        print("begun", message.payload, flush=True)
        await anyio.sleep(0.3)
        print("done", message.payload, flush=True)

    redisaq.run(app, backend=sys.argv[3])
    print("left", flush=True)
    """
)


async def test_a_program_drains_when_it_is_terminated(server: Server, namespace: str, anyio_backend_name: str) -> None:
    app = App(server.url, namespace=namespace)
    async with app:
        await app.topic("orders", int).enqueue(7)
        words = [sys.executable, "-c", PROGRAM, server.url, namespace, anyio_backend_name]
        async with await anyio.open_process(words) as process:
            assert process.stdout is not None
            said = b""
            with anyio.fail_after(30):
                while b"begun 7" not in said:
                    said += await process.stdout.receive()
                process.send_signal(signal.SIGTERM)
                async for more in process.stdout:
                    said += more
                assert await process.wait() == 0
        assert said.decode().split() == ["begun", "7", "done", "7", "left"]
        assert (await app.admin.group("orders", "billing")).partitions[0].pending == 0
