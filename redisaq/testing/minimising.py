"""Find the few items of a long list that matter: delta debugging ("ddmin", Zeller and Hildebrandt, 2002), by complements alone.

Input: a list, and for each list that is proposed here, whether it still works as the first did. Output: a list from which no item can be
left out. This module is pure: the caller tries the proposals, decides for how long and what "still works" means, and may stop at any time.

Of the two kinds of steps of ddmin, "this part alone" and "all but this part", only the second is used here: the first pays where everything
that matters lies in one part. Parts are tried from the end of the list to its beginning, because leaving out a late item changes nothing
before it.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Sequence
from random import Random
from typing import TypeAlias, TypeVar

T = TypeVar("T", bound=Hashable)
R = TypeVar("R")

Search: TypeAlias = Generator[list[T], Sequence[T] | None, R]
"""Yields proposals. The answer to each is the part of it that matters, which works as well as the whole; None if it does not work."""

HALF = 0.5
"""The share of a list that thinning out keeps at first."""

LEAST_SHARE = 0.2
LESS = 0.7
MOST_MISSES = 8


def minimise(items: Sequence[T], parts: Iterable[Iterable[T]] = ()) -> Search[T, list[T]]:
    """Search for a part of a list that works and from which no single item can be left out (it is 1-minimal); return it.

    Args:
        items: a list that works, without duplicates.
        parts: parts that may not matter at all. Each is left out as a whole before anything else, in this order.
    """
    current = yield from _without(list(items), items)  # perhaps no item is needed
    for part in parts:
        current = yield from _without(current, part)
    size = len(current) // 2
    while size > 1:
        current = yield from _sweep(current, size)
        size = min(size, len(current)) // 2
    before = len(current) + 1
    while len(current) < before:
        before = len(current)
        current = yield from _sweep(current, 1)
    return current


def _sweep(current: list[T], size: int) -> Search[T, list[T]]:
    """Try to leave out each stretch of this many items."""
    end = len(current)
    while end > 0:
        start = max(0, end - size)
        ahead = set(current[:start])
        current = yield from _without(current, current[start:end])
        end = sum(item in ahead for item in current)
    return current


def _without(current: list[T], part: Iterable[T]) -> Search[T, list[T]]:
    left_out = set(part)
    proposal = [item for item in current if item not in left_out]
    if len(proposal) == len(current):
        return current
    kept = yield proposal
    return current if kept is None else list(kept)


def thin_out(items: Sequence[T], random: Random) -> Search[T, list[T]]:
    """Search for a much shorter list that works: leave out items at random, more after each hit, fewer after each miss; return it.

    Where leaving out one item changes the effect of the others, as with faults, it is partly a matter of chance what a part of the list
    does. A part of any size may work, even if neither of its halves does, nor the half of the whole list. Then several parts of one size
    are worth a try before smaller ones are left out.

    Args:
        items: a list that works, without duplicates.
        random: a seeded generator.
    """
    current, share, misses = list(items), HALF, 0
    while misses < MOST_MISSES and (1.0 - share) * len(current) >= 1.0:
        kept = yield [item for item in current if random.random() < share]
        if kept is None:
            share, misses = 1.0 - (1.0 - share) * LESS, misses + 1
        else:
            current, share, misses = list(kept), max(LEAST_SHARE, share * LESS), 0
    return current


def first_of(proposals: Iterable[list[T]]) -> Search[T, list[T] | None]:
    """Return the part that matters of the first proposal that works; None if none works."""
    for proposal in proposals:
        kept = yield proposal
        if kept is not None:
            return list(kept)
    return None


def simplify(items: Sequence[T], simpler: Iterable[tuple[T, Iterable[T]]]) -> Search[T, list[T]]:
    """Search for a list that works and whose items are simpler; return it.

    Args:
        items: a list that works, without duplicates.
        simpler: some of the items, and the replacements to try for each, the simplest first.
    """
    current = list(items)
    for item, substitutes in simpler:
        for substitute in substitutes:
            if item not in current or substitute in current:
                continue
            place = current.index(item)
            kept = yield [*current[:place], substitute, *current[place + 1 :]]
            if kept is not None:
                current = list(kept)
                break
    return current


def once(search: Search[T, R], asked: set[frozenset[T]]) -> Search[T, R]:
    """Run a search, but do not pass on a proposal that was made before: if it did not work then, it does not work now.

    Args:
        search: the search whose proposals to pass on.
        asked: the proposals made so far; new ones are added.
    """
    try:
        proposal = next(search)
        while True:
            answer: Sequence[T] | None = None
            if frozenset(proposal) not in asked:
                asked.add(frozenset(proposal))
                answer = yield proposal
                if answer is not None:
                    asked.add(frozenset(answer))
            proposal = search.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result
