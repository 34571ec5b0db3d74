"""A late answer describes a state that has changed meanwhile."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import Message, RetryPolicy
from redisaq.testing import Simulation
from tests.simulation.judged import simulate
from tests.simulation.playing import play
from tests.simulation.variants.crowd import GROUP, TOPIC, owned, topic, until
from tests.simulation.variants.variant import BACKENDS, Backend
from tests.simulation.variants.wire import Wire


async def due_comes_late(sim: Simulation) -> None:
    """A retry is named as due while it waits for its turn; that is heard of when it has failed once more, and is due much later."""
    wire = Wire(sim)
    producer = await topic(sim, 1)

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(message.payload["seconds"])
        if message.payload["n"] == 0 and message.attempt <= 2:
            raise ValueError("twice")

    sim.member("a", TOPIC, handle, retry=RetryPolicy(backoff=0.1, factor=100.0, jitter=False))
    await until(lambda: owned(sim, "a") == {0})
    await producer.batch_enqueue([{"n": 0, "seconds": 0.01}, {"n": 1, "seconds": 1.0}])
    await until(lambda: bool(sim.store.shelf(GROUP, 0).retry))
    await anyio.sleep(0.5)
    wire.slow("a", 1.0, "due")
    await producer.enqueue({"n": 2, "seconds": 0.01}, delay=0.01)  # rings
    await anyio.sleep(3.0)
    wire.slow("a", 0.0, "due")
    await sim.until_quiet()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_retry_does_not_run_before_its_time(backend: Backend) -> None:
    for seed in range(3):
        report = simulate(due_comes_late, seed=seed, backend=backend)
        assert report.ok, f"seed {seed}: {report.timeline()}"
        first, second, third = (one.started for one in report.deliveries if one.msg_id == report.produced[0])
        assert second - first < 2.0
        assert third - second > 10.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_m5_a_former_incarnation_is_no_member_when_all_have_left(backend: Backend) -> None:
    """Late heartbeats extend the time of an incarnation that its process has given up, until the next one joins."""
    report = play("small", backend, 743)
    assert report.ok, f"{report.violations}\n{report.timeline()}"
