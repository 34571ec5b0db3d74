"""A thousand messages of fifty keys, every seventh always failing: order per key holds, the sevenths are dead, the rest done, once each.

In memory in virtual time, and on real servers, with one member and with partitions that move between three. Within a key, with blocking
retries, all deliveries come in order, those that are tried again included; with parked ones the first deliveries do, and others go on.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any, Literal

import anyio
import pytest

from redisaq import Admin, Consumer, Message, Producer, RetryPolicy
from redisaq.testing import virtual_run
from tests.servers import Server

COUNT, KEYS, ATTEMPTS, PARTITIONS = 1000, 50, 3, 3
SEVENTHS = set(range(0, COUNT, 7))

_numbers = itertools.count()


async def work_and_judge(url: str, namespace: str, *, blocking: bool, members: int) -> None:
    """Produce, consume with so many members until nothing is left, and say whether all is as it must be."""
    delivered: dict[str, list[tuple[int, int]]] = defaultdict(list)
    running: set[str] = set()
    at_once: list[str] = []
    done: list[int] = []

    async def handle(message: Message[Any]) -> None:
        key, n = str(message.key), message.payload["n"]
        if key in running:
            at_once.append(key)
        running.add(key)
        delivered[key].append((n, message.attempt))
        await anyio.sleep(0.001)
        running.discard(key)
        if n in SEVENTHS:
            raise ValueError("always")
        done.append(n)

    async with Producer("jobs", url, namespace=namespace, init_partitions=PARTITIONS) as producer:
        for begin in range(0, COUNT, KEYS):
            await producer.batch_enqueue([{"n": n, "k": f"k{n % KEYS}"} for n in range(begin, begin + KEYS)], partition_key="k")

    def consumer() -> Consumer[Any]:
        policy = RetryPolicy(max_attempts=ATTEMPTS, backoff=0.005, blocking=blocking)
        more: dict[str, Any] = {"namespace": namespace, "heartbeat_interval": 0.5, "heartbeat_ttl": 5.0}
        return Consumer("jobs", url, ordering="key", concurrency=20, retry=policy, **more)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(members):
                tasks.start_soon(lambda: consumer().process(handle, until_empty=True))

    assert at_once == []
    assert sorted(done) == sorted(set(range(COUNT)) - SEVENTHS)
    async with Admin(url, namespace=namespace) as admin:
        dead = [letter.payload["n"] async for letter in admin.dead_letters("jobs", "default_group")]
    assert sorted(dead) == sorted(SEVENTHS)
    assert len(delivered) == KEYS
    for key, got in delivered.items():
        mine = [n for n in range(COUNT) if f"k{n % KEYS}" == key]
        assert [n for n, attempt in got if attempt == 1] == mine
        tries = [(n, attempt) for n in mine for attempt in range(1, 1 + (ATTEMPTS if n in SEVENTHS else 1))]
        if blocking:
            assert got == tries
        else:
            assert sorted(got) == tries


@pytest.mark.backends_take_turns
@pytest.mark.parametrize("blocking", [False, True], ids=["parked", "blocking"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("members", [1, 3])
def test_in_memory(backend: Literal["asyncio", "trio"], members: int, blocking: bool) -> None:
    async def main() -> None:
        await work_and_judge(f"memory://seventh{next(_numbers)}", "redisaq", blocking=blocking, members=members)

    virtual_run(main, seed=members, backend=backend)


@pytest.mark.anyio
@pytest.mark.parametrize("blocking", [False, True], ids=["parked", "blocking"])
@pytest.mark.parametrize("members", [1, 3])
async def test_on_a_server(server: Server, namespace: str, blocking: bool, members: int) -> None:
    await work_and_judge(server.url, namespace, blocking=blocking, members=members)
