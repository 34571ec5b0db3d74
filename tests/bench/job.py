"""One measurement in a process of its own: `python -m tests.bench.job '{"case": …}'`.

Output: its rate as JSON (see cases.Rate), alone on one line. `redisaq` is whatever stands first on the path: the job checks that it is the
one meant, so that no measurement is of the wrong commit.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import msgspec

import redisaq
from tests.bench import cases
from tests.bench.backends import BACKENDS
from tests.bench.cases import Bench, Rate

JOBS: dict[str, Callable[[Bench], Awaitable[Rate]]] = {
    "batch_enqueue of 100": cases.batch_enqueue,
    "enqueue, one task": cases.enqueue_from_one,
    "enqueue, 100 tasks": cases.enqueue_from_many,
    "process_batch": cases.process_batch,
    "process": cases.process,
    "process, key, 100 at once": cases.process_key,
}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure, and of which package: the directory that holds it."""

    case: str
    backend: str
    package: str
    path: str
    messages: int
    partitions: int = 1


def main() -> None:
    """Measure."""
    job = msgspec.json.decode(sys.argv[1], type=Job)
    place = Path(redisaq.__file__).resolve().parents[1]
    assert place == Path(job.package).resolve(), f"this is the redisaq of {place}"
    found = anyio.run(JOBS[job.case], Bench(job.path, job.messages, job.partitions), **BACKENDS[job.backend])
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
