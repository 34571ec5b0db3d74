"""A process is suspended again while it handles the end of its last suspension."""

from __future__ import annotations

from typing import Literal

import anyio
import pytest

from redisaq import events
from redisaq.consuming.member import Admission
from redisaq.testing import Simulation
from tests.simulation.judged import simulate
from tests.simulation.scenarios import brief


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_partition_whose_loss_is_held_up_is_taken_again(backend: Literal["trio", "asyncio"]) -> None:
    """Its owner's end is reported however long that takes: a partition whose owner's end is not reported is never taken again."""

    async def scenario(sim: Simulation) -> None:
        held_up = 0

        def hold_up(event: events.Event) -> None:
            nonlocal held_up
            if isinstance(event, events.LeaseLost) and held_up < 4:
                held_up += 1
                sim._pause(sim._named("a"), 5.0)  # pyright: ignore[reportPrivateUsage] -- before the next step, not soon after

        producer = sim.producer("orders", init_partitions=4)
        await producer.batch_enqueue([{"n": n} for n in range(8)])
        sim.member("a", "orders", brief, heartbeat_interval=0.5, heartbeat_ttl=3.0, on_event=hold_up)
        await anyio.sleep(2.0)
        await sim.pause("a", seconds=10)
        await producer.batch_enqueue([{"n": n} for n in range(8)])
        await sim.until_quiet(timeout=100)
        assert held_up == 4

    report = simulate(scenario, seed=1, backend=backend)
    assert report.ok, report.violations


@pytest.mark.parametrize("leaves", [True, False])
def test_what_the_last_member_leaves_behind_is_excused_only_if_its_lease_ran_out(leaves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """M5: it must not settle or leave under a lease that may have ended, and nobody is there to drop it."""
    told: list[str] = []

    async def stays(_: Admission) -> bool:
        return True

    if not leaves:
        monkeypatch.setattr(Admission, "leave", stays)

    def note(event: events.Event) -> None:
        if isinstance(event, events.LeaseLost):
            told.append(event.reason)

    async def scenario(sim: Simulation) -> None:
        await sim.producer("orders", init_partitions=2).enqueue({})
        sim.member("a", "orders", brief, heartbeat_interval=0.5, heartbeat_ttl=3.0, on_event=note)
        await sim.until_quiet()
        if leaves:
            sim._pause(sim._named("a"), 2.7)  # pyright: ignore[reportPrivateUsage] -- it wakes after its deadline, before it expires
            await anyio.sleep(2.7)
        await sim.leave("a")

    report = simulate(scenario, seed=1, backend="trio")
    assert told == (["the lease ran out"] * 2 if leaves else [])
    assert report.ok is leaves
    assert leaves or "left, and is in the document" in report.violations[0]
