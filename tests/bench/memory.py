"""`python -m tests.bench.memory`: how much memory of the server a waiting message, an idle partition and a dead letter take.

docs/operate/sizing.md has the figures. They depend on the payloads: random bytes as text, so that nothing looks smaller than it is.
"""

from __future__ import annotations

import logging
import random
import string
from collections.abc import Awaitable, Callable

import anyio

from redisaq import Consumer, DeadLetter, Message, Producer
from tests.servers import PROGRAMS, Server, Watchdog

MESSAGES = 50_000
DEAD = 5_000
PARTITIONS = 1_000
SIZES = (100, 1_000)


def used(server: Server) -> int:
    """Return the bytes of the server's data."""
    lines = server.command("INFO", "memory").decode().splitlines()
    return int(next(line.partition(":")[2] for line in lines if line.startswith("used_memory:")))


def payloads(count: int, size: int) -> list[str]:
    """Return texts of this size."""
    source = random.Random(size)
    return ["".join(source.choices(string.ascii_letters, k=size - 2)) for _ in range(count)]


def measure(server: Server, work: Callable[[], Awaitable[None]], count: int) -> float:
    """Return the bytes that each of `count` things takes which this makes."""
    server.command("FLUSHALL", "SYNC")
    before = used(server)
    anyio.run(work)
    return (used(server) - before) / count


def waiting(url: str, size: int, *, key: bool) -> Callable[[], Awaitable[None]]:
    """Return what enqueues messages of this size."""

    async def work() -> None:
        texts = payloads(MESSAGES, size)
        async with Producer("sizes", url, init_partitions=4) as producer:
            for at in range(0, MESSAGES, 500):
                await producer.batch_enqueue(texts[at : at + 500], key=f"customer-{at}" if key else None)

    return work


def dead(url: str, size: int) -> Callable[[], Awaitable[None]]:
    """Return what makes dead letters, each with a copy of its message in the stream."""
    quiet = logging.getLogger("tests.bench.memory")
    quiet.setLevel(logging.CRITICAL)  # five thousand dead letters are no news here

    async def fail(_: Message[str]) -> None:
        raise DeadLetter("no such customer")

    async def work() -> None:
        async with Producer("sizes", url) as producer, Consumer("sizes", url, ordering="none", concurrency=100, logger=quiet) as consumer:
            await producer.batch_enqueue(payloads(DEAD, size))
            await consumer.process(fail, until_empty=True)

    return work


def idle(url: str) -> Callable[[], Awaitable[None]]:
    """Return what makes a topic of many empty partitions."""

    async def work() -> None:
        async with Producer("sizes", url, init_partitions=PARTITIONS):
            pass

    return work


def main() -> None:
    """Measure, and print a table."""
    watchdog = Watchdog()
    server = Server("valkey9", PROGRAMS["valkey9"](), watchdog)
    server.start()
    try:
        for size in SIZES:
            print(f"a waiting message of {size} bytes: {measure(server, waiting(server.unix_url, size, key=False), MESSAGES):.0f} bytes")
            print(f"the same with a key: {measure(server, waiting(server.unix_url, size, key=True), MESSAGES):.0f} bytes")
            print(f"a dead letter of {size} bytes, beside its message: {measure(server, dead(server.unix_url, size), DEAD):.0f} bytes")
        print(f"an empty partition: {measure(server, idle(server.unix_url), PARTITIONS):.0f} bytes")
    finally:
        server.close()
        watchdog.close()


if __name__ == "__main__":
    main()
