"""`python -m tests.bench.worker`: how much more two processes of `redisaq worker` handle than one, where handlers burn CPU.

Each round runs a worker with one process, one with two, and one with one again, so that what slows the machine down slows both. It makes
one ratio, of the mean of the two to the one between. The ratio of the first to the last, which are alike (A/A), says how much chance is
in it. A measurement starts a worker, pauses its group, enqueues, resumes, and takes the time until the last handler has ended, as the
children write it down. It also takes the seconds of CPU of children, server, and the rest, which depend little on who else uses the
machine: two processors could not take less than half of their sum. And it says how much two bare loops do here beside each other: a
machine that others use gives less than 2. The exit status is 1 if the median is below GOAL. It needs two processors that nobody else
uses.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from pathlib import Path
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from typing import NamedTuple

import anyio

from redisaq import Admin, Producer
from tests.bench.burning import PLACE, TURNS, burn
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


class Measured(NamedTuple):
    """One run: seconds from the first message to the last, and the seconds of CPU that each part took meanwhile.

    Attributes:
        seconds: how long it took.
        children: the CPU of the children.
        server: the CPU of the server.
        others: the CPU of the worker's parent, and of this process.
    """

    seconds: float
    children: float
    server: float
    others: float

    @property
    def cpu(self) -> float:
        """The CPU of all parts."""
        return self.children + self.server + self.others


async def measure(server: Server, processes: int, messages: int, backend: str, turns: int) -> Measured:
    """Let a worker with so many processes handle so many messages."""
    server.flush()
    with TemporaryDirectory() as place:
        env = {**os.environ, "REDISAQ_URL": server.url, TURNS: str(turns), PLACE: place, "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-m", "redisaq.cli", "worker", "tests.bench.burning:app", "--processes", str(processes)]
        worker = await anyio.open_process([*words, "--backend", backend], env=env, cwd=ROOT, stdout=DEVNULL, stderr=DEVNULL)
        try:
            async with Admin(server.url, namespace="bench") as admin, Producer("numbers", server.url, namespace="bench") as producer:
                with anyio.fail_after(240):
                    while not await _shared(admin, processes):
                        await anyio.sleep(0.1)
                    await admin.pause("numbers", "burners")
                    await anyio.sleep(1)  # until every member has noticed
                    for first in range(0, messages, 1000):
                        await producer.batch_enqueue(range(first, first + 1000))
                    parts = [[int(pid) for pid in _children(worker.pid)], [server.pid], [worker.pid, os.getpid()]]
                    before = [sum(map(_cpu_time, pids)) for pids in parts]
                    await admin.resume("numbers", "burners")
                    began = time.monotonic()
                    while await admin.backlog("numbers", "burners"):
                        await anyio.sleep(0.5)  # asking often would take from what is measured: the children say when they were done
                    spent = [sum(map(_cpu_time, pids)) - one for pids, one in zip(parts, before, strict=True)]
        finally:
            worker.send_signal(signal.SIGTERM)
            await worker.wait()
        ended = max(float(file.read_text()) for file in Path(place).iterdir())
        return Measured(ended - began, *spent)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _cpu_time(pid: int) -> float:
    """Return the seconds of CPU that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _possible(turns: int, messages: int) -> float:
    """Return how much more two processes do here than one where there is nothing but the loop: what the machine gives."""
    program = f"import time; b = time.monotonic()\nfor _ in range({turns * messages}): pass\nprint(time.monotonic() - b)"
    took: list[float] = []

    async def run() -> None:
        took.append(float((await anyio.run_process([sys.executable, "-c", f"def f():\n exec({program!r})\nf()"])).stdout))

    await run()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        tasks.start_soon(run)
    return 2 * took[0] / max(took[1:])


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
    turns, ratios, alike, bounds = calibrated(), list[float](), list[float](), list[float]()
    try:
        for number in range(options.rounds):
            machine = anyio.run(_possible, turns, options.messages // 10)
            one, two, again = (anyio.run(measure, server, n, options.messages, options.backend, turns) for n in (1, 2, 1))
            ratios.append((one.seconds + again.seconds) / 2 / two.seconds)
            alike.append(one.seconds / again.seconds)
            bounds.append(max(one.children, one.cpu / 2) / max(two.children / 2, two.cpu / 2))
            each = ", ".join(f"{what} {getattr(two, what) / options.messages * 1e6:.0f}" for what in ("children", "server", "others"))
            rates = f"one process {options.messages / one.seconds:,.0f}/s, two {options.messages / two.seconds:,.0f}/s"
            said = f"ratio {ratios[-1]:.2f}, A/A {alike[-1]:.2f}; by CPU {bounds[-1]:.2f}, bare loops {machine:.2f}"
            print(f"round {number + 1}: {rates}, {said}")
            print(f"    microseconds of CPU a message with two: {each}; with one: {one.children / options.messages * 1e6:.0f}", flush=True)
    finally:
        server.close()
        watchdog.close()
    median = statistics.median(ratios)
    chance = f"A/A {min(alike):.2f} to {max(alike):.2f}, median {statistics.median(alike):.2f}"
    print(f"{options.backend}: median {median:.2f} (goal {GOAL}), {min(ratios):.2f} to {max(ratios):.2f}; {chance}", end="; ")
    print(f"by CPU {statistics.median(bounds):.2f}")
    return 0 if median >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
