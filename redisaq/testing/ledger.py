"""Writes down what happens in a simulation, and checks it at once.

In: what the network carries out, what handlers begin and end, what members tell. Out: the trace, the parts of the report, and a sentence
for each thing that must not have happened. Checked here: no partition is handled by two unfenced members at once, and no lane by two
handlers; nothing runs under a stale token, or once it is done; nothing is settled under a stale token. Where messages are is checked by
`census`, their attempts and their order by `histories`, what holds at rest only by `rest`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from redisaq import events
from redisaq.brokers.base import Acks, GroupName, Installed, Settled
from redisaq.brokers.delivery import Resolution, Resolved
from redisaq.brokers.memory.store import MemoryStore
from redisaq.core.entry_ids import EntryId, format_id, parse_id
from redisaq.message import Message
from redisaq.testing.census import Census, Place
from redisaq.testing.histories import Histories, Process, Run
from redisaq.testing.judging import Given, Judge, JudgeType, more_judges
from redisaq.testing.losses import Losses
from redisaq.testing.observed import Delivery, Lease, Mark, Settle
from redisaq.testing.ownership import Ownership
from redisaq.testing.promptness import Promptness
from redisaq.testing.truth import Contents, Events, Failures

JUDGES: tuple[JudgeType, ...] = (Promptness, Contents, Failures, Events, Ownership)
"""Those of every simulation."""

DISTURBING = ("seek", "set_paused", "redrive", "purge", "disband", "drop_topic", "grow_topic", "forget_group")
"""Operations of others that may hold up a group for a moment, or give it work of long ago."""

ORDERLY = ("joins", "leaves", "is cancelled")
"""What happens to processes and holds nobody up."""

LONG_AGO = 600.0
SETTLES = 5.0
"""Seconds, beside a ttl, after which nothing is left of a fault."""

NOTICE = 2.0
"""Seconds that an owner is given to tell that its time is over, after it stood still, or where nobody answers what is to end its reads."""

MOST_VIOLATIONS = 20
"""One fault in the product may break thousands of things; so many are told."""


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
    broken: bool = False  # another took over before this one had ended


class Ledger:
    """See the module."""

    def __init__(self, clock: Callable[[], float], judges: Sequence[JudgeType] = JUDGES) -> None:
        """Take virtual time, and who judges besides."""
        self._clock = clock
        self.store: MemoryStore | None = None
        self.was_silent: Callable[[str], bool] = lambda _: False
        self.trace: list[str] = []
        self.violations: list[str] = []
        self.produced: list[str] = []
        self.dropped: list[str] = []
        self.settles: list[Settle] = []
        self.marks: list[Mark] = []
        self.runs: list[Run] = []
        self.tenures: list[Tenure] = []
        self.incarnations: dict[str, Process] = {}  # of those that ever took a partition
        self.histories = Histories(self.violation)
        self.census = Census(self.violation, self.histories.redriven)
        self.losses = Losses(self.census, self.histories, clock, self._lost)
        self.known: list[str] = []
        self._tokens = self.losses.tokens
        self._running: dict[Place, list[Run]] = {}
        self._open: dict[Place, list[Tenure]] = {}
        self._done_under: set[tuple[Place, EntryId, int]] = set()
        self._had: dict[Place, list[Tenure]] = {}
        self._disturbed: list[float] = []  # until when something held up the group
        self.judges: list[Judge] = [judge(self) for judge in (*judges, *more_judges())]

    # -- what judges ask ---------------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the time, seconds since the simulation began."""
        return self._clock()

    def disturb(self, seconds: float = 0.0) -> None:
        """Something happens that may hold up the group for so long."""
        now = self._clock()
        self._disturbed = [*(time for time in self._disturbed if time > now - LONG_AGO), now + seconds]

    def undisturbed(self, since: float, apart_from: float | None = None) -> bool:
        """Return whether nothing holds up the group, and nothing has since then, nor for a ttl and some seconds before."""
        return all(time == apart_from or time + self.losses.ttl + SETTLES < since for time in self._disturbed)

    @property
    def forgot(self) -> bool:
        """True once the server has lost data."""
        return bool(self.losses.times)

    def tenures_of(self, place: Place) -> Sequence[Tenure]:
        """Return who has had a partition, and when, in order."""
        return self._had.get(place, ())

    def all_tenures(self) -> Sequence[Tenure]:
        """Return who has had any partition, and when."""
        return self.tenures

    def runs_of(self, place: Place, entry_id: EntryId) -> Sequence[Run]:
        """Return the handlers' runs on a message in its present life, in order."""
        return self.histories.runs(place, entry_id)

    # -- writing down ----------------------------------------------------------------------------------------------------------------

    def note(self, who: str, what: str, outcome: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self._clock():.6f} {who} {what}: {outcome}")

    def mark(self, process: Process, what: str) -> None:
        """Note what happened to a process."""
        self.marks.append(Mark(self._clock(), process.name, what))
        self.note(process.name, "process", what)
        if what not in ORDERLY:
            self.disturb()

    def violation(self, text: str) -> None:
        """Note what must not happen."""
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(f"at {self._clock():.3f}: {text}")
        self.note("check", "violation", text)

    def side_by_side(self, text: str, excuse: str) -> None:
        """Note what must not happen, unless it follows from what the server has forgotten and no rule can help it."""
        if not excuse:
            self.violation(text)
            return
        if len(self.known) < MOST_VIOLATIONS:
            self.known.append(f"at {self._clock():.3f}: {text}: {excuse}")
        self.note("check", "known", text)

    def hash(self) -> str:
        """Return the trace's hash."""
        digest = sha256()
        for line in self.trace:
            digest.update(line.encode())
            digest.update(b"\n")
        return digest.hexdigest()

    # -- what the server does ----------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Go through what the last step has moved."""
        if self.store is not None:
            self.census.look(self.store)
            self.losses.look(self.store)

    def stepped(self, who: str, operation: str) -> None:
        """The server has done an operation."""
        if operation in DISTURBING:
            self.disturb()
        for judge in self.judges:
            judge.stepped(who, operation)

    def _lost(self, entries: Collection[tuple[Place, EntryId]]) -> None:
        for judge in self.judges:
            judge.lost(entries)

    def given(self, msg_ids: Sequence[str], given: Sequence[Given]) -> None:
        """A producer was told that messages are safe."""
        self.produced += msg_ids
        for msg_id, one in zip(msg_ids, given, strict=False):
            for judge in self.judges:
                judge.produced(msg_id, one)

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
        for judge in self.judges:
            judge.resolved(str(getattr(owner, "name", owner)), (group, partition), token, resolutions, answer)

    def _settle(self, owner: object, place: Place, token: int, ids: Sequence[EntryId], to: str, *, accepted: bool) -> None:
        (group, partition), name = place, str(getattr(owner, "name", owner))
        shown = tuple(format_id(entry_id).decode() for entry_id in ids)
        self.settles.append(Settle(self._clock(), name, group.topic, group.group, partition, token, shown, to, accepted))
        self.note(name, f"{to} {group.topic}/{partition} {','.join(shown)}", "accepted" if accepted else "refused")
        if not accepted:
            return
        if token != self._tokens.get(place, 0):
            self.violation(f"{name} settled in {group.topic}/{partition} under {token}, while {self._tokens.get(place, 0)} stands")
        ended, histories = self.census.ended.setdefault(place, {}), self.histories
        for entry_id in ids:
            match to:
                case "done":
                    histories.check_done(name, place, token, entry_id)
                case "dead":
                    histories.check_dead(name, place, entry_id)
                case _:
                    histories.check_retry(name, place, token, entry_id)
                    continue
            ended.setdefault(entry_id, to)

    # -- what handlers do --------------------------------------------------------------------------------------------------------------

    def begin(self, process: Process, group: GroupName, message: Message[Any], call: object) -> Run:
        """A handler begins; `call` is one for all messages of a batch."""
        now, place = self._clock(), (group, message.partition)
        run = Run(process, group, message, call, now)
        self.note(process.name, "begins", str(run))
        self.runs.append(run)
        if message.token < self._tokens.get(place, 0):
            text = f"{process.name} began {run} under {message.token}, while {self._tokens[place]} stands"
            self.side_by_side(text, self.losses.excuse(place))
        running = self._running.setdefault(place, [])
        for other in running:
            if other.process is process and other.message.token == message.token:
                if run.shares_lane(other) or other.entry_id == run.entry_id:
                    self.violation(f"{process.name} began {run} while it runs {other}")
            elif other.process.suspended or other.process.thawed_at == now:
                other.superseded = True
            else:
                text = f"{process.name} began {run} while {other.process.name} runs {other} since {other.started:.3f}"
                self.side_by_side(text, self.losses.excuse(place, (message.token, other.message.token)))
        running.append(run)
        stray = bool(self.losses.excuse(place, (message.token,)))
        if not stray:
            self._check_again(run)
        if stray:
            self.histories.stray(run)
        elif self.store is not None:
            self.histories.begin(run, self.store)
        for judge in self.judges:
            judge.begun(run)
        return run

    def _check_again(self, run: Run) -> None:
        """What is done does not run again, unless the server has forgotten that."""
        place, entry_id, name = run.place, run.entry_id, run.process.name
        done = (place, entry_id, run.message.token) in self._done_under
        ended = self.census.ended.get(place, {}).get(entry_id)
        if (done or ended is not None) and self.histories.repeats(place, entry_id):
            self.census.ended[place].pop(entry_id, None)
            self._done_under.discard((place, entry_id, run.message.token))
        elif done:
            self.violation(f"{name} began {run} again, which is done under the same token")
        elif ended is not None:
            self.violation(f"{name} began {run}, which is {ended}")

    def end(self, run: Run, outcome: str, error: Exception | None) -> None:
        """A handler's run ended: it "returned", "raised" the error, or was "cancelled"."""
        if run.process.crashed:
            return
        now = self._clock()
        run.ended, run.outcome, run.error = now, outcome, error
        self._running[run.place].remove(run)
        self.note(run.process.name, "ends", f"{run} {outcome}")
        if run.superseded and now > run.process.thawed_at:
            self.violation(f"{run.process.name} still ran {run} after another had begun")
        if outcome == "returned":
            self._done_under.add((run.place, run.entry_id, run.message.token))
        for judge in self.judges:
            judge.ended(run)

    # -- what members tell -------------------------------------------------------------------------------------------------------------

    def event(self, process: Process, group: GroupName, event: events.Event) -> None:
        """A member told of something."""
        if process.crashed:
            return
        match event:
            case events.PartitionAcquired():
                self.incarnations[event.member] = process
                self._acquired(process, (group, event.partition), event.token)
            case events.PartitionRevoked():
                self._given_up(process, (group, event.partition), "released")
            case events.LeaseLost():
                self._given_up(process, (group, event.partition), "lost")
            case events.EntriesTrimmed():
                known = self.census.entries.get((group.topic, event.partition), {})
                self.dropped += [known.get(parse_id(entry_id.encode()), entry_id) for entry_id in event.entry_ids]
            case events.EntryUnreadable():
                self.histories.unreadable((group, event.partition), parse_id(event.entry_id.encode()))
            case events.MessageFailed():
                self.histories.failed(process, (group, event.partition), parse_id(event.entry_id.encode()), event.error)
            case events.MessageEvent():
                pass
            case _:
                self.note(process.name, "tells", type(event).__name__)
        partition = event.partition if isinstance(event, events.MessageEvent | events.PartitionEvent) else None
        for judge in self.judges:
            judge.told(process, None if partition is None else (group, partition), event)

    def _acquired(self, process: Process, place: Place, token: int) -> None:
        group, partition = place
        self.note(process.name, "takes", f"{group.topic}/{partition} under {token}")
        tenures = self._open.setdefault(place, [])
        woke = process.thawed_at == self._clock()  # on waking it may run to its next checkpoint: there it learns that its time is over
        for other in tenures if not woke else ():
            if not other.process.suspended and other.process.thawed_at < self._clock() - NOTICE and not self.was_silent(other.process.name):
                text = f"{process.name} took {group.topic}/{partition} while {other.process.name} has it since {other.since:.3f}"
                self.side_by_side(text, self.losses.excuse(place, (token, other.token)))
        for other in tenures:
            self._broken_off(other)
        tenure = Tenure(process, group, partition, token, self._clock())
        tenures.append(tenure)
        self.tenures.append(tenure)
        self._had.setdefault(place, []).append(tenure)

    def _given_up(self, process: Process, place: Place, end: str) -> None:
        self.note(process.name, end, f"{place[0].topic}/{place[1]}")
        if end == "released":
            for run in self._running.get(place, ()):
                if run.process is process:
                    self.violation(f"{process.name} gave {place[0].topic}/{place[1]} back while it runs {run}")
        for tenure in [one for one in self._open.get(place, ()) if one.process is process][:1]:
            if end != "released":
                self._broken_off(tenure)
            tenure.until, tenure.end = self._clock(), end
            self._open[place].remove(tenure)
            if self.losses.given_up(place, tenure.token, tenure.since):
                self._forget_unsettled(place, tenure.token)

    def _forget_unsettled(self, place: Place, token: int) -> None:
        """What was done under a token that the server has lost, and is not settled, runs again; so too under the same token, made again."""
        ended = self.census.ended.get(place, {})
        self._done_under = {one for one in self._done_under if one[0] != place or one[2] != token or one[1] in ended}

    def crashed(self, process: Process) -> None:
        """A process is gone: nothing of it runs, it owns nothing."""
        for tenures in self._open.values():
            for tenure in [one for one in tenures if one.process is process]:
                tenure.until, tenure.end = self._clock(), "crashed"
                tenures.remove(tenure)
                self._broken_off(tenure)
        for place, runs in self._running.items():
            self._running[place] = [run for run in runs if run.process is not process]
        for judge in self.judges:
            judge.crashed(process)

    def close(self) -> None:
        """All have left."""
        self.histories.close(lambda place: any(one.end != "released" for one in self.tenures_of(place)))
        for judge in self.judges:
            judge.closed()

    def _broken_off(self, tenure: Tenure) -> None:
        if not tenure.broken:
            tenure.broken = True
            self.histories.broken_off((tenure.group, tenure.partition))

    # -- for the report ----------------------------------------------------------------------------------------------------------------

    def all_dropped(self) -> list[str]:
        """Return the messages that a group could not get, each once."""
        lost = self.losses.dropped(self.store) if self.store is not None else []
        return list(dict.fromkeys([*self.dropped, *lost]))

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
