"""What Admin tells of topics and groups: plain data, which does not change."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class StreamInfo(msgspec.Struct, frozen=True):
    """A partition, without its groups.

    Attributes:
        partition: its number.
        length: entries in its stream: those that are done with, too, until they are trimmed.
        delayed: messages that are not in the stream yet.
    """

    partition: int
    length: int
    delayed: int


class TopicInfo(msgspec.Struct, frozen=True):
    """A topic.

    Attributes:
        topic: its name.
        generation: how often it has grown.
        partitions: in order.
        groups: names of its groups, sorted.
    """

    topic: str
    generation: int
    partitions: tuple[StreamInfo, ...]
    groups: tuple[str, ...]

    @property
    def length(self) -> int:
        """Entries in all its streams."""
        return sum(one.length for one in self.partitions)

    @property
    def delayed(self) -> int:
        """Messages that are not in their streams yet."""
        return sum(one.delayed for one in self.partitions)


class MemberInfo(msgspec.Struct, frozen=True):
    """A member of a group.

    Attributes:
        name: its `consumer_name`, or its incarnation if it has none.
        incarnation: this start of it.
        expires_in: seconds until it is taken for dead unless it sends a heartbeat; 0 or less: it is overdue; None: it is no longer counted.
        partitions: those it owns, sorted.
        waiting: an earlier start under the same name is still there.
    """

    name: str
    incarnation: str
    expires_in: float | None
    partitions: tuple[int, ...] = ()
    waiting: bool = False


class PartitionInfo(msgspec.Struct, frozen=True):
    """A group's share of one partition.

    Attributes:
        partition: its number.
        owner: incarnation of the member that owns it, "" while nobody does.
        owner_name: that member's name.
        token: the fencing token that stands, 0 before the first.
        length: entries in the stream, for whatever group.
        unread: entries that were never delivered to the group: its lag.
        pending: delivered and not settled: in a handler, or about to be.
        retry: messages that failed and are to be tried again.
        dead: dead letters.
        delayed: messages that are not in the stream yet, for whatever group.
        last_delivered: the entry id up to which the group was given entries, "0-0" before the first.
        deliveries: delivery count -> of how many pending entries; of the oldest 1,000.
        lost: entries that trimming took before the group was done with them, as far as its members have noticed.
    """

    partition: int
    owner: str
    owner_name: str
    token: int
    length: int
    unread: int
    pending: int
    retry: int
    dead: int
    delayed: int
    last_delivered: str
    deliveries: Mapping[int, int]
    lost: int = 0

    @property
    def max_deliveries(self) -> int:
        """How often the most often delivered of these was delivered; 0 without any."""
        return max(self.deliveries, default=0)


class GroupInfo(msgspec.Struct, frozen=True):
    """A group.

    Attributes:
        topic: its topic.
        group: its name.
        paused: `Admin.pause` has been called, and `resume` has not.
        members: by name.
        partitions: in order.
        alone: seconds for which it has had no member; 0 while it has one, or if nobody knows.
        lapsed: for so long that `retention="acked"` keeps no entries for it any more.
    """

    topic: str
    group: str
    paused: bool
    members: tuple[MemberInfo, ...]
    partitions: tuple[PartitionInfo, ...]
    alone: float = 0.0
    lapsed: bool = False

    @property
    def unread(self) -> int:
        """Entries that were never delivered: the group's lag."""
        return sum(one.unread for one in self.partitions)

    @property
    def pending(self) -> int:
        """Entries delivered and not settled."""
        return sum(one.pending for one in self.partitions)

    @property
    def retry(self) -> int:
        """Messages that are to be tried again."""
        return sum(one.retry for one in self.partitions)

    @property
    def dead(self) -> int:
        """Dead letters."""
        return sum(one.dead for one in self.partitions)

    @property
    def lost(self) -> int:
        """Entries that trimming took before the group was done with them."""
        return sum(one.lost for one in self.partitions)

    @property
    def delayed(self) -> int:
        """Messages of the topic that are not in their streams yet."""
        return sum(one.delayed for one in self.partitions)
