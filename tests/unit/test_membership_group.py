"""Whole groups: members that decide with redisaq.core.membership, on a server that fails, while everything happens in any order.

What must always hold is checked after each step by tests/unit/group_world.py: no partition is worked on by two, no token is given
twice or falls, no living member's lease is taken, the epoch grows; and in the end everything is owned, evenly.
"""

from __future__ import annotations

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.group_walk import walk
from tests.unit.group_world import Violation, World

PICK = st.integers(0, 11)
NAMES = st.sampled_from([None, None, "s", "t"])
SPEEDS = st.sampled_from([1.0, 0.9, 1.1])


class Group(RuleBasedStateMachine):
    """Hypothesis chooses what happens, and finds the shortest way to a violation."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(names=st.lists(NAMES, min_size=1, max_size=3), partitions=st.integers(1, 5))
    def begin(self, names: list[str | None], partitions: int) -> None:
        self.world.grow(partitions)
        for name in names:
            self.world.start(name)

    @precondition(lambda self: len(self.world.processes) < 5)
    @rule(name=NAMES, speed=SPEEDS)
    def start(self, name: str | None, speed: float) -> None:
        self.world.start(name, speed)

    @rule(units=st.sampled_from([10, 1, 30]))
    def everybody_goes_on(self, units: int) -> None:
        self.world.round(units)

    @rule(units=st.sampled_from([1, 5, 20, 50, 110]))
    def time_passes(self, units: int) -> None:
        self.world.tick(units)

    @rule(pick=PICK)
    def one_goes_on(self, pick: int) -> None:
        self.world.go(pick)

    @rule(pick=PICK)
    def a_request_arrives(self, pick: int) -> None:
        self.world.arrive(pick)

    @rule(pick=PICK)
    def one_wakes_or_has_its_answer(self, pick: int) -> None:
        self.world.resume(pick)

    @rule(pick=PICK, late=st.booleans())
    def a_request_is_lost(self, pick: int, *, late: bool) -> None:
        self.world.lose_request(pick, late=late)

    @rule(pick=PICK)
    def an_answer_is_lost(self, pick: int) -> None:
        self.world.lose_answer(pick)

    @rule(pick=PICK)
    def a_late_request_comes_through(self, pick: int) -> None:
        self.world.come_late(pick)

    @rule(pick=PICK)
    def a_process_is_stopped_or_goes_on(self, pick: int) -> None:
        self.world.pause(pick)

    @rule(pick=PICK)
    def a_process_is_killed(self, pick: int) -> None:
        self.world.crash(pick)

    @rule(pick=PICK)
    def a_member_leaves(self, pick: int) -> None:
        self.world.stop(pick)

    @rule(pick=PICK)
    def a_partition_is_drained(self, pick: int) -> None:
        self.world.drain(pick)

    @rule(partitions=st.integers(1, 8))
    def the_topic_grows(self, partitions: int) -> None:
        self.world.grow(partitions)

    @rule(ahead=st.integers(-60, 60))
    def the_server_fails_over(self, ahead: int) -> None:
        self.world.failover(ahead)

    @rule(data=st.booleans())
    def the_group_is_lost(self, *, data: bool) -> None:
        self.world.lose_group(data=data)

    @invariant()
    def nothing_is_worked_on_by_two(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.settle()


TestGroup = Group.TestCase
# The same examples each time: what a longer search finds belongs into a test of its own.
TestGroup.settings = settings(max_examples=80, stateful_step_count=60, deadline=None, derandomize=True)


@pytest.mark.parametrize("start", range(0, 200, 25))
def test_walks_with_every_rule(start: int) -> None:
    for seed in range(start, start + 25):
        walk(seed)


# Rules taken out (those of one line together, because each alone closes the hole), the faults to try them with, what is seen, and the seed
# of the first walk in which it was.
BROKEN = [
    ("M1", "", "members work on partition", 0),
    ("M3 random", "lose_slot flush pause", "token|lease|listed|members work", 93),
    ("M5 deadline", "pause", "members work on partition", 0),
    ("M5 sent", "pause lose_answer", "members work on partition", 6),
    ("M5 margin", "pause lose_request", "members work on partition", 0),
    ("M5 final, M5 revive, M5 recheck", "pause lose_late come_late", "members work on partition", 120),
    ("M6", "", "was given before", 0),
    ("M7 run_id", "failover lose_request pause", "members work on partition", 2),
    ("M8 freeze", "flush pause", "members work on partition", 4),
    ("M8 unknown", "flush pause", "members work on partition", 4),
    ("M8 born", "lose_slot crash pause", "members work on partition", 25),
    ("live", "", "lease of . was taken", 3),
]


def first_violation(off: str, faults: str, first: int, seeds: int = 400) -> Violation | None:
    """Walk where it was seen once; then, since any change of the world changes the walks, from the beginning."""
    for seed in (first, *range(seeds)):
        try:
            walk(seed, off=off.split(", "), faults=faults.split(), often=3)
        except Violation as violation:
            return violation
    return None


@pytest.mark.parametrize(("off", "faults", "seen", "first"), BROKEN, ids=[off for off, *_ in BROKEN])
def test_without_the_rule_a_promise_is_broken(off: str, faults: str, seen: str, first: int) -> None:
    violation = first_violation(off, faults, first)
    assert violation is not None, "the walks cannot see this rule missing, so they show nothing about it"
    with pytest.raises(Violation, match=seen):
        raise violation


@pytest.mark.parametrize(
    ("assumption", "faults", "first"), [("known", "flush pause crash", 37), ("replicated", "failover replicate pause", 282)]
)
def test_what_the_guarantees_leave_open_is_open(assumption: str, faults: str, first: int) -> None:
    """docs/understand/protocol.md says what cannot be closed; should one of these be closed one day, it must say so."""
    violation = first_violation(assumption, faults, first, seeds=1500)
    assert violation is not None
    assert "members work on partition" in str(violation)
