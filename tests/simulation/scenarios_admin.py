"""Scenarios in which an admin moves, pauses and deletes a group whose members crash, with calls that break."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio

from redisaq import Admin, Message, RetryPolicy
from redisaq.errors import TopicMissingError
from redisaq.testing import Simulation
from tests.simulation.scenarios import FAULTS, fill, insistently, scenario

BUSY = replace(FAULTS, crash=0.03, pause=0.02, outage=0.0, silent_server=0.0)


async def paused(admin: Admin) -> None:
    """Pause the group as soon as it exists: its members may all be away when the first message comes."""
    while True:
        try:
            return await admin.pause("orders", "default_group")
        except TopicMissingError:
            await anyio.sleep(0.5)


@scenario("an admin pauses a group, moves it back or forward, and lets it go on, while members crash and handlers fail", BUSY)
async def moved(sim: Simulation) -> None:
    producer = sim.producer("orders", init_partitions=4)

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(0.3)
        if message.payload["n"] % 5 == 0 and message.attempt == 1:
            raise ValueError("the first time")

    retry = RetryPolicy(max_attempts=30, backoff=0.5, max_backoff=2.0)
    for name in "abc":
        sim.member(name, "orders", handle, ordering="key", concurrency=3, retry=retry, heartbeat_interval=0.5, heartbeat_ttl=2.5)
    ids, moved_at = list[str](), 0.0
    async with sim.admin() as admin:
        for to in ("earliest", "latest", "earliest"):
            ids = await fill(producer, 20, every=0.3, keys=6)
            await insistently(lambda: paused(admin))
            await insistently(lambda to=to: admin.seek("orders", "default_group", to))  # type: ignore[misc]
            moved_at = anyio.current_time()
            await insistently(lambda: admin.resume("orders", "default_group"))
        await sim.until_quiet(timeout=600)
    again = {run.message.msg_id for run in sim.record.runs if run.started >= moved_at}
    assert set(ids) <= again, "what stands after the position is delivered once more"
