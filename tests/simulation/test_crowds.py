"""What only large groups do (deltas, waiting room, grants, spread looks: M10 to M12), in small groups that count as large, with faults."""

from __future__ import annotations

import pytest

from redisaq.brokers.steps.coordination import Commit
from redisaq.consuming import coordinator
from redisaq.core import deltas, membership, waiting
from redisaq.core.membership import EMPTY, admit, join, read_document
from redisaq.core.profile import Profile
from redisaq.core.waiting import Newcomer
from redisaq.testing import Simulation
from tests.simulation.judged import simulate
from tests.simulation.variants.crowd import GROUP, STORM, TOPIC, complain, crowd, takes, topic, until
from tests.simulation.variants.variant import BACKENDS, Backend


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "CROWD", 1)
    monkeypatch.setattr(deltas, "SMALL", 0)
    monkeypatch.setattr(waiting, "FEW", 0)
    monkeypatch.setattr(coordinator, "MANY_HELD", 0)


@pytest.mark.backends_take_turns
@pytest.mark.parametrize("backend", BACKENDS)
def test_order_and_ownership_hold_in_a_crowd(backend: Backend) -> None:
    for seed in range(4):
        report = simulate(crowd("abcde", partitions=8, messages=30), seed=seed, backend=backend, faults=STORM)
        assert report.ok, f"seed {seed}: {report.violations}"


@pytest.mark.parametrize("let_in", [False, True])
def test_one_that_waits_can_leave(let_in: bool) -> None:
    """M11: it stops waiting; if it was let in just before, it leaves as a member."""

    async def scenario(sim: Simulation) -> None:
        await topic(sim, 2)
        group, now = sim.store.members(GROUP), sim.store.now()
        group.room.ask(Newcomer("other", Profile(ttl=60.0)), now)
        group.room.until = now + 60_000_000
        sim.member("a", TOPIC, takes(0.1))
        await until(lambda: len(group.room.waiting) == 2)
        (newcomer,) = [one for one in group.room.waiting if one != "other"]
        if let_in:
            document = join(EMPTY, name=None, incarnation="other", partitions=2)
            document = admit(document, [(newcomer, None, ())], partitions=2)
            admitted = [Newcomer(newcomer, Profile(ttl=60.0))]
            step = Commit(GROUP, "other", 60.0, "", "version", document, joins=True, admitted=admitted)
            assert group.commit(step, now=sim.store.now(), run_id=sim.store.run_id)
        await sim.leave("a")
        if newcomer in group.room.waiting or newcomer in group.members:
            complain(sim, "it still waits, or is a member")
        listed = None if group.state is None else read_document(group.state.document)
        if let_in and (listed is None or set(listed.members) != {"other"}):
            complain(sim, f"the document lists {listed}")
        sim.store.forget_group(GROUP)  # the other one is nobody

    report = simulate(scenario, seed=1)
    assert report.ok, report.violations
