"""What a user's own simulation reports, without the project's judges: each broken promise, whatever the cause."""

from __future__ import annotations

import re
from typing import Any, Literal

import anyio
import pytest

from redisaq import Message
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps.settling import Acknowledge, Settled
from redisaq.testing import Observer, Run, Simulation, simulate
from tests.simulation.variants.breaking import Change, Function, taken_out
from tests.simulation.variants.crowd import TOPIC, owned, takes, topic, until
from tests.simulation.variants.registry import VARIANTS, recorded
from tests.simulation.variants.variant import BACKENDS, Backend

both = pytest.mark.parametrize("backend", BACKENDS)

HARMS = {
    "M5 margin": "took .* while .* has it",
    "M5 deadline": "under .*, while .* is current",
    "T3": "for the first time after",
    "T6": "is neither done nor dead",
    "S3 known": "while it runs",
    "E1": "was appended twice",
}
"""What a user sees if one rule is removed."""


@both
@pytest.mark.parametrize("name", HARMS)
def test_a_broken_promise_is_reported(name: str, backend: Backend) -> None:
    variant = VARIANTS[name]
    with taken_out(*variant.changes):
        report = simulate(variant.scenario, recorded(name, backend), backend, variant.plan)
    assert any(re.search(HARMS[name], one) for one in report.violations), report.violations


async def crashing(sim: Simulation) -> None:
    """A member has done all of its messages, and crashes; another takes over."""
    producer = await topic(sim, 1)
    options: dict[str, Any] = {"heartbeat_interval": 0.5, "heartbeat_ttl": 2.5}
    sim.member("a", TOPIC, takes(0.01), **options)
    await until(lambda: owned(sim, "a") == {0})
    await producer.batch_enqueue([{}] * 4)
    await anyio.sleep(2.0)
    await sim.crash("a")
    sim.member("b", TOPIC, takes(0.01), **options)
    await sim.until_quiet()


def settles_nothing(original: Function) -> Function:
    calls: list[Acknowledge] = []

    def acknowledge(store: MemoryStore, step: Acknowledge) -> Settled:
        calls.append(step)
        return original(store, step) if len(calls) > 1 else Settled(done=True, token=step.token)

    return acknowledge


@both
def test_what_is_done_and_runs_again_is_reported(backend: Backend) -> None:
    with taken_out(Change(Acknowledge, "", settles_nothing)) as uses:
        report = simulate(crashing, 1, backend)
    assert not uses.unused
    assert any("which is done" in one for one in report.violations), report.violations
    assert simulate(crashing, 1, backend).ok


class Twice(Observer):
    """Notes its notifications in order."""

    def begun(self, run: Run) -> None:
        """Complain at each second run."""
        if len(self.record.runs) == 2:
            self.record.violation(f"{run} is the second")

    def closed(self) -> None:
        """Complain at the end."""
        self.record.violation(f"{len(self.record.settles)} steps have settled something")


@both
def test_an_observer_adds_violations_and_changes_nothing_else(backend: Backend) -> None:
    plain, watched = simulate(crashing, 1, backend), simulate(crashing, 1, backend, observers=[Twice])
    assert [text.partition(": ")[2] for text in watched.violations] == [
        f"orders/0 {plain.deliveries[1].entry_id} attempt 1 is the second",
        f"{len(plain.settles)} steps have settled something",
    ]
    assert [line for line in watched.trace if " check violation: " not in line] == plain.trace


@both
def test_seeking_back_lets_what_is_done_run_again(backend: Backend) -> None:
    """Skipped messages do not count as lost."""
    runs: list[Any] = []
    positions: tuple[tuple[Literal["earliest", "latest"], int], ...] = (("earliest", 4), ("latest", 5))

    async def handle(message: Message[Any]) -> None:
        runs.append(message.payload)
        await anyio.sleep(0.1)

    async def scenario(sim: Simulation) -> None:
        producer = await topic(sim, 1)
        sim.member("a", TOPIC, handle)
        await producer.batch_enqueue([1, 2, 3])
        await sim.until_quiet()
        async with sim.admin() as admin:
            for to, more in positions:
                await sim.leave("a")
                await producer.enqueue(more)
                await admin.seek(TOPIC, "default_group", to)
                sim.member("a", TOPIC, handle)
                await sim.until_quiet()

    report = simulate(scenario, 1, backend)
    assert report.ok, report.violations
    assert runs == [1, 2, 3, 1, 2, 3, 4]
