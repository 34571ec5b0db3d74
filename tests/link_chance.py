"""Chance without chance, for tests that ask how long somebody waits at most."""

from __future__ import annotations

import random


class Longest(random.Random):
    """Draws the greatest number each time."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)
