"""Derive the story that both timelines show from a simulation's records: when members were there, paused or gone, and the faults.

Input: the parts of a report. Output: a Story, which the text and the picture render. The same parts give the same story. Every text in it
can be printed on one line, whatever names the scenario gave its members and topics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from redisaq.testing.faults import SERVER, Fault
from redisaq.testing.observed import Delivery, Lease, Mark, Settle

Place = tuple[str, str, int]
"""Topic, group, partition."""

OF_THE_SERVER = ("failover", "slot_loss", "silence", "outage")
"""Faults that affect everybody."""

CRASHED = "crashed"
PAUSED = "paused"

_VIOLATION = re.compile(r"at (\d+(?:\.\d+)?): (.*)", re.DOTALL)
_STEP = re.compile(r"(\d+\.\d+) (.*)", re.DOTALL)
_LOSS = re.compile(rf"(\d+\.\d+) {SERVER} (failover|slot loss|silence|outage): (.*)", re.DOTALL)
_OUTCOMES = {
    "the request was lost": "lost_request",
    "the reply was lost": "lost_reply",
    "late": "late_request",
    "the connection broke": "disconnect",
    "silent": "silent_request",
    "silent, and carried out": "silent_reply",
    "nothing is heard any more": "silent_network",
    "none is heard any more": "silent_notifications",
}

_NAMES = {
    "lost_request": "request lost",
    "lost_reply": "reply lost",
    "late_request": "request late",
    "disconnect": "connection broken",
    "silent_request": "request unanswered",
    "silent_reply": "answer unheard",
    "silent_network": "network silent",
    "silent_notifications": "notifications silent",
    "silence": "server silent",
    "outage": "server away",
}


@dataclass(frozen=True)
class Violation:
    """A violation and its time; `time` is None if it is unknown."""

    time: float | None
    text: str


@dataclass(frozen=True)
class Slip:
    """One fault: its name in FaultPlan, and the operation it hit, its size, or what it took."""

    time: float
    who: str
    kind: str
    detail: str


@dataclass(frozen=True)
class Span:
    """A span of time of one member. `until` is the story's end if it never ended."""

    member: str
    since: float
    until: float
    what: str


@dataclass(frozen=True)
class Story:
    """What happened, as both timelines show it.

    Attributes:
        title: seed, backend and number of violations.
        known: known violations that no rule can prevent.
        figures: the numbers of everything.
        rows: everybody to whom something happened: members in the order in which they joined, then others.
        members: only the members.
        places: every partition that a member owned or handled, in order.
        presences: when each member was there: from joining until it crashed or had given back everything it owned.
        absences: when a member was paused (`PAUSED`), or was gone until its next start (`CRASHED`).
        end: the time of the last event.
    """

    title: str
    figures: str
    rows: tuple[str, ...]
    members: tuple[str, ...]
    places: tuple[Place, ...]
    violations: tuple[Violation, ...]
    known: tuple[Violation, ...]
    faults: tuple[Slip, ...]
    presences: tuple[Span, ...]
    absences: tuple[Span, ...]
    marks: Sequence[Mark]
    leases: Sequence[Lease]
    deliveries: Sequence[Delivery]
    settles: Sequence[Settle]
    end: float

    def until(self, one: Lease | Delivery) -> float:
        """Return when a lease or a run was over: at the latest with its member's crash, or with the story."""
        since, until = (one.since, one.until) if isinstance(one, Lease) else (one.started, one.ended)
        if until is not None:
            return until
        crashes = (span.since for span in self.absences if span.member == one.member and span.what == CRASHED and span.since >= since)
        return min(crashes, default=self.end)

    def name_of(self, place: Place) -> str:
        """Return the name of a place: with its group only where one topic has several."""
        topic, group, partition = place
        several = len({other[1] for other in self.places if other[0] == topic}) > 1
        return printable(f"{topic}/{partition} ({group})" if several else f"{topic}/{partition}")


def tell(
    *,
    seed: int,
    backend: str,
    trace_hash: str,
    violations: Sequence[str],
    known: Sequence[str],
    trace: Sequence[str],
    produced: int,
    dropped: int,
    marks: Sequence[Mark],
    leases: Sequence[Lease],
    deliveries: Sequence[Delivery],
    settles: Sequence[Settle],
    faults: Sequence[Fault],
) -> Story:
    """Return the story of a report's parts."""
    broken = tuple(_violation(text) for text in violations)
    slips = tuple(sorted([*_of_network_and_server(trace), *_of_handlers(faults)], key=lambda slip: slip.time))
    times = [mark.time for mark in marks]
    times += [time for lease in leases for time in (lease.since, lease.until) if time is not None]
    times += [time for run in deliveries for time in (run.started, run.ended) if time is not None]
    times += [settle.time for settle in settles]
    times += [slip.time for slip in slips]
    times += [one.time for one in broken if one.time is not None]
    end = max(times, default=0.0)
    members = tuple(dict.fromkeys([mark.member for mark in marks] + [one.member for one in leases] + [one.member for one in deliveries]))
    places = {(one.topic, one.group, one.partition) for one in leases} | {(one.topic, one.group, one.partition) for one in deliveries}
    slipped = len(slips) + sum(fault.kind in ("crash", "pause") for fault in faults)  # without delays, of which every operation has two
    counts = (len(deliveries), "delivery"), (len(leases), "lease"), (slipped, "fault"), (len(members), "member")
    told = ", ".join(_count(number, what) for number, what in counts)
    told += f", {len(known)} known" if known else ""
    figures = f"{_count(produced, 'message')} produced, {dropped} dropped, {told}, {end:.3f} s, trace {trace_hash[:12]}"
    title = f"seed {seed} on {backend}: {_count(len(broken), 'violation') if broken else 'no violation'}"
    return Story(
        title=printable(title),
        figures=figures,
        rows=tuple(dict.fromkeys([*members, *(slip.who for slip in slips)])),
        members=members,
        places=tuple(sorted(places)),
        violations=broken,
        known=tuple(_violation(text) for text in known),
        faults=slips,
        presences=tuple(_presences(marks, leases, end)),
        absences=tuple(_absences(marks, end)),
        marks=marks,
        leases=leases,
        deliveries=deliveries,
        settles=settles,
        end=end,
    )


def _of_network_and_server(trace: Iterable[str]) -> Iterable[Slip]:
    """Find in the trace the network's faults with their operations, and the server's losses with their times."""
    for line in trace:
        if (loss := _LOSS.fullmatch(line)) is not None:
            yield Slip(float(loss[1]), SERVER, loss[2].replace(" ", "_"), loss[3])
            continue
        rest, _, outcome = line.rpartition(": ")
        kind, step = _OUTCOMES.get(outcome), _STEP.fullmatch(rest)
        if kind is not None and step is not None:
            who, _, operation = step[2].rpartition(" ")
            yield Slip(float(step[1]), who, kind, operation)


def _of_handlers(faults: Iterable[Fault]) -> Iterable[Slip]:
    """Find faults that the trace does not show. Delays are omitted because there are too many; crashes and pauses are marks of members."""
    for fault in faults:
        if fault.kind == "slow_handler":
            yield Slip(fault.time, fault.who, fault.kind, f"{fault.amount:.3f} s longer")


def kind_of(fault: Slip) -> str:
    """Return the name of a fault."""
    return printable(_NAMES.get(fault.kind, fault.kind.replace("_", " ")))


def printable(text: str) -> str:
    """Return the text with all characters escaped that cannot be printed, and so could break a line or an XML document."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _violation(text: str) -> Violation:
    found = _VIOLATION.fullmatch(text)
    return Violation(None, printable(text)) if found is None else Violation(float(found[1]), printable(found[2]))


def _count(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    return f"{number} {what[:-1]}ies" if what.endswith("y") else f"{number} {what}s"


def _presences(marks: Sequence[Mark], leases: Sequence[Lease], end: float) -> Iterable[Span]:
    for since, until, mark in _spans(marks, "joins", ("crashes", "leaves"), end):
        last = until
        if mark is not None and mark.what == "leaves":  # the member still drains
            given = [one.until for one in leases if one.member == mark.member and one.since <= until and one.until is not None]
            last = max([until, *given])
        yield Span(since.member, since.time, last, "")


def _absences(marks: Sequence[Mark], end: float) -> Iterable[Span]:
    for since, until, _ in _spans(marks, "crashes", ("joins",), end):
        yield Span(since.member, since.time, until, CRASHED)
    for since, until, _ in _spans(marks, "pauses", ("goes on", "crashes", "joins"), end):
        yield Span(since.member, since.time, until, PAUSED)


def _spans(marks: Sequence[Mark], opens: str, closes: tuple[str, ...], end: float) -> Iterable[tuple[Mark, float, Mark | None]]:
    """Yield what opened a span, when it closed, and what closed it (None: nothing did)."""
    for index, mark in enumerate(marks):
        if mark.what.startswith(opens):
            closing = next((one for one in marks[index + 1 :] if one.member == mark.member and one.what.startswith(closes)), None)
            yield mark, end if closing is None else closing.time, closing
