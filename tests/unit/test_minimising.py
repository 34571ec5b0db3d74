"""Delta debugging: what is found still does, nothing of it can be left out, and nothing is tried twice."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from random import Random
from typing import Any

import hypothesis
from hypothesis import strategies as st

from redisaq.testing.minimising import first_of, minimise, once, simplify, thin_out

Does = Callable[[Sequence[int]], bool]


def drive(search: Generator[list[Any], Sequence[Any] | None, Any], does: Callable[[list[Any]], Sequence[Any] | None]) -> Any:
    """Answer a search; return what it found, and all that it proposed."""
    asked: list[list[Any]] = []
    try:
        proposal = next(search)
        while True:
            asked.append(proposal)
            proposal = search.send(does(proposal))
    except StopIteration as end:
        return end.value, asked


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[int], Does]:
    """A list, and what it must hold: all items of one of some sets, and if so wanted, an even number of items besides (not monotone)."""
    items = list(range(draw(st.integers(1, 40))))
    wanted = draw(st.lists(st.sets(st.sampled_from(items), max_size=6), min_size=1, max_size=4))
    even = draw(st.booleans())

    def does(proposal: Sequence[int]) -> bool:
        return any(one <= set(proposal) for one in wanted) and (not even or len(proposal) % 2 == len(items) % 2)

    return items, does


@hypothesis.given(problems(), st.lists(st.sets(st.integers(0, 40)), max_size=3))
def test_the_end_does_and_nothing_can_be_left_out(problem: tuple[list[int], Does], parts: list[set[int]]) -> None:
    items, does = problem
    found, asked = drive(once(minimise(items, parts), set()), lambda proposal: proposal if does(proposal) else None)
    assert does(found)
    assert [item for item in items if item in found] == found, "in order, and none twice"
    assert not any(does([other for other in found if other != item]) for item in found)
    assert len({frozenset(proposal) for proposal in asked}) == len(asked), "something was tried twice"
    assert items not in asked


def test_what_was_of_no_account_is_left_out_at_once() -> None:
    """The answer to a proposal says which faults there were, and the search goes on from there."""

    def answer(proposal: list[int]) -> list[int] | None:
        return [item for item in proposal if item in (2, 3, 7)] if {2, 7} <= set(proposal) else None

    found, asked = drive(once(minimise(range(20)), set()), answer)
    assert found == [2, 7]
    assert asked == [[], [*range(10)], [2, 3], [2, 7], [7], [2]]


def test_a_list_that_does_without_anything_takes_one_try() -> None:
    assert drive(once(minimise(range(1000)), set()), lambda proposal: proposal) == ([], [[]])


def test_few_of_many_take_few_tries() -> None:
    found, asked = drive(once(minimise(range(1000)), set()), lambda proposal: proposal if {3, 500, 998} <= set(proposal) else None)
    assert found == [3, 500, 998]
    assert len(asked) < 100


def test_a_part_that_is_of_no_account_goes_first() -> None:
    _, asked = drive(once(minimise(range(10), [range(5, 10)]), set()), lambda proposal: proposal if 2 in proposal else None)
    assert asked[:2] == [[], [0, 1, 2, 3, 4]]


def by_chance(proposal: list[int]) -> list[int] | None:
    """What does by chance: each part of the list with the same likelihood, whatever others do."""
    return proposal if sum(proposal) % 3 == 0 else None


def test_much_is_left_out_where_chance_has_a_hand_in_what_does() -> None:
    found, asked = drive(once(thin_out(range(1000), Random(1)), set()), by_chance)
    assert sum(found) % 3 == 0
    assert len(found) < 10
    assert len(asked) < 60


def test_it_ends_after_so_many_misses_and_with_so_little_to_leave_out() -> None:
    found, asked = drive(thin_out(range(1000), Random(1)), lambda _proposal: None)
    assert found == [*range(1000)]
    assert len(asked) == 8
    assert [len(proposal) for proposal in asked] == sorted(len(proposal) for proposal in asked), "less is left out after each miss"
    assert drive(thin_out([7], Random(1)), lambda _proposal: None) == ([7], [])


@hypothesis.given(problems(), st.integers(0, 10))
def test_what_is_thinned_out_does(problem: tuple[list[int], Does], seed: int) -> None:
    items, does = problem
    found, _ = drive(thin_out(items, Random(seed)), lambda proposal: proposal if does(proposal) else None)
    assert does(found)


def test_the_first_that_does() -> None:
    assert drive(first_of([[1], [2], [3]]), lambda proposal: [] if proposal == [2] else None) == ([], [[1], [2]])
    assert drive(first_of([[1]]), lambda _proposal: None) == (None, [[1]])


def test_items_are_replaced_by_the_simplest_that_does() -> None:
    substitutes = [(17, [10, 15, 16]), (3, [1]), (99, [0])]
    found, asked = drive(once(simplify([3, 17], substitutes), set()), lambda proposal: proposal if sum(proposal) >= 18 else None)
    assert found == [3, 15]
    assert asked == [[3, 10], [3, 15], [1, 15]]
    found, _ = drive(simplify([3, 17], [(3, [17])]), lambda proposal: proposal)
    assert found == [3, 17], "no item twice"
