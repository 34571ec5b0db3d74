"""The definition of a broken variant.

A variant counts as caught only by a sentence of its own kind, one that names the harm. Whatever else its broken code does (for example an
error that ends a consumer) proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from redisaq.testing import FaultPlan, Report, Simulation
from tests.simulation.variants.breaking import Change

Backend = Literal["trio", "asyncio"]
BACKENDS: tuple[Backend, ...] = ("trio", "asyncio")

Scenario = Callable[[Simulation], Awaitable[None]]


def nothing_more(_report: Report) -> list[str]:
    """Add nothing to what the report itself finds."""
    return []


@dataclass(frozen=True)
class Variant:
    """A removed rule, and how its absence shows.

    Attributes:
        name: the rule's number, and a word if one rule has several variants.
        without: what is left out, in a sentence.
        changes: the changed places.
        scenario: the scenario that shows the harm.
        harm: a pattern that one violation must match.
        plan: the faults; None: only those that the scenario scripts. Then chance decides only the interleaving.
        check: finds violations in a report that the report does not name itself.
    """

    name: str
    without: str
    changes: Sequence[Change]
    scenario: Scenario
    harm: str
    plan: FaultPlan | None = field(default=None)
    check: Callable[[Report], list[str]] = nothing_more

    @property
    def rule(self) -> str:
        """Return the rule's number."""
        return self.name.split()[0]

    def harms(self, violations: Sequence[str]) -> list[str]:
        """Return the violations that are of the kind, shortest first."""
        return sorted((one for one in violations if re.search(self.harm, one)), key=len)
