"""Steps of an administrator of topics and groups: look, pause, seek, delete.

None of them is fenced: an admin owns no partition. All may be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from redisaq.brokers.steps import GroupStep, PartitionStep, ShareStep, TopicStep
from redisaq.core.membership import Document

__all__ = [
    "END",
    "LOOKED_AT",
    "START",
    "Disband",
    "DropGroup",
    "DropTopic",
    "GroupView",
    "PartitionView",
    "Seek",
    "SetPaused",
    "StreamView",
    "ViewGroup",
    "ViewPartition",
    "ViewStream",
]

START = b"0-0"
"""The position before every entry."""

END = b"$"
"""The position after every entry that is there."""

LOOKED_AT = 1000
"""So many pending entries of a partition, the oldest, have their delivery counts counted."""


class StreamView(msgspec.Struct, frozen=True):
    """A partition without its groups.

    Attributes:
        length: entries in the stream.
        delayed: messages that are not in it yet.
        groups: those in the stream, sorted.
    """

    length: int
    delayed: int
    groups: tuple[str, ...]


class GroupView(msgspec.Struct, frozen=True):
    """A group's coordination.

    Attributes:
        now: the server's time.
        paused: its members are told to begin nothing.
        members: incarnation -> when its time runs out, whether or not it has.
        document: None if there is none.
        alone: seconds for which it has had no member, 0 while it has one, or if that is not known.
        lapsed: for so long that it pins nothing under the topic's `retention="acked"`.
    """

    now: int
    paused: bool
    members: Mapping[str, int]
    document: Document | None
    alone: float = 0.0
    lapsed: bool = False

    @property
    def live(self) -> tuple[str, ...]:
        """The members whose time has not run out, sorted."""
        return tuple(sorted(member for member, expiry in self.members.items() if expiry > self.now))


class PartitionView(msgspec.Struct, frozen=True):
    """What stands in, and beside, one partition for one group.

    Attributes:
        there: the group is in the stream, or something of it stands beside.
        length: entries in the stream, for whatever group.
        unread: those that were never delivered to this one; all, if it is not in the stream.
        pending: delivered and not settled.
        retry: messages that failed and are to be tried again.
        dead: dead letters.
        delayed: messages that are not in the stream yet, for whatever group.
        token: the one that stands, 0 if none does.
        holder: the incarnation beside it, "" if none is.
        last_delivered: the position up to which entries were delivered.
        deliveries: delivery count -> of how many pending entries, the oldest LOOKED_AT.
        lost: entries that trimming took from the group before they were done with, as far as members have noticed.
    """

    there: bool
    length: int
    unread: int
    pending: int
    retry: int
    dead: int
    delayed: int
    token: int
    holder: str
    last_delivered: bytes
    deliveries: Mapping[int, int]
    lost: int = 0


class ViewStream(PartitionStep[StreamView], frozen=True):
    """Return how the partition stands; one whose stream is missing is empty."""

    name: ClassVar[str] = "view_streams"


class ViewGroup(GroupStep[GroupView], frozen=True):
    """Return how the group's coordination stands; of a group that nobody knows, an empty view."""


class ViewPartition(ShareStep[PartitionView], frozen=True):
    """Return how the group stands in the partition."""

    name: ClassVar[str] = "view_partitions"


class SetPaused(GroupStep[None], frozen=True):
    """Let heartbeats tell the members whether the group is paused (`Beat.paused`), and ring."""

    paused: bool


class Seek(ShareStep[None], frozen=True):
    """Deliver what stands after the position next; a position beyond the last entry is the END. Makes a missing group.

    What was delivered of that before is new again: it leaves the pending entries and `retry`, but for what is no longer in the
    stream. What stands before the position and is pending, or to be tried again, stays.
    """

    position: bytes


class Disband(GroupStep[tuple[str, ...]], frozen=True):
    """Drop members, document and pause, and ring; return the members that were alive.

    Attributes:
        force: False drops nothing while members live.
    """

    force: bool


class DropGroup(ShareStep[None], frozen=True):
    """Take the group out of the partition, with all that stands beside it: token, retries, dead letters."""


class DropTopic(TopicStep[None], frozen=True):
    """Drop the topic whole: streams, what is delayed, marks, every group; its count last, so that a step cut short can be repeated."""
