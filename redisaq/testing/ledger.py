"""Writes down what happens in a simulation, and checks it at once.

In: what the network carries out, what handlers begin and end, what members tell. Out: the trace, the parts of the report, and a sentence
for each thing that must not have happened. The checks made here are those that concern one step: no partition is handled by two unfenced
members at once; first deliveries of a lane come in order; nothing runs again under the token under which it is done; nothing is settled
under a stale token, or done without a run; nothing is appended twice. What holds at rest only is in `rest`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from redisaq import events
from redisaq.brokers.base import Acks, GroupName, Installed, Settled
from redisaq.brokers.delivery import Resolution, Resolved
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.memory.streams import START, EntryId, format_id, parse_id
from redisaq.message import Message
from redisaq.testing.observed import Delivery, Lease, Mark, Settle

Place = tuple[GroupName, int]

MOST_VIOLATIONS = 20
"""One fault in the product may break thousands of things; so many are told."""


class Process(Protocol):
    """A simulated process, as the ledger sees it."""

    name: str
    crashed: bool
    thawed_at: float

    @property
    def suspended(self) -> bool:
        """True while none of its tasks can run."""
        ...


@dataclass(eq=False)
class Run:
    """A handler's run."""

    process: Process
    group: GroupName
    message: Message[Any]
    started: float
    ended: float | None = None
    outcome: str = "running"
    superseded: bool = False  # another owner began while this one's process stood still


@dataclass(eq=False)
class Tenure:
    """A partition's time with one process."""

    process: Process
    group: GroupName
    partition: int
    token: int
    since: float
    until: float | None = None
    end: str = ""


class Ledger:
    """See the module."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Take virtual time."""
        self._clock = clock
        self.store: MemoryStore | None = None
        self.trace: list[str] = []
        self.violations: list[str] = []
        self.produced: list[str] = []
        self.dropped: list[str] = []
        self.settles: list[Settle] = []
        self.marks: list[Mark] = []
        self.runs: list[Run] = []
        self.tenures: list[Tenure] = []
        self.entries: dict[tuple[str, int], dict[EntryId, str]] = {}  # by topic and partition: entry -> message id
        self.ended: dict[Place, dict[EntryId, str]] = {}  # entry -> "done" or "dead"
        self._seen: dict[tuple[str, int], EntryId] = {}
        self._where: dict[str, str] = {}
        self._tokens: dict[Place, int] = {}
        self._running: dict[Place, list[Run]] = {}
        self._open: dict[Place, list[Tenure]] = {}
        self._ran: dict[Place, set[EntryId]] = {}
        self._begun: dict[Place, set[EntryId]] = {}
        self._first: dict[tuple[Place, str | None], EntryId] = {}
        self._done_under: set[tuple[Place, EntryId, int]] = set()

    # -- writing down ----------------------------------------------------------------------------------------------------------------

    def note(self, who: str, what: str, outcome: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self._clock():.6f} {who} {what}: {outcome}")

    def mark(self, process: Process, what: str) -> None:
        """Note what happened to a process."""
        self.marks.append(Mark(self._clock(), process.name, what))
        self.note(process.name, "process", what)

    def violation(self, text: str) -> None:
        """Note what must not happen."""
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(f"at {self._clock():.3f}: {text}")
        self.note("check", "violation", text)

    def hash(self) -> str:
        """Return the trace's hash."""
        digest = sha256()
        for line in self.trace:
            digest.update(line.encode())
            digest.update(b"\n")
        return digest.hexdigest()

    # -- what the server does ----------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Find what has been appended by the last step."""
        if self.store is None:
            return
        for place, stream in self.store.streams.items():
            seen = self._seen.get(place, START)
            if stream.last_id == seen:
                continue
            self._seen[place] = stream.last_id
            for entry_id, fields in stream.after(seen, len(stream)):
                msg_id, where = fields[1].decode(), f"{place[0]}/{place[1]} {format_id(entry_id).decode()}"
                if msg_id in self._where:
                    self.violation(f"message {msg_id} was appended twice: {self._where[msg_id]} and {where}")
                self._where[msg_id] = where
                self.entries.setdefault(place, {})[entry_id] = msg_id

    def appended(self, msg_id: str) -> bool:
        """Return whether the message is, or was, in a stream."""
        return msg_id in self._where

    def installed(self, owner: object, group: GroupName, partition: int, token: int, answer: Installed) -> None:
        """Somebody tried to install a token."""
        del owner
        if not answer.done:
            return
        standing = self._tokens.get((group, partition), 0)
        if token < standing:
            self.violation(f"token {token} was installed in {group.topic}/{partition} over {standing}")
        self._tokens[group, partition] = max(token, standing)

    def settled(self, owner: object, group: GroupName, acks: Acks, answer: Settled) -> None:
        """Somebody acknowledged."""
        ids = [parse_id(entry_id) for entry_id in acks.entry_ids]
        self._settle(owner, (group, acks.partition), acks.token, ids, "done", accepted=answer.done)

    def resolved(
        self, owner: object, group: GroupName, partition: int, token: int, *, resolutions: Sequence[Resolution], answer: Resolved
    ) -> None:
        """Somebody settled what did not simply succeed."""
        for index, one in enumerate(resolutions):
            moved = answer.done and answer.moved[index]
            if moved or not answer.done:
                self._settle(owner, (group, partition), token, [parse_id(one.body.entry_id)], one.to, accepted=answer.done)

    def _settle(self, owner: object, place: Place, token: int, ids: Sequence[EntryId], to: str, *, accepted: bool) -> None:
        (group, partition), name = place, str(getattr(owner, "name", owner))
        shown = tuple(format_id(entry_id).decode() for entry_id in ids)
        self.settles.append(Settle(self._clock(), name, group.topic, group.group, partition, token, shown, to, accepted))
        self.note(name, f"{to} {group.topic}/{partition} {','.join(shown)}", "accepted" if accepted else "refused")
        if not accepted:
            return
        if token != self._tokens.get(place, 0):
            self.violation(f"{name} settled in {group.topic}/{partition} under {token}, while {self._tokens.get(place, 0)} stands")
        ended = self.ended.setdefault(place, {})
        for entry_id in ids:
            if to == "done" and entry_id not in self._ran.get(place, ()):
                self.violation(
                    f"{name} acknowledged {format_id(entry_id).decode()} of {group.topic}/{partition}, which never ran to its end"
                )
            if to == "retry":
                ended.pop(entry_id, None)
            else:
                ended.setdefault(entry_id, to)

    # -- what handlers do --------------------------------------------------------------------------------------------------------------

    def begin(self, process: Process, group: GroupName, message: Message[Any], *, lane: str | None, ordered: bool) -> Run:
        """A handler begins."""
        now, place = self._clock(), (group, message.partition)
        run = Run(process, group, message, now)
        where = f"{group.topic}/{message.partition} {message.entry_id} attempt {message.attempt}"
        self.note(process.name, "begins", where)
        self.runs.append(run)
        if message.token < self._tokens.get(place, 0):
            self.violation(f"{process.name} began {where} under {message.token}, while {self._tokens[place]} stands")
        running = self._running.setdefault(place, [])
        for other in running:
            if other.process is process and other.message.token == message.token:
                continue
            if other.process.suspended or other.process.thawed_at == now:
                other.superseded = True
            else:
                self.violation(
                    f"{process.name} began {where} while {other.process.name} runs {other.message.entry_id} since {other.started:.3f}"
                )
        running.append(run)
        entry_id = parse_id(message.entry)
        if (place, entry_id, message.token) in self._done_under:
            self.violation(f"{process.name} began {where} again, which is done under the same token")
        begun = self._begun.setdefault(place, set())
        if ordered and entry_id not in begun:
            self._in_order(process, place, lane, entry_id)
        begun.add(entry_id)
        return run

    def _in_order(self, process: Process, place: Place, lane: str | None, entry_id: EntryId) -> None:
        key = (place, lane)
        first = self._first.get(key, START)
        if entry_id > first:
            self._first[key] = entry_id
        else:
            where = f"{place[0].topic}/{place[1]}" + ("" if lane is None else f" (key {lane})")
            self.violation(
                f"{process.name} began {format_id(entry_id).decode()} of {where} for the first time after {format_id(first).decode()}"
            )

    def end(self, run: Run, outcome: str) -> None:
        """A handler's run ended."""
        if run.process.crashed:
            return
        now, message, place = self._clock(), run.message, (run.group, run.message.partition)
        run.ended, run.outcome = now, outcome
        self._running[place].remove(run)
        self.note(run.process.name, "ends", f"{run.group.topic}/{message.partition} {message.entry_id} {outcome}")
        if run.superseded and now > run.process.thawed_at:
            self.violation(
                f"{run.process.name} still ran {message.entry_id} of {run.group.topic}/{message.partition} after another had begun"
            )
        if outcome != "cancelled":
            self._ran.setdefault(place, set()).add(parse_id(message.entry))
        if outcome == "returned":
            self._done_under.add((place, parse_id(message.entry), message.token))

    # -- what members tell -------------------------------------------------------------------------------------------------------------

    def event(self, process: Process, group: GroupName, event: events.Event) -> None:
        """A member told of something."""
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
                known = self.entries.get((group.topic, event.partition), {})
                self.dropped += [known.get(parse_id(entry_id.encode()), entry_id) for entry_id in event.entry_ids]
            case events.MessageEvent():
                return
            case _:
                self.note(process.name, "tells", type(event).__name__)

    def _acquired(self, process: Process, place: Place, token: int) -> None:
        group, partition = place
        self.note(process.name, "takes", f"{group.topic}/{partition} under {token}")
        tenures = self._open.setdefault(place, [])
        woke = process.thawed_at == self._clock()  # on waking it may run to its next checkpoint: there it learns that its time is over
        for other in tenures if not woke else ():
            if not other.process.suspended and other.process.thawed_at < self._clock() - 2.0:  # it is given a moment to notice
                self.violation(f"{process.name} took {group.topic}/{partition} while {other.process.name} has it since {other.since:.3f}")
        tenure = Tenure(process, group, partition, token, self._clock())
        tenures.append(tenure)
        self.tenures.append(tenure)

    def _given_up(self, process: Process, place: Place, end: str) -> None:
        self.note(process.name, end, f"{place[0].topic}/{place[1]}")
        for tenure in [one for one in self._open.get(place, ()) if one.process is process][:1]:
            tenure.until, tenure.end = self._clock(), end
            self._open[place].remove(tenure)

    def crashed(self, process: Process) -> None:
        """A process is gone: nothing of it runs, it owns nothing."""
        for tenures in self._open.values():
            for tenure in [one for one in tenures if one.process is process]:
                tenure.until, tenure.end = self._clock(), "crashed"
                tenures.remove(tenure)
        for place, runs in self._running.items():
            self._running[place] = [run for run in runs if run.process is not process]

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
        """Return each partition's times with its members."""
        return [
            Lease(one.process.name, one.group.topic, one.group.group, one.partition, one.token, one.since, one.until, one.end)
            for one in self.tenures
        ]
