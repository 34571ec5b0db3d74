"""The project's own judges, as one observer of a simulation: they judge rules M, T and S, where `Guarantees` checks only the outcome.

Input: what the record notes, as it happens. Output: a sentence for each thing that the protocol forbids. `census` checks where messages
are, `histories` their attempts and their order, `losses` what a loss of data excuses, `rest` what is true only at rest. This module checks
tokens, and what runs again under one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from redisaq import events
from redisaq.brokers.memory.holdings import Holdings
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps.settling import Resolved
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import EntryId, parse_id
from redisaq.core.records import Resolution
from redisaq.events import Event
from redisaq.testing.faults import Fault
from redisaq.testing.observed import Settle
from redisaq.testing.observing import Given, Place, Process, Run, Tenure
from redisaq.testing.record import Observer, Record
from tests.simulation.judges.census import Census
from tests.simulation.judges.histories import Histories
from tests.simulation.judges.losses import OUTSTANDING, Losses, standings
from tests.simulation.judges.rest import fates, leftovers

LONG_AGO = 600.0
SETTLES = 5.0
"""Seconds, in addition to a ttl, after which a fault has no more effects."""


class Judge(Observer):
    """An observer to which the court passes everything, and which may ask the court."""

    def __init__(self, court: Court) -> None:
        """Judge the simulation of a court.

        Args:
            court: what there is to ask.
        """
        super().__init__(court.record)
        self.court = court

    def forgotten(self, entries: Collection[tuple[Place, EntryId]]) -> None:
        """The server has lost data: these entries are gone, or it has forgotten what became of them."""


class Court(Observer):
    """The observer that all judges hear from; itself the judge of tokens."""

    def __init__(self, record: Record) -> None:
        """Begin, with the judges of every simulation."""
        super().__init__(record)
        self.incarnations: dict[str, Process] = {}  # of those that ever took a partition
        self.expired: set[str] = set()  # of these, those whose lease ran out
        self.histories = Histories(record.violation)
        self.census = Census(record.violation, self.histories.redriven, record.whereabouts)
        self.losses = Losses(self.census, self.histories, record.now, self._forgotten)
        self._tokens = self.losses.tokens
        self._spent: dict[tuple[Place, int], int] = {}  # the token that a seek has left -> the one that it has spent
        self._moved: dict[Place, tuple[EntryId, EntryId]] = {}  # over which entries seeks have moved it since a token was installed
        self._unnoticed: dict[tuple[Place, int], tuple[EntryId, EntryId]] = {}  # the same, of a seek that its owner has not noticed
        self._void: set[Run] = set()  # runs during which it did: they do not count
        self._done_under: set[tuple[Place, EntryId, int]] = set()
        self._broken: set[Tenure] = set()  # another took over before it had ended, or it ended without giving its partition back
        self._disturbed: list[float] = []  # until when something held up the group
        self._deaf_until = 0.0
        self.judges: list[Judge] = []

    # -- what judges ask ---------------------------------------------------------------------------------------------------------------

    @property
    def store(self) -> MemoryStore | None:
        """The server."""
        return self.record.store

    @property
    def forgot(self) -> bool:
        """True once the server has lost data."""
        return bool(self.losses.times)

    def now(self) -> float:
        """Return the time, seconds since the simulation began."""
        return self.record.now()

    def violation(self, text: str) -> None:
        """Report what must not happen."""
        self.record.violation(text)

    def undisturbed(self, since: float, apart_from: float | None = None) -> bool:
        """Return whether nothing delays the group now, and nothing has delayed it since then, or for a ttl and some seconds before."""
        return all(time == apart_from or time + self.record.ttl + SETTLES < since for time in self._disturbed)

    def deaf(self, since: float) -> bool:
        """Return whether a member missed notifications since then."""
        return self._deaf_until > since

    def tenures_of(self, place: Place) -> Sequence[Tenure]:
        """Return who has had a partition, and when, in order."""
        return self.record.tenures_of(place)

    def all_tenures(self) -> Sequence[Tenure]:
        """Return who has had any partition, and when."""
        return self.record.tenures

    def runs_of(self, place: Place, entry_id: EntryId) -> Sequence[Run]:
        """Return the handlers' runs on a message in its present life, in order."""
        return self.histories.runs(place, entry_id)

    # -- what the server does ----------------------------------------------------------------------------------------------------------

    def disturbed(self, seconds: float) -> None:
        """Remember until when something delays the group."""
        now = self.now()
        self._disturbed = [*(time for time in self._disturbed if time > now - LONG_AGO), now + seconds]
        for judge in self.judges:
            judge.disturbed(seconds)

    def fault_began(self, fault: Fault) -> None:
        """Note which members miss a notification: they learn its content only at their next look."""
        if fault.kind == "silent_notifications":
            self._deaf_until = max(self._deaf_until, self.now() + fault.amount)
        for judge in self.judges:
            judge.fault_began(fault)

    def stepped(self, who: str, operation: str) -> None:
        """Go through what the step has moved."""
        for judge in self.judges:
            judge.stepped(who, operation)
        if self.store is not None:
            self.census.look(self.store)
            self.losses.look(self.store)

    def lost(self, before: Holdings, after: Holdings, reason: str) -> None:
        """Find out what the server has forgotten."""
        self.losses.lost(before, after, reason)
        for judge in self.judges:
            judge.lost(before, after, reason)

    def _forgotten(self, entries: Collection[tuple[Place, EntryId]]) -> None:
        for judge in self.judges:
            judge.forgotten(entries)

    def excused(self, place: Place, tokens: Collection[int] | None, text: str) -> None:
        """Two owners at the same time are excused only if the server has forgotten the acquisition of one of them."""
        if not self.losses.excuse(place, tokens):
            self.violation(text)
        for judge in self.judges:
            judge.excused(place, tokens, text)

    def produced(self, msg_id: str, given: Given | None) -> None:
        """Pass it on."""
        for judge in self.judges:
            judge.produced(msg_id, given)

    def installed(self, who: str, place: Place, token: int) -> None:
        """T2: tokens only grow."""
        standing = self._tokens.get(place, 0)
        if token < standing:
            self.violation(f"token {token} was installed in {place[0].topic}/{place[1]} over {standing}")
        self._tokens[place] = max(token, standing)
        self._moved.pop(place, None)
        if (place, token) not in self._spent:  # another owner, which has not run any of them
            self._no_longer_unnoticed(place, token)
        for judge in self.judges:
            judge.installed(who, place, self._granted(place, token))

    def noticed(self, place: Place, token: int) -> None:
        """What the owner ran of the moved entries until now does not count; what begins from now on does (S5)."""
        moved = self._unnoticed.get((place, token))
        self._no_longer_unnoticed(place, token)
        if moved is not None:
            self._forget_outcomes(place, *moved, last=not any(one == place for one, _ in self._unnoticed))

    def _no_longer_unnoticed(self, place: Place, token: int) -> None:
        for one in [(where, other) for where, other in self._unnoticed if where == place and other <= token]:
            del self._unnoticed[one]

    def _forget_outcomes(self, place: Place, after: EntryId, before: EntryId, *, last: bool) -> None:
        """Forget what the owner ran of these entries. If there has been no later seek, it has no excuse to repeat them from now on."""
        over = [entry_id for entry_id in self.census.ended.setdefault(place, {}) if after < entry_id <= before]
        over += [run.entry_id for run in self.record.runs if run.place == place and after < run.entry_id <= before]
        for entry_id in set(over):
            self.histories.set_back(place, entry_id, repeatable=not last)
        self._done_under = {one for one in self._done_under if one[0] != place or not after < one[1] <= before}
        self._void.update(run for run in self.record.running_in(place) if after < run.entry_id <= before)

    def _granted(self, place: Place, token: int) -> int:
        """Return the token under which the partition is owned: a seek leaves another one to its owner (S5)."""
        return self._spent.get((place, token), token)

    def settled(self, settle: Settle) -> None:
        """S1: a settlement needs the current token, and a message in a state that can be settled."""
        if settle.accepted:
            self._check_settled(settle)
        for judge in self.judges:
            judge.settled(settle)

    def _check_settled(self, settle: Settle) -> None:
        place, name, token = (GroupName(settle.topic, settle.group), settle.partition), settle.member, settle.token
        if token != self._tokens.get(place, 0):
            self.violation(f"{name} settled in {settle.topic}/{place[1]} under {token}, while {self._tokens.get(place, 0)} stands")
        token = self._granted(place, token)
        ended, histories = self.census.ended.setdefault(place, {}), self.histories
        for entry_id in (parse_id(text.encode()) for text in settle.entry_ids):
            match settle.to:
                case "done":
                    histories.check_done(name, place, token, entry_id)
                case "dead":
                    histories.check_dead(name, place, entry_id)
                case _:
                    histories.check_retry(name, place, token, entry_id)
                    continue
            ended.setdefault(entry_id, settle.to)

    def resolved(self, who: str, place: Place, token: int, resolutions: Sequence[Resolution], answer: Resolved) -> None:
        """Pass it on."""
        for judge in self.judges:
            judge.resolved(who, place, self._granted(place, token), resolutions, answer)

    def sought(self, place: Place, before: EntryId, after: EntryId) -> None:
        """Entries after the new position run once more, as new. Skipped entries never run, and need not be settled."""
        ended = self.census.ended.setdefault(place, {})
        for entry_id in [entry_id for entry_id in self.record.whereabouts.entries.get((place[0].topic, place[1]), {}) if entry_id > after]:
            ended.pop(entry_id, None)
            if entry_id <= before:
                self.histories.set_back(place, entry_id)
        standing = self._tokens.get(place, 0)
        self.histories.sought(place, before, self._granted(place, standing))
        if self.store is not None and standing:
            self._tokens[place] = self.store.lease(*place).token
            self._spent[place, self._tokens[place]] = self._granted(place, standing)
            lowest, highest = self._moved.get(place, (after, before))
            self._moved[place] = self._unnoticed[place, self._tokens[place]] = min(after, lowest), max(before, highest)
        self._done_under = {one for one in self._done_under if one[0] != place or one[1] <= after}
        if self.store is not None:
            self.census.sought(place, before, after, self.store)
        for judge in self.judges:
            judge.sought(place, before, after)

    # -- what handlers do --------------------------------------------------------------------------------------------------------------

    def begun(self, run: Run) -> None:
        """Check a run that begins, unless the server has forgotten its owner's acquisition."""
        if self.losses.excuse(run.place, (run.message.token,)):
            self.histories.stray(run)
        else:
            self._check_again(run)
            if self.store is not None:
                self.histories.begin(run, self.store)
        for judge in self.judges:
            judge.begun(run)

    def _check_again(self, run: Run) -> None:
        """What is done does not run again, unless the server has forgotten that."""
        place, entry_id, name = run.place, run.entry_id, run.process.name
        done = (place, entry_id, run.message.token) in self._done_under
        ended = self.census.ended.get(place, {}).get(entry_id)
        if (done or ended is not None) and self.histories.repeats(place, entry_id):
            if self._outstanding(place, entry_id):
                self.census.ended[place].pop(entry_id, None)
            self._done_under.discard((place, entry_id, run.message.token))
        elif done:
            self.violation(f"{name} began {run} again, which is done under the same token")
        elif ended == "dead" or (ended == "done" and self.forgot):  # as long as nothing is forgotten, `Guarantees` says so
            self.violation(f"{name} began {run}, which is {ended}")

    def _outstanding(self, place: Place, entry_id: EntryId) -> bool:
        """Return whether the entry has not ended for the server, either.

        Otherwise it was settled after the server had delivered it again, to an owner that had two of it in hand. Whatever comes of the
        second run, nothing is left to do.
        """
        return self.store is None or standings(self.store, place, [entry_id])[entry_id][0] in OUTSTANDING

    def ended(self, run: Run) -> None:
        """Note what is done, before that is settled."""
        if run.outcome == "returned" and run not in self._void:
            self._done_under.add((run.place, run.entry_id, run.message.token))
        for judge in self.judges:
            judge.ended(run)

    # -- what members tell, and what happens to them -----------------------------------------------------------------------------------

    def told(self, process: Process, place: Place | None, event: Event) -> None:
        """Note who has ended without giving its partition back, and what cannot be read."""
        match event:
            case events.PartitionAcquired() if place is not None:
                self.incarnations[event.member] = process
                for other in self.record.owners_of(place)[:-1]:
                    self._broken_off(other)
            case events.PartitionRevoked() | events.LeaseLost() if place is not None:
                self._given_up(process, place, event)
            case events.EntryUnreadable() if place is not None:
                self.histories.unreadable(place, parse_id(event.entry_id.encode()))
            case _:
                pass
        for judge in self.judges:
            judge.told(process, place, event)

    def _given_up(self, process: Process, place: Place, event: Event) -> None:
        for tenure in [one for one in self.record.tenures_of(place) if one.process is process and one.until is not None][-1:]:
            if isinstance(event, events.LeaseLost):
                self._broken_off(tenure)
                if event.reason == "the lease ran out":
                    self.expired.add(event.member)
            if self.losses.given_up(place, tenure.token, tenure.since):
                self._forget_unsettled(place, tenure.token)

    def _forget_unsettled(self, place: Place, token: int) -> None:
        """A message done under a token that the server has lost, and not settled, runs again; also under the same token, made again."""
        ended = self.census.ended.get(place, {})
        self._done_under = {one for one in self._done_under if one[0] != place or one[2] != token or one[1] in ended}

    def happened(self, process: Process, what: str) -> None:
        """A member that joins may be affected by lost data; a member that crashes gives nothing back."""
        if what == "joins":
            self.losses.groups[process.group] = None
            self.losses.ttl = max(self.losses.ttl, process.ttl)
        if what == "crashes":
            for tenure in self.record.tenures:
                if tenure.process is process and tenure.end == "crashed":
                    self._broken_off(tenure)
        for judge in self.judges:
            judge.happened(process, what)

    def _broken_off(self, tenure: Tenure) -> None:
        if tenure not in self._broken:
            self._broken.add(tenure)
            self.histories.broken_off((tenure.group, tenure.partition))

    # -- the end -----------------------------------------------------------------------------------------------------------------------

    def quiet(self, groups: Sequence[GroupName]) -> None:
        """Everything ended as it should."""
        if self.store is not None:
            for sentence in fates(self.store, groups, self.record, self.census, forgot=self.forgot):
                self.violation(sentence)
        for judge in self.judges:
            judge.quiet(groups)

    def closed(self) -> None:
        """Nothing is left of those that have left."""
        if self.store is not None:
            for sentence in leftovers(self.store, list(self.record.groups), self.incarnations, self.expired):
                self.violation(f"at rest: {sentence}")
        self.histories.close(lambda place: any(one.end != "released" for one in self.tenures_of(place)))
        for judge in self.judges:
            judge.closed()
