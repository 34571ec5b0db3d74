"""Trims what every group has settled, in the partitions that this member owns, if the topic's producers ask for it (E3).

It starts when a heartbeat first reports `retention="acked"`, and reports only events. An owner trims rather than a producer, because it
notices when there is something to trim, even after the last producer has ended. It does not trim with each acknowledgement, because an
occasional look removes many entries at once. Topics without retention pay nothing. Others pay one step for each partition that made
progress, a few seconds apart, whatever the number of messages. Nothing depends on it: any member of any group may trim at any time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import anyio

from redisaq import events
from redisaq.actors.actor import Actor
from redisaq.brokers.steps.administration import ViewStream
from redisaq.brokers.steps.retention import Keeping, ReadKeeping, Trim, kept_by
from redisaq.brokers.terms import GroupName
from redisaq.consuming.contact import forever
from redisaq.consuming.context import Surroundings
from redisaq.consuming.doorbell import Ring, ring
from redisaq.consuming.member import Member
from redisaq.consuming.owned import OwnedPartition
from redisaq.errors import ServerError

SHORTEST, LONGEST = 0.2, 5.0  # seconds between two looks; between these, a quarter of the time for which everything is kept
PATROL = 60.0  # seconds after which a partition is checked even without progress here: another group may have lapsed


class Trimmer(Actor[Ring]):
    """Trims this member's partitions."""

    def __init__(self, surroundings: Surroundings, member: Member, owned: Callable[[], Sequence[OwnedPartition]]) -> None:
        """Begin with nothing trimmed.

        Args:
            surroundings: the consumer's.
            member: the member.
            owned: returns its partitions.
        """
        super().__init__(name="trimmer", capacity=1, restart=forever(reset_after=5.0))
        self._around = surroundings
        self._member = member
        self._owned = owned
        self._seen: dict[int, tuple[object, ...]] = {}  # each partition's mark when nothing more of it could be trimmed
        self._patrolled = -math.inf
        self._lapsed: set[str] = set()
        self._refused = False
        self._pause = SHORTEST
        member.on_retention = lambda: ring(self.ref)

    async def run(self) -> None:
        """Look now and then, while the topic has retention."""
        while True:
            if not self._member.retention:
                await self.mailbox.receive()
                continue
            try:
                await self._look()
                self._refused = False
            except ServerError as error:  # access rules may forbid it: then nothing is trimmed, and the consumer continues
                if not self._refused:
                    self._refused = True
                    self._around.bulletin.publish(events.TrimmingRefused, reason=error.text)
            with anyio.move_on_after(self._pause):  # the mailbox's end ends this, too
                await self.mailbox.receive()

    async def _look(self) -> None:
        """Trim what made progress since the last look."""
        around, now = self._around, self._around.environment.clock()
        if now - self._patrolled >= PATROL:
            self._patrolled = now
            self._seen.clear()
        marks = {owned.partition: owned.mark() for owned in self._owned()}
        if not marks:  # a spare member, or one that has just begun
            self._pause = min(LONGEST, 2 * self._pause)
        moved = [partition for partition, mark in marks.items() if self._seen.get(partition) != mark]
        if not moved:
            return
        topic = around.group.topic
        # Every group is in the first partition's stream from its beginning (G6).
        (stream,) = await around.broker.do_each([ViewStream(topic, 0)])
        groups = sorted({around.group.group, *stream.groups})
        keeping = kept_by(await around.broker.do_each([ReadKeeping(GroupName(topic, group)) for group in groups]))
        self._pause = min(LONGEST, max(SHORTEST, keeping.kept_for / 4))
        self._tell_lapsed(keeping)
        if not keeping.acked:  # lost with the server's data; a heartbeat reports when it is set again
            self._member.retention = False
            return
        for partition in moved:
            if not await self._trim(partition, keeping, groups):
                self._seen[partition] = marks[partition]

    async def _trim(self, partition: int, keeping: Keeping, groups: Sequence[str]) -> bool:
        """Trim one partition, in steps; True if some entries are kept now that will go later."""
        while True:
            trimmed = await self._around.broker.do(Trim(self._around.group.topic, partition, keeping, groups))
            if not trimmed.more:
                return trimmed.later

    def _tell_lapsed(self, keeping: Keeping) -> None:
        lapsed = keeping.lapsed if keeping.acked else {}
        for group in sorted(lapsed.keys() - self._lapsed):
            self._around.bulletin.publish(events.GroupLapsed, lapsed=group, alone=lapsed[group])
        self._lapsed = set(lapsed)
