"""An embedded server is killed with its keeper, repeatedly, under a producer and its consumer: they start it again and lose nothing."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer
from tests.integration.test_embedded import processes_in, until

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a server with its keeper")]

MESSAGES, KILLS = 600, 3


async def test_all_is_handled_though_the_server_is_killed(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    url = f"embedded://{directory}"
    sent: list[str] = []
    seen: Counter[str] = Counter()

    async def produce() -> None:
        async with Producer("orders", url, init_partitions=3, send_timeout=30) as producer:
            for n in range(MESSAGES):
                sent.append(await producer.enqueue({"n": n}, partition_key="n"))
                await anyio.sleep(0.001)

    async def handle(message: Message[Any]) -> None:
        seen[message.msg_id] += 1

    async def kill() -> None:
        for number in range(1, KILLS + 1):
            while len(sent) < number * MESSAGES // (KILLS + 1):
                await anyio.sleep(0.001)
            for pid in processes_in(directory):
                os.kill(pid, signal.SIGKILL)

    async def stop_when_done(consumer: Consumer[Any]) -> None:
        while len(sent) < MESSAGES or not seen.keys() >= set(sent):
            await anyio.sleep(0.01)
        await consumer.stop()

    with anyio.fail_after(60):
        async with (
            anyio.create_task_group() as tasks,
            Consumer("orders", url, heartbeat_ttl=3.0, heartbeat_interval=0.5, concurrency=10) as consumer,
        ):
            tasks.start_soon(produce)
            tasks.start_soon(kill)
            tasks.start_soon(stop_when_done, consumer)
            await consumer.process(handle)
    assert seen.keys() == set(sent)
    assert len(sent) == len(set(sent)) == MESSAGES
    until(lambda: not processes_in(directory), "a process was left behind")
