"""Exponential back-off with full jitter (the AWS Architecture Blog's name for it, 2015): a random wait below a doubling bound."""

from __future__ import annotations

from random import Random


def full_jitter(attempt: int, *, base: float, most: float, random: Random) -> float:
    """Return how long to wait before try number `attempt` + 1.

    Args:
        attempt: how many tries have failed so far, from 1.
        base: bound of the first wait, seconds.
        most: bound of every wait, seconds.
        random: where chance comes from.
    """
    return random.uniform(0.0, min(most, base * 2.0 ** min(attempt - 1, 32)))
