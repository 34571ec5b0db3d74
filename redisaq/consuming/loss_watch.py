"""Notices what trimming took from one partition before its owner read it.

It reports EntriesTrimmed, with a count and the range of ids in which the entries were. A server keeps no trace of trimming, but it counts
all entries ever appended. So what this owner has read can be compared with how far the group has come. That takes one small command, at
most every other second and only if something was read. Invariant: no read is under way while it looks.
"""

from __future__ import annotations

from redisaq import events
from redisaq.brokers.steps.retention import Sight, Sighting
from redisaq.consuming.context import Surroundings
from redisaq.consuming.owned import OwnedPartition

EVERY = 2.0  # seconds between two looks


class LossWatch:
    """Compares what the owner read with the server's count."""

    def __init__(self, surroundings: Surroundings, owned: OwnedPartition) -> None:
        """Begin without a sighting.

        Args:
            surroundings: the consumer's.
            owned: the partition.
        """
        self._around = surroundings
        self._owned = owned
        self._since: Sighting | None = None
        self._next = 0.0
        self._read = 0

    def count(self, entries: int) -> None:
        """Record that a read returned this many entries."""
        self._read += entries

    def forget(self) -> None:
        """Start again: what was read meanwhile is not known, or the group's position may have been moved."""
        self._since = None
        self._next = 0.0

    @property
    def due(self) -> bool:
        """True if it is time to look, if anything has been read."""
        return self._around.environment.clock() >= self._next

    @property
    def left(self) -> float | None:
        """Seconds until the next look, if there is reason for one; else None."""
        if self._since is not None and not self._read:
            return None
        return max(0.0, self._next - self._around.environment.clock())

    async def look(self) -> None:
        """Count what is lost, and report it. Raises LeaseLostError if another token is current."""
        around, owned, read = self._around, self._owned, self._read
        since, self._since, self._read = self._since, None, 0  # if the answer is lost, there is nothing to compare with
        self._next = around.environment.clock() + EVERY
        sighting = await around.broker.do(Sight(around.group, owned.partition, owned.standing, since=since, read=read))
        self._since = sighting
        if sighting.lost:
            owned.flights.trimmed += sighting.lost
            around.bulletin.publish(
                events.EntriesTrimmed,
                owned,
                entry_ids=(),
                count=sighting.lost,
                after=sighting.after.decode(),
                before=sighting.before.decode(),
            )
