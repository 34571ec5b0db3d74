"""Runs variants, and the whole product beside them.

In: a variant, a seed, a backend. Out: what was violated, and whether each changed place was really called.
"""

from __future__ import annotations

from dataclasses import dataclass

from redisaq.testing import simulate
from tests.simulation.variants.breaking import taken_out
from tests.simulation.variants.variant import Backend, Variant


@dataclass(frozen=True)
class Outcome:
    """What one seed showed.

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
    report = simulate(variant.scenario, seed=seed, backend=backend, faults=variant.plan)
    return [*report.violations, *variant.check(report)]


def first_caught(variant: Variant, backend: Backend, seeds: range) -> tuple[int, Outcome] | None:
    """Return the first seed that catches the variant, and how; None if none does."""
    for seed in seeds:
        outcome = broken(variant, seed, backend)
        if outcome.caught:
            return seed, outcome
    return None
