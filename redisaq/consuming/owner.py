"""Owns one partition: takes it, works on it, and gives it back or loses it.

Input: one Drain. Output, at the end: Ended, to the partition supervisor. It takes the partition in the order of T1. The coordinator has
done the compare-and-set; then install the token, close the predecessor's readers, claim what is pending, read (the reader does the last
two). Everything runs in a scope whose deadline is the lease's. It gives the partition back in this order: stop reading, let running
handlers finish, settle, undo the counts of messages that no handler started (T5), release.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from redisaq import events
from redisaq.actors.actor import Actor
from redisaq.actors.ref import ActorRef
from redisaq.actors.supervisor import Supervisor
from redisaq.brokers.steps.leases import Fence, Install, Installed, Release, SetDeliveries
from redisaq.brokers.steps.settling import Resolve
from redisaq.brokers.steps.topics import birth
from redisaq.brokers.terms import ReaderMark
from redisaq.consuming.contact import Trouble, insist
from redisaq.consuming.context import Surroundings
from redisaq.consuming.doorbell import SignalListener, ring
from redisaq.consuming.gate import Gate
from redisaq.consuming.handler_pool import Batch
from redisaq.consuming.owned import Barrier, OwnedPartition
from redisaq.consuming.reader import PartitionReader
from redisaq.consuming.retry_timer import RetryTimer
from redisaq.consuming.standing import still_owned
from redisaq.core.membership import may_acquire_foreign
from redisaq.core.records import Resolution, microseconds
from redisaq.errors import ActorStopped, ServerError

FLUSH_LIMIT = 5.0  # seconds for settling and releasing when a partition is given back
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5  # seconds between two looks at a holder that may still work
FAREWELL_LIMIT = 1.0  # seconds for releasing when something has failed


@dataclass(frozen=True)
class Drain:
    """Give the partition back: handlers may take `timeout` seconds to finish, then they are cancelled."""

    timeout: float


@dataclass(frozen=True)
class Ended:
    """An owner has ended: in order (`released`: nothing of it is left beside the data), or because the lease was lost."""

    partition: int
    token: int
    incarnation: str
    released: bool


class PartitionOwner(Actor[Drain]):
    """Owns one partition under one lease."""

    def __init__(
        self,
        surroundings: Surroundings,
        owned: OwnedPartition,
        *,
        workers: Actor[Batch],
        count: int,
        raise_token: Callable[[int, int], Awaitable[int | None]],
        stuck: Callable[[int], None],
        taken: Callable[[int], None],
        ended: Callable[[Ended], None],
    ) -> None:
        """Begin without the partition.

        Args:
            surroundings: the consumer's.
            owned: the record of the partition.
            workers: its workers.
            count: entries of one read.
            raise_token: requests a token above another one (partition, above): the new token, None if the partition is no longer leased
                (T2).
            stuck: called when the partition cannot be read.
            taken: called when the partition is taken, or the owner has to wait or give up.
            ended: called at the end.
        """
        super().__init__(name=f"partition-{owned.partition}")
        self.owned = owned
        self._around = surroundings
        self._workers = workers
        self._count = count
        self._raise_token = raise_token
        self._taken = taken
        self._ended = ended
        self._trouble = Trouble(surroundings.bulletin, surroundings.environment.clock, owned, stuck)
        self.acquired = self._released = False  # acquired: its predecessor's readers are closed, it reads
        self._may_stand = False  # the token was sent, and may be beside the data
        self._patience: anyio.CancelScope | None = None
        self._taking: anyio.CancelScope | None = None
        self._reader: PartitionReader | None = None
        self._limit = math.inf  # the shortest time that handlers were granted

    async def run(self) -> None:
        """Take the partition, work, give it back or lose it."""
        owned = self.owned
        try:
            with owned.scope():
                if await self._take_unless_drained():
                    await self._work()
            self._taken(owned.partition)  # at the latest now; after a failure it never will be
        finally:
            with anyio.move_on_after(FAREWELL_LIMIT, shield=True), contextlib.suppress(ServerError):  # the failure itself is what is raised
                await self._say_farewell()
            if not self._released:
                self._tell_lost()
            # The coordinator must know, or no owner takes the partition again. So this waits for nothing: in a process that is suspended
            # here, the time to wait would be over. At the very end the coordinator has already stopped.
            with contextlib.suppress(ActorStopped):
                self._ended(Ended(owned.partition, owned.token, owned.lease.incarnation, self._released))

    async def _take_unless_drained(self) -> bool:
        """Take the partition; False if it cannot be taken, or is wanted back before: then nothing of it is left beside the data."""
        with anyio.CancelScope() as self._taking:
            if self._limit < math.inf:
                self._taking.cancel()
            return await self._take()
        with anyio.move_on_after(FLUSH_LIMIT):
            # Perhaps it is installed, and the predecessor may still read. A release would take its readers off the list (T3).
            if self._may_stand and (installed := await insist(self._install, self._around.environment)).done:
                await self._fence(installed.readers)
            await self._release()
        return False

    async def _take(self) -> bool:
        """Install the token and close the predecessor's readers; False if the partition cannot be taken, or is no longer wanted."""
        around, owned = self._around, self.owned
        pause = FIRST_PAUSE
        while True:
            moves = around.gate.moves
            installed = await insist(self._install, around.environment, self._trouble.failed)
            if installed.done:
                break
            if installed.token >= owned.standing:  # T2; the same token with another holder, or released, is used up, too
                token = await self._raise_token(owned.partition, installed.token)
                if token is None:  # the group's document leases it to another member
                    return False
                owned.flights.token = owned.flights.standing = token
                continue
            self._taken(owned.partition)
            await anyio.sleep(pause)  # M7, M8: a foreign holder, which may still work
            pause = min(2 * pause, LONGEST_PAUSE)
        await self._fence(installed.readers)
        if owned.lost or not owned.lease.alive():  # a process that was suspended continues here, before its scope is cancelled
            return False
        self._wait_behind_barrier(installed.opened, sure=moves == around.gate.moves)
        self.acquired = True
        self._taken(owned.partition)
        self._around.bulletin.publish(events.PartitionAcquired, self.owned)
        return True

    async def _fence(self, readers: Sequence[ReaderMark]) -> None:
        """Close the predecessor's readers (T3)."""
        around, owned = self._around, self.owned
        fence = lambda: around.broker.do(Fence(around.group, owned.partition, owned.standing, readers))  # noqa: E731 -- one step, to repeat
        if not await insist(fence, around.environment, self._trouble.failed):
            around.tell_kill_refused(owned)

    def _wait_behind_barrier(self, opened: int, *, sure: bool) -> None:
        """If the partition came by a growth, let it wait for the older ones (G4), unless the group has opened it before."""
        around, owned = self._around, self.owned
        growth = birth(around.history, owned.partition)
        if growth and around.settings.ordering != "none":
            passed = None if opened >= growth else False
            if sure and opened >= growth and not around.gate.closed:
                passed = True
            owned.wait_behind(Barrier(around.environment.clock(), passed), Gate(closed=not passed))
            around.look_at_growth()

    async def _install(self) -> Installed:
        async with self._around.taking:
            return await self._try_to_install()

    async def _try_to_install(self) -> Installed:
        around, owned, lease = self._around, self.owned, self.owned.lease
        self._may_stand = True
        foreign = may_acquire_foreign(lease.server_now(), frozen_until=lease.frozen_until, born=lease.born, ttl_us=microseconds(lease.ttl))
        installed = await around.granting.do(Install(around.group, owned.partition, owned.standing, lease.incarnation, foreign=foreign))
        if not installed.done and installed.token < owned.standing and installed.holder in lease.former:
            return await around.granting.do(Install(around.group, owned.partition, owned.standing, lease.incarnation, foreign=True))
        return installed

    async def _work(self) -> None:
        owned, around = self.owned, self._around
        async with Supervisor("one_for_one", name="parts", parent=self) as parts:
            workers = await parts.start(self._workers)
            timer = RetryTimer(around, owned, workers, count=self._count)
            owned.ring_timer = lambda: ring(timer.ref)
            await parts.start(timer)
            listener = SignalListener(
                lambda: around.broker.listen_partition(around.group.topic, owned.partition),
                owned.ring_timer,
                around.notifications_refused,
                name="doorbell",
            )
            await parts.start(listener)
            self._reader = reader = PartitionReader(around, owned, workers, self._trouble, count=self._count)
            await parts.start(reader)
            drain = await self.mailbox.receive()
            await self._drain(parts, reader, others=(listener, timer), workers=workers, timeout=drain.timeout)

    def drain(self, timeout: float) -> None:
        """Give the partition back; if called again, the shorter timeout applies."""
        self._limit = min(self._limit, timeout)
        if not self.acquired and self._taking is not None:
            self._taking.cancel()
        if timeout <= 0 and self._patience is not None:
            self._patience.cancel()
        with contextlib.suppress(anyio.WouldBlock, ActorStopped):  # it already has one, or has ended
            self.ref.tell_nowait(Drain(timeout))

    async def _drain(
        self, parts: Supervisor, reader: PartitionReader, *, others: Sequence[Actor[Any]], workers: ActorRef[Batch], timeout: float
    ) -> None:
        """Stop reading, wait for the handlers, stop the rest, settle, undo, release."""
        owned = self.owned
        owned.begin_drain()  # ends blocking back-offs, too (T7)
        for actor in (reader, *others):
            await parts.stop(actor, timeout=0)
        with anyio.CancelScope() as self._patience, anyio.move_on_after(min(timeout, self._limit)):
            await owned.wait_finished()
        await parts.stop(workers, timeout=0)
        with anyio.move_on_after(FLUSH_LIMIT):
            await owned.wait_settled()
            await self._hand_over(reader)

    async def _hand_over(self, reader: PartitionReader) -> None:
        """Release the partition, as if no handler had been about to begin on what none has begun on (T5). Nothing runs here now."""
        flights = self.owned.flights
        refusal: ServerError | None = None
        try:
            await self._hand_back(flights.hand_back())
        except ServerError as error:
            refusal = error
        await insist(reader.make_sure, self._around.environment)
        await self._release()  # also then: nobody should wait for a holder that is gone
        if refusal is not None:
            raise refusal
        # Once more: a late raise may have undone it before the release.
        counts, resolutions = flights.hand_back_again()
        await self._hand_back(counts)
        await self._give_back(resolutions)

    async def _hand_back(self, counts: Mapping[bytes, int]) -> None:
        """Undo the counts of messages that were read and never started (T5)."""
        around, owned = self._around, self.owned
        if counts:
            await insist(lambda: around.broker.do(SetDeliveries(around.group, owned.partition, owned.standing, counts)), around.environment)

    async def _give_back(self, resolutions: Sequence[Resolution]) -> None:
        """Undo the attempts of retries whose handlers never began (T5); the server refuses what is already undone (S1)."""
        around, owned = self._around, self.owned
        if resolutions:
            resolve = Resolve(around.group, owned.partition, owned.standing, resolutions, dead_maxlen=around.dead_maxlen)
            step = lambda: around.broker.do(resolve)  # noqa: E731
            await insist(step, around.environment)

    async def _release(self) -> None:
        """Clear the holder beside the data; the token stays (M8)."""
        around, owned = self._around, self.owned
        if not owned.lost and owned.lease.alive():
            self._released = await insist(self._try_to_release, around.environment)
            if self.acquired and self._released:
                around.bulletin.publish(events.PartitionRevoked, self.owned)

    async def _try_to_release(self) -> bool:
        around, owned = self._around, self.owned
        while True:
            token = owned.standing
            if await around.broker.do(Release(around.group, owned.partition, token)) or not self.acquired:  # else it never held it
                return True
            if not await still_owned(around, owned, token, "its release was refused: another token is current"):
                return False

    async def _say_farewell(self) -> None:
        """Release after a failure, or after a drain that took too long, so that no member has to wait for a holder that is gone."""
        owned = self.owned
        if self._around.given_up:
            return
        if self._reader is not None and not self._released and not owned.lost and owned.lease.alive():
            await self._hand_over(self._reader)

    def _tell_lost(self) -> None:
        if self.acquired:
            reason = self.owned.lost or ("the lease ran out" if not self.owned.lease.alive() else "it could not be given back in time")
            self._around.bulletin.publish(events.LeaseLost, self.owned, reason=reason, unsettled=self.owned.flights.unsettled)
