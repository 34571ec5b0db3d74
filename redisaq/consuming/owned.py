"""One partition while this member owns it: the record of what is in flight, and the tasks that wait for a change of it.

A memory stream drops its items when it is closed, so it is never that record. Every message that was read is in `flights` from the read to
its settlement, and core/in_flight.py decides what becomes of it. This module adds what that one does without: the lease, the scopes that
end with it, and the waiting tasks. Every change of the record that may let a task continue is a method here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from random import Random
from typing import Any

import anyio

from redisaq.consuming.lease import Lease
from redisaq.core.in_flight import Claim, Entry, Flight, Hold, InFlight
from redisaq.core.records import Body


class OwnedPartition:
    """One partition under one token."""

    def __init__(self, flights: InFlight, lease: Lease, ring: Callable[[OwnedPartition], None]) -> None:
        """Begin without waiting tasks.

        Args:
            flights: the record.
            lease: the member's.
            ring: tells the acknowledger that there is something to settle.
        """
        self.flights = flights
        self.lease = lease
        self.dirty = False  # the acknowledger has been rung for it
        self.ring_timer: Callable[[], None] = lambda: None  # makes the retry timer look again after something was postponed
        self._ring = ring
        self._room: anyio.Event | None = None
        self._idle: anyio.Event | None = None
        self._finished: anyio.Event | None = None
        self._scopes: dict[anyio.CancelScope, None] = {}  # in the order of opening: a set's would differ between runs
        self._until_drain: dict[anyio.CancelScope, None] = {}  # in the order of opening: a set's would differ between runs

    @property
    def partition(self) -> int:
        """The partition's number."""
        return self.flights.partition

    @property
    def token(self) -> int:
        """The fencing token under which it is owned."""
        return self.flights.token

    @property
    def lost(self) -> str:
        """Why it was lost; "" while it is owned."""
        return self.flights.lost

    @property
    def may_start(self) -> bool:
        """True while a handler may begin. It is checked before each handler, so a process that was suspended notices here."""
        flights = self.flights
        return not flights.draining and not flights.lost and self.lease.alive()

    @contextlib.contextmanager
    def scope(self) -> Generator[anyio.CancelScope]:
        """Return a cancel scope that ends with the lease, or when this partition is lost."""
        with self.lease.scope() as scope:
            self._scopes[scope] = None
            if self.lost:
                scope.cancel()
            try:
                yield scope
            finally:
                self._scopes.pop(scope, None)

    @contextlib.contextmanager
    def until_drain(self) -> Generator[anyio.CancelScope]:
        """Return a cancel scope that ends when the partition begins to drain: for waits that must not delay the drain."""
        with anyio.CancelScope() as scope:
            self._until_drain[scope] = None
            if self.flights.draining:
                scope.cancel()
            try:
                yield scope
            finally:
                self._until_drain.pop(scope, None)

    def begin_drain(self) -> None:
        """Let no further handler begin."""
        self.flights.begin_drain()
        for scope in tuple(self._until_drain):
            scope.cancel()

    def lose(self, reason: str) -> None:
        """End all work on it now (M4): nothing more of it is settled."""
        if not self.lost:
            self.flights.lose(reason)
            for scope in tuple(self._scopes):
                scope.cancel()
            self._look_settled()

    # -- reading -----------------------------------------------------------------------------------------------------------------

    def claimed(self, claim: Claim, entries: Sequence[tuple[bytes, Sequence[bytes], int]], last: bytes | None) -> list[Flight]:
        """Record pending entries; see InFlight."""
        ending = len(self.flights.ending)
        flights = self.flights.claimed(claim, entries, last, self.lease.server_now())
        self._ring_beyond(ending)
        return flights

    def delivered(self, entries: Sequence[Entry]) -> list[Flight]:
        """Record new entries; see InFlight."""
        ending = len(self.flights.ending)
        flights = self.flights.delivered(entries, self.lease.server_now())
        self._ring_beyond(ending)
        return flights

    def due(self, bodies: Iterable[Body]) -> list[Flight]:
        """Record due retries; see InFlight."""
        ending = len(self.flights.ending)
        flights = self.flights.due(bodies, self.lease.server_now())
        self._ring_beyond(ending)
        return flights

    async def wait_for_room(self, count: int) -> None:
        """Return once `count` more messages may wait here."""
        while not self.flights.has_room(count):
            self._room = self._room or anyio.Event()  # the reader and the retry timer may wait at the same time
            await self._room.wait()

    def _made_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    # -- handling ----------------------------------------------------------------------------------------------------------------

    def start(self, flight: Flight) -> None:
        """Record that a handler begins."""
        self.flights.start(flight)
        if self._room is not None:
            self._made_room()

    def start_all(self, flights: Sequence[Flight]) -> None:
        """Record that a handler begins on some; as `start` for each, at a fraction of the cost."""
        self.flights.start_all(flights)
        if self._room is not None:
            self._made_room()

    def returned(self, flight: Flight) -> None:
        """Record that its handler returned."""
        self.flights.returned(flight)
        if not self.dirty:
            self.dirty = True
            self._ring(self)
        if self._finished is not None:
            self._look_finished()

    def returned_all(self, flights: Sequence[Flight]) -> None:
        """Record that a handler of some returned; as `returned` for each, at a fraction of the cost."""
        self.flights.returned_all(flights)
        if not self.dirty:
            self.dirty = True
            self._ring(self)
        if self._finished is not None:
            self._look_finished()

    def failed(self, flight: Flight, error: Exception, random: Random) -> Hold | None:
        """Record that its handler raised; return a Hold if its key queue is to wait for it."""
        ending = len(self.flights.ending)
        hold = self.flights.failed(flight, error, self.lease.server_now(), random)
        self._ring_beyond(ending)
        self._look_finished()
        if hold is None:
            self._made_room()
        return hold

    def crashed(self, flight: Flight, kind: str, reason: str, attempts: int) -> None:
        """Record that a message is dead: as many handlers as allowed have begun on it, and none has ended."""
        ending = len(self.flights.ending)
        self.flights.crashed(flight, kind, reason, attempts, self.lease.server_now())
        self._ring_beyond(ending)
        self._made_room()

    def noted(self, flight: Flight, *, found: bool) -> None:
        """Record whether the server has recorded the attempt of a message of `retry`. If not, look again for due ones."""
        if not self.flights.noted(flight, found=found):
            self._made_room()
            self.ring_timer()

    def taken_back(self, flight: Flight) -> None:
        """Record that work on a message was cancelled while the partition stays."""
        self.flights.taken_back(flight)
        self._look_finished()

    def cancelled(self, flight: Flight) -> None:
        """Record that a message's handler was cancelled: it stays where it is for the next owner."""
        self.flights.cancelled(flight)
        self._look_finished()

    def _look_finished(self) -> None:
        if self._finished is not None and not self.flights.running:
            self._finished.set()
            self._finished = None

    async def wait_finished(self) -> None:
        """Return once no handler runs."""
        while self.flights.running:
            self._finished = self._finished or anyio.Event()
            await self._finished.wait()

    # -- settling ----------------------------------------------------------------------------------------------------------------

    def _ring_beyond(self, ending: int) -> None:
        """Ring if there is more now to settle other than by an acknowledgement."""
        if len(self.flights.ending) > ending and not self.dirty:
            self.dirty = True
            self._ring(self)

    def take_acks(self) -> list[bytes]:
        """Return what to acknowledge now; report to `acked` or `ack_broke`."""
        self.dirty = False
        return self.flights.take_acks()

    def acked(self) -> None:
        """Record that these have been acknowledged."""
        self.flights.acked()
        self._look_settled()

    def ack_broke(self) -> None:
        """Record that the acknowledgement may not have arrived."""
        self.flights.ack_broke()
        self.dirty = True

    def settled(self, found: Sequence[bool]) -> None:
        """Record that the endings that were sent have been settled."""
        self.flights.settled(found)
        self._look_settled()
        self._made_room()

    def drop(self) -> None:
        """Settle nothing more of it, since its next owner does."""
        self.dirty = False
        self.flights.drop()
        self._look_settled()
        self._made_room()

    def _look_settled(self) -> None:
        if self._idle is not None and self.flights.settled_all:
            self._idle.set()
            self._idle = None

    async def wait_settled(self) -> None:
        """Return once nothing waits to be settled; first give back the attempts of retries whose handlers never began (T5)."""
        ending = len(self.flights.ending)
        self.flights.give_back()
        self._ring_beyond(ending)
        while not self.flights.settled_all and not self.lost:
            self._idle = self._idle or anyio.Event()
            await self._idle.wait()

    def mark(self) -> tuple[Any, ...]:
        """Return a value that changes whenever the partition makes progress."""
        flights = self.flights
        return flights.token, flights.position, flights.handled, flights.failures, flights.unsettled
