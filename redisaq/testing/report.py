"""What a simulation tells: plain frozen structs, and a timeline for people.

Times are seconds of virtual time since the simulation began. What always holds: the same seed, backend, plan and scenario give the same
report, in every process.
"""

from __future__ import annotations

import msgspec


class Delivery(msgspec.Struct, frozen=True):
    """One run of a handler.

    Attributes:
        member: the name in the simulation.
        topic: of the message, as are partition, msg_id, entry_id and attempt.
        group: of the consumer.
        token: the fencing token under which the message was read.
        started: when.
        ended: when; None if it never did (the member crashed).
        outcome: "returned", "raised", "cancelled", or "running".
    """

    member: str
    topic: str
    group: str
    partition: int
    msg_id: str
    entry_id: str
    attempt: int
    token: int
    started: float
    ended: float | None
    outcome: str


class Settle(msgspec.Struct, frozen=True):
    """One fenced step in which a member said what becomes of messages.

    Attributes:
        time: when the server did it.
        member: the name in the simulation.
        token: the one it was sent under.
        entry_ids: what it was about.
        to: "done", "retry" or "dead".
        accepted: False if the server refused it: another token stood.
    """

    time: float
    member: str
    topic: str
    group: str
    partition: int
    token: int
    entry_ids: tuple[str, ...]
    to: str
    accepted: bool


class Lease(msgspec.Struct, frozen=True):
    """A partition's time with one member.

    Attributes:
        since: when it began to read.
        until: when it had given it back, lost it or crashed; None if it still has it.
        end: "released", "lost", "crashed", or "" while it lasts.
    """

    member: str
    topic: str
    group: str
    partition: int
    token: int
    since: float
    until: float | None
    end: str


class Mark(msgspec.Struct, frozen=True):
    """Something that happened to a member: "joins", "crashes", "pauses", "goes on", "leaves"."""

    time: float
    member: str
    what: str


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
