"""A retry whose attempt is recorded late, after the drain that gave it back, costs the message no attempt (T5)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import Message, RetryPolicy
from redisaq.testing import Simulation
from tests.simulation.judged import simulate
from tests.simulation.variants.crowd import TOPIC, topic, until
from tests.simulation.variants.variant import BACKENDS, Backend
from tests.simulation.variants.wire import Wire


async def fail_first(message: Message[Any]) -> None:
    """Fail at the first attempt."""
    if message.attempt == 1:
        raise ValueError("the first time")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("released", [True, False], ids=["behind the release", "between giving back and the release"])
def test_an_attempt_that_is_noted_late_is_not_used_up(backend: Backend, released: bool) -> None:
    async def scenario(sim: Simulation) -> None:
        wire, policy = Wire(sim), RetryPolicy(max_attempts=5, backoff=0.1)
        producer = await topic(sim, 1)
        sim.member("a", TOPIC, fail_first, retry=policy)
        wire.hold("a", "start_retry", 0.3)
        await producer.enqueue({})
        await until(lambda: bool(wire.befallen))
        if not released:
            wire.lose("a", "release", times=6)
        await sim.leave("a")
        await anyio.sleep(5.0)
        sim.member("b", TOPIC, fail_first, retry=policy)
        await sim.until_quiet()

    for seed in range(5):
        report = simulate(scenario, seed=seed, backend=backend)
        assert report.ok, f"seed {seed}: {report.violations}"
        assert [delivery.attempt for delivery in report.deliveries] == [1, 2], f"seed {seed}"
