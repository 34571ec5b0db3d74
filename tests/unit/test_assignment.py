"""assign: balanced, with the fewest moves, a fixed point, the same everywhere."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from redisaq.core.membership import assign

NAMES = st.sets(st.sampled_from("abcdefghij"), max_size=8)
CURRENT = st.dictionaries(st.integers(0, 50), st.sampled_from("abcdefghijxyz"))


def spread(members: Collection[str], target: Mapping[int, str]) -> int:
    loads = Counter(dict.fromkeys(members, 0))
    loads.update(target.values())
    return max(loads.values()) - min(loads.values())


def moves(members: Collection[str], current: Mapping[int, str], target: Mapping[int, str]) -> int:
    """Count the partitions taken from a member that is still there."""
    return sum(current.get(partition) in members and current[partition] != member for partition, member in target.items())


def fewest_moves(members: Collection[str], partitions: int, current: Mapping[int, str]) -> int:
    """Try every balanced assignment there is."""
    every = (dict(enumerate(choice)) for choice in itertools.product(sorted(members), repeat=partitions))
    return min(moves(members, current, target) for target in every if spread(members, target) <= 1)


@given(NAMES.filter(bool), st.integers(0, 50), CURRENT)
def test_is_balanced_and_whole(members: set[str], partitions: int, current: dict[int, str]) -> None:
    target = assign(members, partitions, current)
    assert list(target) == list(range(partitions))
    assert set(target.values()) <= members
    assert spread(members, target) <= 1


@given(NAMES, st.integers(0, 50), CURRENT)
def test_is_a_fixed_point(members: set[str], partitions: int, current: dict[int, str]) -> None:
    target = assign(members, partitions, current)
    assert assign(members, partitions, target) == target


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("partitions", [0, 1, 2, 3, 4])
def test_moves_no_more_than_balance_asks_in_every_small_case(count: int, partitions: int) -> None:
    members = list("abc")[:count]
    for owners in itertools.product([None, "gone", *members], repeat=partitions):
        current = {partition: owner for partition, owner in enumerate(owners) if owner is not None}
        target = assign(members, partitions, current)
        assert moves(members, current, target) == fewest_moves(members, partitions, current), current


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from("abcd"), min_size=1), st.integers(0, 6), st.dictionaries(st.integers(0, 7), st.sampled_from("abcdx")))
def test_moves_no_more_than_balance_asks(members: set[str], partitions: int, current: dict[int, str]) -> None:
    assert moves(members, current, assign(members, partitions, current)) == fewest_moves(members, partitions, current)


@given(NAMES, st.integers(0, 30), CURRENT, st.randoms())
def test_does_not_depend_on_the_order_of_what_it_is_given(
    members: set[str],
    partitions: int,
    current: dict[int, str],
    random: Random,
) -> None:
    names, owners = sorted(members) * 2, list(current.items())
    random.shuffle(names)
    random.shuffle(owners)
    assert list(assign(names, partitions, dict(owners)).items()) == list(assign(members, partitions, current).items())


def test_is_the_same_in_processes_with_other_hash_seeds() -> None:
    program = "from redisaq.core.membership import assign; print(assign({*'abcdefg'}, 40, {n: 'abcdefgxyz'[n % 10] for n in range(60)}))"
    answers = {
        subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("0", "1", "2")
    }
    assert len(answers) == 1


def test_gives_nobody_anything_when_nobody_is_there() -> None:
    assert assign([], 4, {0: "a"}) == {}


def test_passes_over_partitions_beyond_the_range() -> None:
    assert assign(["a"], 1, {0: "b", 7: "a"}) == {0: "a"}


def test_members_without_a_partition_take_nothing_away() -> None:
    assert assign(["a", "b", "c"], 2, {0: "c", 1: "a"}) == {0: "c", 1: "a"}


def test_begins_in_turn() -> None:
    assert list(assign(["b", "a", "c"], 7, {}).values()) == ["a", "b", "c", "a", "b", "c", "a"]


def test_fills_up_those_with_the_least_by_name() -> None:
    """Members of different versions have to agree."""
    assert list(assign("abc", 7, {0: "a", 1: "a"}).values()) == ["a", "a", "b", "c", "b", "c", "a"]
    assert list(assign("ab", 6, dict.fromkeys(range(6), "a")).values()) == ["a", "a", "a", "b", "b", "b"]
    barred = {5: ["b"], 3: ["b"]}
    assert list(assign("ab", 6, dict.fromkeys(range(6), "a"), barred).values()) == ["a", "b", "b", "a", "b", "a"]


def test_a_thousand_members_and_4096_partitions() -> None:
    members = [f"m{number}" for number in range(1000)]
    target = assign(members[:999], 4096, assign(members, 4096, {}))
    assert spread(members[:999], target) <= 1


UNABLE = st.dictionaries(st.integers(0, 30), st.sets(st.sampled_from("abcdefghijxyz"), max_size=5), max_size=20)


@given(NAMES.filter(bool), st.integers(0, 30), CURRENT, UNABLE)
def test_nobody_is_meant_to_own_what_he_cannot_read_while_another_can(
    members: set[str], partitions: int, current: dict[int, str], unable: dict[int, set[str]]
) -> None:
    target = assign(members, partitions, current, unable)
    assert list(target) == list(range(partitions))
    assert set(target.values()) <= members
    for partition, owner in target.items():
        able = members - unable.get(partition, set())
        assert owner in able or not able
    assert assign(members, partitions, target, unable) == target, "a fixed point"
    loads = Counter(dict.fromkeys(members, 0))
    loads.update(target.values())
    for partition, owner in target.items():  # as level as it can be
        able = members - unable.get(partition, set()) or members
        assert loads[owner] <= min(loads[one] for one in able) + 1


@given(NAMES.filter(bool), st.integers(0, 30), CURRENT, UNABLE)
def test_what_nobody_can_read_counts_for_nothing(
    members: set[str], partitions: int, current: dict[int, str], unable: dict[int, set[str]]
) -> None:
    everybody = {partition: members | names for partition, names in unable.items()}
    assert assign(members, partitions, current, everybody) == assign(members, partitions, current)


def test_one_that_can_read_nothing_gives_all_away_and_gets_it_back() -> None:
    before = assign("ab", 60, {})
    without = assign("ab", 60, before, {partition: ["a"] for partition in range(60)})
    assert set(without.values()) == {"b"}
    assert spread("ab", assign("ab", 60, without)) <= 1
