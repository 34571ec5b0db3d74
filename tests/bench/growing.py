"""`python -m tests.bench.growing`: how long a growth takes with many entries waiting, and how long it holds up a producer.

Out, for each server: how long the growth took, and the longest call of a producer that sent messages all the time, before and meanwhile.
"""

from __future__ import annotations

import argparse
import time

import anyio

from redisaq import Producer
from tests.servers import PROGRAMS, Server, Watchdog

AT_ONCE = 10_000
"""Messages of one call while the topic is filled."""


async def measure(url: str, messages: int, before: int, after: int) -> tuple[float, float, float]:
    """Fill a topic, and let it grow while a producer sends single messages."""
    times: list[tuple[float, float]] = []
    async with Producer("jobs", url, init_partitions=before, send_timeout=600.0) as producer, Producer("jobs", url) as grower:
        for start in range(0, messages, AT_ONCE):
            await producer.batch_enqueue([{"n": n} for n in range(start, start + AT_ONCE)])
        done = anyio.Event()

        async def send() -> None:
            number = 0
            while not done.is_set():
                number += 1
                began = time.perf_counter()
                await producer.enqueue({"n": number}, key=f"k{number}")
                times.append((began, time.perf_counter() - began))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await anyio.sleep(2.0)
            began = time.perf_counter()
            await grower.request_partition_increase(after)
            took = time.perf_counter() - began
            await anyio.sleep(1.0)
            done.set()
    usual = max(seconds for start, seconds in times if start + seconds < began)
    return took, usual, max(seconds for start, seconds in times if start + seconds >= began)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, nargs=2, default=(8, 64), metavar=("BEFORE", "AFTER"))
    parser.add_argument("--server", choices=sorted(PROGRAMS), action="append")
    options = parser.parse_args()
    watchdog = Watchdog()
    for kind in options.server or sorted(PROGRAMS):
        server = Server(kind, PROGRAMS[kind](), watchdog)
        server.start()
        try:
            took, usual, held_up = anyio.run(measure, server.url, options.messages, *options.partitions)
        finally:
            server.close()
        print(f"{kind}: grown in {took * 1e3:.0f} ms; longest call before {usual * 1e3:.1f} ms, meanwhile {held_up * 1e3:.1f} ms")
    watchdog.close()


if __name__ == "__main__":
    main()
