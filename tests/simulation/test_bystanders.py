"""A message that takes its process with it: of the others, none that no handler has begun loses an attempt (T5)."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import pytest

from redisaq import Message, RetryPolicy
from redisaq.testing import Simulation
from tests.simulation.judged import simulate


@pytest.mark.parametrize("mode", ["process", "process_batch", "messages"])
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_no_bystander_of_a_poisonous_message_dies(backend: Literal["trio", "asyncio"], mode: Any) -> None:
    async def scenario(sim: Simulation) -> None:
        began = anyio.Event()
        poisonous = True

        async def handle(messages: list[Message[Any]]) -> None:
            if poisonous:
                began.set()
                await anyio.sleep_forever()

        async def handle_one(message: Message[Any]) -> None:
            await handle([message])

        producer = sim.producer("orders", init_partitions=4)
        await producer.batch_enqueue([{"n": n} for n in range(16)])
        for generation in range(6):
            began = anyio.Event()
            poisonous = generation < 5
            sim.member(
                f"m{generation}",
                "orders",
                handle if mode == "process_batch" else handle_one,
                mode=mode,
                heartbeat_ttl=3.0,
                heartbeat_interval=0.5,
                **({} if mode == "messages" else {"concurrency": 1}),
                retry=RetryPolicy(max_attempts=3),
            )
            if poisonous:
                await began.wait()
                await anyio.sleep(0.5)
                await sim.crash(f"m{generation}")
        await sim.until_quiet()

    report = simulate(scenario, seed=1, backend=backend)
    assert report.ok, report.violations
    first: dict[str, int] = {}
    for delivery in report.deliveries:
        first.setdefault(delivery.msg_id, delivery.attempt)
    assert first == dict.fromkeys(report.produced, 1)
