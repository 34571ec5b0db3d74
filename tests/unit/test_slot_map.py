"""The map of a cluster's slots: what a node says becomes what is looked up."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, strategies as st

from redisaq.link.slot_map import SLOTS, Node, SlotMap, read_slot_map, slot_of

NODES = [(b"10.0.0.1", 6379), (b"10.0.0.2", 6379), (b"node.example", 7000), (None, 7001)]


@st.composite
def assignments(draw: st.DrawFn) -> list[tuple[int, int, tuple[bytes | None, int] | None]]:
    """Return ranges that cover all slots, each with its master; None: nobody serves it."""
    cuts = [0, *sorted(draw(st.sets(st.integers(1, SLOTS - 1), max_size=12))), SLOTS]
    owners = st.sampled_from([*NODES, None])
    return [(first, after - 1, draw(owners)) for first, after in itertools.pairwise(cuts)]


def answer(ranges: Any) -> list[Any]:
    """Return CLUSTER SLOTS, with replicas and metadata, in any order."""
    said = [[first, last, [*owner, b"id", [b"hostname", b"x"]], [b"r", 1, b"id", []]] for first, last, owner in ranges if owner is not None]
    random.Random(len(said)).shuffle(said)
    return said


@given(assignments())
def test_each_slot_has_the_master_that_was_named(ranges: Any) -> None:
    found = read_slot_map(answer(ranges), "asked")
    for first, last, owner in ranges:
        master = None if owner is None else Node("asked" if owner[0] is None else owner[0].decode(), owner[1])
        assert {found.master_of(slot) for slot in (first, (first + last) // 2, last)} == {master}
    assert found.masters == {found.master_of(first) for first, _, owner in ranges if owner is not None}


@given(assignments(), st.randoms(use_true_random=False))
def test_maps_are_equal_if_every_slot_has_the_same_master(ranges: Any, chance: random.Random) -> None:
    """However the ranges are cut."""
    pieces = []
    for first, last, owner in ranges:
        middle = chance.randint(first, last)
        pieces += [(first, middle, owner)] + ([(middle + 1, last, owner)] if middle < last else [])
    found = read_slot_map(answer(ranges), "asked")
    assert read_slot_map(answer(pieces), "asked") == found
    moved = [(first, last, (b"elsewhere", 1)) for first, last, _ in ranges[:1]] + list(ranges[1:])
    assert read_slot_map(answer(moved), "asked") != found


@pytest.mark.parametrize("host", [b"", b"?"])
def test_a_node_whose_address_is_not_known_serves_nothing(host: bytes) -> None:
    """Its cluster prefers host names, and it has announced none."""
    found = read_slot_map([[0, 9, [host, 1]], [10, 19, [b"a", 0]], [20, 29, [b"b", 2]]], "asked")
    assert [found.master_of(slot) for slot in (0, 10, 20, 30)] == [None, None, Node("b", 2), None]
    assert found.masters == {Node("b", 2)}


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        b"OK",
        7,
        [7],
        [[0, 1]],
        [[0, 1, b"host"]],
        [[0, 1, [b"host"]]],
        [[1, 0, [b"a", 1]]],
        [[0, SLOTS, [b"a", 1]]],
        [[0, 1, ["a", 1]]],
    ],
)
def test_anything_else_is_refused(nonsense: object) -> None:
    with pytest.raises(ValueError, match="CLUSTER SLOTS"):
        read_slot_map(nonsense, "asked")


def test_a_node_may_serve_one_slot() -> None:
    found = read_slot_map([[0, 0, [b"a", 1]], [SLOTS - 1, SLOTS - 1, [b"b", 2]]], "asked")
    assert [found.master_of(slot) for slot in (0, 1, SLOTS - 2, SLOTS - 1)] == [Node("a", 1), None, None, Node("b", 2)]


def test_two_masters_of_one_slot_are_refused() -> None:
    with pytest.raises(ValueError, match="two masters of slot 5"):
        read_slot_map([[0, 5, [b"a", 1]], [5, 9, [b"b", 1]]], "asked")


def test_an_empty_map_knows_nobody() -> None:
    assert SlotMap().master_of(0) is None
    assert read_slot_map([], "asked") == SlotMap()


def test_the_slot_is_that_of_the_hash_tag() -> None:
    """The values of the cluster specification, and its corner cases."""
    assert SLOTS == 16384
    assert slot_of(b"123456789") == 0x31C3
    assert slot_of(b"hello") == 0xC362 % 16384
    assert slot_of(b"{user1000}.following") == slot_of(b"{user1000}.followers") == slot_of(b"user1000")
    assert slot_of(b"foo{}{bar}") == 8363, "its first tag is empty, so the whole key counts"
    assert slot_of(b"foo{{bar}}zap") == slot_of(b"{bar")
    assert slot_of(b"foo{bar}{zap}") == slot_of(b"bar")
    assert slot_of(b"foo{bar") not in (slot_of(b"bar"), slot_of(b"foo"))
