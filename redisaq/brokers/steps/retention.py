"""Steps about what is kept: `retention="acked"`, and what trimming took from under a group.

Whoever trims needs no token: what may go follows, in one atomic step, from where every group stands (E3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import msgspec

from redisaq.brokers.steps import GroupStep, PartitionStep, ShareStep

__all__ = ["Keeping", "ReadKeeping", "Sight", "Sighting", "Trim", "Trimmed", "kept_by"]


class Keeping(msgspec.Struct, frozen=True):
    """What holds for a topic now.

    Attributes:
        acked: some producer asked for trimming.
        now: the server's time when this was read, microseconds.
        kept_for: every entry is kept for so many seconds (E3).
        idle: a group without a member for so many seconds pins nothing.
        alone: group -> for how many seconds it has had no member, of those asked for that have none.
    """

    acked: bool
    now: int
    kept_for: float
    idle: float
    alone: Mapping[str, float]

    @property
    def lapsed(self) -> dict[str, float]:
        """Those of `alone` that pin nothing any more."""
        return {group: seconds for group, seconds in self.alone.items() if seconds >= self.idle}


class Trimmed(msgspec.Struct, frozen=True):
    """What one step of trimming did.

    Attributes:
        removed: entries that are gone now.
        more: ask again at once: there is more to be removed than one step may take.
        later: ask again later: entries are kept that will go, for their age, or for a group that is behind.
    """

    removed: int = 0
    more: bool = False
    later: bool = False


class Sighting(msgspec.Struct, frozen=True):
    """Where a group stands in a partition, and what trimming took from it that nobody of it had read.

    Attributes:
        position: up to this id everything is counted, b"" if the group is not there.
        ordinal: how many entries were ever appended up to the last delivered one, as far as is known.
        lost: so many entries were trimmed unread since the sighting before, or since anybody looked.
        after: all of them had ids above this one,
        before: and below this one, the first that is there now; b"" if none is.
    """

    position: bytes = b""
    ordinal: int | None = None
    lost: int = 0
    after: bytes = b""
    before: bytes = b""


class ReadKeeping(GroupStep[Keeping], frozen=True):
    """Return what holds for the group's topic, and whether this group has no member.

    Of a group that nobody knows anything of, the time counts from the first time that this was asked.
    """

    name: ClassVar[str] = "keeping"


class Trim(PartitionStep[Trimmed], frozen=True):
    """Trim what every group has done with and is old enough (E3), no more than one step may take.

    Each group in the stream pins from its lowest pending entry on, or its last delivered one if nothing is pending; only those that
    have lapsed by `keeping`, and have not read for as long, pin nothing. Where no group pins, nothing is trimmed. The last entry that
    is old enough stays, so that a look at the tail reaches back to what is kept for its age (E2).

    Attributes:
        keeping: what held when it was asked. However late this step arrives, nothing is trimmed that was too young then.
        groups: if one of these is not in the stream, and has not lapsed, nothing is trimmed: it begins at the stream's beginning (G6).
    """

    keeping: Keeping
    groups: Sequence[str]


class Sight(ShareStep[Sighting], frozen=True):
    """Look where the group stands, and count what trimming took before it was read; it is added to the group's count, once.

    Nobody may be reading meanwhile. A count is only given where it is sure: entries that somebody deleted, or a position that
    somebody moved, are no loss. LeaseLostError if another token stands.

    Attributes:
        token: the fencing token of the caller.
        since: the caller's sighting before, None for its first.
        read: how many entries the caller has been given since then.
    """

    token: int
    since: Sighting | None
    read: int


def kept_by(answers: Iterable[Keeping]) -> Keeping:
    """Return what holds for a topic, from the answers of at least one of its groups."""
    first, *others = answers
    alone = dict(first.alone)
    for other in others:
        alone.update(other.alone)
    return msgspec.structs.replace(first, alone=alone)
