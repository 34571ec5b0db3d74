"""Record what happens in a simulation, and show it to observers: the trace, the parts of the report, and the violations.

Input: what the network carries out, the beginnings and ends of handlers, and the events of members. Output: all of it, to each observer and
to the report. The record judges nothing: the observers do. An observer is called for everything at the moment it happens, and reports one
sentence for each violation. It sees everything and changes nothing: a seed gives the same run with or without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import sha256
from itertools import zip_longest
from typing import Any, TypeAlias

from redisaq import events
from redisaq.brokers.memory.holdings import Holdings
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps.leases import Installed
from redisaq.brokers.steps.settling import Acknowledge, Resolved, Settled
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import EntryId, format_id, parse_id
from redisaq.core.records import Resolution
from redisaq.events import Event
from redisaq.message import Message
from redisaq.testing.faults import Fault
from redisaq.testing.observed import Delivery, Lease, Mark, Settle
from redisaq.testing.observing import Given, Place, Process, Run, Tenure
from redisaq.testing.whereabouts import Whereabouts

DISTURBING = ("seek", "set_paused", "redrive", "purge", "disband", "drop_topic", "publish", "forget_group")
"""Operations of others that may hold up a group for a moment, or give it old work."""

ORDERLY = ("joins", "leaves", "is cancelled")
"""Things that happen to processes and hold nobody up."""

MOST_VIOLATIONS = 20
"""The largest number of violations reported: one fault in the product may break thousands of things."""


class Observer:
    """Watch one simulation. Override the methods that you need; by default each of them does nothing.

    Each method is called at the moment the thing happens, after the record has noted it, and must not await. An observer reports violations
    with `self.record.violation("…")`, and asks the record about the past.
    """

    def __init__(self, record: Record) -> None:
        """Watch the simulation that is about to begin.

        Args:
            record: the simulation's record.
        """
        self.record = record

    # -- members and producers

    def produced(self, msg_id: str, given: Given | None) -> None:
        """A producer has learned that a message is safe. `given` is None where handlers' input cannot be predicted from outside."""

    def begun(self, run: Run) -> None:
        """A handler begins."""

    def ended(self, run: Run) -> None:
        """A run of a handler has ended."""

    def told(self, process: Process, place: Place | None, event: Event) -> None:
        """A member has published an event. `place` is the partition that the event is about, or None."""

    def happened(self, process: Process, what: str) -> None:
        """Something has happened to a member: see `Mark.what`."""

    def fault_began(self, fault: Fault) -> None:
        """A fault begins."""

    def disturbed(self, seconds: float) -> None:
        """Something begins that may hold up the group for this many seconds: a fault, or an admin's operation."""

    # -- the server

    def stepped(self, who: str, operation: str) -> None:
        """The server has carried out an operation."""

    def installed(self, who: str, place: Place, token: int) -> None:
        """A partition's token was installed."""

    def noticed(self, place: Place, token: int) -> None:
        """The owner of a partition has learned that an admin moved the group, and which token that has left it (S5)."""

    def settled(self, settle: Settle) -> None:
        """The server has settled messages, or refused to: see `Settle`."""

    def resolved(self, who: str, place: Place, token: int, resolutions: Sequence[Resolution], answer: Resolved) -> None:
        """The server has settled messages that did not simply succeed, or refused to. `settled` was called before with each result."""

    def sought(self, place: Place, before: EntryId, after: EntryId) -> None:
        """An admin has moved a group's position. Before, nothing up to `before` was new to it; now, nothing up to `after` is."""

    def lost(self, before: Holdings, after: Holdings, reason: str) -> None:
        """The server has lost data: what it had before, and what it has now."""

    # -- the report

    def excused(self, place: Place, tokens: Collection[int] | None, text: str) -> None:
        """A known violation was noted: two owners side by side, with these tokens, in a partition of which the server has lost data."""

    def quiet(self, groups: Sequence[GroupName]) -> None:
        """`until_quiet` has found nothing left to do for these groups."""

    def closed(self) -> None:
        """All members have left, and their leases have expired."""


ObserverType: TypeAlias = "Callable[[Record], Observer]"
"""Creates an observer of one simulation, such as a subclass of Observer."""


class Record:
    """The record of one simulation.

    Attributes:
        store: the server; None until the simulation has created it.
        was_silent: returns whether any part of a process's network is silent, or was a moment ago.
        whereabouts: where each message is.
        ttl: the longest `heartbeat_ttl` of any member so far.
        groups: the groups that members have joined.
        losses: the times at which the server lost data.
    """

    def __init__(self, clock: Callable[[], float], observers: Sequence[ObserverType] = ()) -> None:
        """Start empty.

        Args:
            clock: returns virtual time.
            observers: make those that watch.
        """
        self._clock = clock
        self.store: MemoryStore | None = None
        self.was_silent: Callable[[str], bool] = lambda _: False
        self.trace: list[str] = []
        self.violations: list[str] = []
        self.known: list[str] = []
        self.produced: list[str] = []
        self.settles: list[Settle] = []
        self.marks: list[Mark] = []
        self.runs: list[Run] = []
        self.tenures: list[Tenure] = []
        self.ttl = 0.0
        self.groups: dict[GroupName, None] = {}
        self.losses: list[float] = []
        self.whereabouts = Whereabouts()
        self._trimmed: list[str] = []
        self._running: dict[Place, list[Run]] = {}
        self._last: dict[tuple[Place, EntryId], Run] = {}
        self._open: dict[Place, list[Tenure]] = {}
        self._had: dict[Place, list[Tenure]] = {}
        self.observers: list[Observer] = [make(self) for make in observers]

    # -- what observers ask ------------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the time, in seconds since the simulation began."""
        return self._clock()

    def tenures_of(self, place: Place) -> Sequence[Tenure]:
        """Return who has owned a partition, and when, in order."""
        return self._had.get(place, ())

    def owners_of(self, place: Place) -> Sequence[Tenure]:
        """Return who owns a partition, in the order in which they took it."""
        return self._open.get(place, ())

    def running_in(self, place: Place) -> Sequence[Run]:
        """Return the running handlers of a partition's messages."""
        return self._running.get(place, ())

    def running_elsewhere(self, run: Run) -> Iterator[Run]:
        """Yield the runs of its group in other partitions."""
        for place, runs in self._running.items():
            if place[0] == run.group and place[1] != run.message.partition:
                yield from runs

    def dropped(self) -> list[str]:
        """Return the messages that a group could not get, each once: they were trimmed, or lost by the server."""
        lost = [] if self.store is None else self.whereabouts.dropped(self.store, self.groups, self.settles)
        return list(dict.fromkeys([*self._trimmed, *lost]))

    # -- writing down ------------------------------------------------------------------------------------------------------------------

    def note(self, who: str, what: str, outcome: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self._clock():.6f} {who} {what}: {outcome}")

    def violation(self, text: str) -> None:
        """Report a violation."""
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(f"at {self._clock():.3f}: {text}")
        self.note("check", "violation", text)

    def excuse(self, text: str, reason: str, place: Place, tokens: Collection[int] | None) -> None:
        """Report a violation as known: it follows from what the server has forgotten, and no rule can prevent it."""
        if len(self.known) < MOST_VIOLATIONS:
            self.known.append(f"at {self._clock():.3f}: {text}: {reason}")
        self.note("check", "known", text)
        for observer in self.observers:
            observer.excused(place, tokens, text)

    def hash(self) -> str:
        """Return the trace's hash."""
        return sha256("".join(f"{line}\n" for line in self.trace).encode()).hexdigest()

    # -- faults ------------------------------------------------------------------------------------------------------------------------

    def disturb(self, seconds: float = 0.0) -> None:
        """Note that something happens that may hold up the group for this many seconds."""
        for observer in self.observers:
            observer.disturbed(seconds)

    def befall(self, fault: Fault) -> None:
        """Note that a fault begins."""
        for observer in self.observers:
            observer.fault_began(fault)

    def mark(self, process: Process, what: str) -> None:
        """Note what happens to a process. A process that crashes runs nothing and owns nothing any more."""
        if what == "joins":
            self.groups[process.group] = None
            self.ttl = max(self.ttl, process.ttl)
        self.marks.append(Mark(self._clock(), process.name, what))
        self.note(process.name, "process", what)
        if what not in ORDERLY:
            self.disturb()
        if what == "crashes":
            for tenures in self._open.values():
                for tenure in [one for one in tenures if one.process is process]:
                    tenure.until, tenure.end = self._clock(), "crashed"
                    tenures.remove(tenure)
            for place, runs in self._running.items():
                self._running[place] = [run for run in runs if run.process is not process]
        for observer in self.observers:
            observer.happened(process, what)

    def lost(self, before: Holdings, after: Holdings, reason: str) -> None:
        """Note that the server has lost data."""
        self.losses.append(self._clock())
        self.whereabouts.lost(before, after)
        for observer in self.observers:
            observer.lost(before, after, reason)

    # -- what the server does ----------------------------------------------------------------------------------------------------------

    def stepped(self, who: str, operation: str) -> None:
        """Note that the server has carried out an operation."""
        if operation in DISTURBING:
            self.disturb()
        if self.store is not None:
            for text in self.whereabouts.look(self.store):
                self.violation(text)
        for observer in self.observers:
            observer.stepped(who, operation)

    def given(self, msg_ids: Sequence[str], given: Sequence[Given]) -> None:
        """Note that a producer has learned that messages are safe."""
        self.produced += msg_ids
        for msg_id, one in zip_longest(msg_ids, given):
            for observer in self.observers:
                observer.produced(msg_id, one)

    def installed(self, owner: object, group: GroupName, partition: int, token: int, answer: Installed) -> None:
        """Note that a process tried to install a token."""
        for observer in self.observers if answer.done else ():
            observer.installed(_name(owner), (group, partition), token)

    def noticed(self, group: GroupName, partition: int, token: int) -> None:
        """Note that an owner has learned of a seek, which has left it this token."""
        for observer in self.observers:
            observer.noticed((group, partition), token)

    def settled(self, owner: object, group: GroupName, acks: Acknowledge, answer: Settled) -> None:
        """Note that a process acknowledged messages."""
        self._settle(owner, (group, acks.partition), acks.token, acks.entry_ids, "done", accepted=answer.done)

    def resolved(
        self, owner: object, group: GroupName, partition: int, token: int, *, resolutions: Sequence[Resolution], answer: Resolved
    ) -> None:
        """Note that a process settled messages that did not simply succeed."""
        for index, one in enumerate(resolutions):
            if not answer.done or answer.moved[index]:
                self._settle(owner, (group, partition), token, [one.body.entry_id], one.to, accepted=answer.done)
        for observer in self.observers:
            observer.resolved(_name(owner), (group, partition), token, resolutions, answer)

    def _settle(self, owner: object, place: Place, token: int, ids: Sequence[bytes], to: str, *, accepted: bool) -> None:
        (group, partition), name = place, _name(owner)
        shown = tuple(format_id(parse_id(entry_id)).decode() for entry_id in ids)
        settle = Settle(self._clock(), name, group.topic, group.group, partition, token, shown, to, accepted)
        self.settles.append(settle)
        self.note(name, f"{to} {group.topic}/{partition} {','.join(shown)}", "accepted" if accepted else "refused")
        for observer in self.observers:
            observer.settled(settle)

    def sought(self, group: GroupName, partition: int, before: EntryId, after: EntryId) -> None:
        """Note that a group's position was moved."""
        for observer in self.observers:
            observer.sought((group, partition), before, after)

    # -- what handlers do --------------------------------------------------------------------------------------------------------------

    def begin(self, process: Process, group: GroupName, message: Message[Any], call: object) -> Run:
        """Note that a handler begins; `call` is one object for all messages of a batch."""
        run = Run(process, group, message, call, self._clock())
        self.note(process.name, "begins", str(run))
        self.runs.append(run)
        self._last[run.place, run.entry_id] = run
        self._running.setdefault(run.place, []).append(run)
        for observer in self.observers:
            observer.begun(run)
        return run

    def end(self, run: Run, outcome: str, error: Exception | None) -> None:
        """Note that a handler's run ended: it "returned", "raised" the error, or was "cancelled"."""
        if run.process.crashed:
            return
        run.ended, run.outcome, run.error = self._clock(), outcome, error
        self._running[run.place].remove(run)
        self.note(run.process.name, "ends", f"{run} {outcome}")
        for observer in self.observers:
            observer.ended(run)

    # -- what members tell -------------------------------------------------------------------------------------------------------------

    def event(self, process: Process, group: GroupName, event: events.Event) -> None:
        """Note an event of a member."""
        if process.crashed:
            return
        match event:
            case events.PartitionAcquired():
                self._acquired(process, (group, event.partition), event.token)
            case events.PartitionRevoked():
                self._given_up(process, (group, event.partition), "released")
            case events.LeaseLost():
                self._given_up(process, (group, event.partition), "lost")
            case events.EntriesTrimmed():
                self._trimmed += [
                    self.whereabouts.message(group.topic, event.partition, entry_id) or entry_id for entry_id in event.entry_ids
                ]
            case events.MessageFailed():
                self._failed(process, (group, event.partition), parse_id(event.entry_id.encode()), event.error)
            case events.MessageEvent() | events.EntryUnreadable():
                pass
            case _:
                self.note(process.name, "tells", type(event).__name__)
        partition = event.partition if isinstance(event, events.MessageEvent | events.PartitionEvent) else None
        for observer in self.observers:
            observer.told(process, None if partition is None else (group, partition), event)

    def _acquired(self, process: Process, place: Place, token: int) -> None:
        group, partition = place
        self.note(process.name, "takes", f"{group.topic}/{partition} under {token}")
        tenure = Tenure(process, group, partition, token, self._clock())
        self._open.setdefault(place, []).append(tenure)
        self.tenures.append(tenure)
        self._had.setdefault(place, []).append(tenure)

    def _given_up(self, process: Process, place: Place, end: str) -> None:
        self.note(process.name, end, f"{place[0].topic}/{place[1]}")
        for tenure in [one for one in self._open.get(place, ()) if one.process is process][:1]:
            tenure.until, tenure.end = self._clock(), end
            self._open[place].remove(tenure)

    def _failed(self, process: Process, place: Place, entry_id: EntryId, error: Exception) -> None:
        """Note that a process reported a failed handler: if the run was cancelled, its timeout did that."""
        run = self._last.get((place, entry_id))
        if run is not None and run.process is process and run.outcome == "cancelled":
            run.outcome, run.error = "raised", error

    def quiet(self, groups: Sequence[GroupName]) -> None:
        """Note that nothing is left to do for these groups."""
        for observer in self.observers:
            observer.quiet(groups)

    def close(self) -> None:
        """Note that all members have left."""
        for observer in self.observers:
            observer.closed()

    # -- for the report ----------------------------------------------------------------------------------------------------------------

    def deliveries(self) -> list[Delivery]:
        """Return each run of a handler."""
        return [
            Delivery(
                run.process.name,
                run.group.topic,
                run.group.group,
                run.message.partition,
                run.message.msg_id,
                run.message.entry_id,
                run.message.attempt,
                run.message.token,
                run.started,
                run.ended,
                run.outcome,
            )
            for run in self.runs
        ]

    def leases(self) -> list[Lease]:
        """Return each time for which a member owned a partition."""
        return [
            Lease(one.process.name, one.group.topic, one.group.group, one.partition, one.token, one.since, one.until, one.end)
            for one in self.tenures
        ]


def _name(owner: object) -> str:
    return str(getattr(owner, "name", owner))
