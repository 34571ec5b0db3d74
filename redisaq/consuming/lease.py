"""A member's lease: one deadline, shared by every scope that works under it.

The deadline is the local time at which the last successful heartbeat was *sent*, plus the ttl, less a margin. The heartbeat emitter moves
it on, and every partition's scope (and every body of a pulled message) follows it. Once it has passed, it is final (M5): nothing revives
this lease, and the member joins again as a new incarnation. Ownership is a cancel scope.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection

import anyio

from redisaq.brokers.steps.coordination import Beat
from redisaq.consuming.scopes import Scopes
from redisaq.core.membership import lease_deadline
from redisaq.core.records import microseconds
from redisaq.core.server_clock import ServerClock
from redisaq.environment import Environment

LATE = 1 / 12
"""If a lease is found to have ended later than this part of its ttl after its deadline, the event loop was blocked."""


class Lease:
    """The time for which one incarnation may work."""

    def __init__(
        self,
        incarnation: str,
        ttl: float,
        environment: Environment,
        former: Collection[str] = (),
        server_clock: ServerClock | None = None,
    ) -> None:
        """Begin without any time: the first `begin` gives some.

        Args:
            incarnation: the lease's holder.
            ttl: how long one renewal lasts, seconds.
            environment: gives the clock.
            former: earlier incarnations of this process under which nothing runs any more: what they hold is not foreign. It is read again
                each time, since the previous incarnation is added only when its last handler has ended.
            server_clock: what earlier incarnations have learned of the server's clock; None: nothing.
        """
        self.former = former
        self.incarnation = incarnation
        self.ttl = ttl
        self.deadline = -math.inf
        self._clock = environment.clock
        self._scopes = Scopes()
        self._ended = False
        self._looked = -math.inf  # when a check last found it alive
        self.stood_still = 0.0
        """For how many seconds the event loop had been blocked when this lease ended, if that is why it ended; else 0."""
        self._server_clock = server_clock or ServerClock()
        self._server_ahead = self._server_clock.ahead  # kept here, since it is read for each message
        self.born = 0
        self.frozen_until = 0

    def renew(self, sent: float, beat: Beat) -> None:
        """Move the deadline on after an answer to the heartbeat that was sent at `sent`. A lease that has ended stays ended (M5)."""
        self.observe(sent, beat)
        if self.alive():
            self._extend(sent)

    def begin(self, sent: float) -> None:
        """Give the first time after an answer to the join that was sent at `sent`."""
        if not self._ended:
            self._extend(sent)

    def _extend(self, sent: float) -> None:
        self.deadline = max(self.deadline, lease_deadline(sent, self.ttl))
        self._scopes.move(self.deadline)

    def observe(self, sent: float, beat: Beat) -> None:
        """Record an answer as it is heard: the server's time, and until when other holders must be left alone (M7, M8)."""
        self._server_ahead = self._server_clock.tell(beat.now, sent=sent, heard=self._clock())
        self.born, self.frozen_until = beat.born, beat.frozen_until

    def server_now(self) -> int:
        """Return the server's time in microseconds, estimated from its answers."""
        return microseconds(self._clock() + self._server_ahead)

    def alive(self) -> bool:
        """True while work may begin and be settled."""
        if self._ended:
            return False
        now = self._clock()
        if now < self.deadline:
            self._looked = now
            return True
        self.end()
        return False

    def left(self) -> float:
        """Return the seconds left, 0 if none."""
        return max(0.0, self.deadline - self._clock()) if self.alive() else 0.0

    def end(self) -> None:
        """End it now, which cancels every scope under it."""
        if not self._ended:
            self._ended = True
            now = self._clock()
            if now - self.deadline > self.ttl * LATE and self._looked > -math.inf:
                self.stood_still = now - self._looked
            self._scopes.cancel()

    def scope(self, beside: Scopes | None = None, *, over: bool = False) -> contextlib.AbstractContextManager[anyio.CancelScope]:
        """Return a cancel scope that ends with the lease, and with those `beside`, or at once if these are `over`."""
        return self._scopes.open(over=over or self._ended, deadline=self.deadline, beside=beside)
