"""All scenarios, by name."""

from __future__ import annotations

from typing import Literal

from tests.simulation import scenarios_delivery, scenarios_members
from tests.simulation.scenarios import SCENARIOS, Scenario

__all__ = ["SCENARIOS", "Backend", "Scenario", "scenarios_delivery", "scenarios_members"]

Backend = Literal["trio", "asyncio"]
