"""What a broken variant is.

Always: a variant counts as caught only by a sentence of its own kind, one that names the harm; whatever else its broken code does (an error
that ends a consumer, say) proves nothing.
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
    """A rule taken out, and how that shows.

    Attributes:
        name: the rule's number, and a word if there are several of one rule.
        without: what is left out, in a sentence.
        changes: the places.
        scenario: in which it shows.
        harm: a pattern that one violation must match.
        plan: the faults; None: none but those that the scenario scripts.
        directed: the scenario brings the harm about by itself; chance has only the interleaving.
        check: finds violations in a report that it does not name itself.
    """

    name: str
    without: str
    changes: Sequence[Change]
    scenario: Scenario
    harm: str
    plan: FaultPlan | None = field(default=None)
    directed: bool = False
    check: Callable[[Report], list[str]] = nothing_more

    @property
    def rule(self) -> str:
        """Return the rule's number."""
        return self.name.split()[0]

    def harms(self, violations: Sequence[str]) -> list[str]:
        """Return the violations that are of the kind, shortest first."""
        return sorted((one for one in violations if re.search(self.harm, one)), key=len)
