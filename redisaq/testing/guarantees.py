"""Watch every simulation for violations of what redisaq guarantees to its users, whatever faults happen.

No two members handle one partition at once, and no two handlers one lane. A message that is done does not run again. Messages of a lane
begin in order. No message is appended twice (`whereabouts` checks this), and none is lost. How redisaq achieves this is internal, and is
judged by tests/simulation/judges.

A server that has lost data may have given one partition to two members, which no rule can prevent (docs/understand/protocol.md, "What
stays open"). For as long as a lease lasts, such a violation is reported as known. Nothing is checked here about entries that the server
may have forgotten.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from redisaq import events
from redisaq.brokers.memory.holdings import Holdings
from redisaq.brokers.steps.growing import FROM_ELSEWHERE
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import START, EntryId, format_id, parse_id
from redisaq.events import Event
from redisaq.testing.observed import Settle
from redisaq.testing.observing import Place, Process, Run, Tenure
from redisaq.testing.record import Observer, Record
from redisaq.testing.whereabouts import there

NOTICE = 2.0
"""Seconds within which an owner must notice its end after a pause, or while nobody answers the operation that ends its reads."""

ENDED = {"done", "dead"}


class Guarantees(Observer):
    """Check the guarantees that hold for every user of redisaq."""

    def __init__(self, record: Record) -> None:
        """Start with nothing seen."""
        super().__init__(record)
        self._ended: dict[tuple[Place, EntryId], str] = {}
        self._doubtful: dict[Place, EntryId] = {}  # the server may have forgotten what became of entries up to here
        self._passed: set[tuple[Place, EntryId]] = set()  # an admin has moved the group's position past them
        self._begun: set[tuple[Place, EntryId]] = set()
        self._first: dict[tuple[Place, str | None], EntryId] = {}
        self._gone: set[tuple[Place, EntryId]] = set()  # lost by the server: who has them in hand may run them yet, in any order
        self._in_hand: dict[Place, EntryId] = {}  # entries up to here come in any order: members may have held them during a seek
        self._shaken: dict[Place, tuple[float, str]] = {}  # until when two owners are excused, and why
        self._granted: dict[Place, int] = {}  # the token that was installed last
        self._spent: dict[Place, int] = {}  # the token that an admin's seek has put in its place: its owner goes on under it

    # -- one owner, one handler of a lane ------------------------------------------------------------------------------------------------

    def begun(self, run: Run) -> None:
        """Check that it is the turn of the run's member, of its lane and of its message."""
        self._check_owner(run)
        self._check_side_by_side(run)
        excused = self._excuse(run.place)
        if not excused:  # else its acquisition may be forgotten: do not check it, and conclude nothing from it
            self._check_again(run)
            entry = run.place, run.entry_id
            new = entry not in self._begun and entry not in self._gone
            if run.ordered and new and run.entry_id > self._in_hand.get(run.place, START) and not _redriven(run):
                self._check_order(run)
            self._check_key(run)
        self._begun.add((run.place, run.entry_id))

    def _check_owner(self, run: Run) -> None:
        store = self.record.store
        standing = 0 if store is None else store.lease(*run.place).token
        if standing == self._spent.get(run.place):
            standing = self._granted.get(run.place, 0)
        if run.message.token < standing:
            text = f"{run.process.name} began {run} under {run.message.token}, while {standing} is current"
            self._side_by_side(text, run.place, None)

    def installed(self, who: str, place: Place, token: int) -> None:
        """Remember under which token the partition is owned."""
        del who
        if token != self._spent.get(place):
            self._granted[place] = token

    def _check_side_by_side(self, run: Run) -> None:
        name, process = run.process.name, run.process
        for other in self.record.running_in(run.place):
            if other is run:
                continue
            if other.process is process and other.message.token == run.message.token:
                if run.shares_lane(other) or other.entry_id == run.entry_id:
                    self.record.violation(f"{name} began {run} while it runs {other}")
            elif other.process.suspended or other.process.thawed_at == run.started:
                other.superseded = True
            else:
                text = f"{name} began {run} while {other.process.name} runs {other} since {other.started:.3f}"
                self._side_by_side(text, run.place, (run.message.token, other.message.token))

    def ended(self, run: Run) -> None:
        """Check that a superseded run ends as soon as its process continues."""
        if run.superseded and run.ended is not None and run.ended > run.process.thawed_at:
            self.record.violation(f"{run.process.name} still ran {run} after another had begun")

    def told(self, process: Process, place: Place | None, event: Event) -> None:
        """Check that a partition has one owner, which gives it back only when none of its handlers runs."""
        if place is None:
            return
        if isinstance(event, events.PartitionAcquired):
            self._check_acquired(self.record.owners_of(place)[-1])
        elif isinstance(event, events.PartitionRevoked):
            for run in self.record.running_in(place):
                if run.process is process:
                    self.record.violation(f"{process.name} gave {place[0].topic}/{place[1]} back while it runs {run}")

    def _check_acquired(self, tenure: Tenure) -> None:
        process, place, now = tenure.process, (tenure.group, tenure.partition), self.record.now()
        if process.thawed_at == now:  # after waking it may run to its next checkpoint, where it learns that its time is over
            return
        for other in self.record.owners_of(place):
            late = other.process.suspended or other.process.thawed_at >= now - NOTICE or self.record.was_silent(other.process.name)
            if other is not tenure and not late:
                where = f"{tenure.group.topic}/{tenure.partition}"
                text = f"{process.name} took {where} while {other.process.name} has it since {other.since:.3f}"
                self._side_by_side(text, place, (tenure.token, other.token))

    def _side_by_side(self, text: str, place: Place, tokens: Collection[int] | None) -> None:
        reason = self._excuse(place)
        if reason:
            self.record.excuse(text, reason, place, tokens)
        else:
            self.record.violation(text)

    def _excuse(self, place: Place) -> str:
        until, reason = self._shaken.get(place, (0.0, ""))
        return reason if self.record.now() <= until else ""

    # -- once, and in order --------------------------------------------------------------------------------------------------------------

    def settled(self, settle: Settle) -> None:
        """Remember which messages have ended: they must not run again."""
        place = (GroupName(settle.topic, settle.group), settle.partition)
        if settle.accepted and settle.to in ENDED:
            for entry_id in settle.entry_ids:
                self._ended[place, parse_id(entry_id.encode())] = settle.to

    def _check_again(self, run: Run) -> None:
        if self._ended.get((run.place, run.entry_id)) == "done" and run.entry_id > self._doubtful.get(run.place, START):
            self.record.violation(f"{run.process.name} began {run}, which is done")

    def _check_order(self, run: Run) -> None:
        """Check that first runs of a lane begin in the order of its entries."""
        key = (run.place, run.message.key if run.by_key else None)
        first = self._first.get(key, START)
        if run.entry_id > first:
            self._first[key] = run.entry_id
        else:
            lane = f" (key {run.message.key})" if run.by_key else ""
            self.record.violation(f"{run.process.name} began {run}{lane} for the first time after {format_id(first).decode()}")

    def _check_key(self, run: Run) -> None:
        """Check that no message of the run's key runs in another partition, and that its earlier ones there are done."""
        if run.message.key is None or run.process.ordering == "none" or self.record.losses:
            return
        earlier = self.record.whereabouts.of_key.get((run.group.topic, run.message.key.encode()), [])
        if len({partition for partition, _ in earlier}) < 2:  # noqa: PLR2004 -- the key has not moved
            return
        for beside in self.record.running_elsewhere(run):
            awake = not beside.process.suspended and beside.process.thawed_at != run.started
            if awake and beside.message.key == run.message.key and beside.process.ordering != "none":
                text = f"{run.process.name} began {run} while {beside.process.name} runs {beside} since {beside.started:.3f}"
                self.record.violation(f"{text}: both have the key {run.message.key}")
        for partition, entry_id in () if _redriven(run) else earlier:
            if (partition, entry_id) == (run.message.partition, run.entry_id):
                break
            other = (run.group, partition), entry_id
            if partition != run.message.partition and other not in self._ended and other not in self._passed:
                where = f"{run.group.topic}/{partition} {format_id(entry_id).decode()}"
                self.record.violation(f"{run.process.name} began {run} (key {run.message.key}), and {where} of that key is not done")
                break

    def sought(self, place: Place, before: EntryId, after: EntryId) -> None:
        """Expect entries after the new position to run once more, as new, and entries that were skipped never to run."""
        for key in [key for key in self._ended if key[0] == place and key[1] > after]:
            del self._ended[key]
        entries = self.record.whereabouts.entries.get((place[0].topic, place[1]), {})
        self._passed = {key for key in self._passed if key[0] != place or key[1] <= after}
        self._passed |= {(place, entry_id) for entry_id in entries if before < entry_id <= after}
        self._first = {lane: first for lane, first in self._first.items() if lane[0] != place}
        self._in_hand[place] = max(self._in_hand.get(place, START), before)
        if self.record.store is not None:
            self._spent[place] = self.record.store.lease(*place).token

    def lost(self, before: Holdings, after: Holdings, reason: str) -> None:
        """Allow ended messages to run again where the server has lost some of what it knew of the partition."""
        until = self.record.now() + self.record.ttl
        for place in {(group, number) for group in self.record.groups for topic, number in before.streams if topic == group.topic}:
            was, left = before.streams[place[0].topic, place[1]], after.streams.get((place[0].topic, place[1]))
            if left is not was:  # its own slot lost; else another one was
                self._doubtful[place] = was.last_id
                end = START if left is None else left.last_id  # ids above it may be given out again by a slower clock
                self._first |= {lane: min(first, end) for lane, first in self._first.items() if lane[0] == place}
                topic = place[0].topic
                self._gone |= {(place, entry_id) for entry_id in there(before, topic, place[1]) - there(after, topic, place[1])}
            if _ownership(before, place) != _ownership(after, place):
                self._shaken[place] = (until, reason)

    # -- none is lost --------------------------------------------------------------------------------------------------------------------

    def quiet(self, groups: Sequence[GroupName]) -> None:
        """Check that each message that is safe is done or dead for each group, or is reported as dropped."""
        record, dropped = self.record, set(self.record.dropped())
        for msg_id in record.produced:
            if not record.whereabouts.appended(msg_id) and msg_id not in dropped:
                record.violation(f"message {msg_id} was said to be safe, and is nowhere")
        for group in groups:
            for (topic, partition), entries in record.whereabouts.entries.items():
                if topic != group.topic or record.store is None or topic not in record.store.topic_names:  # an admin has deleted it
                    continue
                for entry_id, msg_id in entries.items():
                    key = (group, partition), entry_id
                    if key not in self._ended and key not in self._passed and msg_id not in dropped:
                        where = f"{format_id(entry_id).decode()} of {topic}/{partition}"
                        record.violation(f"message {msg_id}, {where}, is neither done nor dead for {group.group}")


def _redriven(run: Run) -> bool:
    """Return whether a dead letter of another partition runs here: such messages come in the order in which they are redriven."""
    return run.entry_id[1] >= FROM_ELSEWHERE


def _ownership(data: Holdings, place: Place) -> object:
    """Return what a server knows about the owner of a partition."""
    coordination, lease = data.coordination.get(place[0]), data.leases.get(place)
    document = None if coordination is None or coordination.state is None else coordination.state.document
    return document, None if lease is None else (lease.token, lease.holder)
