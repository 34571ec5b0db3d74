"""All scenarios, by name; each also with losses of the server's data besides its own faults, under that name and an ending."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from tests.simulation import scenarios_admin, scenarios_delivery, scenarios_kept, scenarios_members, scenarios_silence
from tests.simulation.scenarios import SCENARIOS, Scenario
from tests.simulation.scenarios_cluster import scattered
from tests.simulation.scenarios_growing import growing
from tests.simulation.scenarios_outages import with_losses

__all__ = [
    "LOSSES",
    "SCENARIOS",
    "Backend",
    "Scenario",
    "growing",
    "scattered",
    "scenario_of",
    "scenarios_admin",
    "scenarios_delivery",
    "scenarios_kept",
    "scenarios_members",
    "scenarios_silence",
]

Backend = Literal["trio", "asyncio"]

LOSSES = "+losses"


def scenario_of(name: str) -> Scenario:
    """Return the scenario of that name."""
    found = SCENARIOS[name.removesuffix(LOSSES)]
    return replace(found, faults=with_losses(found.faults)) if name.endswith(LOSSES) else found
