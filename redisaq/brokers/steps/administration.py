"""Steps for an administrator of topics and groups: look, pause, seek, delete.

None of them is fenced, since an admin owns no partition. You can repeat each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from redisaq.brokers.steps import GroupStep, PartitionStep, ShareStep, Step, TopicStep
from redisaq.core.history import Change
from redisaq.core.membership import Document
from redisaq.core.profile import Presence

__all__ = [
    "END",
    "LOOKED_AT",
    "START",
    "Disband",
    "DropGroup",
    "DropHistory",
    "DropTopic",
    "GroupView",
    "Note",
    "NotedChange",
    "PartitionView",
    "ReadHistory",
    "ReadServer",
    "Seek",
    "ServerFacts",
    "SetPaused",
    "StreamView",
    "ViewGroup",
    "ViewPartition",
    "ViewStream",
]

START = b"0-0"
"""The position before every entry."""

END = b"$"
"""The position after every entry that is in the stream."""

LOOKED_AT = 1000
"""How many pending entries of a partition, the oldest ones, a view counts deliveries of."""


class StreamView(msgspec.Struct, frozen=True):
    """A partition without its groups.

    Attributes:
        length: how many entries are in the stream.
        delayed: how many messages are not in it yet.
        groups: the groups in the stream, sorted.
        added: how many entries were ever added to the stream.
    """

    length: int
    delayed: int
    groups: tuple[str, ...]
    added: int = 0


class GroupView(msgspec.Struct, frozen=True):
    """A group's coordination.

    Attributes:
        now: the server's time.
        paused: the group is paused: its members begin nothing.
        members: incarnation -> when its time runs out, even if that is past.
        document: None if there is none.
        alone: seconds for which the group has had no member; 0 while it has one, or if that is not known.
        lapsed: it has had none for so long that it pins nothing under the topic's `retention="acked"`.
        idle: seconds after which a group that has no member pins nothing; None without `retention="acked"`.
        presences: incarnation -> what it said about itself when it joined. Members of older versions said nothing.
        paused_at: since when it has been paused; 0 if it is not, or if that is not known.
    """

    now: int
    paused: bool
    members: Mapping[str, int]
    document: Document | None
    alone: float = 0.0
    lapsed: bool = False
    idle: float | None = None
    presences: Mapping[str, Presence] = {}
    paused_at: int = 0

    @property
    def live(self) -> tuple[str, ...]:
        """The members whose time has not run out, sorted."""
        return tuple(sorted(member for member, expiry in self.members.items() if expiry > self.now))


class PartitionView(msgspec.Struct, frozen=True):
    """What one partition holds for one group.

    Attributes:
        there: the group is in the stream, or has keys beside it.
        length: how many entries are in the stream, for all groups.
        unread: how many of them were never delivered to this group; all, if it is not in the stream.
        pending: how many were delivered and are not settled.
        retry: how many messages failed and are to be tried again.
        dead: how many dead letters there are.
        delayed: how many messages are not in the stream yet, for all groups.
        token: the current token, 0 if there is none.
        holder: the incarnation that holds it, "" if none does.
        last_delivered: the id of the last delivered entry.
        deliveries: delivery count -> how many pending entries have it, among the oldest LOOKED_AT.
        lost: how many entries trimming took from the group before they were settled, as far as members have noticed.
        added: how many entries were ever added to the stream, for all groups.
        died: how many messages of the group ever became dead letters here.
        redriven: how many dead letters were ever put back into `retry`.
        moves: how many times a Seek moved the group here, or a CancelRetry took a message away, after its first owner.
        oldest_unread: when the oldest entry that was never delivered was enqueued, in milliseconds; None if there is none.
        oldest_pending: the same for the oldest entry that is delivered and not settled.
        retry_due: when the next retry is due, in microseconds; None if there is none.
        now: the server's time.
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
    added: int = 0
    died: int = 0
    redriven: int = 0
    moves: int = 0
    oldest_unread: int | None = None
    oldest_pending: int | None = None
    retry_due: int | None = None
    now: int = 0


class ServerFacts(msgspec.Struct, frozen=True):
    """What the server says about itself.

    Attributes:
        url: its URL without a password.
        name: its name and version.
        now: its time.
        memory: bytes that it uses; None if it has no memory of its own.
        max_memory: bytes that it may use; None: no limit.
        evicts: it evicts keys when it is full.
        keys: keys in the database; None if the server does not permit to ask.
    """

    url: str
    name: str
    now: int
    memory: int | None = None
    max_memory: int | None = None
    evicts: bool = False
    keys: int | None = None


class ReadServer(Step[ServerFacts], frozen=True):
    """Return what the server says about itself."""


class ViewStream(PartitionStep[StreamView], frozen=True):
    """Return what the partition holds. A partition whose stream is missing is empty."""

    name: ClassVar[str] = "view_streams"


class ViewGroup(GroupStep[GroupView], frozen=True):
    """Return the group's coordination; an empty view if the group is unknown."""


class ViewPartition(ShareStep[PartitionView], frozen=True):
    """Return what the partition holds for the group.

    Attributes:
        deliveries: False leaves `PartitionView.deliveries` empty, which is cheaper.
    """

    name: ClassVar[str] = "view_partitions"

    deliveries: bool = True


class SetPaused(GroupStep[None], frozen=True):
    """Pause or resume the group: heartbeats report it to the members (`Beat.paused`). Rings the group's doorbell.

    Attributes:
        paused: whether to pause it.
        change: what to add to the group's history in the same step; None: nothing.
    """

    paused: bool
    change: Change | None = None


class NotedChange(msgspec.Struct, frozen=True):
    """A change, and its id in the history, which begins with the server's time in milliseconds."""

    entry_id: bytes
    change: Change


class Note(GroupStep[bytes], frozen=True):
    """Add a change to the group's history, and return its id there. Repeating it adds it again.

    What an administrator does in partitions is made in other slots. So it is noted before it begins, and that note is replaced at its end.

    Attributes:
        change: the change; None: add nothing, and return b"".
        replaces: the id of a note, which is removed; b"": of none. A history without a note is dropped.
    """

    change: Change | None
    replaces: bytes = b""


class ReadHistory(GroupStep[list[NotedChange]], frozen=True):
    """Return up to `count` changes with ids below `before` (b"": the latest), the latest first."""

    count: int
    before: bytes = b""


class Seek(ShareStep[None], frozen=True):
    """Continue delivery after the position. A position beyond the last entry counts as END. Makes a missing group.

    Entries after the position that were delivered before become new again: they leave the pending entries and `retry`, unless they are no
    longer in the stream. Entries at or before the position that are pending, or to be tried again, stay. The partition's token is spent
    (S5), so that no settlement of an earlier delivery passes any more.
    """

    position: bytes


class Disband(GroupStep[tuple[str, ...]], frozen=True):
    """Drop members, document and pause, and ring the group's doorbell; return the members that were alive.

    Attributes:
        force: False drops nothing while members are alive.
        keeps_history: leave the group's history, which shows a deletion under way, until DropHistory drops it.
    """

    force: bool
    keeps_history: bool = False


class DropHistory(GroupStep[None], frozen=True):
    """Drop the group's history."""


class DropGroup(ShareStep[None], frozen=True):
    """Remove the group from the partition, with all its keys there: token, retries, dead letters."""


class DropTopic(TopicStep[None], frozen=True):
    """Drop the whole topic: streams, delayed messages, marks, every group.

    The partition count goes last, so you can repeat an interrupted step.
    """
