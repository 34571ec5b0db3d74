"""The mounted page behind real servers that run on trio as well as asyncio: hypercorn and anycorn."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from redisaq import Consumer, Producer, dashboard

pytest.importorskip("hypercorn")
pytest.importorskip("anycorn")

TOPIC = "orders/ü?"
PLACE = "/queues/t/orders%2F%C3%BC%3F"
OURS = {"sec-fetch-site": "same-origin", "x-redisaq": "1"}

Trigger = Callable[[], Awaitable[None]]


def outer(url: str) -> Starlette:
    """Return a service that has the page at /queues, as docs/operate/dashboard.md says."""
    page = dashboard.app(url, allow_changes=True)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with page.router.lifespan_context(page):
            yield

    return Starlette(routes=[Mount("/queues", page)], lifespan=lifespan)


def hypercorn_on(backend: str, bind: str, app: Starlette) -> Callable[[Trigger], Awaitable[None]]:
    import hypercorn.asyncio
    import hypercorn.trio
    from hypercorn.config import Config

    config = Config()
    config.bind = [bind]
    serve: Any = hypercorn.trio.serve if backend == "trio" else hypercorn.asyncio.serve
    return lambda trigger: serve(app, config, shutdown_trigger=trigger)


def anycorn_on(_backend: str, bind: str, app: Starlette) -> Callable[[Trigger], Awaitable[None]]:
    import anycorn

    config = anycorn.Config()
    config.bind = [bind]
    serve: Any = anycorn.serve
    return lambda trigger: serve(app, config, shutdown_trigger=trigger)


async def look(address: str) -> None:
    """Look at the page as a browser does: its HTML, its files, a change, and the first of its events."""
    async with httpx.AsyncClient(base_url=address, timeout=30) as client:
        while True:
            try:
                if (await client.get("/queues/")).status_code == 200:
                    break
            except httpx.ConnectError:
                await anyio.sleep(0.02)
        assert (await client.get("/queues/static/page.js")).headers["content-security-policy"].startswith("default-src 'none'")
        with anyio.fail_after(30):
            while (shown := await client.get(f"{PLACE}/g/billing")).status_code != 200:  # the sampler has not seen it yet
                await anyio.sleep(0.02)
        assert "orders/ü?" in shown.text
        done = await client.post(f"/queues/api/t/{PLACE.rpartition('/')[2]}/g/billing/pause", json={}, headers=OURS)
        assert (done.status_code, done.json()["text"][:17]) == (200, "billing is paused")
        with anyio.fail_after(30):
            async with client.stream("GET", "/queues/events/?shape=none") as stream:
                assert stream.headers["content-type"].startswith("text/event-stream")
                assert [line async for line in stream.aiter_lines() if line.startswith("event: ")] == ["event: refresh"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("server", [hypercorn_on, anycorn_on], ids=["hypercorn", "anycorn"])
def test_the_mounted_page_is_served(server: Callable[..., Callable[[Trigger], Awaitable[None]]], backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        bind = f"fd://{listener.fileno()}"
        url = f"memory://{server.__name__}-{backend}"

        async def main() -> None:
            async with Producer(TOPIC, url) as producer:
                await producer.enqueue({"number": 1})
            async with Consumer(TOPIC, url, group_name="billing") as consumer, consumer.messages():
                pass  # joined, and left
            async with anyio.create_task_group() as tasks:
                over = anyio.Event()

                async def serve() -> None:
                    await server(backend, bind, outer(url))(over.wait)

                tasks.start_soon(serve)
                await look(f"http://127.0.0.1:{port}")
                over.set()

        anyio.run(main, backend=backend)
        listener.detach()  # the server has closed it
