"""Test your own code with redisaq's tools: virtual time, seeded interleavings on trio and asyncio, and simulated groups under faults."""

from __future__ import annotations

from redisaq.testing.actor_kit import ActorKit, Probe, Restart, Step
from redisaq.testing.fault_file import load_faults
from redisaq.testing.faults import Fault, FaultPlan
from redisaq.testing.handler_kit import HandlerKit
from redisaq.testing.observed import Delivery, Lease, Mark, Settle
from redisaq.testing.observing import Run
from redisaq.testing.outcome import Fate, HandlerRun, Outcome
from redisaq.testing.pace import Limits, VirtualTimeExceeded
from redisaq.testing.record import Observer
from redisaq.testing.report import Report
from redisaq.testing.shrinking import NotReproduced, Shrunk, shrink
from redisaq.testing.simulation import Simulation, simulate
from redisaq.testing.standstill import VirtualDeadlock, VirtualTimeUnavailable
from redisaq.testing.virtual import EPOCH, virtual_run

__all__ = [
    "EPOCH",
    "ActorKit",
    "Delivery",
    "Fate",
    "Fault",
    "FaultPlan",
    "HandlerKit",
    "HandlerRun",
    "Lease",
    "Limits",
    "Mark",
    "NotReproduced",
    "Observer",
    "Outcome",
    "Probe",
    "Report",
    "Restart",
    "Run",
    "Settle",
    "Shrunk",
    "Simulation",
    "Step",
    "VirtualDeadlock",
    "VirtualTimeExceeded",
    "VirtualTimeUnavailable",
    "load_faults",
    "shrink",
    "simulate",
    "virtual_run",
]
