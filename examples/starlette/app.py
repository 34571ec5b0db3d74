"""One Starlette application with an App and its page: a route enqueues, a consumer works, /queue/ shows what goes on.

Run it with `python examples/starlette/app.py`: it brings a server of its own. With REDISAQ_URL in the environment it uses that one. It runs
on trio; BACKEND=asyncio takes the other event loop.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anycorn
import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from redisaq import App, Message, dashboard


@dataclass
class Job:
    """What is submitted."""

    text: str
    seconds: float = 0.1


def create_app(redis_url: str) -> Starlette:
    """Return the application."""
    queue = App(redis_url, name="example")
    jobs = queue.topic("jobs", Job, partitions=4)
    page = dashboard.app(redis_url)

    @jobs.consumer("web", drain_timeout=10.0)
    async def work(message: Message[Job]) -> None:
        await anyio.sleep(message.payload.seconds)
        print(f"done: {message.payload.text}", flush=True)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with page.router.lifespan_context(page), queue, anyio.create_task_group() as tasks:
            await tasks.start(queue.serve)  # returns when the consumer has its partitions
            yield
            await queue.stop()  # jobs that run may finish, for at most drain_timeout; the others go to the next process

    async def submit(request: Request) -> JSONResponse:
        try:
            job = Job(**await request.json())
            return JSONResponse({"id": await jobs.enqueue(job)}, status_code=202)
        except (TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, status_code=422)

    async def look(request: Request) -> JSONResponse:
        found = await queue.admin.find("jobs", request.path_params["job_id"], limit=10_000)
        if not found.found:
            return JSONResponse({"error": "no such job, or it was trimmed"}, status_code=404)
        return JSONResponse({"state": found.groups["web"].state})

    async def health(_: Request) -> JSONResponse:
        healthy = queue.healthy()
        return JSONResponse({"healthy": healthy}, status_code=200 if healthy else 503)

    return Starlette(
        routes=[
            Route("/jobs", submit, methods=["POST"]),
            Route("/jobs/{job_id}", look),
            Route("/health", health),
            Mount("/queue", page),
        ],
        lifespan=lifespan,
    )


async def main() -> None:
    """Serve the application until SIGTERM or SIGINT."""
    config = anycorn.Config()
    config.bind = [f"127.0.0.1:{os.environ.get('PORT', '8000')}"]
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:

        async def stopped() -> None:
            await anext(signals)

        await anycorn.serve(create_app(os.environ.get("REDISAQ_URL", "embedded://")), config, shutdown_trigger=stopped)  # type: ignore[arg-type]


if __name__ == "__main__":
    anyio.run(main, backend=os.environ.get("BACKEND", "trio"))
