"""Which messages are in handlers, and since when.

Input: the beginnings that an observer pays for, and looks at what is in flight. Output: `HandlerSlow`, once for each run that takes long,
and a part of the statistics. Invariant: a message costs nothing here if no one observes each message. Its beginning is then the time at
which a look first found it running: at each heartbeat, and whenever statistics are requested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from redisaq import events
from redisaq.consuming.bulletin import Bulletin
from redisaq.consuming.owned import OwnedPartition
from redisaq.core.entry_ids import parse_id
from redisaq.core.in_flight import Flight


@dataclass
class Run:
    """One run of a handler on one message.

    Attributes:
        attempt: its number.
        began: when it began, or was first seen, by the local clock.
        waited: seconds for which the message had been in its stream by then; None if only its run was seen.
        slow: it was reported as slow.
    """

    attempt: int
    began: float
    waited: float | None = None
    slow: bool = False


class Runs:
    """The runs of one consumer's handlers."""

    def __init__(self, bulletin: Bulletin, clock: Callable[[], float], slow_after: float | None) -> None:
        """Begin without any.

        Args:
            bulletin: reports events.
            clock: the local clock.
            slow_after: seconds after which a run is slow; None: never.
        """
        self._bulletin = bulletin
        self._clock = clock
        self._slow_after = slow_after
        self._runs: dict[Flight, Run] = {}

    def began(self, flight: Flight, owned: OwnedPartition) -> float:
        """Note that a handler begins on a message; return for how many seconds it has waited in its stream, by the server's clock."""
        waited = max(0.0, owned.lease.server_now() / 1e6 - parse_id(flight.entry)[0] / 1e3)
        self._runs[flight] = Run(flight.attempt, self._clock(), waited)
        return waited

    def ended(self, flight: Flight) -> tuple[float | None, float | None]:
        """Forget a run; return how many seconds it took and how long its message had waited, None for what is not known."""
        run = self._runs.pop(flight, None)
        return (None, None) if run is None or run.attempt != flight.attempt else (self._clock() - run.began, run.waited)

    def look(self, partitions: Iterable[OwnedPartition]) -> None:
        """Note what runs now, forget what does not, and report what has become slow."""
        now = self._clock()
        running = {flight: self._seen(flight, now) for flight in _running(partitions)}
        self._runs = running
        if self._slow_after is None:
            return
        for flight, run in running.items():
            if not run.slow and now - run.began >= self._slow_after:
                run.slow = True
                self._bulletin.publish(events.HandlerSlow, flight, took=now - run.began, waited=run.waited)

    def running(self, partitions: Iterable[OwnedPartition]) -> list[tuple[Flight, float]]:
        """Return what runs now, and for how many seconds, longest first. Another thread may ask, while runs end here."""
        now, found = self._clock(), list[tuple[Flight, float]]()
        for flight in list(_running(partitions)):
            run = self._runs[flight] = self._seen(flight, now)
            found.append((flight, now - run.began))
        return sorted(found, key=lambda one: -one[1])

    def _seen(self, flight: Flight, now: float) -> Run:
        run = self._runs.get(flight)
        return run if run is not None and run.attempt == flight.attempt else Run(flight.attempt, now)


def _running(partitions: Iterable[OwnedPartition]) -> Iterator[Flight]:
    return (flight for owned in partitions for flight in owned.flights.flights.values() if flight.state == "running")
