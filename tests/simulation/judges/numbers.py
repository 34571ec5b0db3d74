"""Judges what `Consumer.statistics` counts: it is what happened."""

from __future__ import annotations

from collections import Counter

from redisaq import events
from redisaq.events import Event
from redisaq.testing.member import SimulatedMember
from redisaq.testing.observing import Place, Process, Run
from tests.simulation.judges.court import Court, Judge


class Numbers(Judge):
    """Handlers that returned, and those that failed, are counted once."""

    def __init__(self, court: Court) -> None:
        """Begin."""
        super().__init__(court)
        self._succeeded: Counter[Process] = Counter()
        self._failed: Counter[Process] = Counter()
        self._began: dict[Process, None] = {}

    def begun(self, run: Run) -> None:
        """Remember the consumer to ask."""
        self._began[run.process] = None

    def told(self, process: Process, place: Place | None, event: Event) -> None:
        """Count what is reported."""
        del place
        self._succeeded[process] += isinstance(event, events.MessageSucceeded)
        self._failed[process] += isinstance(event, events.MessageFailed)

    def closed(self) -> None:
        """Compare the statistics of members that left in order and never lost a partition."""
        broken = {one.process for one in self.court.all_tenures() if one.end != "released"}
        for process in self._began:
            if not isinstance(process, SimulatedMember) or process.crashed or process in broken or process.consumer is None:
                continue
            numbers = process.consumer.statistics()
            if numbers.handled != self._succeeded[process]:
                self.court.violation(f"{process.name} counts {numbers.handled} handled, and told of {self._succeeded[process]}")
            if numbers.failed > self._failed[process]:
                self.court.violation(f"{process.name} counts {numbers.failed} failed, and told of {self._failed[process]}")
