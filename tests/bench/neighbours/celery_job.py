"""Celery's program: see `__main__.py` beside it. `python celery_job.py URL JOBS`.

Its client is synchronous: one caller. Its worker runs tasks in a pool of 100 threads, in one process, as the others do.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from celery import Celery
from celery.contrib.testing.worker import start_worker

app = Celery("jobs", broker=sys.argv[1])
BEGINS: list[float] = []
finished = threading.Event()
JOBS = int(sys.argv[2])


@app.task(ignore_result=True)
def job(_: int) -> None:
    """Do nothing."""
    BEGINS.append(time.perf_counter())
    if len(BEGINS) == JOBS:
        finished.set()


def main() -> None:
    """Enqueue the jobs and handle them; print the seconds."""
    began = time.perf_counter()
    for n in range(JOBS):
        job.delay(n)
    enqueue = time.perf_counter() - began
    with start_worker(app, pool="threads", concurrency=100, perform_ping_check=False, loglevel="ERROR"):
        assert finished.wait(200)
    print(json.dumps({"enqueue": enqueue, "work": BEGINS[-1] - BEGINS[0]}))


if __name__ == "__main__":
    main()
