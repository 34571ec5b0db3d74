"""redisaq's program: see `__main__.py` beside it. `python redisaq_job.py URL JOBS`."""

from __future__ import annotations

import json
import sys
import time

import anyio

from redisaq import Consumer, Message, Producer


async def main(url: str, jobs: int) -> None:
    """Enqueue the jobs and handle them; print the seconds."""
    begins: list[float] = []

    async def job(_: Message[int]) -> None:
        begins.append(time.perf_counter())

    async with Producer("jobs", url, init_partitions=4) as producer:

        async def sender(share: range) -> None:
            for n in share:
                await producer.enqueue(n)

        began = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for first in range(100):
                tasks.start_soon(sender, range(first, jobs, 100))
        enqueue = time.perf_counter() - began
    async with Consumer("jobs", url, ordering="none", concurrency=100, batch_size=100) as consumer:
        await consumer.process(job, until_empty=True)
        ended = time.perf_counter()
    assert len(begins) == jobs
    print(json.dumps({"enqueue": enqueue, "work": ended - begins[0]}))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
