"""Runs variants, and the unchanged product for comparison.

Input: a variant, a seed, a backend. Output: the violations, and whether each changed place was really called.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from redisaq.testing import Limits
from tests.simulation.judged import shrink, simulate
from tests.simulation.variants.breaking import taken_out
from tests.simulation.variants.variant import Backend, Variant

LIMITS = Limits(steps_at_once=20_000)
"""What is broken may go round and round: that is seen soon, and the usual limit takes half a minute to reach."""


@dataclass(frozen=True)
class Outcome:
    """The result of one seed.

    Attributes:
        violations: all of them.
        harms: those that name the rule's harm, shortest first.
        unused: changed places that were never called.
    """

    violations: list[str]
    harms: list[str]
    unused: list[str]

    @property
    def caught(self) -> bool:
        """True if the harm was seen, and every change had a part in the run."""
        return bool(self.harms) and not self.unused


def broken(variant: Variant, seed: int, backend: Backend) -> Outcome:
    """Run the variant."""
    with taken_out(*variant.changes) as uses:
        try:
            violations = _violations(variant, seed, backend)
        except Exception as error:  # noqa: BLE001 -- broken code may break a scenario; that is no proof of anything
            violations = [f"the scenario ended with {type(error).__name__}: {error}"]
    return Outcome(violations, variant.harms(violations), uses.unused)


def whole(variant: Variant, seed: int, backend: Backend) -> list[str]:
    """Run the product as it is under the variant's scenario; return the violations."""
    return _violations(variant, seed, backend)


def _violations(variant: Variant, seed: int, backend: Backend) -> list[str]:
    report = simulate(variant.scenario, seed=seed, backend=backend, faults=variant.plan, limits=LIMITS)
    return [*report.violations, *variant.check(report)]


def first_caught(variant: Variant, backend: Backend, seeds: range) -> tuple[int, Outcome] | None:
    """Return the first seed that catches the variant, and how; None if none does."""
    for seed in seeds:
        outcome = broken(variant, seed, backend)
        if outcome.caught:
            return seed, outcome
    return None


def few(variant: Variant, seed: int, backend: Backend) -> str:
    """Shrink the faults under which a variant does its harm; say how many are left, and which."""
    with taken_out(*variant.changes):
        report = simulate(variant.scenario, seed, backend, variant.plan, raises=False)
        if not report.faults or not variant.harms(report.violations):
            return "it had no fault" if not report.faults else "it takes the scenario's own check to see"
        began = time.perf_counter()
        shrunk = shrink(variant.scenario, report, same=lambda one: bool(variant.harms(one.violations)))
        return f"{shrunk.text()}\n{time.perf_counter() - began:.1f} s"
