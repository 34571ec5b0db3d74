"""Judges when handlers begin: none before its message is due, and none long after it could have begun.

A handler "could have begun" if the member had the partition and nothing else to do, and no fault acts or has acted lately. Delays for other
reasons are not judged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from redisaq import events
from redisaq.core.entry_ids import EntryId, format_id
from redisaq.events import Event
from redisaq.outcomes import RetryAfter
from redisaq.settings import RetryPolicy
from redisaq.testing.observing import Place, Process, Run
from redisaq.testing.virtual import EPOCH
from tests.simulation.judges.court import Court, Judge

LATE = 2.0
"""Seconds after which a handler that could begin has begun."""

EARLY = 0.001
"""Seconds by which clocks may be wrong, besides their drift."""


class Promptness(Judge):
    """Compares when each handler began with when it was due and could begin."""

    def __init__(self, court: Court) -> None:
        """Begin."""
        super().__init__(court)
        self._running: dict[str, int] = {}
        self._idle_since: dict[str, float] = {}
        self._again: dict[tuple[Place, EntryId], tuple[Run, float]] = {}
        self._delayed: dict[tuple[str, int], dict[bytes, float]] = {}

    # -- delayed messages ------------------------------------------------------------------------------------------------------------

    def stepped(self, who: str, operation: str) -> None:
        """Find the delayed messages that have been moved into their streams."""
        del who
        store = self.court.store
        if store is None or operation not in ("due", "delay", "append_once", "adopt", "drop_adopted", "cancel_delayed"):
            return
        now = store.now() / 1e6
        for (topic, partition), delayed in store.delayed.items():
            before = self._delayed.get((topic, partition), {})
            for msg_id, due in before.items():
                if msg_id not in delayed and operation == "due":
                    self._moved(f"message {msg_id.decode()} was put into {topic}/{partition}", topic, partition, now - due)
            self._delayed[topic, partition] = _dues(delayed)

    def _moved(self, what: str, topic: str, partition: int, late: float) -> None:
        """Check whether a delayed message was moved in time: a member looks when it is due, or within a ttl if it missed the ring."""
        if late < -EARLY:
            self.court.violation(f"{what} {-late:.3f} s before it was due")
        owners = [one for group in self.record.groups if group.topic == topic for one in self.record.owners_of((group, partition))]
        if owners and late > LATE:
            now, ttl = self.court.now(), min(one.process.ttl for one in owners)
            since = max(now - late, min(one.since for one in owners))
            late = now - since
            if late > LATE + (ttl if self.court.deaf(since) else 0.0) and self.court.undisturbed(since):
                self.court.violation(f"{what} {late:.3f} s after it could have been")

    def forgotten(self, entries: Collection[tuple[Place, EntryId]]) -> None:
        """A server that lost data does not know who delayed what: check only what is left of it."""
        del entries
        store = self.court.store
        self._delayed = {} if store is None else {where: _dues(delayed) for where, delayed in store.delayed.items()}

    # -- retries ---------------------------------------------------------------------------------------------------------------------

    def told(self, process: Process, place: Place | None, event: Event) -> None:
        """A retry will come: check whether its pause follows the policy, and note when it is due."""
        if not isinstance(event, events.MessageRetried) or place is None:
            return
        entry_id = _parse(event.entry_id)
        runs = self.court.runs_of(place, entry_id)
        if not runs or runs[-1].process is not process or runs[-1].outcome not in ("raised", "cancelled"):
            return
        run = runs[-1]
        self._again[place, entry_id] = run, event.again_in
        least, most = _pauses(process.retry, run)
        if run.error is not None and not least - EARLY <= event.again_in <= most + EARLY:
            self.court.violation(f"{process.name} lets {run} wait for {event.again_in:.3f} s, not from {least:.3f} to {most:.3f} s")

    def sought(self, place: Place, before: EntryId, after: EntryId) -> None:
        """A message that is delivered again as new waits for nothing."""
        del before
        self._again = {key: value for key, value in self._again.items() if key[0] != place or key[1] <= after}

    # -- beginning -------------------------------------------------------------------------------------------------------------------

    def begun(self, run: Run) -> None:
        """See whether it begins in time."""
        name = run.process.name
        busy = self._running[name] = self._running.get(name, 0) + 1
        due = self._due(run)
        if due is not None and not self.court.forgot and self.court.now() < due - EARLY - 0.001 * self.court.now():
            self.court.violation(f"{name} began {run} {due - self.court.now():.3f} s before it was due")
        if busy > 1:
            return
        tenure = next((one for one in reversed(self.court.tenures_of(run.place)) if one.process is run.process), None)
        if tenure is None or run.process.suspended or (due is None and (run.process.retry.blocking or run.message.attempt > 1)):
            return
        appended = run.entry_id[0] / 1000 - EPOCH if due is None else due
        since = max(appended, tenure.since, self._idle_since.get(name, 0.0))
        late = self.court.now() - since
        if late > LATE + (run.process.ttl if self.court.deaf(since) else 0.0) and self.court.undisturbed(since):
            self.court.violation(f"{name} began {run} {late:.3f} s after it could have: it had nothing else to do")

    def ended(self, run: Run) -> None:
        """Note since when a member has nothing to do."""
        name = run.process.name
        self._running[name] -= 1
        if not self._running[name]:
            self._idle_since[name] = self.court.now()

    def happened(self, process: Process, what: str) -> None:
        """Nothing runs any more where a process has crashed."""
        if what == "crashes":
            self._running.pop(process.name, None)

    def _due(self, run: Run) -> float | None:
        """Return when a retry is due, in the simulation's time; None for what is none."""
        store, entry = self.court.store, format_id(run.entry_id)
        parked = store.shelf(*run.place).retry.get(entry) if store is not None else None
        if parked is not None:
            return parked[0] / 1e6 - EPOCH
        former, pause = self._again.pop((run.place, run.entry_id), (None, 0.0))
        if former is None or former.ended is None or former.message.token != run.message.token or former.process is not run.process:
            return None
        return former.ended + pause


def _dues(delayed: Mapping[bytes, tuple[int, object]]) -> dict[bytes, float]:
    return {msg_id: due / 1e6 for msg_id, (due, _) in delayed.items()}


def _parse(entry_id: str) -> EntryId:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


def _pauses(policy: RetryPolicy, run: Run) -> tuple[float, float]:
    if isinstance(run.error, RetryAfter):
        return run.error.seconds, run.error.seconds
    most = min(policy.max_backoff, policy.backoff * policy.factor ** min(run.message.attempt - 1, 500))
    return (0.0 if policy.jitter else most), most
