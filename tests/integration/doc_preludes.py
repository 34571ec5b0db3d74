"""What the text around a code block speaks of: each function here is one prelude, named in the comment before a block (see doc_blocks.py).

Input: the block's namespace, empty. Output: the same, with names in it, while the block runs. After that a prelude may look whether the
block did what the text says.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx

from redisaq import Consumer, Message, Producer, RetryPolicy
from redisaq.admin import Admin


@contextlib.asynccontextmanager
async def notifications(names: dict[str, Any]) -> AsyncIterator[None]:
    """A topic "notifications" with four messages."""
    async with Producer("notifications", init_partitions=2) as producer:
        await producer.batch_enqueue([{"text": f"hello {n}"} for n in range(4)])
    yield


@contextlib.asynccontextmanager
async def orders(names: dict[str, Any]) -> AsyncIterator[None]:
    """A topic "orders" with twenty messages of five customers, its `producer`, and a `handle` that takes a moment."""

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(0.001)

    async with Producer("orders", init_partitions=3) as producer:
        payloads = [{"number": n, "customer": f"customer-{n % 5}"} for n in range(20)]
        await producer.batch_enqueue(payloads, partition_key="customer")
        names.update(producer=producer, handle=handle)
        yield


@contextlib.asynccontextmanager
async def fastapi(names: dict[str, Any]) -> AsyncIterator[None]:
    """Nothing before; afterwards the block's `app` is started, asked to take a job, and ended."""
    yield
    app = names["app"]
    transport = httpx.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        answer = await client.post("/jobs", json={"text": "hello"})
        assert (answer.status_code, list(answer.json())) == (202, ["id"])
        while names["consumer"].statistics().handled < 1:
            await anyio.sleep(0.01)


@contextlib.asynccontextmanager
async def dashboard(names: dict[str, Any]) -> AsyncIterator[None]:
    """Nothing before; afterwards the block's `outer` shows the page to whom it should."""
    yield
    outer = names["outer"]
    transport = httpx.ASGITransport(app=outer)
    async with outer.router.lifespan_context(outer), httpx.AsyncClient(transport=transport, base_url="http://ops.example") as client:
        assert (await client.get("/queues/")).status_code == 401
        answer = await client.get("/queues/", headers={"x-user": "mara"})
        assert (answer.status_code, "redisaq" in answer.text) == (200, True)


@contextlib.asynccontextmanager
async def failed_orders(names: dict[str, Any]) -> AsyncIterator[None]:
    """A topic "orders" with four messages, the second of which is a dead letter of the group "billing"; an `admin`."""

    async def handle(message: Message[Any]) -> None:
        if message.payload["number"] == 1:
            raise ValueError("no such customer")

    async with Producer("orders") as producer:
        await producer.batch_enqueue([{"number": n} for n in range(4)])
    async with Consumer("orders", group_name="billing", retry=RetryPolicy(max_attempts=1)) as consumer:
        await consumer.process(handle, until_empty=True)
    async with Admin() as admin:
        names.update(admin=admin)
        yield


PRELUDES = {prelude.__name__: prelude for prelude in (notifications, orders, failed_orders, fastapi, dashboard)}
