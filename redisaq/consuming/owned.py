"""What one member knows of one partition while it owns it: the record of what is in flight.

A memory stream drops what it holds when it is closed, so it is never that record: every message that was read stands here from the read
to its settlement. Everything is synchronous; the reader adds, the workers start and finish, the acknowledger takes what is to be
acknowledged.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import msgspec

from redisaq.brokers.delivery import Body, Resolution
from redisaq.consuming.lease import Lease
from redisaq.core.entry_ids import START, parse_id
from redisaq.events import Event
from redisaq.message import Message

MOST_LEAVING = 1000  # failed messages that wait here to be settled; with more, reading stops


@dataclass(frozen=True)
class Settling:
    """What is to become of one message, and what is to be told once it has."""

    resolution: Resolution
    event: Event | None = None


class OwnedPartition:
    """One partition under one token."""

    def __init__(self, partition: int, token: int, lease: Lease, window: int, ring: Callable[[OwnedPartition], None]) -> None:
        """Begin empty.

        Args:
            partition: its number.
            token: the fencing token under which it is owned.
            lease: of the member.
            window: how many messages may wait here for a handler.
            ring: tells the acknowledger that there is something to acknowledge.
        """
        self.partition = partition
        self.token = token
        self.lease = lease
        self.window = window
        self.draining = False  # no handler may start any more: the partition is being handed over
        self.lost = ""  # why the lease on it was lost, "" while it stands
        self.queued: dict[bytes, Message[Any]] = {}  # read, no handler started
        self.running: dict[bytes, Message[Any]] = {}
        self.bodies: dict[bytes, Body] = {}  # of those that came from `retry`
        self.leaving: dict[bytes, Settling] = {}  # to be settled otherwise than by an acknowledgement
        self.uncertain: set[bytes] = set()  # of these: sent, and whether the server has done it is not known
        self.deliveries: dict[bytes, int] = {}  # of those that were delivered before this owner read them, or failed here
        self.unwritten: dict[bytes, int] = {}  # counts that the server does not have: to be set at the latest when it is handed back
        self.first_failed: dict[bytes, int] = {}  # of those that wait here for their next try: when they first failed, server milliseconds
        self.raised: dict[bytes, Body] = {}  # of `retry`: an attempt is noted at the server, and its handler has not begun
        self.given_back: list[Resolution] = []  # … and these are given back
        self.done: list[bytes] = []  # to be acknowledged
        self._taken: list[list[bytes]] = []  # being acknowledged
        self.unmoved: set[bytes] = set()  # what a settling did not find: it is not done if the group was lost by then (T6)
        self._noted: set[bytes] | None = None  # what is settled otherwise than by an acknowledgement while somebody wants to know
        self.settlements = 0  # how often something was settled: an answer on its way at that time may name it as pending
        self.dirty = False  # the acknowledger has been rung for it
        self.position = b""  # highest entry id read
        self.highest_due = START  # of all that came from `retry`, which may be above all that was read
        self.handled = self.failed = 0
        self.trimmed = 0  # entries that trimming took before they were done with
        self._ring = ring
        self.ring_timer: Callable[[], None] = lambda: None  # something was put off: the retry timer is to look again
        self._room: anyio.Event | None = None
        self._idle: anyio.Event | None = None
        self._finished: anyio.Event | None = None
        self._scopes: dict[anyio.CancelScope, None] = {}  # in the order of opening: a set's would differ between runs
        self._until_drain: dict[anyio.CancelScope, None] = {}  # in the order of opening: a set's would differ between runs

    @property
    def may_start(self) -> bool:
        """True while a handler may begin (checked before each one: a paused process wakes up here)."""
        return not self.draining and not self.lost and self.lease.alive()

    @property
    def unsettled(self) -> int:
        """How many messages were delivered here and not settled."""
        return len(self.queued) + len(self.running) + len(self.leaving) + len(self.done) + sum(map(len, self._taken))

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
        """Return a cancel scope that ends when the partition begins to drain: for waiting that must not hold that up."""
        with anyio.CancelScope() as scope:
            self._until_drain[scope] = None
            if self.draining:
                scope.cancel()
            try:
                yield scope
            finally:
                self._until_drain.pop(scope, None)

    def begin_drain(self) -> None:
        """Let no further handler start."""
        self.draining = True
        for scope in tuple(self._until_drain):
            scope.cancel()

    def lose(self, reason: str) -> None:
        """End everything that works on it, now (M4): nothing more of it is settled."""
        if not self.lost:
            self.lost = reason
            self.done.clear()
            self.leaving.clear()
            for scope in tuple(self._scopes):
                scope.cancel()
            self.settle([])

    # -- reading -----------------------------------------------------------------------------------------------------------------

    def add(self, messages: Iterable[Message[Any]]) -> None:
        """Record messages that were read for the first time ever."""
        self.queued.update({message.entry: message for message in messages})

    def add_again(self, message: Message[Any], deliveries: int) -> None:
        """Record a message that had been delivered before (T5), so often."""
        self.queued[message.entry] = message
        self.deliveries[message.entry] = deliveries

    def add_retry(self, message: Message[Any], body: Body) -> None:
        """Record a message that is due in `retry`: it stays there until it is settled (S3)."""
        self.queued[message.entry] = message
        self.bodies[message.entry] = body
        self.highest_due = max(self.highest_due, parse_id(message.entry))

    def renew(self, entry_id: bytes) -> bool:
        """Note that it was delivered as new once more, since an admin has moved the group; True if it waits for a handler already."""
        message = self.queued.get(entry_id)
        if message is None:
            return False
        message.attempt = 1
        records: tuple[dict[bytes, Any], ...] = (self.deliveries, self.bodies, self.raised, self.first_failed)
        for record in records:
            record.pop(entry_id, None)
        if entry_id in self.unwritten:  # a raise may still be on its way
            self.unwritten[entry_id] = 0
        return True

    def has_room(self, count: int) -> bool:
        """Return whether `count` more messages may wait here; if none does, as many as come in one read may."""
        return len(self.queued) <= max(0, self.window - count) and len(self.leaving) < MOST_LEAVING

    async def wait_for_room(self, count: int) -> None:
        """Return once `count` more messages may wait here."""
        while not self.has_room(count):
            self._room = self._room or anyio.Event()  # the reader and the retry timer may wait at the same time
            await self._room.wait()

    def _made_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    # -- handling ----------------------------------------------------------------------------------------------------------------

    def start(self, message: Message[Any]) -> None:
        """Record that a handler begins."""
        entry_id = message.entry
        del self.queued[entry_id]
        self.running[entry_id] = message
        if self.unwritten or self.raised:  # what was counted for this handler has come true
            self.unwritten.pop(entry_id, None)
            self.raised.pop(entry_id, None)
        if self._room is not None:
            self._made_room()

    def start_all(self, messages: Sequence[Message[Any]]) -> None:
        """Record that a handler begins on some; as `start` for each, at a fraction of the cost."""
        if self.unwritten or self.raised:
            for message in messages:
                self.start(message)
            return
        queued, running = self.queued, self.running
        for message in messages:
            entry_id = message.entry
            del queued[entry_id]
            running[entry_id] = message
        if self._room is not None:
            self._made_room()

    def succeed_all(self, messages: Sequence[Message[Any]]) -> None:
        """Record that a handler of some returned; as `succeed` for each, at a fraction of the cost."""
        if self.bodies or self.deliveries:
            for message in messages:
                self.succeed(message)
            return
        running, done = self.running, self.done
        self.handled += len(messages)
        for message in messages:
            entry_id = message.entry
            del running[entry_id]
            done.append(entry_id)
        if not self.dirty:
            self.dirty = True
            self._ring(self)
        if self._finished is not None:
            self._look_finished()

    def succeed(self, message: Message[Any]) -> None:
        """Record that its handler returned: it is to be acknowledged, if the lease still stands."""
        entry_id = message.entry
        self.handled += 1
        if self.bodies and entry_id in self.bodies:
            self.resolve(message, Settling(Resolution("retry", "done", self.bodies[entry_id])))
            return
        del self.running[entry_id]
        if self.deliveries:
            self.deliveries.pop(entry_id, None)
            self.first_failed.pop(entry_id, None)
        self.done.append(entry_id)
        if not self.dirty:
            self.dirty = True
            self._ring(self)
        if self._finished is not None:
            self._look_finished()

    def hold(self, message: Message[Any], again: Message[Any], *, used: bool) -> Message[Any]:
        """Record that it failed and that its lane waits for its next try here, where it is; return `again`, as it will be given then."""
        entry_id = message.entry
        del self.running[entry_id]
        self.queued[entry_id] = again
        if entry_id not in self.bodies:  # T5: the next attempt is the raised count less one
            self.deliveries[entry_id] = message.attempt + 1 if used else message.attempt
            self.unwritten[entry_id] = self.deliveries[entry_id]
        elif not used:  # noted with the server already: the next handler begins under the same number, or it is given back
            self.raised[entry_id] = body = self.bodies[entry_id]
            self.bodies[entry_id] = msgspec.structs.replace(body, attempt=body.attempt - 1)
        self.failed += 1
        self._look_finished()
        return again

    def resolve(self, message: Message[Any], settling: Settling, *, raised: bool = True) -> None:
        """Record what is to become of a message that did not simply succeed; see `Settling`. `raised`: a handler has, just now."""
        entry_id = message.entry
        self.running.pop(entry_id, None)
        self.queued.pop(entry_id, None)
        self.deliveries.pop(entry_id, None)
        self.bodies.pop(entry_id, None)
        self.unwritten.pop(entry_id, None)
        self.raised.pop(entry_id, None)
        self.first_failed.pop(entry_id, None)
        self.failed += raised and settling.resolution.to != "done"
        self.leave(settling)
        self._look_finished()
        self._made_room()

    def forget(self, message: Message[Any]) -> None:
        """Record that a message of `retry` is not there any more: somebody purged it."""
        self.queued.pop(message.entry, None)
        self.bodies.pop(message.entry, None)
        self.raised.pop(message.entry, None)
        self.first_failed.pop(message.entry, None)
        self._made_room()

    def leave(self, settling: Settling) -> None:
        """Let the acknowledger settle it."""
        self.leaving[settling.resolution.body.entry_id] = settling
        if not self.dirty:
            self.dirty = True
            self._ring(self)

    def take_back(self, message: Message[Any]) -> None:
        """Record that work on it was cancelled while the partition stays: it waits here, and handed back it has used no attempt (T5)."""
        entry_id = message.entry
        if self.running.pop(entry_id, None) is None:
            return
        self.queued[entry_id] = message
        if entry_id in self.bodies:
            self.raised[entry_id] = self.bodies[entry_id]
        elif entry_id in self.deliveries:
            self.unwritten[entry_id] = self.deliveries[entry_id] - 1
        self._look_finished()

    def abandon(self, message: Message[Any]) -> None:
        """Record that its handler was cancelled: it stays pending for the next owner."""
        self.running.pop(message.entry, None)
        self.first_failed.pop(message.entry, None)
        self._look_finished()

    def _look_finished(self) -> None:
        if self._finished is not None and not self.running:
            self._finished.set()
            self._finished = None

    async def wait_finished(self) -> None:
        """Return once no handler runs."""
        while self.running:
            self._finished = self._finished or anyio.Event()
            await self._finished.wait()

    # -- settling ----------------------------------------------------------------------------------------------------------------

    def take_done(self) -> list[bytes]:
        """Return what is to be acknowledged now; give it back with `put_back` or end it with `settle`."""
        done, self.done = self.done, []
        self._taken.append(done)
        self.dirty = False
        return done

    def put_back(self, entry_ids: list[bytes]) -> None:
        """Record that an acknowledgement could not be sent."""
        self._settled(entry_ids)
        self.done[:0] = entry_ids
        self.dirty = True

    def settle(self, entry_ids: list[bytes]) -> None:
        """Record that these have been acknowledged, or refused."""
        self._settled(entry_ids)
        self._look_settled()

    def _settled(self, entry_ids: list[bytes]) -> None:
        self.settlements += 1
        self._taken = [taken for taken in self._taken if taken is not entry_ids]

    def resolved(self, settlings: Iterable[Settling]) -> None:
        """Record that these have been settled, or refused."""
        for settling in settlings:
            entry_id = settling.resolution.body.entry_id
            self.leaving.pop(entry_id, None)
            self.uncertain.discard(entry_id)
            if self._noted is not None:
                self._noted.add(entry_id)
        self.settlements += 1
        self._look_settled()
        self._made_room()

    @contextlib.contextmanager
    def noting(self) -> Generator[set[bytes]]:
        """Return a set that takes up what is settled otherwise than by an acknowledgement: an answer on its way may be older."""
        self._noted = noted = set[bytes]()
        try:
            yield noted
        finally:
            self._noted = None

    def _look_settled(self) -> None:
        if self._idle is not None and not self.done and not any(self._taken) and not self.leaving:
            self._idle.set()
            self._idle = None

    async def wait_settled(self) -> None:
        """Return once nothing waits to be settled; first give back the attempts of retries whose handlers never began (T5)."""
        for place, (entry_id, body) in enumerate(self.raised.items(), 1):
            self.queued.pop(entry_id, None)
            self.bodies.pop(entry_id, None)
            # Refused if the attempt was never raised (S1). It was first in its lane, and is to be so again: hence the earliest times.
            self.given_back.append(Resolution("retry", "retry", body, due=place, used=False))
            self.leave(Settling(self.given_back[-1]))
        self.raised.clear()
        while (self.done or any(self._taken) or self.leaving) and not self.lost:
            self._idle = self._idle or anyio.Event()
            await self._idle.wait()

    def knows(self, entry_id: bytes) -> bool:
        """True if the entry is in flight here: it must not run a second time (S3)."""
        flying = entry_id in self.queued or entry_id in self.running or entry_id in self.leaving
        return flying or entry_id in self.done or any(entry_id in taken for taken in self._taken)

    def in_flight(self) -> Iterator[bytes]:
        """Return all entries that `knows` knows."""
        return itertools.chain(self.queued, self.running, self.leaving, self.done, *self._taken)

    def confirm(self, unmoved: Iterable[bytes]) -> None:
        """Note that the group was there after the server had not found these (T6).

        Once it has been made again they count as settled only when it has come past them: until then it may be lost once more.
        """
        position = parse_id(self.position)
        self.unmoved.difference_update([entry_id for entry_id in unmoved if parse_id(entry_id) <= position])

    def lowest_unsettled(self, doubtful: Iterable[bytes] = ()) -> bytes:
        """Return the lowest entry id that is not settled, `doubtful` among them, b"" if all are (T6)."""
        flying = (*self.in_flight(), *self.unmoved, *doubtful)
        return min((entry_id for entry_id in flying if entry_id not in self.bodies), key=parse_id, default=b"")

    def hand_back(self) -> dict[bytes, int]:
        """Return the delivery counts of messages that no handler started here, with the read's own count undone (T5)."""
        fresh = (entry_id for entry_id in self.queued if entry_id not in self.deliveries and entry_id not in self.bodies)
        return self.unwritten | dict.fromkeys(fresh, 0)
