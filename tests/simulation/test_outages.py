"""A server loses its last writes, or the data of one slot: the loss is reported, the rest is handled, and the checks still work."""

from __future__ import annotations

import dataclasses
from typing import Any

import anyio
import pytest

from redisaq import Message
from redisaq.testing import FaultPlan, Simulation
from tests.simulation.judged import simulate
from tests.simulation.variants.breaking import taken_out
from tests.simulation.variants.crowd import QUICK, TOPIC, owned, takes, topic, until
from tests.simulation.variants.members import M5_DEADLINE
from tests.simulation.variants.settling import S1_TOKEN
from tests.simulation.variants.variant import BACKENDS, Backend
from tests.simulation.variants.wire import Wire

both = pytest.mark.parametrize("backend", BACKENDS)

ALL = FaultPlan(
    lost_request=0.01,
    lost_reply=0.01,
    delay=(0.0, 0.2),
    disconnect=0.005,
    late_request=0.005,
    failover=0.001,
    slot_loss=0.001,
    crash=0.03,
    pause=0.01,
    slow_handler=0.01,
    clock_drift=0.0001,
)


async def handle(_message: Message[Any]) -> None:
    """Take a moment."""
    await anyio.sleep(0.1)


async def scenario(sim: Simulation) -> None:
    """One member crashes, one pauses, one leaves."""
    producer = sim.producer("orders", init_partitions=4)
    await producer.batch_enqueue([{"n": n} for n in range(100)], partition_key="n")
    for name in "abc":
        sim.member(name, "orders", handle, group_name="billing", ordering="key")
    await sim.crash("a")
    await sim.pause("b", seconds=30)
    await sim.leave("c")
    await sim.until_quiet(timeout=300)


@both
def test_every_fault_at_once(backend: Backend) -> None:
    kinds: set[str] = set()
    for seed in range(15):
        report = simulate(scenario, seed=seed, backend=backend, faults=ALL)
        assert report.ok, report.timeline()
        kinds |= {fault.kind for fault in report.faults}
    plain = FaultPlan()
    assert kinds - {"reply_delay"} == {one.name for one in dataclasses.fields(ALL) if getattr(ALL, one.name) != getattr(plain, one.name)}


@both
def test_the_faults_of_a_run_bring_the_same_run_again(backend: Backend) -> None:
    plan = FaultPlan(lost_reply=0.02, delay=(0.0, 0.1), failover=0.02, slot_loss=0.01)
    kinds: set[str] = set()
    for seed in range(3):
        drawn = simulate(scenario, seed=seed, backend=backend, faults=plan)
        again = simulate(scenario, seed=seed, backend=backend, faults=drawn.faults)
        assert (again.trace_hash, again.faults, again.dropped) == (drawn.trace_hash, drawn.faults, drawn.dropped)
        kinds |= {fault.kind for fault in drawn.faults}
    assert kinds >= {"failover", "slot_loss"}


# -- what is gone ------------------------------------------------------------------------------------------------------------------------


@both
def test_what_a_failover_took_is_dropped_and_the_rest_is_done(backend: Backend) -> None:
    gone: list[str] = []

    async def forgotten(sim: Simulation) -> None:
        producer = await topic(sim, 2)
        await producer.batch_enqueue([{}] * 6)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sim.failover, 0.5)
            await anyio.sleep(0.2)
            gone.extend(await producer.batch_enqueue([{}] * 4))
            gone.append(await producer.enqueue({}, delay=60.0))
        sim.member("a", TOPIC, handle)
        await producer.enqueue({})
        await sim.until_quiet()

    report = simulate(forgotten, seed=1, backend=backend)
    assert report.ok, report.violations
    assert sorted(report.dropped) == sorted(gone)
    assert {one.msg_id for one in report.deliveries} == set(report.produced) - set(gone)
    assert report.known == []


@both
def test_what_was_done_before_it_was_forgotten_is_not_dropped(backend: Backend) -> None:
    async def handled(sim: Simulation) -> None:
        producer = await topic(sim, 1)
        sim.member("a", TOPIC, takes(0.01), **QUICK)
        await until(lambda: owned(sim, "a") == {0})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sim.failover, 0.5)
            await anyio.sleep(0.1)
            await producer.batch_enqueue([{}] * 4)
        await producer.enqueue({})
        await sim.until_quiet()

    report = simulate(handled, seed=1, backend=backend)
    assert report.ok, report.violations
    assert report.dropped == []
    assert sorted(one.msg_id for one in report.deliveries) == sorted(report.produced)


@both
def test_with_a_slot_goes_what_was_in_it(backend: Backend) -> None:
    async def lost(sim: Simulation) -> None:
        producer = await topic(sim, 3)
        await producer.batch_enqueue([{}] * 12)
        await sim.lose_slot(TOPIC, 1)
        sim.member("a", TOPIC, handle)
        await producer.batch_enqueue([{}] * 12)
        await sim.until_quiet()

    report = simulate(lost, seed=1, backend=backend)
    assert report.ok, report.violations
    assert len(report.dropped) == 4
    assert {one.msg_id for one in report.deliveries} == set(report.produced) - set(report.dropped)


@both
def test_with_the_documents_goes_no_message_and_no_lease(backend: Backend) -> None:
    async def lost(sim: Simulation) -> None:
        producer = await topic(sim, 4)
        for name in "ab":
            sim.member(name, TOPIC, handle, **QUICK)
        for _ in range(10):
            await producer.batch_enqueue([{}] * 4)
            await anyio.sleep(0.3)
        await sim.lose_slot(TOPIC)
        await producer.batch_enqueue([{}] * 4)
        await sim.until_quiet()

    for seed in range(3):
        report = simulate(lost, seed=seed, backend=backend)
        assert report.ok, report.violations
        assert (report.dropped, report.known) == ([], [])


# -- what no rule can help -------------------------------------------------------------------------------------------------------------


async def takeover_forgotten(sim: Simulation) -> None:
    """The server forgets that "b" has taken a partition from "a"; "a" hears of it a moment before "b" does."""
    wire = Wire(sim)
    producer = await topic(sim, 2)
    sim.member("a", TOPIC, takes(0.2), **QUICK)
    await until(lambda: owned(sim, "a") == {0, 1})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sim.failover, 1.0)
        sim.member("b", TOPIC, takes(0.2), **QUICK)
        await until(lambda: len(owned(sim, "b")) == 1)
        await producer.batch_enqueue([{}] * 20)
    wire.slow("b", 0.5)
    await anyio.sleep(2.0)
    wire.slow("b", 0.0)
    await sim.until_quiet()


@both
def test_two_owners_after_a_forgotten_takeover_are_known(backend: Backend) -> None:
    report = simulate(takeover_forgotten, seed=1, backend=backend)
    assert report.ok, report.violations
    assert any(" took orders/" in one and "while b has it" in one for one in report.known), report.known
    assert all(one.endswith(": a failover forgot 1.000 s") for one in report.known)
    last = max(float(one.split()[1].rstrip(":")) for one in report.known)
    (over,) = (float(line.split()[0]) for line in report.trace if " server failover: " in line)
    assert over < last < over + QUICK["heartbeat_ttl"]


@both
def test_what_is_known_hides_no_settling_under_a_stale_token(backend: Backend) -> None:
    with taken_out(*S1_TOKEN.changes) as uses:
        report = simulate(takeover_forgotten, seed=1, backend=backend)
    assert not uses.unused
    assert any("settled in orders/" in one for one in report.violations), report.violations


async def lasting(sim: Simulation) -> None:
    """The server forgets that "b" took orders/0 from "a", which has left; "c" is to have it, and "b" does not reach the server any more."""
    wire = Wire(sim)
    producer = await topic(sim, 2)
    sim.member("a", TOPIC, takes(30.0), **QUICK)
    await until(lambda: owned(sim, "a") == {0, 1})
    sim.member("b", TOPIC, takes(30.0), **QUICK)
    await until(lambda: len(owned(sim, "b")) == 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sim.failover, 1.0)
        await sim.leave("a")
        await until(lambda: owned(sim, "b") == {0, 1})
        await producer.batch_enqueue([{}] * 4)
        await anyio.sleep(0.5)
        wire.cut("b")
    sim.member("c", TOPIC, takes(30.0), **QUICK)
    await producer.batch_enqueue([{}] * 4)
    await anyio.sleep(6.0)
    wire.mend("b")
    await sim.until_quiet(600)


@both
def test_two_owners_are_a_violation_when_a_lease_s_time_is_over(backend: Backend) -> None:
    """M5: without its deadline, an owner whose acquisition was forgotten, and which does not notice, works on beside the next owner."""
    report = simulate(lasting, seed=1, backend=backend)
    assert report.ok, report.violations
    with taken_out(*M5_DEADLINE.changes) as uses:
        report = simulate(lasting, seed=1, backend=backend)
    assert not uses.unused
    assert any("c took orders/0 while b has it" in one for one in report.violations), report.violations
    assert report.known == []
