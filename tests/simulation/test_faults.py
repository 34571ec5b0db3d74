"""Faults as a list: the same list gives the same run again, and a part of it has the faults that it names and no others."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import pytest

from redisaq import Message
from redisaq.errors import SettingsError
from redisaq.testing import Fault, FaultPlan, Report, Simulation
from tests.simulation.judged import simulate

Backend = Literal["trio", "asyncio"]

both = pytest.mark.parametrize("backend", ["trio", "asyncio"])

PLAN = FaultPlan(
    lost_request=0.02,
    lost_reply=0.02,
    late_request=0.02,
    disconnect=0.01,
    delay=(0.0, 0.1),
    crash=0.05,
    pause=0.05,
    slow_handler=0.05,
    clock_drift=0.001,
)


async def scenario(sim: Simulation) -> None:
    """Three members share six partitions."""
    producer = sim.producer("orders", init_partitions=6)

    async def handle(_message: Message[Any]) -> None:
        await anyio.sleep(0.01)

    for name in "abc":
        sim.member(name, "orders", handle, group_name="billing")
    for first in range(0, 40, 10):
        await producer.batch_enqueue([{"n": n} for n in range(first, first + 10)], partition_key="n")
        await anyio.sleep(3.0)
    await sim.until_quiet(timeout=600)


def address(fault: Fault) -> tuple[str, int, str, float]:
    """A fault without its time."""
    return fault.who, fault.number, fault.kind, fault.amount


def found(report: Report) -> set[tuple[str, int, str, float]]:
    """The faults that happened, without their times."""
    return {address(fault) for fault in report.faults}


@both
def test_the_faults_of_a_run_bring_the_same_run_again(backend: Backend) -> None:
    kinds: set[str] = set()
    for seed in range(3):
        drawn = simulate(scenario, seed=seed, backend=backend, faults=PLAN)
        again = simulate(scenario, seed=seed, backend=backend, faults=drawn.faults)
        assert again.trace_hash == drawn.trace_hash
        assert again.faults == drawn.faults
        kinds |= {fault.kind for fault in drawn.faults}
    assert kinds >= {"lost_request", "lost_reply", "late_request", "disconnect", "delay", "reply_delay", "slow_handler", "clock_drift"}
    assert kinds & {"crash", "pause"}


@both
def test_a_part_of_the_list_brings_that_part(backend: Backend) -> None:
    drawn = simulate(scenario, seed=3, backend=backend, faults=PLAN)
    half = [fault for number, fault in enumerate(drawn.faults) if number % 2]
    report = simulate(scenario, seed=3, backend=backend, faults=half)
    assert report.ok, report.violations
    assert found(report) <= {address(fault) for fault in half}
    assert len(report.faults) > len(half) / 2


@both
def test_what_is_on_the_list_befalls_that_process_then(backend: Backend) -> None:
    faults = [Fault("b", 9, "lost_request", 1.0), Fault("a", 4, "delay", 0.5), Fault("c", 2, "slow_handler", 7.0)]
    report = simulate(scenario, seed=1, backend=backend, faults=faults)
    assert found(report) == {address(fault) for fault in faults}
    lost = [line for line in report.trace if "the request was lost" in line]
    assert [line.split()[1] for line in lost] == ["b"]
    slow = [delivery for delivery in report.deliveries if delivery.ended is not None and delivery.ended - delivery.started > 1.0]
    assert [(one.member, round((one.ended or 0.0) - one.started, 2)) for one in slow] == [("c", 7.01)]
    assert simulate(scenario, seed=1, backend=backend, faults=[]).faults == []


@both
def test_a_process_of_the_list_crashes_and_pauses(backend: Backend) -> None:
    faults = [Fault("a", 3, "crash", 5.0), Fault("b", 3, "pause", 20.0)]
    report = simulate(scenario, seed=1, backend=backend, faults=faults)
    assert report.ok, report.violations
    assert [mark.what for mark in report.marks if mark.member == "b"][1:3] == ["pauses for 20.000 s", "goes on"]
    assert [mark.what for mark in report.marks if mark.member == "a"][:3] == ["joins", "crashes", "joins"]


def test_settings_that_cannot_work() -> None:
    wrong: list[dict[str, Any]] = [{"crash": 0.6, "pause": 0.6}, {"lost_request": 0.6, "lost_reply": 0.6}, {"delay": (1.0, 0.5)}]
    wrong += [{"replica_lag": -1.0}, {"clock_drift": 0.5}, {"crash": float("nan")}, {"lost_reply": "often"}]
    wrong += [{"delay": 0.1}, {"delay": (0.1,)}, {"delay": ("0", "1")}, {"clock_drift": None}]
    for options in wrong:
        with pytest.raises(SettingsError):
            FaultPlan(**options)


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        ({"lost_reply": 0.01}, "a FaultPlan, or a list of Fault"),
        ("faults.json", "a FaultPlan, or a list of Fault"),
        (["lost_reply"], "holds Fault"),
        ([Fault("a", 1, "explosion")], "kind is one of"),  # type: ignore[arg-type]
        ([Fault("a", 1, "pause", -3.0)], "amount is a number"),
        ([Fault("a", 1, "delay", float("nan"))], "amount is a number"),
        ([Fault("a", 1, "slot_loss", 1.0)], "less than 1"),
    ],
)
def test_faults_that_are_none(faults: Any, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        simulate(scenario, faults=faults)


@both
def test_a_scenario_that_asks_for_what_cannot_be(backend: Backend) -> None:
    """A sentence that names the argument, and no group of exceptions from some task."""

    async def handle(_message: Message[Any]) -> None:
        pass

    async def ask(sim: Simulation) -> None:
        sim.member("a", "orders", handle)
        for wrong in (-1.0, float("nan"), "soon"):
            amount: Any = wrong
            with pytest.raises(SettingsError, match="seconds"):
                await sim.pause("a", amount)
            with pytest.raises(SettingsError, match="forgets"):
                await sim.failover(amount)
            with pytest.raises(SettingsError, match="timeout"):
                await sim.until_quiet(timeout=amount)
        with pytest.raises(SettingsError, match="partition"):
            await sim.lose_slot("orders", -1)
        with pytest.raises(SettingsError, match="there is no topic 'other'"):
            await sim.lose_slot("other")
        await sim.producer("orders").enqueue(1)
        with pytest.raises(SettingsError, match="no partition 1 of which the slot could be lost: topic orders has 1"):
            await sim.lose_slot("orders", 1)
        with pytest.raises(SettingsError, match="handler"):
            sim.member("b", "orders", None)  # type: ignore[arg-type]

    assert simulate(ask, backend=backend).ok
    with pytest.raises(SettingsError, match="scenario"):
        simulate("scenario")  # type: ignore[arg-type]


async def gone(sim: Simulation) -> None:
    """A scenario crashes a member for good while the member is already down."""
    sim.producer("orders", init_partitions=1)
    sim.member("a", "orders", lambda _message: None, group_name="billing")
    await anyio.sleep(5.0)
    await sim.crash("a")
    await anyio.sleep(60.0)


@both
def test_who_has_to_crash_stays_away(backend: Backend) -> None:
    report = simulate(gone, seed=0, backend=backend, faults=[Fault("a", 8, "crash", 20.0)])
    assert report.ok, report.violations
    assert [mark.what for mark in report.marks if mark.member == "a"][:2] == ["joins", "crashes"]
    assert sum(mark.what == "joins" for mark in report.marks) == 1
