"""The events of a producer or consumer, as frozen structs: `on_event` gets each one, and so does the log.

An event is reported once, after the fact, in the event loop's thread. Subscribers must be quick: they run between two steps of the
consumer.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The base class of all events.

    Attributes:
        topic: the topic that it is about.
        group: the consumer group, "" for a producer.
        member: the consumer's incarnation, "" for a producer.
    """

    topic: str
    group: str = ""
    member: str = ""


class MessageEvent(Event, frozen=True, kw_only=True):
    """An event about one message.

    Attributes:
        partition: its partition.
        msg_id: the id that the producer gave it.
        entry_id: its stream entry.
        attempt: the number of the delivery, from 1.
        key: its key.
        headers: its headers.
    """

    partition: int
    msg_id: str
    entry_id: str
    attempt: int
    key: str | None = None
    headers: Mapping[str, str] = {}


class MessageStarted(MessageEvent, frozen=True, kw_only=True):
    """A handler starts.

    Attributes:
        waited: for how many seconds the message has been in its stream, by the server's clock; of a retry, since it was enqueued.
    """

    waited: float = 0.0


class MessageSucceeded(MessageEvent, frozen=True, kw_only=True):
    """A handler returned; the acknowledgement follows.

    Attributes:
        took: how many seconds the handler ran, alone or with the other messages of its batch.
        waited: for how many seconds the message had been in its stream when it started. Both are None only if that is not known.
    """

    took: float | None = None
    waited: float | None = None


class MessageFailed(MessageEvent, frozen=True, kw_only=True):
    """A handler raised, or ran longer than it may. MessageRetried or MessageDead follows, unless it raised `Discard`.

    Attributes:
        error: its exception.
        took: how many seconds the handler ran; None if nobody observes each message (`on_event`, DEBUG), and it was not seen running.
        waited: for how many seconds the message had been in its stream when it started; None if nobody observes each message.
    """

    error: Exception
    took: float | None = None
    waited: float | None = None


class MessageRetried(MessageEvent, frozen=True, kw_only=True):
    """A message will be tried again; the server has recorded this.

    Attributes:
        again_in: seconds until then.
        blocking: True if its partition or key waits for it; it stays pending meanwhile.
    """

    again_in: float
    blocking: bool


class MessageDead(MessageEvent, frozen=True, kw_only=True):
    """A message has become a dead letter.

    Attributes:
        reason: why, in words.
    """

    reason: str


class HandlerSlow(MessageEvent, frozen=True, kw_only=True):
    """A handler has been running for longer than `slow_after`. Reported once for each run, at the next heartbeat; nothing is done about it.

    Attributes:
        took: for how many seconds it has been running. If nobody observes each message, up to a heartbeat's interval less than the truth.
        waited: for how many seconds the message had been in its stream when it started; None if nobody observes each message.
    """

    took: float
    waited: float | None = None


class HandlerBlocked(MessageEvent, frozen=True, kw_only=True):
    """The event loop was blocked while the handler ran, until the lease was lost. The next owner handles the message again.

    Nothing else could run meanwhile, not even the heartbeat. If a handler makes blocking calls, make it a plain function (it runs in a
    thread), or await a thread of its own. A process that was stopped and continued looks the same.

    Attributes:
        seconds: for how long, approximately.
    """

    seconds: float


class HandlerAbandoned(MessageEvent, frozen=True, kw_only=True):
    """A plain function was still running in its thread when the lease or the timeout ended; its outcome will be dropped."""


class PartitionEvent(Event, frozen=True, kw_only=True):
    """An event about one partition.

    Attributes:
        partition: its number.
        token: the fencing token under which it is, or was, owned.
    """

    partition: int
    token: int


class PartitionAcquired(PartitionEvent, frozen=True, kw_only=True):
    """This member now owns the partition and starts to read it."""


class PartitionRevoked(PartitionEvent, frozen=True, kw_only=True):
    """The partition was drained and handed over, in order."""


class LeaseLost(PartitionEvent, frozen=True, kw_only=True):
    """The partition's lease ended while its messages were handled: handlers were cancelled, and no more of them are settled.

    Attributes:
        reason: why, in words.
        unsettled: how many messages were delivered here and not settled; they go to the next owner.
    """

    reason: str
    unsettled: int


class EntriesTrimmed(PartitionEvent, frozen=True, kw_only=True):
    """Entries were trimmed from the stream before this group had finished them: the group has lost them.

    If they were delivered and not settled, `entry_ids` names them. If the group had not read them, only their number is known, and between
    which ids they were.

    Attributes:
        entry_ids: their ids, if they had been delivered.
        count: how many.
        after: unread ones had ids above this one,
        before: and below this one, the first entry that was left; "" if none was.
    """

    entry_ids: tuple[str, ...]
    count: int
    after: str = ""
    before: str = ""


class GroupLapsed(Event, frozen=True, kw_only=True):
    """Another group of the topic has had no member for `retention_idle`: entries are no longer kept for it (`retention="acked"`).

    Each consumer that sees it reports it once, and again if it happens again.

    Attributes:
        lapsed: that group.
        alone: for how many seconds it has had no member.
    """

    lapsed: str
    alone: float


class TrimmingRefused(Event, frozen=True, kw_only=True):
    """The server refused to trim finished entries (access rules?), so they stay. It is tried again; reported once until it works.

    Attributes:
        reason: the server's answer.
    """

    reason: str


class EntryUnreadable(PartitionEvent, frozen=True, kw_only=True):
    """An entry, or its record in `retry`, cannot be read: foreign fields, damaged bytes. It becomes a dead letter, unchanged.

    If it is a retry or a delayed message whose other half is gone (evicted, deleted), `reason` says what happened to it.

    Attributes:
        entry_id: its id; for a delayed message the message id; "" if there are several.
        reason: why, in words.
    """

    entry_id: str
    reason: str


class KillNotPermitted(PartitionEvent, frozen=True, kw_only=True):
    """The server does not allow CLIENT KILL (ACL), so order across a crash is best effort (T4). Reported once per consumer."""


class NotificationsNotPermitted(Event, frozen=True, kw_only=True):
    """The server does not allow SSUBSCRIBE (ACL): the consumer checks every second for changes that notifications would report at once.

    Reported once per consumer.

    Attributes:
        reason: the server's answer.
    """

    reason: str


class PartitionStuck(PartitionEvent, frozen=True, kw_only=True):
    """This member owns a partition, and has not been able to read it for a whole `heartbeat_ttl`. Reported again each minute.

    Another member that has not reported this gets the partition. If there is none, this member keeps it and continues to try.

    Attributes:
        reason: why the last attempt failed, in words.
    """

    reason: str


class PartitionWaiting(PartitionEvent, frozen=True, kw_only=True):
    """A partition that the topic grew by waits until the group is done with the messages that were in an older partition before.

    Until then nothing of it is handled, because its keys may have earlier messages there. Reported after 10 seconds, then each minute. If
    a failed message is what it waits for, `Admin.retry_now` or `Admin.cancel` ends that.

    Attributes:
        waiting_for: the number of the older partition.
        messages: how many of its messages are not done, 1,000 at most.
        oldest: the entry id of the oldest of them; "" if it is not known.
        waited: for how many seconds it has waited.
    """

    waiting_for: int
    messages: int
    oldest: str
    waited: float


class PartitionOpened(PartitionEvent, frozen=True, kw_only=True):
    """A partition that the topic grew by is read from now on: the group is done with what was in the older partitions before.

    Attributes:
        waited: for how many seconds this member waited.
    """

    waited: float


class TopicMissing(Event, frozen=True, kw_only=True):
    """The topic does not exist yet; the consumer waits for it."""


class MemberJoined(Event, frozen=True, kw_only=True):
    """This consumer became a member of its group, at its start or again after it had lost its leases."""


class GroupLost(Event, frozen=True, kw_only=True):
    """The server lost the group's data (FLUSHALL, restart without persistence); it is made again (M8, T6). Reported once for each loss."""


class Disconnected(Event, frozen=True, kw_only=True):
    """The server cannot be reached, refuses us or a request, or has not answered for a heartbeat's interval. It is tried again, forever.

    Reported again each minute for as long as it lasts.

    Attributes:
        reason: what happened, in words.
    """

    reason: str


class Reconnected(Event, frozen=True, kw_only=True):
    """The server answers again."""
