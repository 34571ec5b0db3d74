"""A server that answers, and cannot do what it is asked for a while: producers and consumers wait for it, and nothing ends."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import hiredis
import pytest

from redisaq import Consumer, Message, Producer
from redisaq.errors import ConnectionFailed, ServerError
from tests.servers import Server

pytestmark = pytest.mark.anyio


@contextmanager
def busy(server: Server) -> Generator[None]:
    """Somebody's script runs and runs."""
    server.command("CONFIG", "SET", "busy-reply-threshold", 10)

    def run() -> None:
        with suppress(Exception):  # it is killed
            server.command("EVAL", "while true do end", 0)

    thread = threading.Thread(target=run)
    thread.start()
    with suppress(hiredis.HiredisError):  # then it is busy
        while True:
            server.command("GET", "anything")
    try:
        yield
    finally:
        server.command("SCRIPT", "KILL")
        thread.join()


@contextmanager
def demoted(server: Server) -> Generator[None]:
    """It is a replica, of a primary that cannot be reached."""
    server.command("REPLICAOF", "127.0.0.1", 1)
    try:
        yield
    finally:
        server.command("REPLICAOF", "NO", "ONE")


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)


@pytest.mark.parametrize("state", [busy, demoted])
async def test_it_is_waited_for(breakable_server: Server, namespace: str, state: Any) -> None:
    got: Counter[int] = Counter()

    async def handle(message: Message[Any]) -> None:
        got[message.payload["n"]] += 1

    url = breakable_server.url
    consumer = Consumer("jobs", url, namespace=namespace, heartbeat_interval=0.2, heartbeat_ttl=2.0)
    async with Producer("jobs", url, namespace=namespace, init_partitions=2) as producer, anyio.create_task_group() as tasks:
        await producer.enqueue({"n": 0})
        await tasks.start(consumer.process, handle)
        await until(lambda: got[0] > 0)
        with state(breakable_server):
            for n in range(1, 4):
                tasks.start_soon(producer.enqueue, {"n": n})
            await anyio.sleep(0.5)
            assert producer.statistics().sent == 1
        await until(lambda: set(got) == set(range(4)))
        await consumer.stop()
        assert producer.statistics().sent == 4
    streams = [f"{{{namespace}:jobs:{partition}}}:0" for partition in range(2)]
    assert sum(breakable_server.command("XLEN", stream) for stream in streams) == 4, "each was enqueued once"


async def test_a_producer_gives_up_in_time_and_says_why(breakable_server: Server, namespace: str) -> None:
    async with Producer("jobs", breakable_server.url, namespace=namespace, send_timeout=0.5) as producer:
        await producer.enqueue({"n": 0})
        began = anyio.current_time()
        with demoted(breakable_server), pytest.raises(ConnectionFailed, match="READONLY"):
            await producer.enqueue({"n": 1})
        assert anyio.current_time() - began < 15.0, "the default is 30 s"
        await producer.enqueue({"n": 2})


async def test_what_does_not_pass_is_raised_at_once(breakable_server: Server, namespace: str) -> None:
    async with Producer("jobs", breakable_server.url, namespace=namespace, init_partitions=1) as producer:
        await producer.enqueue({"n": 0})
        breakable_server.command("SET", f"{{{namespace}:jobs:0}}:0", "no stream")
        with pytest.raises(ServerError, match="WRONGTYPE"):
            await producer.enqueue({"n": 1})
