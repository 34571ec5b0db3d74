"""arq's program: see `__main__.py` beside it. `python arq_job.py URL JOBS`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from arq.connections import RedisSettings, create_pool
from arq.worker import Worker

BEGINS: list[float] = []


async def job(_: dict[Any, Any], __: int) -> None:
    """Do nothing."""
    BEGINS.append(time.perf_counter())


async def main(url: str, jobs: int) -> None:
    """Enqueue the jobs and handle them; print the seconds."""
    settings = RedisSettings.from_dsn(url)
    pool = await create_pool(settings)

    async def sender(share: range) -> None:
        for n in share:
            await pool.enqueue_job("job", n)

    began = time.perf_counter()
    await asyncio.gather(*(sender(range(first, jobs, 100)) for first in range(100)))
    enqueue = time.perf_counter() - began
    worker = Worker([job], redis_settings=settings, burst=True, max_jobs=100, handle_signals=False, log_results=False)
    await worker.main()
    await worker.close()
    assert len(BEGINS) == jobs
    print(json.dumps({"enqueue": enqueue, "work": BEGINS[-1] - BEGINS[0]}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
