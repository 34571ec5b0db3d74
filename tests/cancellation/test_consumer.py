"""The user's nursery is cancelled while 100 handlers run: what is finished is settled once, the rest goes to the next consumer."""

from __future__ import annotations

import gc
import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer

if TYPE_CHECKING:
    from tests.servers import Server

pytestmark = pytest.mark.anyio
MESSAGES, CONCURRENCY = 300, 100


@pytest.fixture(params=["memory", "valkey"])
def url(request: pytest.FixtureRequest, namespace: str) -> str:
    if request.param == "memory":
        return f"memory://{namespace}"
    server: Server = request.getfixturevalue("valkey_server")
    return server.url


def sockets() -> int:
    """Return how many sockets this process has open."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            count += str(entry.readlink()).startswith("socket:")
        except OSError:
            continue  # the directory's own
    return count


class Work:
    """Handlers that take a random while, and note who finished."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.finished: Counter[str] = Counter()
        self.running = 0
        self.full = anyio.Event()

    async def handle(self, message: Message[Any]) -> None:
        self.running += 1
        if self.running == CONCURRENCY:
            self.full.set()
        try:
            if message.payload["n"] % 3 == 0:
                await anyio.sleep(self.random.uniform(0.0, 0.05))
            elif self.full.is_set():
                await anyio.sleep(30)
            else:
                await self.full.wait()
                await anyio.sleep(30)
            self.finished[message.msg_id] += 1
        finally:
            self.running -= 1


def consumer_of(url: str, namespace: str) -> Consumer[Any]:
    return Consumer("jobs", url, namespace=namespace, ordering="none", concurrency=CONCURRENCY, batch_size=50)


async def produce(url: str, namespace: str) -> list[str]:
    async with Producer("jobs", url, namespace=namespace, init_partitions=4) as producer:
        return await producer.batch_enqueue([{"n": n} for n in range(MESSAGES)])


async def rest_is_handled_once(url: str, namespace: str, ids: list[str], work: Work) -> None:
    """Finished messages do not come again; the others do, once."""
    again: Counter[str] = Counter()

    async def handle(message: Message[Any]) -> None:
        again[message.msg_id] += 1

    consumer = consumer_of(url, namespace)
    with anyio.fail_after(30):
        await consumer.process(handle, until_empty=True)
    await consumer.close()
    assert set(work.finished.values()) <= {1}
    assert set(again.values()) <= {1}
    assert not work.finished.keys() & again.keys()
    assert work.finished.keys() | again.keys() == set(ids)


@pytest.mark.parametrize("seed", range(3))
async def test_the_nursery_is_cancelled_by_its_scope(url: str, namespace: str, seed: int) -> None:
    ids = await produce(url, namespace)
    work = Work(seed)
    before = sockets()
    consumer = consumer_of(url, namespace)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, work.handle)
            await work.full.wait()
            await anyio.sleep(work.random.uniform(0.0, 0.06))
            tasks.cancel_scope.cancel()
    assert work.running == 0
    assert consumer.statistics().state == "stopped"
    await consumer.close()
    assert sockets() == before
    await rest_is_handled_once(url, namespace, ids, work)


@pytest.mark.parametrize("seed", range(3))
async def test_the_task_is_cancelled_natively_twice(anyio_backend: tuple[str, Any], url: str, namespace: str, seed: int) -> None:
    if anyio_backend[0] != "asyncio":
        pytest.skip("only asyncio has native cancellation")
    import asyncio

    ids = await produce(url, namespace)
    work = Work(seed)
    before = sockets()
    tasks_before = len(asyncio.all_tasks())
    consumer = consumer_of(url, namespace)
    task = asyncio.ensure_future(consumer.process(work.handle))
    with anyio.fail_after(30):
        await work.full.wait()
        await asyncio.sleep(work.random.uniform(0.0, 0.06))
        task.cancel()
        for _ in range(seed):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert work.running == 0
    assert len(asyncio.all_tasks()) == tasks_before
    await consumer.close()
    gc.collect()
    assert sockets() == before
    await rest_is_handled_once(url, namespace, ids, work)
