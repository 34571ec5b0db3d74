"""Notices that an owned partition cannot be read, although its owner lives.

In: failures to take or to read it, and reads that came back. Out, after a ttl without one: PartitionStuck, again each minute, and a word to
the coordinator, which lets another member have the partition. What always holds: a partition that nothing was asked of (its group is
paused, its handlers are slow) is in no trouble.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from redisaq import events
from redisaq.consuming.contact import REMIND
from redisaq.consuming.context import Surroundings
from redisaq.consuming.owned import OwnedPartition


class Trouble:
    """One partition's."""

    def __init__(self, surroundings: Surroundings, owned: OwnedPartition, stuck: Callable[[int], None]) -> None:
        """Take the partition, and who is told that this member cannot read it."""
        self._around = surroundings
        self._owned = owned
        self._stuck = stuck
        self._since: float | None = None
        self._told = -math.inf

    def failed(self, reason: str) -> None:
        """Note that it could not be taken, or read, just now."""
        owned, now = self._owned, self._around.environment.clock()
        if self._since is None:
            self._since = now
        elif now - self._since >= owned.lease.ttl and now - self._told >= REMIND and owned.may_start:
            self._told = now
            bulletin = self._around.bulletin
            bulletin.tell(
                events.PartitionStuck(
                    topic=bulletin.topic,
                    group=bulletin.group,
                    member=bulletin.member,
                    partition=owned.partition,
                    token=owned.token,
                    reason=reason,
                )
            )
            self._stuck(owned.partition)

    def over(self) -> None:
        """Note that it was read."""
        self._since = None
