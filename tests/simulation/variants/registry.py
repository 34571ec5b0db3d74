"""All variants, the seeds under which each was caught, and why some rules have none."""

from __future__ import annotations

from tests.simulation.variants import cluster, enqueueing, growing, members, settling, taking
from tests.simulation.variants.variant import Backend, Variant

PARTS = (members, taking, settling, enqueueing, growing, cluster)

VARIANTS: dict[str, Variant] = {one.name: one for part in PARTS for one in vars(part).values() if isinstance(one, Variant)}

FOUND_BY_COUNTEREXAMPLE = ("M1", "M3", "M5", "M7", "M8", "T2", "T3", "S1", "E1", "E2")
"""The rules about members, taking, settling and enqueueing whose absence a model checker has shown to do harm."""

LATER_SEEDS: dict[tuple[str, Backend], int] = {
    ("M5 margin", "trio"): 1,
    ("M5 margin", "asyncio"): 1,
    ("M12", "trio"): 2,
    ("M12", "asyncio"): 2,
    ("M13", "trio"): 2,
    ("M13", "asyncio"): 2,
    ("T2", "trio"): 7,
    ("T2", "asyncio"): 2,
    ("T3", "trio"): 3,
    ("T3 own", "trio"): 1,
    ("T3 own", "asyncio"): 4,
    ("C7 found", "trio"): 2,
    ("C7 found", "asyncio"): 1,
}
"""The first seed that catches a variant, where it is not seed 0."""


def recorded(name: str, backend: Backend) -> int:
    """Return the seed under which a variant was caught first."""
    return LATER_SEEDS.get((name, backend), 0)
