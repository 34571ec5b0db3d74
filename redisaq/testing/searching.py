"""Proposes lists of faults that may be enough for a failure: how a long list is shrunk.

In: the faults of a failing run; and for each proposal, which of its faults befell if it failed in the same way. Out: proposals, ever
shorter ones after hits, and simpler ones at the end. Pure: see `minimising`, whose generators these are made of.

What is peculiar to faults: each is addressed by the count of its process's operations, so leaving one out makes those behind it befall
others, at other times. Whether a part of a list does is therefore half a matter of chance, and several parts of one size are worth a try.
Most of a list are delays, of which every operation has two: it is seldom they that matter.
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
"""Their amount is no quantity."""

SHARES = (1.0, 0.9, 0.9, 0.9, 0.7, 0.7, 0.7, 0.5, 0.5, 0.5)
"""Of what is no delay, parts of these sizes are tried until one does."""

Until = Callable[[], float]
"""Returns the time by which the last run that failed in the same way had done so: what comes later is of no account in that run."""


def search(faults: Sequence[Fault], until: Until, random: Random) -> Search[Fault, list[Fault]]:
    """Search a list from which no fault can be left out, and whose faults are simple.

    Returns:
        A longer list from which other ways lead down (see `search_again`): the end of one way may be a blind alley. Empty if there is none.
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
    """Search as `search` does, by another way; end early if it leads to more faults than `most`."""
    thin = yield from thin_out(begin, random)
    found = yield from _descend(thin, until)
    if len(found) <= most:
        yield from _polish(found)


def _descend(faults: list[Fault], until: Until) -> Search[Fault, list[Fault]]:
    parts = [[fault for fault in faults if fault.time > until()]]
    parts += [[fault for fault in faults if fault.kind == kind] for kind in KINDS]
    return (yield from minimise(faults, parts))


def _polish(faults: list[Fault]) -> Search[Fault, None]:
    """Make amounts simpler as far as that goes; where that makes a fault needless, leave it out."""
    while True:
        simpler = yield from simplify(faults, [(fault, _simpler(fault)) for fault in faults])
        if simpler == faults:
            return
        faults = yield from minimise(simpler)


def _simpler(fault: Fault) -> Iterator[Fault]:
    """Yield what might stand in a fault's place: amounts with one figure, then with two."""
    amount = fault.amount
    if fault.kind in SWITCHES or not amount:
        others = [0.0]
    else:
        unit = 10.0 ** math.floor(math.log10(abs(amount)))
        others = [round(amount / unit) * unit, math.floor(amount / unit) * unit, math.ceil(amount / unit) * unit]
        others = [float(f"{one:.6g}") for one in (*others, float(f"{amount:.2g}"))]
    for other in dict.fromkeys(others):
        if other != amount and not (fault.kind == "slot_loss" and other >= 1.0):  # a share of all slots: there is none there
            yield msgspec.structs.replace(fault, amount=other)


def complexity(faults: Sequence[Fault]) -> tuple[int, int]:
    """Return how much there is to read: how many faults, and how many figures."""
    return len(faults), sum(len(f"{fault.amount:.9g}") for fault in faults)
