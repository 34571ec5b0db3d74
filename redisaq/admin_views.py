"""What Admin returns: topics, groups and dead letters as frozen structs.

Always: whatever stands in a dead letter's entry, reading it raises nothing: that it cannot be read may be why it is dead.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from redisaq.core.codec import Deserializer, EntryDecoder
from redisaq.core.records import FOREIGN, RAW, Body, Failure, Unreadable


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


_NO_FAILURE = Failure("", "", "", 0, 0, 0, "")


class DeadMessage(msgspec.Struct, frozen=True):
    """A message that will not be tried again, unless it is redriven.

    Attributes:
        topic: its topic.
        group: the group for which it died.
        partition: its partition.
        dead_id: of the dead letter itself; unique within the partition and group.
        msg_id: of the message; "" for an entry that no producer of redisaq made.
        entry_id: of the stream entry it came from.
        data: the payload's bytes; b"" if there is none; of a record that could not be read, the record as it was.
        payload: what the deserializer made of it; None if it could not.
        unreadable: why it could not; "" if it could.
        key: the message's key.
        headers: its headers.
        error_type: the last exception's qualified class name, or a word for what was no exception; "" if nothing is known.
        error: its text, bounded.
        traceback: bounded; "" if there is none.
        attempts: handlers begun in its last life.
        first_failed: the first failure of its last life, by the server's clock; None if nothing is known.
        last_failed: the last one.
        died_at: when it became a dead letter.
        member: incarnation of the member that saw the last failure.
        life: how often it was redriven before it died.
    """

    topic: str
    group: str
    partition: int
    dead_id: str
    msg_id: str
    entry_id: str
    data: bytes
    payload: Any
    unreadable: str
    key: str | None
    headers: Mapping[str, str]
    error_type: str
    error: str
    traceback: str
    attempts: int
    first_failed: datetime | None
    last_failed: datetime | None
    died_at: datetime
    member: str
    life: int


def message_id(body: Body) -> str:
    """Return the message's id, "" if it has none."""
    return _value(body, b"i").decode("utf-8", "replace")


class DeadLetterDecoder:
    """Makes them, for one group."""

    def __init__(self, topic: str, group: str, deserializer: Deserializer | None) -> None:
        """Take how payloads are read: None is JSON."""
        self._topic = topic
        self._group = group
        self._decoder: EntryDecoder[Any] = EntryDecoder(topic, deserializer)

    def decode(self, partition: int, dead_id: bytes, body: Body) -> DeadMessage:
        """Return the dead letter."""
        failure = body.failure or _NO_FAILURE
        message = self._decoder.decode(body.entry_id, body.fields, partition, 0)
        return DeadMessage(
            topic=self._topic,
            group=self._group,
            partition=partition,
            dead_id=dead_id.decode(),
            msg_id=message_id(body),
            entry_id=body.entry_id.decode("utf-8", "backslashreplace"),
            data=_value(body, b"d") or _value(body, RAW),
            payload=None if isinstance(message, Unreadable) else message.payload,
            unreadable=_unreadable(body, message.reason if isinstance(message, Unreadable) else ""),
            key=message.key if not isinstance(message, Unreadable) else (_value(body, b"k").decode("utf-8", "replace") or None),
            headers=message.headers if not isinstance(message, Unreadable) else _headers(_value(body, b"h")),
            error_type=failure.error_type,
            error=failure.error,
            traceback=failure.traceback,
            attempts=body.attempt,
            first_failed=_moment(failure.first_failed_ms) if failure.first_failed_ms else None,
            last_failed=_moment(failure.last_failed_ms) if failure.last_failed_ms else None,
            died_at=_moment(int(dead_id.split(b"-")[0])),
            member=failure.member,
            life=max(0, body.life),
        )


def _unreadable(body: Body, reason: str) -> str:
    return "redisaq did not put it among the dead letters" if body.life == FOREIGN else reason


def _value(body: Body, name: bytes) -> bytes:
    return dict(zip(body.fields[::2], body.fields[1::2], strict=False)).get(name, b"")


def _headers(data: bytes) -> Mapping[str, str]:
    try:
        return msgspec.json.decode(data, type=dict[str, str]) if data else {}
    except msgspec.MsgspecError:
        return {}


def _moment(milliseconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # an id, or a time, that somebody else has made up
        return datetime.max.replace(tzinfo=UTC)
