"""The messages in flight of one partition (T5, T6, T7, S1, S3): everything in any order, and what a rule that is taken out breaks.

What must always hold is checked after each step by tests/unit/flight_world.py.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from redisaq.core import in_flight
from redisaq.core.in_flight import TABLE, InFlight, Misstep, State
from redisaq.settings import RetryPolicy
from tests.unit.flight_world import LOSSES, RARE, STEPS, WAYS, World, decode, walk
from tests.unit.source import ROOT

EVERY_STATE = frozenset(State.__args__)  # type: ignore[attr-defined] # a Literal has them
USUAL = [step for _, step in STEPS]


class OnePartition(RuleBasedStateMachine):
    """Hypothesis chooses what happens, and finds the shortest way to a violation."""

    losses = False

    @initialize(way=st.sampled_from(WAYS), blocking=st.booleans(), backoff=st.sampled_from([0.5, 10.0]))
    def begin(self, way: Any, blocking: bool, backoff: float) -> None:
        self.world = World(lambda options: options[0], way=way, blocking=blocking, backoff=backoff)

    def _do(self, step: Callable[[World], None], data: st.DataObject) -> None:
        self.world.choose = lambda options: data.draw(st.sampled_from(list(options)))
        if self.world.flights is None:
            self.world.take()
        step(self.world)

    @rule(microseconds=st.sampled_from([1000, 300_000, 2_000_000]))
    def time_passes(self, microseconds: int) -> None:
        self.world.now += microseconds

    @rule(data=st.data(), step=st.sampled_from(USUAL))
    def something_happens(self, data: st.DataObject, step: Callable[[World], None]) -> None:
        self._do(step, data)

    @rule(data=st.data(), step=st.sampled_from(RARE))
    def an_owner_goes_or_a_connection_breaks(self, data: st.DataObject, step: Callable[[World], None]) -> None:
        self._do(step, data)

    @invariant()
    def what_must_hold(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.choose = lambda options: options[0]
            self.world.finish(ended="goes on")


class OnePartitionOfAForgetfulServer(OnePartition):
    """The same, where the server loses data and an administrator moves the group."""

    @rule(data=st.data(), step=st.sampled_from(LOSSES))
    def something_is_lost_or_moved(self, data: st.DataObject, step: Callable[[World], None]) -> None:
        self._do(step, data)


OnePartition.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
OnePartitionOfAForgetfulServer.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestOnePartition = OnePartition.TestCase
TestOnePartitionOfAForgetfulServer = OnePartitionOfAForgetfulServer.TestCase


def test_walks() -> None:
    """Long ways, chosen by seeds; a third of them over losses."""
    for seed in range(1500):
        try:
            walk(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error


# -- the table ---------------------------------------------------------------------------------------------------------------------------


def test_each_row_of_the_table_names_rules_that_there_are() -> None:
    there = set(re.findall(r"\*\*([A-Z]\d+) ", (ROOT / "docs" / "protocol.md").read_text()))
    for event, row in TABLE.items():
        assert row.rules.split(), event
        assert set(row.rules.split()) <= there, event


def test_the_table_leads_into_each_state_and_out_of_it() -> None:
    """But for `new` and `repeat`, as which messages enter, and `gone`."""
    into = {state for row in TABLE.values() for state in row.moves.values()}
    out = {state for row in TABLE.values() for state in row.moves}
    assert into == EVERY_STATE
    assert out == EVERY_STATE - {"gone"}


def test_the_module_describes_each_state() -> None:
    described = re.findall(r"^([a-z]+) {2,}\S", inspect.getdoc(in_flight) or "", re.MULTILINE)
    assert set(described) - {"state"} == EVERY_STATE - {"gone"}


def test_an_event_that_a_state_does_not_allow_is_a_misstep() -> None:
    flights = InFlight(0, 1, "me", policy=RetryPolicy(), decode=decode, window=4, page=4)
    (flight,) = flights.delivered([(b"1-0", (b"i", b"x", b"d", b"1"))], 0)
    with pytest.raises(Misstep, match="'returned' was reported for entry 1-0, which is new"):
        flights.returned(flight)
    flights.start(flight)
    with pytest.raises(Misstep, match="'start' was reported for entry 1-0, which is running"):
        flights.start(flight)
    with pytest.raises(Misstep, match="'exhausted' was reported"):
        flights.crashed(flight, "kind", "reason", 3, 0)
