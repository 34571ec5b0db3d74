"""Judges who has which partition for how long: takeovers and hand-overs come in time, and nothing else ends a handler."""

from __future__ import annotations

from redisaq import events
from redisaq.events import Event
from redisaq.testing.observing import Place, Process, Run, Tenure
from tests.simulation.judges.court import Court, Judge

HAND_OVER = 2.0
"""Seconds within which a partition that was given back has its next owner."""

TAKE_OVER = 2.0
"""Seconds, beyond a crashed owner's ttl and a heartbeat, within which its partition has its next owner."""

AFTER = 3.0
"""Seconds for which an owner may keep its partition after a handler there was cancelled, in addition to the time for draining."""


class Ownership(Judge):
    """Follows the tenures of each partition."""

    def __init__(self, court: Court) -> None:
        """Begin."""
        super().__init__(court)
        self._joined: dict[Process, float] = {}
        self._run_id = ""
        self._changed = 0.0
        self._cancelled: list[Run] = []

    def stepped(self, who: str, operation: str) -> None:
        """Note when the server was replaced: it starts all leases again (M7), also those of crashed members."""
        del who, operation
        store = self.court.store
        if store is not None and store.run_id != self._run_id:
            self._changed = self.court.now() if self._run_id else 0.0
            self._run_id = store.run_id

    def told(self, process: Process, place: Place | None, event: Event) -> None:
        """Check how long the partition had no owner."""
        now = self.court.now()
        match event:
            case events.MemberJoined():
                self._joined[process] = now
            case events.PartitionAcquired() if place is not None:
                self._acquired(process, place)
            case events.MessageFailed():
                self._cancelled = [run for run in self._cancelled if run.outcome == "cancelled"]
            case _:
                pass

    def _acquired(self, process: Process, place: Place) -> None:
        former = [one for one in self.court.tenures_of(place) if one.until is not None]
        if not former or any(one.until is None and one.process is not process for one in self.court.tenures_of(place)):
            return
        last = max(former, key=lambda one: one.until or 0.0)
        ended, now = last.until or 0.0, self.court.now()
        began = ended
        most = HAND_OVER
        if last.end == "crashed":
            most = TAKE_OVER + last.process.ttl + process.heartbeat_interval
            began = max(began, self._changed)
        elif last.end != "released":
            return
        if self.court.deaf(began):
            most += 2 * process.heartbeat_interval
        since = max(began, self._joined.get(process, now))
        if now - since > most and self.court.undisturbed(since, ended):
            how = "it was given back" if last.end == "released" else "its owner had crashed"
            how += ", and the server had changed" if began > ended else ""
            self.court.violation(f"{process.name} took {place[0].topic}/{place[1]} {now - since:.3f} s after {how}")

    def ended(self, run: Run) -> None:
        """Remember a handler that was cancelled: its reason must still appear."""
        if run.outcome == "cancelled":
            self._cancelled.append(run)

    def closed(self) -> None:
        """Of each cancelled handler, the lease ended soon, or its own time was over."""
        for run in self._cancelled:
            if run.outcome != "cancelled" or run.ended is None or run.process.crashed:
                continue
            ends = [one for one in self.court.tenures_of(run.place) if one.process is run.process and one.token == run.message.token]
            if not any(self._reason(one, run.ended) for one in ends):
                self.court.violation(f"{run.process.name} cancelled {run} at {run.ended:.3f}, and its lease went on")

    def _reason(self, tenure: Tenure, cancelled: float) -> bool:
        return tenure.until is not None and cancelled <= tenure.until <= cancelled + AFTER + 10.0
