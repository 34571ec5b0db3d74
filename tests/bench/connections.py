"""How many connections a consumer has at the server, by its number of partitions, and what they cost there.

`python -m tests.bench.connections [partitions ...]` starts a Valkey and prints a table: connections by kind, seconds until all partitions
were owned, memory of the connections at the server, commands a second while nothing is sent, and the consumer's own CPU time for that.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter

import anyio

from redisaq import Consumer, Message
from tests.servers import PROGRAMS, Server, Watchdog

SIZES = (1, 10, 100, 1000)
IDLE = 10.0


def kinds(server: Server) -> Counter[str]:
    """Return the consumer's connections by kind, by the last command of each."""
    found: Counter[str] = Counter()
    for line in server.command("CLIENT", "LIST").decode().splitlines():
        fields = dict(word.partition("=")[::2] for word in line.split(" "))
        if fields["name"].startswith("redisaq"):
            found["listening" if fields.get("ssub", "0") != "0" else "reading" if fields["cmd"] == "xreadgroup" else "shared"] += 1
    return found


def figure(server: Server, section: str, name: str) -> int:
    """Return a number that the server says of itself."""
    return int(server.command("INFO", section).decode().partition(f"{name}:")[2].partition("\r")[0])


async def measure(server: Server, partitions: int) -> str:
    """Return one row."""
    consumer = Consumer("jobs", server.url, namespace=f"c{partitions}", init_partitions=partitions)
    before = figure(server, "memory", "mem_clients_normal")

    async def handle(_: Message[object]) -> None:
        """Nothing is sent."""

    async with anyio.create_task_group() as tasks:
        began = time.monotonic()
        tasks.start_soon(consumer.process, handle)
        while len(consumer.assignment) < partitions:
            await anyio.sleep(0.01)
        took = time.monotonic() - began
        await anyio.sleep(2.0)
        found, memory = kinds(server), figure(server, "memory", "mem_clients_normal") - before
        commands, cpu = figure(server, "stats", "total_commands_processed"), resource.getrusage(resource.RUSAGE_SELF)
        await anyio.sleep(IDLE)
        commands = figure(server, "stats", "total_commands_processed") - commands
        after = resource.getrusage(resource.RUSAGE_SELF)
        spent = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
        await consumer.stop()
    await consumer.close()
    cells = (partitions, found["shared"], found["listening"], found["reading"], found.total(), f"{took:.2f} s", f"{memory / 1e6:.1f} MB")
    return "| " + " | ".join(map(str, (*cells, f"{commands / IDLE:.1f}/s", f"{100 * spent / IDLE:.1f} %"))) + " |"


def main(sizes: list[int]) -> None:
    """Print the table."""
    watchdog = Watchdog()
    server = Server("valkey9", PROGRAMS["valkey9"](), watchdog)
    try:
        server.start()
        columns = ("partitions", "shared", "listening", "reading", "all", "owned within", "memory", "commands", "CPU")
        print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        for size in sizes:
            print(anyio.run(measure, server, size), flush=True)
    finally:
        server.close()
        watchdog.close()


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or list(SIZES))
