"""Propose lists of faults that may be enough for a failure, to shrink a long list.

Input: the faults of a failing run and, for each proposal that failed in the same way, which of its faults happened. Output: proposals, ever
shorter after hits, and simpler at the end. This module is pure: it is built from the generators of `minimising`.

A fault is addressed by the count of its process's operations, so leaving one out makes later faults hit other operations at other times.
Whether a part of a list works is therefore partly a matter of chance, and several parts of one size are worth a try. Most faults of a list
are delays, of which every operation has two; they seldom matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from random import Random

import msgspec

from redisaq.testing.faults import KINDS, Fault
from redisaq.testing.minimising import Search, first_of, minimise, simplify, thin_out

DELAYS = ("delay", "reply_delay")

SWITCHES = ("lost_request", "disconnect")
"""Kinds whose amount is not a quantity."""

SHARES = (1.0, 0.9, 0.9, 0.9, 0.7, 0.7, 0.7, 0.5, 0.5, 0.5)
"""Parts of these sizes of the faults other than delays are tried until one works."""

Until = Callable[[], float]
"""Returns the time by which the last run that failed in the same way had failed. Later faults do not matter in that run."""


def search(faults: Sequence[Fault], until: Until, random: Random) -> Search[Fault, list[Fault]]:
    """Search for a list from which no fault can be left out, and whose faults are simple.

    Returns:
        A longer list from which other ways lead down (see `search_again`), because one way may end in a blind alley. Empty if there is
            none.
    """
    none: list[Fault] = []
    if (yield from first_of([none])) is not None:
        return none
    bare = [fault for fault in faults if fault.kind not in DELAYS]
    begin = yield from first_of([fault for fault in bare if random.random() < share] for share in SHARES)
    if begin is None:
        found = yield from _descend(list(faults), until)
    else:
        thin = yield from thin_out(begin, random)
        found = yield from _descend(thin, until)
    yield from _polish(found)
    return begin or none


def search_again(begin: list[Fault], until: Until, random: Random, most: int) -> Search[Fault, None]:
    """Search as `search` does, by another way. End early if it leads to more faults than `most`."""
    thin = yield from thin_out(begin, random)
    found = yield from _descend(thin, until)
    if len(found) <= most:
        yield from _polish(found)


def _descend(faults: list[Fault], until: Until) -> Search[Fault, list[Fault]]:
    parts = [[fault for fault in faults if fault.time > until()]]
    parts += [[fault for fault in faults if fault.kind == kind] for kind in KINDS]
    return (yield from minimise(faults, parts))


def _polish(faults: list[Fault]) -> Search[Fault, None]:
    """Make amounts simpler as far as possible. If that makes a fault unnecessary, leave it out."""
    while True:
        simpler = yield from simplify(faults, [(fault, _simpler(fault)) for fault in faults])
        if simpler == faults:
            return
        faults = yield from minimise(simpler)


def _simpler(fault: Fault) -> Iterator[Fault]:
    """Yield replacements for a fault: amounts with one digit, then with two."""
    amount = fault.amount
    if fault.kind in SWITCHES or not amount:
        others = [0.0]
    else:
        unit = 10.0 ** math.floor(math.log10(abs(amount)))
        others = [round(amount / unit) * unit, math.floor(amount / unit) * unit, math.ceil(amount / unit) * unit]
        others = [float(f"{one:.6g}") for one in (*others, float(f"{amount:.2g}"))]
    for other in dict.fromkeys(others):
        if other != amount and not (fault.kind == "slot_loss" and other >= 1.0):  # a share of all slots: 1 is beyond the last slot
            yield msgspec.structs.replace(fault, amount=other)


def complexity(faults: Sequence[Fault]) -> tuple[int, int]:
    """Return how much there is to read: the number of faults, and the number of digits."""
    return len(faults), sum(len(f"{fault.amount:.9g}") for fault in faults)
