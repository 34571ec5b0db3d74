"""One FastAPI application that takes jobs in and works on them: a producer for its routes, a consumer beside them, both in its lifespan.

Run it with `python examples/fastapi/app.py`: it brings a server of its own. With REDISAQ_URL in the environment it uses that one, and
then several processes of it share the work.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from fastapi import FastAPI, HTTPException

from redisaq import Consumer, Message, Producer


@dataclass
class Job:
    """What is submitted: FastAPI checks it on the way in, redisaq (`payload_type`) when it comes to the handler."""

    text: str
    seconds: float = 0.1


def create_app(redis_url: str) -> FastAPI:
    """Return the application."""
    producer = Producer("jobs", redis_url, init_partitions=4, maxlen=100_000)
    consumer = Consumer("jobs", redis_url, payload_type=Job, group_name="web", drain_timeout=10.0)
    results: dict[str, str] = {}  # of jobs done in this process; a real application would write to its database

    async def work(message: Message[Job]) -> None:
        await anyio.sleep(message.payload.seconds)
        results[message.msg_id] = message.payload.text.upper()
        print(f"done: {message.payload.text}", flush=True)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with producer, consumer, anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, work)
            yield
            await consumer.stop()  # jobs that run may finish, for at most drain_timeout; the others go to the next process

    app = FastAPI(title="redisaq example", lifespan=lifespan)

    @app.post("/jobs", status_code=202)
    async def submit(job: Job) -> dict[str, str]:
        return {"id": await producer.enqueue(job)}

    @app.get("/jobs/{job_id}")
    async def look(job_id: str) -> dict[str, str]:
        if job_id not in results:
            raise HTTPException(404, "not done here (yet)")
        return {"id": job_id, "result": results[job_id]}

    @app.get("/health")
    async def health() -> dict[str, str | int]:
        statistics = consumer.statistics()
        if statistics.state != "running":  # "disconnected" while the server does not answer
            heard = "never" if statistics.last_heartbeat is None else f"{statistics.last_heartbeat:.0f} s ago"
            raise HTTPException(503, f"the consumer is {statistics.state}; the server last answered {heard}")
        running = sum(partition.in_flight for partition in statistics.partitions)
        return {"state": statistics.state, "partitions": len(statistics.partitions), "running": running, "handled": statistics.handled}

    return app


app = create_app(os.environ.get("REDISAQ_URL", "embedded://"))


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), log_level="warning")
