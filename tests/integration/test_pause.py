"""A paused group: nothing is handed out, leases are kept, what runs goes on; resumed, it goes on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer
from redisaq.admin import Admin
from redisaq.errors import ConsumerError

if TYPE_CHECKING:
    from tests.servers import Server

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "valkey"])
def url(request: pytest.FixtureRequest, namespace: str) -> str:
    if request.param == "memory":
        return f"memory://{namespace}"
    server: Server = request.getfixturevalue("valkey_server")
    return server.url


async def until(condition: Any, seconds: float = 30.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.01)


async def test_pause_and_resume(url: str, namespace: str) -> None:
    got: list[int] = []

    async def handle(message: Message[Any]) -> None:
        got.append(message.payload["n"])

    consumer: Consumer[Any] = Consumer("jobs", url, namespace=namespace, heartbeat_interval=0.2, heartbeat_ttl=20.0)
    async with (
        Producer("jobs", url, namespace=namespace, init_partitions=2) as producer,
        Admin(url, namespace=namespace) as admin,
        anyio.create_task_group() as tasks,
    ):
        await tasks.start(consumer.process, handle)
        await producer.batch_enqueue([{"n": n} for n in range(4)])
        await until(lambda: len(got) == 4)
        kept = dict(consumer.assignment)
        await admin.pause("jobs", "default_group")
        await until(lambda: consumer._runtime is not None and consumer._runtime.around.gate.closed)
        await producer.batch_enqueue([{"n": n} for n in range(4, 8)])
        await anyio.sleep(0.5)
        assert len(got) == 4
        assert dict(consumer.assignment) == kept
        await admin.resume("jobs", "default_group")
        await until(lambda: len(got) == 8)
        assert sorted(got) == list(range(8))
        await consumer.stop()


async def test_until_empty_on_a_paused_group_says_so(url: str, namespace: str) -> None:
    async with Producer("jobs", url, namespace=namespace) as producer, Admin(url, namespace=namespace) as admin:
        await producer.enqueue({"n": 1})

        async def handle(_message: Message[Any]) -> None:
            pass

        await Consumer("jobs", url, namespace=namespace).process(handle, until_empty=True)
        await admin.pause("jobs", "default_group")
        with anyio.fail_after(30), pytest.raises(ConsumerError, match="paused"):
            await Consumer("jobs", url, namespace=namespace).process(handle, until_empty=True)
