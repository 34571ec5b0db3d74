"""Steps about retention: `retention="acked"`, and entries that trimming took before a group read them.

Trimming needs no token: what may go follows, in one atomic step, from the positions of all groups (E3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import msgspec

from redisaq.brokers.steps import GroupStep, PartitionStep, ShareStep

__all__ = ["Keeping", "ReadKeeping", "Sight", "Sighting", "Trim", "Trimmed", "kept_by"]


class Keeping(msgspec.Struct, frozen=True):
    """The retention of a topic now.

    Attributes:
        acked: some producer asked for trimming.
        now: the server's time when this was read, in microseconds.
        kept_for: every entry is kept for this many seconds (E3).
        idle: a group that has had no member for this many seconds pins nothing.
        alone: group -> for how many seconds it has had no member; only groups without one.
    """

    acked: bool
    now: int
    kept_for: float
    idle: float
    alone: Mapping[str, float]

    @property
    def lapsed(self) -> dict[str, float]:
        """The groups of `alone` that pin nothing any more."""
        return {group: seconds for group, seconds in self.alone.items() if seconds >= self.idle}


class Trimmed(msgspec.Struct, frozen=True):
    """What one step of trimming did.

    Attributes:
        removed: how many entries it removed.
        more: ask again at once: there is more to remove than one step may take.
        later: ask again later: some entries will go that are kept now, for their age or for a group that is behind.
    """

    removed: int = 0
    more: bool = False
    later: bool = False


class Sighting(msgspec.Struct, frozen=True):
    """A group's position in a partition, and what trimming took before the group read it.

    Attributes:
        position: everything up to this id is counted; b"" if the group is not there.
        ordinal: how many entries were ever appended up to the last delivered one, as far as is known.
        lost: how many entries were trimmed unread since the sighting before, or since the first look.
        after: all of them had ids above this one.
        before: all of them had ids below this one, the first entry that is there now; b"" if there is none.
    """

    position: bytes = b""
    ordinal: int | None = None
    lost: int = 0
    after: bytes = b""
    before: bytes = b""


class ReadKeeping(GroupStep[Keeping], frozen=True):
    """Return the topic's retention, and for how long this group has had no member.

    For a group of which nothing is known, the time counts from the first time this was asked.
    """

    name: ClassVar[str] = "keeping"


class Trim(PartitionStep[Trimmed], frozen=True):
    """Trim what every group has settled and is old enough (E3), but no more than one step may take.

    Each group in the stream pins it from its lowest pending entry on, or from its last delivered entry if nothing is pending. Only groups
    that have lapsed by `keeping`, and have not read for as long, pin nothing. If no group pins, nothing is trimmed. The last entry that is
    old enough stays, so that a look at the tail reaches back to what is kept for its age (E2).

    Attributes:
        keeping: what applied when it was read. However late this step arrives, it trims nothing that was too young then.
        groups: if one of these is not in the stream and has not lapsed, nothing is trimmed, since it begins at the stream's beginning (G6).
    """

    keeping: Keeping
    groups: Sequence[str]


class Sight(ShareStep[Sighting], frozen=True):
    """Return the group's position, and count what trimming took before it was read; the group's total grows by that, once.

    No read may be under way meanwhile. Only sure losses count: entries that were deleted, or a position that was moved, are no loss. Raises
    LeaseLostError if another token is current.

    Attributes:
        token: the caller's fencing token.
        since: the caller's sighting before, None for its first.
        read: how many entries the caller has read since then.
    """

    token: int
    since: Sighting | None
    read: int


def kept_by(answers: Iterable[Keeping]) -> Keeping:
    """Return a topic's retention, from the answers of at least one of its groups."""
    first, *others = answers
    alone = dict(first.alone)
    for other in others:
        alone.update(other.alone)
    return msgspec.structs.replace(first, alone=alone)
