"""Reads one partition for as long as this member owns it, and only as much as there is room for.

Output: batches of messages to the partition's workers. The record of what is in flight decides what to read next: first what the
predecessor left pending, page by page in id order (T5), then new entries over a connection of its own (T3). A read that breaks may have
delivered entries unseen. So the connection is killed, and what is pending above the last seen entry is claimed before anything else is
read. Restarted after a broken connection, the reader continues where it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import anyio

from redisaq import events
from redisaq.actors.actor import Actor
from redisaq.actors.ref import ActorRef
from redisaq.brokers.steps import leases
from redisaq.brokers.terms import Reader
from redisaq.consuming.contact import Trouble, forever, reporting
from redisaq.consuming.context import Surroundings
from redisaq.consuming.handler_pool import Batch, hand_over
from redisaq.consuming.loss_watch import LossWatch
from redisaq.consuming.owned import OwnedPartition
from redisaq.consuming.standing import still_owned
from redisaq.core.in_flight import Claim, HandOver, Read
from redisaq.core.records import Entry
from redisaq.errors import GroupGoneError, LeaseLostError

LONGEST_BLOCK = 5.0  # seconds
SHORTEST_BLOCK = 0.001  # seconds: the server counts in milliseconds, and a clock may not show less
MARGIN = 0.05  # seconds by which a blocking read ends before the lease does (T4)


class PartitionReader(Actor[None]):
    """Reads one partition."""

    def __init__(
        self,
        surroundings: Surroundings,
        owned: OwnedPartition,
        workers: ActorRef[Batch],
        trouble: Trouble,
        *,
        count: int,
    ) -> None:
        """Begin without a connection.

        Args:
            surroundings: the consumer's.
            owned: the partition.
            workers: get the messages.
            trouble: informed of failed reads.
            count: how many entries one read may return.
        """
        super().__init__(name="reader", restart=forever(reset_after=1.0))
        self._around = surroundings
        self._owned = owned
        self._flights = owned.flights
        self._workers = workers
        self._trouble = trouble
        self._count = count
        self._reader: Reader | None = None
        self._broken: list[Reader] = []  # closed, to be killed before anything else is read or released
        self._unsent: Batch = []
        self._watch = LossWatch(surroundings, self._owned)

    async def run(self) -> None:
        """Claim, then read, until stopped or the lease ends."""
        with reporting(self._trouble.failed), self._owned.scope():
            while True:
                token = self._owned.standing
                try:
                    await self._run()
                except LeaseLostError as error:
                    if not await still_owned(self._around, self._owned, token, str(error)):
                        return

    async def _run(self) -> None:
        owned, around, flights = self._owned, self._around, self._flights
        if owned.barrier is not None:
            await owned.gate.wait_open()  # G4: neither claim nor read
        async with around.taking:
            await self._close_broken()
            if self._reader is None:
                self._reader = await around.broker.open_reader(around.group, owned.partition, owned.standing, owned.lease.incarnation)
        flights.connected(self._reader.mark.run_id)
        while flights.claiming:
            await self._take(self._reader, await self._next())
        self._watch.forget()  # a broken read may have delivered the entries that were just claimed
        await self._watch.look()
        unsent, self._unsent = self._unsent, []
        await self._pass_on(unsent)
        while True:
            await self._take(self._reader, await self._next())

    async def _next(self) -> Claim | Read | HandOver:
        """Return what to do next, once there is room for its result."""
        owned, flights = self._owned, self._flights
        while (asked := flights.next_read(owned.lease.server_now())) is None:
            if flights.withheld:
                await anyio.sleep(MARGIN)  # too rare for an event of its own
            else:
                self._trouble.over()  # it is not to be read meanwhile
                await owned.wait_for_room(flights.coming)
        return asked

    async def _take(self, reader: Reader, asked: Claim | Read | HandOver) -> None:
        if isinstance(asked, Read):
            await self._read(reader, asked)
        elif isinstance(asked, Claim):
            await self._claim(asked)
        else:
            await self._pass_on(asked.flights)

    async def _claim(self, claim: Claim) -> None:
        """Pass on pending messages that are not known yet."""
        around, owned = self._around, self._owned
        page = await around.broker.do(leases.Claim(around.group, owned.partition, owned.standing, after=claim.after, count=claim.count))
        if page.trimmed:
            ids = tuple(entry_id.decode() for entry_id in page.trimmed)
            self._flights.trimmed += len(ids)
            around.bulletin.publish(events.EntriesTrimmed, owned, entry_ids=ids, count=len(ids))
        entries = [(entry.entry_id, entry.fields, entry.deliveries) for entry in page.entries]
        batch = self._flights.claimed(claim, entries, page.last, owned.lease.server_now())
        owned.changed()  # what cannot be read is to be settled
        await self._pass_on(batch)

    async def _read(self, reader: Reader, asked: Read) -> None:
        """Read new entries and pass them on. Reads nothing while the group is paused, or if the lease is about to run out."""
        flights = self._flights
        block = min(LONGEST_BLOCK, self._owned.lease.left() - MARGIN)
        if block < SHORTEST_BLOCK:  # so little time is left that a renewal must come first
            await anyio.sleep(MARGIN)
            return
        if not flights.ahead and (left := self._watch.left) is not None:
            if left <= 0:
                await self._watch.look()
            block = min(block, left or block)
        try:
            entries = await self._read_entries(reader, asked, block)
        except GroupGoneError:
            await self._make_group_again()
            return
        if entries:
            self._watch.count(len(entries))
            await self._pass_on(self._delivered(entries))

    def _delivered(self, entries: Sequence[Entry]) -> Batch:
        """Record what a read brought; return what goes to the workers."""
        batch = self._flights.delivered(entries, self._owned.lease.server_now())
        self._owned.changed()  # what cannot be read is to be settled
        return batch

    async def _read_entries(self, reader: Reader, asked: Read, block: float) -> Sequence[Entry]:
        gate, flights = self._owned.gate, self._flights
        if gate.closed:
            self._trouble.over()  # it is not to be read meanwhile
            await gate.wait_open()
            self._watch.forget()  # an admin may have moved the group
            return ()
        with gate.while_open():
            entries = await reader.read(asked.count, block)
            self._trouble.over()
            flights.answered(asked)
            if not self._watch.due and flights.may_ask_ahead(len(entries)):
                reader.ask_ahead(asked.count)
                flights.ahead = True
            return entries
        return reader.take_leftover()

    async def on_stop(self) -> None:
        """Record what a cancelled read still brought, so that it is handed back with the rest. Close the connection."""
        if self._reader is not None:
            try:
                if not self._owned.lost:
                    await self._reader.finish()
            finally:
                leftover = self._reader.take_leftover()
                if leftover and not self._owned.lost:
                    self._watch.count(len(leftover))
                    self._unsent += self._delivered(leftover)  # on_stop also runs before a restart: then these are passed on
                await self._reader.close()

    async def make_sure(self) -> None:
        """Kill reads that still have no answers (T3). Call this before a release, which takes them off the list.

        If there are none, count a last time what trimming took.
        """
        unsettled = [*self._broken, *((self._reader,) if self._reader is not None and not self._reader.settled else ())]
        if unsettled:
            await self._fence(unsettled)
        elif self._watch.left is not None and not self._owned.lost:
            with contextlib.suppress(LeaseLostError):  # the release reports it
                await self._watch.look()

    async def _close_broken(self) -> None:
        """Ensure that nothing from a broken connection still runs (T3)."""
        if self._reader is not None:
            broken, self._reader = self._reader, None
            self._broken.append(broken)
            await broken.close()
        if self._broken:  # the kill itself may break: repeat it until it has been answered
            await self._fence(self._broken)
            self._broken.clear()

    async def _fence(self, readers: Sequence[Reader]) -> None:
        around, owned = self._around, self._owned
        marks = [reader.mark for reader in readers]
        if not await around.broker.do(leases.Fence(around.group, owned.partition, owned.standing, marks)):
            around.tell_kill_refused(owned)

    async def _pass_on(self, batch: Batch) -> None:
        await hand_over(batch, self._workers, self._owned)

    async def _make_group_again(self) -> None:
        """Make a lost group again so that nothing unsettled is skipped (T6)."""
        around, owned, remake = self._around, self._owned, self._flights.group_lost()
        await around.broker.do(leases.RemakeGroup(around.group, owned.partition, remake.evidence, start=remake.start))
        self._flights.group_made()
        self._watch.forget()
        around.tell_group_lost(owned.partition)
