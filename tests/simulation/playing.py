"""Plays seeds of a scenario and adds up the results; the long simulation's processes run this."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from redisaq.testing import Fault, Report
from tests.simulation.catalogue import Backend, scenario_of
from tests.simulation.judged import simulate

NOTED = {
    ": the request was lost": "lost request",
    ": the reply was lost": "lost reply",
    ": the connection broke": "disconnect",
    ": late": "late request",
    " process: crashes": "crash",
    " process: pauses": "pause",
    "nobody waits": "carried out with nobody waiting",
    "are forgotten": "failover",
    "is gone": "slot loss",
    ": silent": "silent connection",
    "network: nothing is heard": "silent network",
    "silence: nothing is heard": "silent server",
    "outage: it is away": "outage",
}
"""Faults by the text with which the trace's lines report them."""

Failure: TypeAlias = tuple[str, Backend, int, str]
"""Scenario, backend, seed, and the violations."""


@dataclass
class Outcome:
    """The results of some seeds."""

    seeds: int = 0
    traces: set[str] = field(default_factory=set[str])
    events: Counter[str] = field(default_factory=Counter[str])
    failures: list[Failure] = field(default_factory=list[Failure])

    def add(self, other: Outcome) -> None:
        """Take in what came of others."""
        self.seeds += other.seeds
        self.traces |= other.traces
        self.events += other.events
        self.failures += other.failures


def play(scenario: str, backend: Backend, seed: int, faults: Sequence[Fault] | None = None) -> Report:
    """Run one seed, with these faults in place of the scenario's own, if given."""
    found = scenario_of(scenario)
    return simulate(found.play, seed=seed, backend=backend, faults=found.faults if faults is None else faults)


def play_some(scenario: str, backend: Backend, seeds: range) -> Outcome:
    """Run some seeds, without logging and without the garbage collector."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    gc.disable()  # a tenth of the time: what some seeds leave is collected at once
    outcome = Outcome()
    try:
        _play_each(scenario, backend, seeds, outcome)
    finally:
        gc.enable()
        gc.collect()
        logging.disable(before)
    return outcome


def _play_each(scenario: str, backend: Backend, seeds: range, outcome: Outcome) -> None:
    for seed in seeds:
        outcome.seeds += 1
        try:
            report = play(scenario, backend, seed)
        except Exception as error:  # noqa: BLE001 -- whatever it is, this seed failed
            outcome.failures.append((scenario, backend, seed, repr(error)))
            continue
        outcome.traces.add(report.trace_hash)
        outcome.events += count_faults(report)
        if not report.ok:
            outcome.failures.append((scenario, backend, seed, report.violations[0]))


def count_faults(report: Report) -> Counter[str]:
    """Count the faults of a run."""
    events = Counter(name for line in report.trace for end, name in NOTED.items() if end in line)
    events["handler runs"] = len(report.deliveries)
    events["leases"] = len(report.leases)
    events["leases lost"] = sum(lease.end == "lost" for lease in report.leases)
    events["dropped messages"] = len(report.dropped)
    events["known overlaps"] = len(report.known)
    events["refused settlements"] = sum(not settle.accepted for settle in report.settles)
    return events
