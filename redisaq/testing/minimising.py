"""Finds the few items of a long list that matter: delta debugging ("ddmin", Zeller and Hildebrandt, 2002), by complements alone.

In: a list, and for each other one that is proposed here, whether it still does what the first did. Out: one from which nothing can be left
out. Pure: who tries the proposals, for how long, and what "still does" means, is the caller's business, who may also stop at any time.

Of ddmin's two kinds of steps, "this part alone" and "all but this part", there is only the second here: the first pays where all that
matters lies in one part. Parts are tried from the end of the list to its beginning: leaving out what comes late changes nothing of what
was before.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Sequence
from random import Random
from typing import TypeAlias, TypeVar

T = TypeVar("T", bound=Hashable)
R = TypeVar("R")

Search: TypeAlias = Generator[list[T], Sequence[T] | None, R]
"""Yields proposals. The answer to each is None if it does not do; else what was of account in it: itself, or a part that does the same."""

HALF = 0.5
"""Of a list, thinning out keeps this share at first."""

LEAST_SHARE = 0.2
LESS = 0.7
MOST_MISSES = 8


def minimise(items: Sequence[T], parts: Iterable[Iterable[T]] = ()) -> Search[T, list[T]]:
    """Search a part of a list that does, and of which no single item can be left out (it is 1-minimal); return it.

    Args:
        items: a list that does; no item twice.
        parts: what may be of no account all together: each is left out as a whole before anything else, in this order.
    """
    current = yield from _without(list(items), items)  # perhaps nothing is needed
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
    """Try to leave out each stretch of so many items."""
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
    """Search a much shorter list that does, roughly: leave out what chance says, more after each hit, less after each miss; return it.

    Where leaving out one item changes what the others bring about, as with faults, what a part of the list does is itself a matter of
    chance: a part of any size may do, though neither the half of it does nor that half of the whole. Then several parts of one size are
    worth a try, before smaller ones are left out.

    Args:
        items: a list that does; no item twice.
        random: seeded.
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
    """Return what is of account in the first proposal that does, None if none does."""
    for proposal in proposals:
        kept = yield proposal
        if kept is not None:
            return list(kept)
    return None


def simplify(items: Sequence[T], simpler: Iterable[tuple[T, Iterable[T]]]) -> Search[T, list[T]]:
    """Search a list that does and whose items are simpler; return it.

    Args:
        items: a list that does; no item twice.
        simpler: some of its items, and what might stand in the place of each, the simplest first.
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
    """Search the same, and pass on no proposal that has been asked before: if it did not do then, it will not now.

    Args:
        search: whose proposals to pass on.
        asked: what has been; is added to.
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
