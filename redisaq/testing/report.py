"""What a simulation tells: plain frozen structs, and a timeline for people.

Times are seconds of virtual time since the simulation began. What always holds: the same seed, backend, plan and scenario give the same
report, in every process.
"""

from __future__ import annotations

import msgspec

from redisaq.testing.observed import Delivery, Lease, Mark, Settle


class Report(msgspec.Struct, frozen=True):
    """What happened under one seed.

    Attributes:
        seed: which.
        backend: "trio" or "asyncio".
        violations: what must not have happened, each in a sentence; empty if all is well.
        trace_hash: of the trace, hex.
        trace: everything in order, a line each.
        produced: ids of the messages that producers were told are safe.
        dropped: ids of messages that a group could not get, since the scenario let them be trimmed: listed, no violation.
        deliveries: each run of a handler, in the order of their starts.
        settles: in the order in which the server did them.
        leases: in the order of their beginnings.
        marks: what happened to members.
    """

    seed: int
    backend: str
    violations: list[str]
    trace_hash: str
    trace: list[str]
    produced: list[str]
    dropped: list[str]
    deliveries: list[Delivery]
    settles: list[Settle]
    leases: list[Lease]
    marks: list[Mark]

    @property
    def ok(self) -> bool:
        """True if no invariant was broken."""
        return not self.violations

    def timeline(self) -> str:
        """Return what matters as text: joins, faults, leases, in order of time, a line each, then the violations."""
        lines = [(mark.time, f"{mark.member} {mark.what}") for mark in self.marks]
        for lease in self.leases:
            place = f"{lease.topic}/{lease.partition} ({lease.group})"
            lines.append((lease.since, f"{lease.member} takes {place} under {lease.token}"))
            if lease.until is not None:
                lines.append((lease.until, f"{lease.member} has {place} no more: {lease.end}"))
        lines.sort(key=lambda line: line[0])
        return "\n".join([*(f"{time:10.3f}  {text}" for time, text in lines), *(f"violation: {text}" for text in self.violations)])
