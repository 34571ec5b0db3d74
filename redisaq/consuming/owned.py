"""One partition while this member owns it: the record of what is in flight, and the tasks that wait for a change of it.

A memory stream drops its items when it is closed, so it is never that record. Every message that was read is in `flights` from the read to
its settlement, and core/in_flight.py decides what becomes of it. This module adds what that one does without: the lease, the scopes that
end with it, and the waiting tasks. After it has reported an event to the record, a caller calls `changed`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio

from redisaq.actors.waiting import Signal
from redisaq.consuming.gate import Gate
from redisaq.consuming.lease import Lease
from redisaq.consuming.scopes import Scopes
from redisaq.core.in_flight import InFlight

NOBODY = -1
"""The value of `room_at` while no task waits for room: fewer messages than can wait for a handler."""


@dataclass
class Barrier:
    """What a partition that came by a growth waits for: that the group has worked off the older partitions up to their cuts (G4).

    Attributes:
        since: when it began to wait, by the local clock.
        passed: it does not wait; None: the server has to be asked whether it has passed before, since an administrator may have moved the
            group.
        waiting_for: the first older partition that is not worked off; None: not known yet.
        messages: how many of that partition's messages were not done when they were last counted; None: not counted yet.
        told: when that was last reported; None: not yet.
    """

    since: float
    passed: bool | None
    waiting_for: int | None = None
    messages: int | None = None
    told: float | None = None


class OwnedPartition:
    """One partition under one token."""

    def __init__(self, flights: InFlight, lease: Lease, ring: Callable[[OwnedPartition], None], gate: Gate) -> None:
        """Begin without waiting tasks.

        Args:
            flights: the record.
            lease: the member's.
            ring: tells the acknowledger that there is something to settle.
            gate: the group's.
        """
        self.gate = gate
        self.barrier: Barrier | None = None  # if it came by a growth, and its order matters
        self.flights = flights
        self.lease = lease
        self.dirty = False  # the acknowledger has been rung for it
        self.ring_timer: Callable[[], None] = lambda: None  # makes the retry timer look again after something was postponed
        self.room_at = NOBODY  # a task waits for room, and there is enough when no more messages than this wait for a handler
        self.finished = Signal()
        self._ring = ring
        self._room = Signal()
        self._settled = Signal()
        self._scopes, self._until_drain = Scopes(), Scopes()

    @property
    def partition(self) -> int:
        """The partition's number."""
        return self.flights.partition

    @property
    def token(self) -> int:
        """The fencing token under which it is owned."""
        return self.flights.token

    @property
    def standing(self) -> int:
        """The token that the server accepts: the same, or the one that a seek has left in its place (S5)."""
        return self.flights.standing

    @property
    def lost(self) -> str:
        """Why it was lost; "" while it is owned."""
        return self.flights.lost

    @property
    def may_start(self) -> bool:
        """True while a handler may begin. It is checked before each handler, so a process that was suspended notices here."""
        return self.flights.may_start and self.lease.alive()

    def scope(self) -> contextlib.AbstractContextManager[anyio.CancelScope]:
        """Return a cancel scope that ends with the lease, or when this partition is lost."""
        return self.lease.scope(self._scopes, over=bool(self.lost))

    def until_drain(self, gate: Gate | None = None) -> contextlib.AbstractContextManager[anyio.CancelScope]:
        """Return a cancel scope that ends when the partition begins to drain: for waits that must not delay the drain.

        Args:
            gate: the scope also ends when this gate closes.
        """
        over = not self.flights.may_start
        return self._until_drain.open(over=over) if gate is None else gate.while_open(self._until_drain, over=over)

    def begin_drain(self) -> None:
        """Let no further handler begin."""
        self.flights.begin_drain()
        self._until_drain.cancel()

    def lose(self, reason: str) -> None:
        """End all work on it now (M4): nothing more of it is settled."""
        if not self.lost:
            self.flights.lose(reason)
            self._scopes.cancel()
            self.changed()

    def wait_behind(self, barrier: Barrier, gate: Gate) -> None:
        """Read only while this gate of its own is open (G4)."""
        self.barrier, self.gate = barrier, gate

    # -- waiting for the record ------------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Wake the tasks for which the record has changed, and ring if there is something to settle.

        The hot path reports a start and a return without this call where it would change nothing: it looks at `room_at`, or at `dirty` and
        `finished`, itself.
        """
        flights = self.flights
        if not self.dirty and (flights.done or flights.ending):
            self.dirty = True
            self._ring(self)
        if self.finished.event is not None and not flights.running:
            self.finished.fire()
        if flights.waiting <= self.room_at:
            self.room_at = NOBODY
            self._room.fire()
        if self._settled.event is not None and flights.settled_all:
            self._settled.fire()

    async def wait_for_room(self, count: int) -> None:
        """Return once `count` more messages may wait here."""
        flights = self.flights
        while not flights.has_room(count):
            self.room_at = max(self.room_at, flights.most_waiting(count))  # the reader and the retry timer may wait at the same time
            await self._room.wait()

    async def wait_finished(self) -> None:
        """Return once no handler runs."""
        while self.flights.running:
            await self.finished.wait()

    async def wait_settled(self) -> None:
        """Return once nothing waits to be settled; first give back the attempts of retries whose handlers never began (T5)."""
        self.flights.give_back()
        self.changed()
        while not self.flights.settled_all and not self.lost:
            await self._settled.wait()

    def mark(self) -> tuple[Any, ...]:
        """Return a value that changes whenever the partition makes progress."""
        flights = self.flights
        return flights.token, flights.position, flights.handled, flights.failures, flights.unsettled
