"""Enqueueing over the nodes of a cluster: random walks in a model of it, and what the walks notice when a rule is left out (C1 to C4)."""

from __future__ import annotations

import pytest

from tests.unit.enqueue_cluster import walk
from tests.unit.enqueue_world import Violation
from tests.unit.test_enqueueing_variants import Variant, without


def test_walks() -> None:
    """Calls span nodes and end in part; each node fails over, or is out of reach, by itself."""
    steps: set[str] = set()
    for seed in range(250):
        steps |= walk(seed).kinds.keys()
    assert steps >= {"Kill", "Find", "WaitForTurn", "LearnAnchors", "AmbiguousEnqueueError", "ConnectionFailed", "ServerError"}


@pytest.mark.parametrize(
    ("rule", "seen", "seed"),
    [
        ("C2", "twice", 584),  # a call ends with its first part that breaks
        ("C4", "order", 1404),  # what cannot be reached counts as killed, though no other node has its place
        ("E4", "order", 125),  # others may be sent where a call broke that is not over elsewhere
    ],
)
def test_a_link_that_leaves_out_a_rule_is_noticed(rule: str, seen: str, seed: int) -> None:
    walk(seed)
    with pytest.raises(Violation, match=seen):
        walk(seed, without=rule)


VARIANTS = [
    Variant(
        "C1 a redirect counts as carried out",
        "message.known, self.cause, self._pausing = absent, answer, True",
        'message.known = "there"',
        "told wrong",
        3,
    ),
    Variant(
        "C3 an overtaken message is sent again",
        'elif message.known == "absent" and message.partition in standing:',
        "elif False:",
        "order",
        103,
    ),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=[variant.rule for variant in VARIANTS])
def test_a_missing_rule_is_noticed(variant: Variant) -> None:
    walk(variant.seed)
    with pytest.raises(Violation, match=variant.seen):
        walk(variant.seed, without(variant))
