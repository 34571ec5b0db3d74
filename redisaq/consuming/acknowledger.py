"""Settles what is done in all partitions with few commands.

Input: a ring from an owned partition that has something to settle. Output: one fenced step per partition with its acknowledgements (S1),
all partitions in one round trip. What gets done meanwhile joins the next round. Messages that did not simply succeed follow, one step per
partition. Invariants: nothing is settled once the lease has ended, and a refusal means that the partition belongs to another member.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.actors.actor import Actor
from redisaq.brokers.steps.settling import Acknowledge, Resolve, Resolved, Settled
from redisaq.consuming.contact import forever
from redisaq.consuming.context import Surroundings
from redisaq.consuming.doorbell import Ring, ring
from redisaq.consuming.owned import OwnedPartition
from redisaq.consuming.standing import install_again
from redisaq.errors import ConnectionFailed

MOST_IDS = 2000  # in one script


class Acknowledger(Actor[Ring]):
    """Settles for one consumer. Its mailbox holds one ring; the owned partitions hold what to settle."""

    def __init__(self, surroundings: Surroundings) -> None:
        """Begin with nothing to settle.

        Args:
            surroundings: the consumer's.
        """
        super().__init__(name="acknowledger", capacity=1, restart=forever(reset_after=5.0))
        self._around = surroundings
        self._dirty: dict[OwnedPartition, None] = {}

    def ring(self, owned: OwnedPartition) -> None:
        """Settle soon what that partition has done."""
        self._dirty[owned] = None
        ring(self.ref)

    async def run(self) -> None:
        """Flush at each ring, and at once after a restart. A flush without an answer ends with the lease."""
        while True:
            lease = next((owned.lease for owned in self._dirty if not owned.lost and owned.lease.alive()), None)
            if lease is None:
                await self._flush()  # only lost partitions: this sends nothing
                await self.mailbox.receive()
                continue
            with lease.scope():
                await self._flush()
                async for _ in self.mailbox:
                    await self._flush()
                return

    async def _flush(self) -> None:
        """Settle until nothing is left; a partition stays dirty until its turn is over, so that it does not ring meanwhile."""
        while self._dirty:
            dirty = list(self._dirty)
            self._dirty.clear()
            try:
                await self._acknowledge([owned for owned in dirty if self._live(owned)])
                for owned in dirty:
                    if owned.flights.ending:
                        await self._resolve(owned)
            except BaseException:  # repeating it does no harm
                self._dirty.update(dict.fromkeys(dirty))
                raise
            for owned in dirty:
                owned.dirty = False
                owned.changed()

    def _live(self, owned: OwnedPartition) -> bool:
        """Return whether it may be settled. If not, forget what there is to settle, since its next owner does that."""
        if not owned.lost and owned.lease.alive():
            return True
        owned.flights.drop()
        return False

    async def _resolve(self, owned: OwnedPartition) -> None:
        """Settle what did not simply succeed: a retry, a dead letter, the end of a retry."""
        around, flights = self._around, owned.flights
        if not self._live(owned):
            return
        endings = flights.take_endings()
        resolutions = [ending.resolution for ending in endings]
        try:
            answer = await around.broker.do(
                Resolve(around.group, owned.partition, owned.standing, resolutions, dead_maxlen=around.dead_maxlen)
            )
        except BaseException as error:
            flights.broke(maybe_executed=isinstance(error, ConnectionFailed) and error.maybe_executed)
            raise
        if not answer.done:
            flights.broke(maybe_executed=False)
            await self._refused(owned, answer)
            return
        flights.settled(answer.moved)
        owned.changed()
        for ending, moved in zip(endings, answer.moved, strict=True):
            event = around.report(owned, ending)
            if event is not None and (moved or ending.uncertain):  # S1: if uncertain, an earlier try whose answer was lost has settled it
                around.bulletin.tell(event)
        # A message not found in `retry` may be there under another attempt: a replica that took over may have missed the last ones.
        if any(one.to == "retry" or (one.source == "retry" and not moved) for one, moved in zip(resolutions, answer.moved, strict=True)):
            owned.ring_timer()

    async def _acknowledge(self, live: Sequence[OwnedPartition]) -> None:
        """Acknowledge what is done, in one write for all partitions."""
        group = self._around.group
        taken = [(owned, owned.flights.take_acks()) for owned in live]
        acks = [
            Acknowledge(group, owned.partition, owned.standing, ids[at : at + MOST_IDS])
            for owned, ids in taken
            for at in range(0, len(ids), MOST_IDS)
        ]
        try:
            answers = await self._around.broker.do_each(acks) if acks else []
        except BaseException:
            for owned in live:
                owned.flights.ack_broke()
            raise
        refused = {ack.partition: answer for ack, answer in zip(acks, answers, strict=True) if not answer.done}
        for owned in live:
            if owned.partition in refused:
                owned.flights.ack_broke()
            else:
                owned.flights.acked()
                owned.changed()
        for owned in live:
            if owned.partition in refused:
                await self._refused(owned, refused[owned.partition])

    async def _refused(self, owned: OwnedPartition, answer: Settled | Resolved) -> None:
        """Find a token under which the refused step can be sent again (T2, S5). If there is none, the partition is lost."""
        token = owned.standing
        if (answer.token >= token and not answer.spent) or not await install_again(self._around, owned, token):
            owned.lose("its settling was refused: another token is current")
