"""streaq's program: see `__main__.py` beside it. `python streaq_job.py URL JOBS`."""

from __future__ import annotations

import json
import sys
import time

import anyio
from streaq import Worker

BEGINS: list[float] = []
worker = Worker(redis_url=sys.argv[1], concurrency=100, handle_signals=False)


@worker.task(silent=True)
async def job(_: int) -> None:
    """Do nothing."""
    BEGINS.append(time.perf_counter())


async def main(jobs: int) -> None:
    """Enqueue the jobs and handle them; print the seconds."""

    async def sender(share: range) -> None:
        for n in share:
            await job.enqueue(n)

    async with worker:
        began = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for first in range(100):
                tasks.start_soon(sender, range(first, jobs, 100))
        enqueue = time.perf_counter() - began
    worker.burst = True
    await worker.run_async()
    assert len(BEGINS) == jobs
    print(json.dumps({"enqueue": enqueue, "work": BEGINS[-1] - BEGINS[0]}))


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[2]))
