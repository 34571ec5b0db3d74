"""`python -m tests.bench.worker`: how much more two processes of `redisaq worker` handle than one, where handlers burn CPU.

Workers with one and with two processes run in turn, round by round, so that what slows the machine down slows both; each round makes one
ratio. A round starts a worker, pauses its group, enqueues, resumes, and takes the time until nothing is left. The exit status is 1 if the
median is below GOAL. It needs two processors that nobody else uses.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import anyio

from redisaq import Admin, Producer
from tests.bench.burning import TURNS, burn
from tests.servers import PROGRAMS, Server, Watchdog

ROOT = Path(__file__).resolve().parents[2]
GOAL = 1.6
BURN = 100e-6  # seconds of CPU in each handler


def calibrated() -> int:
    """Return the turns of the loop that take BURN seconds of CPU."""
    turns = 1_000_000
    best = min(_cpu_of(turns) for _ in range(5))
    return round(turns * BURN / best)


def _cpu_of(turns: int) -> float:
    began = time.process_time()
    burn(turns)
    return time.process_time() - began


async def measure(server: Server, processes: int, messages: int, backend: str, turns: int) -> float:
    """Return the messages per second of a worker with so many processes."""
    server.flush()
    env = {**os.environ, "REDISAQ_URL": server.url, TURNS: str(turns), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "redisaq.cli", "worker", "tests.bench.burning:app", "--processes", str(processes), "--backend", backend]
    worker = await anyio.open_process(words, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        async with Admin(server.url, namespace="bench") as admin, Producer("numbers", server.url, namespace="bench") as producer:
            with anyio.fail_after(120):
                while not await _shared(admin, processes):
                    await anyio.sleep(0.1)
                await admin.pause("numbers", "burners")
                await anyio.sleep(1)  # until every member has noticed
                for first in range(0, messages, 1000):
                    await producer.batch_enqueue(range(first, first + 1000))
                await admin.resume("numbers", "burners")
                began = anyio.current_time()
                while await admin.backlog("numbers", "burners"):
                    await anyio.sleep(0.02)
                return messages / (anyio.current_time() - began)
    finally:
        worker.send_signal(signal.SIGTERM)
        await worker.wait()


async def _shared(admin: Admin, processes: int) -> bool:
    """Return whether every process has its share of the partitions."""
    if "numbers" not in await admin.topics() or "burners" not in (await admin.topic("numbers")).groups:
        return False
    owners = [one.owner for one in (await admin.group("numbers", "burners")).partitions]
    return all(owners) and len(set(owners)) == processes and max(map(owners.count, owners)) == len(owners) // processes


def main() -> int:
    """Measure, and print each round."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.worker", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--backend", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    options = parser.parse_args()
    watchdog = Watchdog()
    server = Server("valkey9", PROGRAMS["valkey9"](), watchdog)
    server.start()
    turns, ratios = calibrated(), list[float]()
    try:
        for number in range(options.rounds):
            one, two = (anyio.run(measure, server, n, options.messages, options.backend, turns) for n in (1, 2))
            ratios.append(two / one)
            print(f"round {number + 1}: one process {one:,.0f}/s, two {two:,.0f}/s, ratio {ratios[-1]:.2f}", flush=True)
    finally:
        server.close()
        watchdog.close()
    median = statistics.median(ratios)
    print(f"{options.backend}: median {median:.2f} (goal {GOAL})")
    return 0 if median >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
