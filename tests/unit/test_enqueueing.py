"""One producer's calls over connections that break, at servers that fail over, trim and forget: while everything happens in any order.

What must always hold is judged at the end by tests/unit/enqueue_world.py: nothing is there twice, each caller heard the truth about
each message, calls end, and what one key was sent stands in the order of sending.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.unit.enqueue_walk import KEYS, walk
from tests.unit.enqueue_world import World

PICK = st.integers(0, 11)
KINDS = st.sampled_from(["append", "append", "append", "delay", "once"])


class Calls(RuleBasedStateMachine):
    """Hypothesis chooses what happens, and finds the shortest way to a violation."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(trims=st.sampled_from(["nothing", "to length", "what is acked"]), forbids=st.booleans(), limited=st.booleans())
    def begin(self, trims: Any, *, forbids: bool, limited: bool) -> None:
        self.world = World(trims=trims, forbids=forbids and limited, limited=limited)

    @precondition(lambda self: len(self.world.calls) < 8)
    @rule(
        kind=st.sampled_from(["append", "append", "append", "delay", "once"]), keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=4)
    )
    def a_call_begins(self, kind: Any, keys: list[str | None]) -> None:
        self.world.start(kind, keys)

    @rule(pick=PICK)
    def a_call_goes_on(self, pick: int) -> None:
        self.world.go(pick)

    @rule(pick=PICK)
    def a_command_arrives(self, pick: int) -> None:
        self.world.arrive(pick)

    @rule()
    def an_answer_arrives(self) -> None:
        self.world.answer()

    @rule(pick=PICK)
    def the_connection_breaks(self, pick: int) -> None:
        self.world.disconnect(pick)

    @rule(pick=PICK)
    def a_caller_is_cancelled(self, pick: int) -> None:
        self.world.cancel(pick)

    @rule(behind=st.sampled_from([0, 100, 400]), failover=st.booleans())
    def the_server_is_another_run(self, behind: int, *, failover: bool) -> None:
        self.world.restart(behind, failover=failover)

    @rule()
    def the_replica_hears_of_everything(self) -> None:
        self.world.replicate()

    @rule(pick=PICK)
    def somebody_else_appends(self, pick: int) -> None:
        self.world.crowd(pick)

    @rule(keep=st.integers(0, 3))
    def streams_are_trimmed(self, keep: int) -> None:
        self.world.trim(keep)

    @rule(more=st.integers(1, 2))
    def the_topic_grows(self, more: int) -> None:
        self.world.grow(more)

    @rule(pick=PICK)
    def a_stream_is_lost(self, pick: int) -> None:
        self.world.lose_stream(pick)

    @rule(passing=st.booleans())
    def an_append_is_refused(self, *, passing: bool) -> None:
        self.world.refuse(passing=passing)

    @rule()
    def what_is_delayed_becomes_due(self) -> None:
        self.world.move_delayed()

    @rule(seconds=st.sampled_from([0.1, 0.6, 5.0, 25.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.tick(seconds)

    def teardown(self) -> None:
        self.world.settle()


TestCalls = Calls.TestCase
# The same examples each time: what a longer search finds belongs into a test of its own.
TestCalls.settings = settings(max_examples=60, stateful_step_count=50, deadline=None, derandomize=True)


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_walks_with_every_rule(start: int) -> None:
    for seed in range(start, start + 100):
        walk(seed)
