"""Notices what trimming took from one partition before its owner had read it.

In: how many entries each read brought. Out: EntriesTrimmed, with a count and the range of ids in which they were. A server keeps no trace
of trimming, but it counts what was ever appended; so what was given to this owner can be compared with how far it has come. That takes
one small command, every other second at most and only where something was read. What always holds: nobody reads while it looks.
"""

from __future__ import annotations

from redisaq import events
from redisaq.brokers.steps.retention import Sight, Sighting
from redisaq.consuming.context import Surroundings
from redisaq.consuming.owned import OwnedPartition

EVERY = 2.0  # seconds between two looks


class LossWatch:
    """See the module."""

    def __init__(self, surroundings: Surroundings, owned: OwnedPartition) -> None:
        """Take whose partition it is."""
        self._around = surroundings
        self._owned = owned
        self._since: Sighting | None = None
        self._next = 0.0
        self._read = 0

    def count(self, entries: int) -> None:
        """Note that a read brought so many."""
        self._read += entries

    def forget(self) -> None:
        """Begin anew: what was read meanwhile is not known, or the group's position may have been moved."""
        self._since = None
        self._next = 0.0

    @property
    def due(self) -> bool:
        """True if it is time to look, should anything have been read."""
        return self._around.environment.clock() >= self._next

    @property
    def left(self) -> float | None:
        """Seconds until a look that there is reason for; None if there is none."""
        if self._since is not None and not self._read:
            return None
        return max(0.0, self._next - self._around.environment.clock())

    async def look(self) -> None:
        """Count what is lost, and tell. Raises LeaseLostError if another token stands."""
        around, owned, read = self._around, self._owned, self._read
        since, self._since, self._read = self._since, None, 0  # an answer that is lost leaves nothing to compare with
        self._next = around.environment.clock() + EVERY
        sighting = await around.broker.do(Sight(around.group, owned.partition, owned.token, since=since, read=read))
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
