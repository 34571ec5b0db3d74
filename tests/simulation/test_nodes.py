"""A simulated cluster: what a failover of one slot takes, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps.settling import Acknowledge, Settled
from redisaq.core.partitioner import partition_for
from redisaq.errors import SettingsError
from redisaq.testing import Report, Simulation, simulate
from tests.simulation.variants.breaking import Change, Function, taken_out
from tests.simulation.variants.cluster import KEYS, clustered
from tests.simulation.variants.crowd import QUICK, TOPIC, owned, takes, topic, until
from tests.simulation.variants.variant import BACKENDS, Backend

both = pytest.mark.parametrize("backend", BACKENDS)


def losing(slot: int | None) -> Any:
    """Return a scenario: the slot fails over, while messages come into both partitions."""

    async def scenario(sim: Simulation) -> None:
        clustered(sim)
        producer = await topic(sim, 2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sim.failover, 1.0, TOPIC, slot)
            await anyio.sleep(0.5)
            await producer.batch_enqueue([{"key": key} for key in KEYS], partition_key="key")
        sim.member("a", TOPIC, takes(0.01), **QUICK)
        await sim.until_quiet()

    return scenario


def places_of(report: Report) -> list[int]:
    return sorted(one.partition for one in report.deliveries)


@pytest.mark.backends_take_turns
@both
def test_a_partition_loses_its_own_tail_alone(backend: Backend) -> None:
    report = simulate(losing(0), 1, backend)
    assert report.ok, report.violations
    assert len(report.dropped) == 2
    assert places_of(report) == [1, 1]


@pytest.mark.backends_take_turns
@both
def test_the_topics_slot_takes_no_message_with_it(backend: Backend) -> None:
    report = simulate(losing(None), 1, backend)
    assert report.ok, report.violations
    assert report.dropped == []
    assert places_of(report) == [0, 0, 1, 1]


async def one_slot_is_lost(sim: Simulation) -> None:
    """One partition fails over; the owner of both has done all, and crashes."""
    clustered(sim)
    producer = await topic(sim, 2)
    sim.member("a", TOPIC, takes(0.01), **QUICK)
    await until(lambda: owned(sim, "a") == {0, 1})
    await producer.batch_enqueue([{"key": key} for key in KEYS], partition_key="key")
    await anyio.sleep(1.0)
    await sim.failover(0.0, TOPIC, 0, away=0.0)
    await anyio.sleep(1.0)
    await sim.crash("a")
    sim.member("b", TOPIC, takes(0.01), **QUICK)
    await sim.until_quiet()


def acknowledges_nothing(place: int) -> Any:
    """Return a change by which the server only says that it settles what is in a partition."""

    def without(original: Function) -> Function:
        def acknowledge(store: MemoryStore, step: Acknowledge) -> Settled:
            return Settled(done=True, token=step.token) if step.partition == place else original(store, step)

        return acknowledge

    return Change(Acknowledge, "", without)


@pytest.mark.backends_take_turns
@both
def test_what_another_slot_has_lost_excuses_nothing(backend: Backend) -> None:
    with taken_out(acknowledges_nothing(1)):
        report = simulate(one_slot_is_lost, 1, backend)
    assert any("orders/1" in one and "which is done" in one for one in report.violations), report.violations
    assert simulate(one_slot_is_lost, 1, backend).ok


def test_the_keys_belong_to_two_partitions() -> None:
    assert [partition_for(key, 2) for key in KEYS] == [0, 0, 1, 1]


async def too_few(sim: Simulation) -> None:
    sim.cluster(1)


async def too_late(sim: Simulation) -> None:
    sim.producer(TOPIC)
    sim.cluster(3)


@pytest.mark.parametrize("scenario", [too_few, too_late])
def test_a_cluster_has_two_nodes_from_the_beginning(scenario: Any) -> None:
    with pytest.raises(SettingsError, match="2 nodes or more, from the beginning"):
        simulate(scenario, 1)
