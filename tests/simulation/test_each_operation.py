"""One fault, at each operation of each process of a small group of which a member leaves just then: no message pays for it.

Chance meets most of these places in thousands of runs; here each is visited. CI takes strides; `REDISAQ_STRIDE=1` takes every one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from redisaq import RetryPolicy
from redisaq.testing import Fault, Simulation
from redisaq.testing.faults import Kind
from tests.simulation.judged import simulate
from tests.simulation.variants.variant import BACKENDS, Backend

STRIDE = int(os.environ.get("REDISAQ_STRIDE", "193"))

FAULTS: list[tuple[Kind, float]] = [
    ("lost_request", 0.0),
    ("lost_request", 1.0),
    ("lost_reply", 0.0),
    ("late_request", 0.05),
    ("late_request", 0.4),
    ("late_request", 2.0),
    ("disconnect", 1.0),
]

MODES: dict[str, dict[str, Any]] = {
    "by key, parked": {"ordering": "key", "concurrency": 4},
    "by key, blocking": {"ordering": "key", "concurrency": 4, "blocking": True},
    "one at a time, blocking": {"blocking": True},
    "batches": {"mode": "process_batch"},
    "pulled": {"mode": "messages"},
    "alone": {"ordering": "key", "concurrency": 4, "alone": True},
}


async def fails_now_and_then(message: Any) -> None:
    """Of five messages, one fails at its first attempt, and one fails forever."""
    await anyio.sleep(0.02)
    for one in message if isinstance(message, list) else [message]:
        number = one.payload["n"] % 5
        if number == 2 or (number == 1 and one.attempt == 1):
            raise ValueError("one in five")


def story(*, blocking: bool = False, alone: bool = False, **options: Any) -> Callable[[Simulation], Awaitable[None]]:
    """Two members, of which one leaves when the fault comes, or at the latest while retries wait; and one that joins then.

    If the member that leaves is alone, no member takes over at once, and what it sent may still arrive under its token.
    """

    async def scenario(sim: Simulation) -> None:
        policy = RetryPolicy(max_attempts=3, backoff=0.1, blocking=blocking)
        more = {"retry": policy, "heartbeat_ttl": 3.0, "heartbeat_interval": 0.5, **options}
        producer = sim.producer("orders", init_partitions=2)
        for name in "a" if alone else "ab":
            sim.member(name, "orders", fails_now_and_then, **more)

        async def leave() -> None:
            with anyio.move_on_after(1.05):
                while not sim._source.befallen:
                    await anyio.sleep(0.001)
            await sim.leave("a")
            await anyio.sleep(3.0 * alone)
            sim.member("c", "orders", fails_now_and_then, **more)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
            for n in range(0, 12, 4):
                await producer.batch_enqueue([{"n": n + k} for k in range(4)], partition_key="n")
                await anyio.sleep(0.3)
            await producer.enqueue({"n": 12}, partition_key="n", delay=0.5)
        await producer.batch_enqueue([{"n": 20 + k} for k in range(4)], partition_key="n")
        await sim.until_quiet()

    return scenario


@pytest.mark.backends_take_turns
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
def test_no_message_pays_for_a_fault_at_any_operation(backend: Backend, mode: str) -> None:
    scenario = story(**MODES[mode])
    steps = Counter(line.split()[1] for line in simulate(scenario, seed=1, backend=backend).trace)  # at least as many as operations
    places = [
        Fault(who, number, *fault) for who in ("a", "b", "c", "producer-0") for fault in FAULTS for number in range(1, steps[who] + 1)
    ]
    befallen = 0
    for fault in places[::STRIDE]:
        report = simulate(scenario, seed=1, backend=backend, faults=[fault])
        assert report.ok, f"{fault}: {report.violations}"
        befallen += len(report.faults)
    assert befallen > 0
