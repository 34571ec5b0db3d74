"""Judges that lanes do not wait for one another: a message that can begin beside other work of its member begins.

`promptness` judges members that have nothing else to do, and this module those that have. A message "can begin" if the member has room for
one more handler, the message's lane is free, and so few entries of its partition are in hand that it must have been read. Only first runs
are judged, and only while no fault acts or has acted lately.
"""

from __future__ import annotations

from redisaq import events
from redisaq.brokers.terms import GroupName
from redisaq.events import Event
from redisaq.testing.observing import Place, Process, Run
from redisaq.testing.virtual import EPOCH
from tests.simulation.judges.court import Court, Judge

LATE = 2.0
"""Seconds within which a message that can begin has begun."""

Lane = tuple[Process, Place, str | None]


class Lanes(Judge):
    """Compares when each first run began with when its member had room and its lane was free."""

    def __init__(self, court: Court) -> None:
        """Begin."""
        super().__init__(court)
        self._running: dict[Process, int] = {}
        self._had_room_since: dict[Process, float] = {}
        self._last: dict[Lane, Run] = {}
        self._full: dict[Place, float] = {}  # when so many entries were in hand last that no other one is read
        self._least = 1 << 30  # of all that ever owned anything: how many entries are read at once

    def told(self, process: Process, place: Place | None, event: Event) -> None:
        """Note how many entries an owner reads at once."""
        del place
        if isinstance(event, events.PartitionAcquired):
            self._least = min(self._least, process.batch_size)

    def stepped(self, who: str, operation: str) -> None:
        """Find the partitions of which as much is in hand as is read at once."""
        del who, operation
        store, now = self.court.store, self.court.now()
        if store is None:
            return
        for (topic, partition), stream in store.streams.items():
            for group, cursor in stream.groups.items():
                if len(cursor.pending) < self._least:
                    continue
                for tenure in self.record.owners_of(place := (GroupName(topic, group), partition)):
                    if len(cursor.pending) >= tenure.process.batch_size:
                        self._full[place] = now

    def begun(self, run: Run) -> None:
        """See whether it begins in time."""
        process = run.process
        if process.mode != "process" or process.ordering == "partition":
            return
        self._running[process] = self._running.get(process, 0) + 1
        former = self._last.get(lane := _lane(run))
        if run.by_key:
            self._last[lane] = run
        owned = [one for one in self.court.tenures_of(run.place) if one.process is process and one.until is None]
        blocked = former is not None and not former.final and process.retry.blocking
        if owned and run.message.attempt == 1 and not process.suspended and not blocked:
            since = max(
                run.entry_id[0] / 1000 - EPOCH,
                owned[-1].since,
                self._had_room_since.get(process, 0.0),
                self._full.get(run.place, 0.0),
                (former.ended or 0.0) if former is not None else 0.0,
            )
            late = self.court.now() - since
            if late > LATE + (process.ttl if self.court.deaf(since) else 0.0) and self.court.undisturbed(since):
                self.court.violation(f"{process.name} began {run} {late:.3f} s after it could have: it had room, and its lane was free")
        if self._running[process] >= self._limit(process):
            self._had_room_since[process] = self.court.now()

    def ended(self, run: Run) -> None:
        """Note since when there is room for one more."""
        if run.process in self._running:
            if self._running[run.process] >= self._limit(run.process):
                self._had_room_since[run.process] = self.court.now()
            self._running[run.process] -= 1

    def _limit(self, process: Process) -> int:
        if process.concurrency is not None:
            return process.concurrency
        return max(1, sum(one.process is process and one.until is None for one in self.court.all_tenures()))


def _lane(run: Run) -> Lane:
    return run.process, run.place, run.message.key if run.by_key else run.message.entry_id
