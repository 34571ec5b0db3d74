"""Failing lists of faults are shrunk to the few that matter: the run under these fails in the same way, and in no other."""

from __future__ import annotations

import itertools
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from redisaq import Message
from redisaq.environment import current_environment, use_environment
from redisaq.errors import SettingsError
from redisaq.testing import Fault, FaultPlan, Limits, NotReproduced, Report, Shrunk, Simulation, load_faults
from redisaq.testing.kinds import kind_of, names_of
from tests.simulation.judged import shrink, simulate
from tests.simulation.variants.breaking import taken_out
from tests.simulation.variants.registry import VARIANTS, recorded
from tests.simulation.variants.variant import Backend

both = pytest.mark.parametrize("backend", ["trio", "asyncio"])

MOST = {"E1": 3, **({"T2": 20} if os.environ.get("REDISAQ_MATRIX") == "all" else {})}
"""How many faults may be left of a variant that is caught by chance; there are 600 to 2,000. T2 takes half a minute."""


def kinds(report: Report) -> list[str]:
    """The kinds of its violations."""
    return [kind_of(violation, names_of(report)) for violation in report.violations]


@both
@pytest.mark.parametrize("name", MOST)
def test_a_broken_rule_takes_few_faults_to_show(name: str, backend: Backend) -> None:
    variant = VARIANTS[name]
    with taken_out(*variant.changes):
        report = simulate(variant.scenario, recorded(name, backend), backend, variant.plan)
        shrunk = shrink(variant.scenario, report)
        assert len(report.faults) == shrunk.before > 500
        assert len(shrunk.faults) <= MOST[name], shrunk.text()
        assert kinds(report)[0] in kinds(shrunk.report)
        again = simulate(variant.scenario, report.seed, backend, shrunk.faults)
        assert (again.trace_hash, again.faults) == (shrunk.report.trace_hash, shrunk.faults)
        for left_out in shrunk.faults if shrunk.finished else ():
            fewer = simulate(variant.scenario, report.seed, backend, [fault for fault in shrunk.faults if fault != left_out])
            assert kinds(report)[0] not in kinds(fewer), left_out
    assert simulate(variant.scenario, report.seed, backend, shrunk.faults).ok, "the rule is what they show"


# -- a scenario of its own ------------------------------------------------------------------------------------------------------------

PLAN = FaultPlan(lost_request=0.05, lost_reply=0.05, delay=(0.0, 0.1), slow_handler=0.1, pause=0.02)


def scenario_with(check: Callable[[list[float]], object]) -> Callable[[Simulation], Awaitable[None]]:
    """Return a scenario that looks at how long handlers took."""

    async def scenario(sim: Simulation) -> None:
        took: list[float] = []

        async def handle(message: Message[Any]) -> None:
            began = anyio.current_time()
            await anyio.sleep(0.1)
            took.append(anyio.current_time() - began + (anyio.current_time() - message.payload["at"]))

        producer = sim.producer("orders", init_partitions=2)
        for name in "ab":
            sim.member(name, "orders", handle, heartbeat_interval=1.0, heartbeat_ttl=6.0)
        for _ in range(20):
            await producer.enqueue({"at": anyio.current_time()})
            await anyio.sleep(0.5)
        await sim.until_quiet()
        check(took)

    return scenario


def nothing_is_late(took: list[float]) -> None:
    assert max(took) < 5.0, f"one took {max(took)}"
    assert len(took) != 20, "another mistake, which is there without any fault"


LATE = scenario_with(nothing_is_late)


@cache
def late(backend: Backend = "trio") -> Report:
    """Return the report of a seed under which something is late; nothing changes it, so it is made once."""
    for seed in range(100):
        report = simulate(LATE, seed, backend, PLAN, raises=False)
        if "one took" in "".join(report.violations):
            return report
    raise LookupError


@cache
def shrunk_late() -> Shrunk:
    """Return what becomes of `late()`, without any limit."""
    return shrink(LATE, late())


@both
def test_what_a_scenario_raises_is_shrunk_and_does_not_slip_to_what_it_raises_elsewhere(backend: Backend) -> None:
    report = late(backend)
    with pytest.raises(AssertionError, match="one took"):
        simulate(LATE, report.seed, backend, PLAN)
    shrunk = shrink(LATE, report)
    assert "one took" in shrunk.violation
    assert 1 <= len(shrunk.faults) <= 4 < shrunk.before
    assert shrunk.finished
    assert any(float(f"{fault.amount:.2g}") == fault.amount for fault in shrunk.faults), "amounts are made simple"
    assert "another mistake" in simulate(LATE, report.seed, backend, [], raises=False).violations[0]


def test_the_same_report_gives_the_same_answer() -> None:
    report = late()
    one, other = shrunk_late(), shrink(LATE, report)
    assert (one.faults, one.runs, one.text()) == (other.faults, other.runs, other.text())


def test_the_report_says_what_is_left() -> None:
    report, told = late(), list[tuple[int, int]]()
    shrunk = shrink(LATE, report, progress=lambda runs, left: told.append((runs, left)))
    assert [runs for runs, _ in told] == list(range(1, shrunk.runs + 1))
    assert told[0] == (1, len(report.faults))
    assert told[-1] == (shrunk.runs, len(shrunk.faults))
    assert all(left <= before for (_, before), (_, left) in itertools.pairwise(told))
    text = shrunk.text()
    assert text.startswith(f"of {len(report.faults)} faults {len(shrunk.faults)} ")
    assert f"seed {report.seed} on trio" in text
    assert "not finished" not in text
    assert f"{shrunk.faults[0].time:.3f}  {shrunk.faults[0].who}" in text


def check_best_so_far(report: Report, shrunk: Shrunk) -> None:
    """Check what was found before the end."""
    assert not shrunk.finished
    assert "not finished" in shrunk.text()
    assert len(shrunk.faults) < len(report.faults)
    again = simulate(LATE, report.seed, "trio", shrunk.faults, raises=False)
    assert again.violations == shrunk.report.violations


def test_it_ends_after_so_many_runs_with_the_best_so_far() -> None:
    report = late()
    needed = shrunk_late().runs
    assert needed > 5
    shrunk = shrink(LATE, report, max_runs=5)
    assert shrunk.runs == 5
    check_best_so_far(report, shrunk)
    assert shrink(LATE, report, max_runs=1).faults == report.faults
    assert not shrink(LATE, report, max_runs=1).finished
    assert shrink(LATE, report, max_runs=needed).runs == needed


def test_it_ends_after_so_long_with_the_best_so_far() -> None:
    report, ticks = late(), itertools.count()
    with use_environment(replace(current_environment(), wall_clock=lambda: 1e9 + next(ticks))):  # a second for each look at the clock
        shrunk = shrink(LATE, report, within=6.0)
    assert shrunk.runs == 6
    check_best_so_far(report, shrunk)


def test_a_scenario_that_fails_by_itself_needs_no_fault() -> None:
    async def scenario(sim: Simulation) -> None:
        producer = sim.producer("orders")
        await producer.batch_enqueue(range(5))
        raise ValueError("always")

    report = simulate(scenario, 3, faults=FaultPlan(delay=(0.01, 0.1)), raises=False)
    shrunk = shrink(scenario, report)
    assert (shrunk.faults, shrunk.runs, shrunk.finished) == ([], 2, True)
    assert shrunk.text().startswith("no fault is needed: it fails by itself under seed 3 on trio (2 runs)")


def test_what_counts_as_the_same_can_be_said() -> None:
    report = late()
    shrunk = shrink(LATE, report, same=lambda one: any("AssertionError" in violation for violation in one.violations))
    assert shrunk.faults == []
    assert "another mistake" in shrunk.violation
    with pytest.raises(SettingsError, match="rejects the report itself"):
        shrink(LATE, report, same=lambda _report: False)


def test_what_cannot_be_shrunk() -> None:
    async def scenario(_sim: Simulation) -> None:
        await checkpoint()

    with pytest.raises(SettingsError, match="no violation"):
        shrink(scenario, simulate(scenario))
    report = late()
    wrong: list[dict[str, Any]] = [{"max_runs": 0}, {"within": 0.0}, {"within": float("nan")}]
    for bounds in wrong:
        with pytest.raises(SettingsError, match="above 0"):
            shrink(LATE, report, **bounds)


def test_a_failure_that_does_not_come_again_is_an_error() -> None:
    fails = [True, False]

    async def scenario(sim: Simulation) -> None:
        await sim.producer("orders").enqueue(1)
        if fails.pop(0):
            raise ValueError("the first time only")

    report = simulate(scenario, 7, faults=FaultPlan(delay=(0.1, 0.2)), raises=False)
    with pytest.raises(NotReproduced, match=r"seed 7 on trio .*ValueError.*but it did not fail\. Does the scenario depend") as caught:
        shrink(scenario, report)
    assert caught.value.report.ok


def test_an_attempt_that_would_never_end_is_given_up() -> None:
    lost = Fault("producer-0", 4, "lost_reply")
    faults = [Fault("producer-0", number, "delay", 0.5) for number in range(1, 9)]
    steps = 0

    async def scenario(sim: Simulation) -> None:
        nonlocal steps
        producer = sim.producer("orders")
        began = anyio.current_time()
        for number in range(5):
            await producer.enqueue(number)
        while anyio.current_time() < began + 2.0:  # with fewer delays it goes round and round
            steps += 1
            await checkpoint()
        raise ValueError("late")

    report = simulate(scenario, faults=[*faults, lost], raises=False)
    shrunk = shrink(scenario, report)
    assert 0 < len(shrunk.faults) < len(faults)
    assert steps < shrunk.runs * 22_000


def test_an_attempt_that_fails_and_then_never_ends_is_given_up_too() -> None:
    async def scenario(sim: Simulation) -> None:
        producer = sim.producer("orders")
        for number in range(5):
            await producer.enqueue(number)
        sim.record.violation("it fails")
        while anyio.current_time() < 1.0:  # with fewer delays it goes round and round
            await checkpoint()

    faults = [Fault("producer-0", number, "delay", 0.5) for number in range(1, 9)]
    report = simulate(scenario, faults=faults)
    shrunk = shrink(scenario, report)
    assert len(shrunk.report.violations) == 1
    assert 0 < len(shrunk.faults) < len(faults)


def test_limits_are_those_of_the_report() -> None:
    async def scenario(sim: Simulation) -> None:
        await sim.producer("orders").enqueue(1)
        while anyio.current_time() < 30.0:
            await anyio.sleep(0.01)

    limits = Limits(seconds=10)
    report = simulate(scenario, faults=FaultPlan(delay=(0.1, 0.2)), limits=limits)
    shrunk = shrink(scenario, report, limits=limits)
    assert shrunk.faults == []
    assert "more than 10 s" in shrunk.violation
    with pytest.raises(NotReproduced):
        shrink(scenario, report, limits=Limits(seconds=100))


def test_an_interruption_leaves_nothing_behind() -> None:
    runs = 0

    def check(took: list[float]) -> None:
        nonlocal runs
        runs += 1
        if runs == 4:
            raise KeyboardInterrupt
        nothing_is_late(took)

    report, before = late(), current_environment()
    with pytest.raises(BaseException) as caught:  # noqa: PT011 -- a group, since it comes out of the simulation's tasks
        shrink(scenario_with(check), simulate(scenario_with(check), report.seed, "trio", PLAN, raises=False))
    assert caught.group_contains(KeyboardInterrupt) or caught.errisinstance(KeyboardInterrupt)
    assert runs == 4
    assert current_environment() is before
    assert simulate(LATE, report.seed, "trio", PLAN, raises=False).trace_hash == report.trace_hash


# -- files ------------------------------------------------------------------------------------------------------------------------------


def test_faults_are_saved_and_loaded(tmp_path: Path) -> None:
    report = late()
    file = report.save(tmp_path / "some" / "faults.json")
    assert load_faults(file) == report.faults
    assert len(file.read_text(encoding="utf-8").splitlines()) == len(report.faults) + len(report.violations) + 8
    assert simulate(LATE, report.seed, "trio", load_faults(str(file)), raises=False).trace_hash == report.trace_hash
    empty = simulate(LATE, report.seed, "trio", [], raises=False)
    assert load_faults(empty.save(tmp_path / "none.json")) == []


@pytest.mark.parametrize(
    "text", ["", "[]", '{"seed": 1}', '{"faults": [{"who": "a", "number": 1, "kind": "flood"}]}', '{"faults": [], "more": 1}']
)
def test_a_file_that_holds_something_else(tmp_path: Path, text: str) -> None:
    file = tmp_path / "faults.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"faults\.json is not a file of faults: "):
        load_faults(file)
    with pytest.raises(FileNotFoundError):
        load_faults(tmp_path / "none.json")


@both
def test_the_last_slot_is_made_no_rounder_than_a_slot_can_be(backend: Backend) -> None:
    async def scenario(sim: Simulation) -> None:
        producer = sim.producer("orders", init_partitions=2)
        await producer.batch_enqueue([1, 2])
        sim.member("a", "orders", lambda _message: None)
        await sim.until_quiet()

    def loses_the_last(report: Report) -> bool:
        return any(fault.kind == "slot_loss" and fault.amount > 0.9 for fault in report.faults)

    report = simulate(failing(scenario), backend=backend, faults=[Fault("a", 9, "slot_loss", 0.97)], raises=False)
    shrunk = shrink(failing(scenario), report, same=loses_the_last)
    assert [(fault.kind, fault.amount) for fault in shrunk.faults] == [("slot_loss", 0.97)]


def failing(scenario: Callable[[Simulation], Awaitable[None]]) -> Callable[[Simulation], Awaitable[None]]:
    """Return a scenario that fails in the end."""

    async def fails(sim: Simulation) -> None:
        await scenario(sim)
        raise ValueError("no")

    return fails
