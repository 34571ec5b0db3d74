"""Reads one partition for as long as this member owns it, and no more than there is room for.

Out: batches of messages to the partition's workers. First what the predecessor left pending, page by page in id order (T5), then new
entries over a
connection of its own (T3). A read that breaks may have delivered entries unseen: the connection is killed, what is pending above the last
seen entry is claimed, and reading goes on. Restarted after a broken connection, it goes on where it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import anyio

from redisaq import events
from redisaq.actors.actor import Actor
from redisaq.actors.ref import ActorRef
from redisaq.brokers.base import RawEntry, Reader
from redisaq.consuming.contact import Trouble, forever, reporting
from redisaq.consuming.context import Surroundings
from redisaq.consuming.handler_pool import Batch, hand_over
from redisaq.consuming.handling import Execution
from redisaq.consuming.loss_watch import LossWatch
from redisaq.consuming.owned import OwnedPartition
from redisaq.core.codec import EntryDecoder
from redisaq.core.entry_ids import before, format_id, parse_id
from redisaq.core.records import Unreadable
from redisaq.errors import GroupGoneError, LeaseLostError

LONGEST_BLOCK = 5.0  # seconds
SHORTEST_BLOCK = 0.001  # seconds: the server counts in milliseconds, and a clock may not show less
MARGIN = 0.05  # seconds by which a blocking read ends before the lease does (T4)


class PartitionReader(Actor[None]):
    """See the module."""

    def __init__(
        self,
        surroundings: Surroundings,
        execution: Execution,
        decoder: EntryDecoder[object],
        workers: ActorRef[Batch],
        trouble: Trouble,
        *,
        count: int,
    ) -> None:
        """Take what it reads for, who is told that it cannot, and how many entries one read may bring."""
        super().__init__(name="reader", capacity=1, restart=forever(reset_after=1.0))
        self._around = surroundings
        self._execution = execution
        self._owned: OwnedPartition = execution.owned
        self._decoder = decoder
        self._workers = workers
        self._trouble = trouble
        self._count = count
        self._reader: Reader | None = None
        self._broken: list[Reader] = []  # closed, and to be killed before anything else is read or released
        self._remade = False  # what is in flight may be read a second time
        self._server = ""  # run_id of the one that is read
        self._trusted = True  # what was settled was settled there
        self._seen = b""  # what is pending there at or below it has been claimed or read
        self._doubtful: set[bytes] = set()  # in flight when it was given a second time: what settles it may have come too early to count
        self._highest = (0, 0)  # of all that was read: what is in flight is not above it
        self._unsent: Batch = []
        self._watch = LossWatch(surroundings, self._owned)
        self._ahead = False  # the server has been asked for more already

    async def run(self) -> None:
        """Claim, then read, until stopped or the lease ends."""
        with reporting(self._trouble.failed), self._owned.scope():
            await self._run()

    async def _run(self) -> None:
        owned, around = self._owned, self._around
        try:
            async with around.taking:
                await self._close_broken()
                if self._reader is None:
                    self._reader = await around.broker.open_reader(around.group, owned.partition, owned.token, owned.lease.incarnation)
            self._look_at_server(self._reader.mark.run_id)
            await self._claim()
            self._ahead = False
            self._highest = max(self._highest, parse_id(owned.position))
            self._watch.forget()  # a read that broke may have delivered entries that were claimed now
            await self._watch.look()
        except LeaseLostError as error:
            owned.lose(str(error))
            return
        unsent, self._unsent = self._unsent, []
        await self._pass_on(unsent)
        while True:
            await owned.wait_for_room(2 * self._count if self._ahead else self._count)
            if self._doubtful and not self._ahead and not await self._claim_doubtful():  # not what is to be read in a moment
                return
            block = min(LONGEST_BLOCK, owned.lease.left() - MARGIN)
            if block < SHORTEST_BLOCK:  # so little is left that a renewal must come first
                await anyio.sleep(MARGIN)
                continue
            if not self._ahead and (left := self._watch.left) is not None:
                if left <= 0 and not await self._look():
                    return
                block = min(block, left or block)
            try:
                entries = await self._read(self._reader, block)
            except GroupGoneError:
                await self._make_group_again()
                continue
            if entries:
                await self._pass_on(self._decode(await self._fresh(entries)))

    async def _look(self) -> bool:
        """Count what trimming took; False if the lease is lost."""
        try:
            await self._watch.look()
        except LeaseLostError as error:
            self._owned.lose(str(error))
            return False
        return True

    async def _claim_doubtful(self) -> bool:
        """Claim what is pending although it is not in flight any more; False if the lease is lost."""
        ended = {entry_id for entry_id in self._doubtful if not self._owned.knows(entry_id)}
        if ended:
            self._doubtful -= ended
            self._owned.unmoved |= ended  # T6: not settled for sure before the server has been asked, and has answered a read
            self._seen = format_id(before(min(map(parse_id, ended))))
            try:
                await self._claim(until=max(map(parse_id, ended)))
            except LeaseLostError as error:
                self._owned.lose(str(error))
                return False
        return True

    async def _read(self, reader: Reader, block: float) -> Sequence[RawEntry]:
        """Return new entries; nothing is read while the group is paused."""
        gate = self._around.gate
        if gate.closed:
            await gate.wait_open()
            self._watch.forget()  # an admin may have moved the group
            return ()
        with gate.while_open():
            unmoved = () if self._ahead else tuple(self._owned.unmoved)
            entries = await reader.read(self._count, block)
            self._ahead = False
            self._trouble.over()
            self._trusted = True  # the group is there, and was when these were not found
            if unmoved:
                self._owned.confirm(unmoved)
            may_ask = not self._watch.due and not self._doubtful
            if may_ask and len(entries) == self._count and self._owned.has_room(2 * self._count):
                reader.ask_ahead(self._count)
                self._ahead = True
            return entries
        return reader.take_leftover()

    async def _fresh(self, entries: Sequence[RawEntry]) -> Sequence[RawEntry]:
        """Return those that do not wait here already: an admin may have moved the group back.

        What a handler has in hand comes again once that has ended: the record holds a message once.
        """
        owned, highest = self._owned, max(self._highest, self._owned.highest_due)
        self._highest = max(highest, parse_id(entries[-1][0]))
        if parse_id(entries[0][0]) > highest:
            self._remade = False
            return entries
        if self._remade:  # others than those below
            return entries
        fresh = [entry for entry in entries if not owned.renew(entry[0])]
        for entry_id, _ in fresh:
            while owned.knows(entry_id):  # noqa: ASYNC110 -- too rare for a bell of its own
                await anyio.sleep(MARGIN)
        return fresh

    async def on_stop(self) -> None:
        """Record what a cancelled read still brought: it is handed back with the rest. Close the connection."""
        if self._reader is not None:
            try:
                if not self._owned.lost:
                    await self._reader.finish()
            finally:
                leftover = self._reader.take_leftover()
                if leftover and not self._owned.lost:
                    self._unsent += self._decode(leftover)  # on_stop runs before a restart, too: then it is passed on
                await self._reader.close()

    async def make_sure(self) -> None:
        """Kill reads that are still without their answers (T3): to be called before a release, which takes them off the list.

        If there are none, count a last time what trimming took.
        """
        unsettled = [*self._broken, *((self._reader,) if self._reader is not None and not self._reader.settled else ())]
        if unsettled:
            await self._fence(unsettled)
        elif self._watch.left is not None and not self._owned.lost:
            with contextlib.suppress(LeaseLostError):  # the release tells
                await self._watch.look()

    async def _close_broken(self) -> None:
        """Make sure that nothing of a broken connection runs any more (T3)."""
        if self._reader is not None:
            broken, self._reader = self._reader, None
            self._broken.append(broken)
            await broken.close()
        if self._broken:  # the kill itself may break: it is repeated until it has been answered
            await self._fence(self._broken)
            self._broken.clear()

    async def _fence(self, readers: Sequence[Reader]) -> None:
        around, owned = self._around, self._owned
        marks = [reader.mark for reader in readers]
        if not await around.broker.fence(around.group, owned.partition, owned.token, marks):
            around.tell_kill_refused(owned)

    def _look_at_server(self, run_id: str) -> None:
        """Begin anew if it is another one than before.

        A replica that took over may have missed acknowledgements and deliveries: what they were about is pending or new there once more.
        """
        former, self._server = self._server, run_id
        if former not in ("", run_id):
            self._trusted = False
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Be ready to be given a second time whatever was read."""
        self._seen = b""
        self._remade = True
        self._highest = max((self._highest, *map(parse_id, self._owned.in_flight())))

    async def _claim(self, until: tuple[int, int] | None = None) -> None:
        """Pass on what is pending and not known yet; nothing above the page with `until` is looked at."""
        around, owned = self._around, self._owned
        after: bytes | None = self._seen
        while after is not None:
            await owned.wait_for_room(self._count)
            settlements = owned.settlements
            page = await around.broker.claim(around.group, owned.partition, owned.token, after=after, count=self._count)
            if page.trimmed:
                ids = tuple(entry_id.decode() for entry_id in page.trimmed)
                self._owned.trimmed += len(ids)
                around.bulletin.publish(events.EntriesTrimmed, owned, entry_ids=ids, count=len(ids))
            if owned.settlements != settlements and parse_id(after) < self._highest:  # some of these may be settled: it is asked again
                continue
            batch: Batch = []
            for entry in page.entries:
                if owned.knows(entry.entry_id):
                    self._doubtful.add(entry.entry_id)
                    continue
                message = self._decoder.decode(entry.entry_id, entry.fields, owned.partition, owned.token)
                if isinstance(message, Unreadable):
                    self._execution.unreadable(message)
                else:
                    owned.add_again(message, entry.deliveries)
                    batch.append(message)
            if page.entries:
                self._seen = page.entries[-1].entry_id
                owned.position = max(owned.position, self._seen, key=parse_id)
            await self._pass_on(batch)
            after = page.last if until is None or parse_id(self._seen) < until else None

    async def _pass_on(self, batch: Batch) -> None:
        await hand_over(batch, self._workers, self._owned)

    def _decode(self, entries: Sequence[RawEntry]) -> Batch:
        """Return the entries' messages, recorded; synchronous, so that no cancellation comes between a read and its record."""
        owned, decode = self._owned, self._decoder.decode
        partition, token = owned.partition, owned.token
        batch: Batch = []
        self._watch.count(len(entries))
        if self._remade:
            known = {entry_id for entry_id, _ in entries if owned.knows(entry_id)}
            self._doubtful |= known
            entries = [entry for entry in entries if entry[0] not in known]
        for entry_id, fields in entries:
            message = decode(entry_id, fields or (), partition, token)
            if type(message) is Unreadable:  # three times as fast as isinstance, for each message
                self._execution.unreadable(message)
            else:
                batch.append(message)
        owned.add(batch)
        if entries:
            owned.position = self._seen = entries[-1][0]
        return batch

    async def _make_group_again(self) -> None:
        """Make a lost group again so that nothing unsettled is passed over (T6)."""
        around, owned = self._around, self._owned
        lowest = owned.lowest_unsettled(self._doubtful)
        evidence, start = (lowest, format_id(before(parse_id(lowest)))) if lowest else (owned.position, owned.position)
        if not self._trusted:  # it never heard of the group: all that was parked or found dead meanwhile is forgotten, too
            evidence = start = owned.position = b""
        await around.broker.remake_group(around.group, owned.partition, evidence, start=start)
        self._begin_anew()
        self._watch.forget()
        around.tell_group_lost(owned.partition)
