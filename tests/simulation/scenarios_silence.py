"""Scenarios about a server that does not answer, or is not there, for a while: often longer than a lease, or than a producer waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from redisaq import RetryPolicy
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed
from redisaq.testing import FaultPlan, Simulation
from tests.simulation.scenarios import brief, fill, insistently, scenario
from tests.simulation.scenarios_delivery import every_seventh_fails

SILENT = FaultPlan(
    lost_reply=0.005,
    silent_request=0.01,
    silent_reply=0.01,
    silent_network=0.02,
    silent_server=0.002,
    silence=8.0,
    crash=0.005,
    delay=(0.0, 0.05),
)

AWAY = FaultPlan(outage=0.003, away=15.0, silent_server=0.003, silence=15.0, crash=0.005, delay=(0.0, 0.05))


async def however_it_ends(call: Callable[[], Awaitable[Any]]) -> None:
    """Call once; whether it was done may be uncertain."""
    try:
        await call()
    except (ConnectionFailed, AmbiguousEnqueueError):
        await anyio.sleep(0.1)


@scenario("requests, members and the whole server are silent now and then, while an admin and impatient producers ask", SILENT)
async def unanswered(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=4, send_timeout=5.0)
    retry = RetryPolicy(max_attempts=3, backoff=0.1, max_backoff=0.5)
    for name in "abc":
        options: dict[str, Any] = {"ordering": "key", "concurrency": 3, "retry": retry}
        sim.member(name, "orders", every_seventh_fails, heartbeat_interval=1.0, heartbeat_ttl=6.0, **options)
    async with sim.admin() as admin:
        for first in range(0, 60, 5):
            await however_it_ends(lambda first=first: producer.batch_enqueue([{"n": first + more, "key": str(more)} for more in range(5)]))  # type: ignore[misc]
            await however_it_ends(lambda first=first: producer.enqueue({"n": 100 + first}, delay=2.0))  # type: ignore[misc]
            await however_it_ends(lambda first=first: producer.enqueue({"n": 200 + first}, dedup_id=f"once-{first // 10}"))  # type: ignore[misc]
            await anyio.sleep(0.5)
            if first % 20 == 10:
                await insistently(lambda: admin.redrive("orders", "default_group"))
    await sim.until_quiet(timeout=600)


@scenario("a server that is away, or stands still, again and again: often for longer than a lease lasts", AWAY)
async def away(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=4, send_timeout=120.0)
    for name in "ab":
        sim.member(name, "orders", brief, group_name="billing", heartbeat_interval=1.0, heartbeat_ttl=5.0)
    for name in "cd":
        sim.member(name, "orders", brief, group_name="audit", mode="messages", batch_size=5)
    await fill(producer, 30, keys=20)
    await sim.leave("a")
    sim.member("e", "orders", brief, group_name="billing", heartbeat_interval=1.0, heartbeat_ttl=5.0)
    await fill(producer, 20, keys=20)
    await sim.until_quiet(timeout=900)
