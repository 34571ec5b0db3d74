"""What is measured, three ways: bare, redis-py where it has the like, redisaq. Each returns its rate (latency: seconds)."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import anyio

from redisaq import Consumer, Producer
from tests.bench import bare as bare_loop

_numbers = itertools.count()


@dataclass
class Bench:
    """Where one measurement runs."""

    path: str
    messages: int
    partitions: int = 1

    @property
    def url(self) -> str:
        """The server's URL."""
        return f"unix://{self.path}"

    def topic(self) -> str:
        """Return a topic of its own."""
        return f"t{next(_numbers)}"


class Rate(NamedTuple):
    """How fast it went, in messages.

    Attributes:
        clock: per second.
        cpu: per second of CPU that this process took: hardly less beside others on the same machine.
    """

    clock: float
    cpu: float


class Stopwatch:
    """It runs from when it is made."""

    def __init__(self) -> None:
        self._clock = time.perf_counter()
        self._cpu = time.process_time()

    def rate(self, count: int) -> Rate:
        """Return the rate of so many messages until now."""
        return Rate(count / (time.perf_counter() - self._clock), count / (time.process_time() - self._cpu))


async def _bare(bench: Bench, kind: str, work: Callable[[bare_loop.Bare, str], Awaitable[int]]) -> Rate:
    topic = bench.topic()
    async with Producer(topic, bench.url, namespace="bench", init_partitions=bench.partitions):
        pass
    connection = await bare_loop.BARE[kind](bench.path)
    try:
        watch = Stopwatch()
        return watch.rate(await work(connection, topic))
    finally:
        await connection.close()


async def bare_append(bench: Bench, kind: str, *, size: int) -> Rate:
    """Append, one connection, `size` in a round trip."""

    async def work(connection: bare_loop.Bare, topic: str) -> int:
        await bare_loop.append(connection, f"{{bench:{topic}:0}}:0", bench.messages, size)
        return bench.messages

    return await _bare(bench, kind, work)


async def bare_consume(bench: Bench, kind: str) -> Rate:
    """Read and acknowledge a filled topic."""
    topic = await filled(bench)
    keys = [f"{{bench:{topic}:{p}}}:0" for p in range(bench.partitions)]
    connection = await bare_loop.BARE[kind](bench.path)
    try:
        for key in keys:
            await connection.call(bare_loop.pack(("XGROUP", "CREATE", key, "bare", "0")), 1)
        watch = Stopwatch()
        count = await bare_loop.consume(connection, keys, "bare", 100)
        found = watch.rate(count)
    finally:
        await connection.close()
    assert count == bench.messages
    return found


async def filled(bench: Bench) -> str:
    """Return a topic with all messages in it."""
    topic = bench.topic()
    async with Producer(topic, bench.url, namespace="bench", init_partitions=bench.partitions) as producer:
        for begin in range(0, bench.messages, 1000):
            await producer.batch_enqueue([{"n": n} for n in range(begin, min(begin + 1000, bench.messages))], partition_key="n")
    return topic


# -- producing ---------------------------------------------------------------------------------------------------------------------


async def batch_enqueue(bench: Bench) -> Rate:
    """batch_enqueue of 100."""
    payloads = [{"n": n} for n in range(100)]
    async with Producer(bench.topic(), bench.url, namespace="bench") as producer:
        watch = Stopwatch()
        for _ in range(bench.messages // 100):
            await producer.batch_enqueue(payloads)
        return watch.rate(bench.messages)


async def enqueue_from_one(bench: Bench) -> Rate:
    """Enqueue from one task."""
    count = bench.messages // 10
    async with Producer(bench.topic(), bench.url, namespace="bench") as producer:
        watch = Stopwatch()
        for n in range(count):
            await producer.enqueue({"n": n})
        return watch.rate(count)


async def enqueue_from_many(bench: Bench) -> Rate:
    """Enqueue from 100 tasks."""
    each = bench.messages // 200
    async with Producer(bench.topic(), bench.url, namespace="bench") as producer:
        return await _by_many(lambda n: producer.enqueue({"n": n}), each)


async def _by_many(send: Callable[[int], Awaitable[Any]], each: int) -> Rate:
    async def sender() -> None:
        for n in range(each):
            await send(n)

    watch = Stopwatch()
    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(sender)
    return watch.rate(100 * each)


async def redis_py_from_many(bench: Bench) -> Rate:
    """The same with redis-py's asyncio client and its pool."""
    from redis.asyncio import BlockingConnectionPool, Redis

    key = f"{{bench:{bench.topic()}:0}}:0"
    pool = BlockingConnectionPool.from_url(bench.url, max_connections=20)
    client = Redis(connection_pool=pool)
    try:
        return await _by_many(lambda n: client.xadd(key, {"i": f"0123456789abcdef-{n:x}", "d": b'{"n":%d}' % n}), bench.messages // 1000)
    finally:
        await client.aclose()
        await pool.disconnect()


async def redis_py_batches(bench: Bench) -> Rate:
    """Pipelines of 100 with redis-py's asyncio client."""
    from redis.asyncio import Redis

    key = f"{{bench:{bench.topic()}:0}}:0"
    client = Redis.from_url(bench.url)
    count = bench.messages // 4
    try:
        watch = Stopwatch()
        for begin in range(0, count, 100):
            pipeline = client.pipeline(transaction=False)
            for n in range(begin, begin + 100):
                pipeline.xadd(key, {"i": f"0123456789abcdef-{n:x}", "d": b'{"n":%d}' % n})
            await pipeline.execute()
        return watch.rate(count)
    finally:
        await client.aclose()


# -- consuming ---------------------------------------------------------------------------------------------------------------------


async def _consume(bench: Bench, how: str, **options: Any) -> Rate:
    topic = await filled(bench)
    consumer: Consumer[Any] = Consumer(topic, bench.url, namespace="bench", batch_size=100, **options)
    left = bench.messages
    done = anyio.Event()

    async def one(_message: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    async def many(messages: list[Any]) -> None:
        nonlocal left
        left -= len(messages)
        if not left:
            done.set()

    run: Any = functools.partial(consumer.process, one) if how == "process" else functools.partial(consumer.process_batch, many)
    await consumer.connect()
    async with anyio.create_task_group() as tasks:
        watch = Stopwatch()
        tasks.start_soon(run)
        await done.wait()
        found = watch.rate(bench.messages)
        await consumer.stop()
    await consumer.close()
    return found


process = functools.partial(_consume, how="process")
process_key = functools.partial(_consume, how="process", ordering="key", concurrency=100)
process_batch = functools.partial(_consume, how="process_batch")


async def latency(bench: Bench) -> tuple[float, float]:
    """Seconds from enqueue to the handler on an idle group: median and 99th percentile."""
    topic = bench.topic()
    arrived: dict[int, float] = {}

    async def handle(message: Any) -> None:
        arrived[message.payload["n"]] = time.perf_counter()

    sent: dict[int, float] = {}
    consumer: Consumer[Any] = Consumer(topic, bench.url, namespace="bench", init_partitions=1)
    async with Producer(topic, bench.url, namespace="bench") as producer, consumer, anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, handle)
        for n in range(200):
            sent[n] = time.perf_counter()
            await producer.enqueue({"n": n})
            while n not in arrived:
                await anyio.sleep(0.001)
            await anyio.sleep(0.002)
        await consumer.stop()
    times = sorted(arrived[n] - sent[n] for n in sent)
    return statistics.median(times), times[int(len(times) * 0.99)]
