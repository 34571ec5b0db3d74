"""Judges how much a group asks the server while it has nothing to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from redisaq.brokers.steps.settling import Resolved
from redisaq.core.records import Resolution
from redisaq.events import Event
from redisaq.testing.observing import Given, Place, Process, Run
from tests.simulation.judges.court import Court, Judge

SHORTEST = 15.0
"""Seconds of rest that are checked."""

LOOKED_FOR = 1.0
"""Seconds at the beginning of a rest that are not checked: the last work ends then."""

USUAL = ("heartbeat", "read", "due", "hang up")

BLOCK = 5.0
"""Seconds for which a read waits."""

MORE = 1.5
"""How many times the expected number of requests is allowed."""


class Idleness(Judge):
    """Only this is allowed: a heartbeat each interval, a read each five seconds, a look for due messages within each ttl."""

    def __init__(self, court: Court) -> None:
        """Begin."""
        super().__init__(court)
        self._since = 0.0
        self._asked: Counter[str] = Counter()
        self._interval: dict[str, Process] = {}

    def stepped(self, who: str, operation: str) -> None:
        """Count it, if it is one of the requests that repeat forever."""
        if operation not in USUAL:
            self._stir()
        elif self.court.now() - self._since > LOOKED_FOR:
            self._asked[who] += 1

    def produced(self, msg_id: str, given: Given | None) -> None:
        """There is work."""
        del msg_id, given
        self._stir()

    def begun(self, run: Run) -> None:
        """There is work."""
        del run
        self._stir()

    def ended(self, run: Run) -> None:
        """There was work."""
        del run
        self._stir()

    def told(self, process: Process, place: Place | None, event: Event) -> None:
        """Something happens."""
        del place, event
        self._interval[process.name] = process
        self._stir()

    def resolved(self, who: str, place: Place, token: int, resolutions: Sequence[Resolution], answer: Resolved) -> None:
        """There was work."""
        del who, place, token, resolutions, answer
        self._stir()

    def closed(self) -> None:
        """Look at the last rest."""
        self._stir()

    def _stir(self) -> None:
        """Look at the rest that is over."""
        now, store = self.court.now(), self.court.store
        rest, asked = now - self._since, self._asked
        if rest > SHORTEST and store is not None and self.court.undisturbed(self._since):
            for who, count in asked.items():
                process = self._interval.get(who)
                if process is not None:
                    owned = sum(lease.token > 0 for lease in store.leases.values())  # by whomever: no more than that are its own
                    most = MORE * rest * (1 / process.heartbeat_interval + owned * (1 / BLOCK + 1 / (0.75 * process.ttl))) + 5
                    if count > most:
                        self.court.violation(f"{who} asked {count} times in {rest:.1f} s in which it had nothing to do")
        self._since = now
        self._asked = Counter()
