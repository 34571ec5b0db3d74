"""What happens, as frozen structs: `on_event` gets each one, and so does the log.

An event is told once, after the fact, from the event loop's thread. Subscribers must be quick: they run between two steps of the consumer.
"""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Common to all.

    Attributes:
        topic: the topic it is about.
        group: the consumer group, "" for a producer.
        member: the consumer's incarnation, "" for a producer.
    """

    topic: str
    group: str = ""
    member: str = ""


class MessageEvent(Event, frozen=True, kw_only=True):
    """Something about one message.

    Attributes:
        partition: its partition.
        msg_id: the producer's id of it.
        entry_id: its stream entry.
        attempt: which delivery, from 1.
    """

    partition: int
    msg_id: str
    entry_id: str
    attempt: int


class MessageStarted(MessageEvent, frozen=True, kw_only=True):
    """A handler begins."""


class MessageSucceeded(MessageEvent, frozen=True, kw_only=True):
    """A handler returned; the acknowledgement follows."""


class MessageFailed(MessageEvent, frozen=True, kw_only=True):
    """A handler raised, or ran longer than it may: MessageRetried or MessageDead follows, unless it raised `Discard`.

    Attributes:
        error: what it raised.
    """

    error: Exception


class MessageRetried(MessageEvent, frozen=True, kw_only=True):
    """A message will be tried again; this is safe with the server now.

    Attributes:
        again_in: seconds until then.
        blocking: its lane waits for it; it stays pending meanwhile.
    """

    again_in: float
    blocking: bool


class MessageDead(MessageEvent, frozen=True, kw_only=True):
    """A message is among the dead letters now.

    Attributes:
        reason: why, in words.
    """

    reason: str


class HandlerBlocked(MessageEvent, frozen=True, kw_only=True):
    """The event loop stood still while the handler ran, until the lease was lost: the message is handled again, by the next owner.

    Nothing else ran meanwhile, the heartbeat neither. A handler that calls what blocks should be a plain function (it runs in a thread), or
    await a thread of its own. A process that was stopped and went on looks the same.

    Attributes:
        seconds: for how long, or so.
    """

    seconds: float


class HandlerAbandoned(MessageEvent, frozen=True, kw_only=True):
    """A plain function was still running in its thread when the lease or the timeout ended; its outcome will be dropped."""


class PartitionEvent(Event, frozen=True, kw_only=True):
    """Something about one partition.

    Attributes:
        partition: its number.
        token: the fencing token under which it is, or was, owned.
    """

    partition: int
    token: int


class PartitionAcquired(PartitionEvent, frozen=True, kw_only=True):
    """This member owns the partition now and begins to read it."""


class PartitionRevoked(PartitionEvent, frozen=True, kw_only=True):
    """The partition was drained and handed over, in order."""


class LeaseLost(PartitionEvent, frozen=True, kw_only=True):
    """The partition's lease ended while it was worked on: handlers were cancelled, nothing more of it is settled.

    Attributes:
        reason: why, in words.
        unsettled: how many messages were delivered here and not settled; they go to the next owner.
    """

    reason: str
    unsettled: int


class EntriesTrimmed(PartitionEvent, frozen=True, kw_only=True):
    """Entries have been trimmed from the stream before this group had done with them: they are lost to it.

    Either they were delivered and not settled: then `entry_ids` names them. Or nobody of the group had read them: then all that is known
    is how many there were, and between which ids.

    Attributes:
        entry_ids: which, if they had been delivered.
        count: how many.
        after: unread ones had ids above this one,
        before: and below this one, the first that was left; "" if none was.
    """

    entry_ids: tuple[str, ...]
    count: int
    after: str = ""
    before: str = ""


class GroupLapsed(Event, frozen=True, kw_only=True):
    """Another group of the topic has had no member for `retention_idle`: entries are no longer kept for it (`retention="acked"`).

    Told once by each consumer that sees it, and again if it happens again.

    Attributes:
        lapsed: that group.
        alone: for how many seconds it has had no member.
    """

    lapsed: str
    alone: float


class TrimmingRefused(Event, frozen=True, kw_only=True):
    """The server refused to trim what is done with (access rules?): it stays. Tried again; told once until it works.

    Attributes:
        reason: the server's answer.
    """

    reason: str


class EntryUnreadable(PartitionEvent, frozen=True, kw_only=True):
    """An entry, or what stands for one in `retry`, cannot be read: foreign fields, damaged bytes. It goes to the dead letters, as it is.

    Of a retry or a delayed message whose other half is gone (evicted, deleted), `reason` says what became of it.

    Attributes:
        entry_id: which; the message id of one that was delayed; "" where several are meant.
        reason: why, in words.
    """

    entry_id: str
    reason: str


class KillNotPermitted(PartitionEvent, frozen=True, kw_only=True):
    """The server does not allow CLIENT KILL (ACL): order across a crash is best effort (T4). Told once a consumer."""


class NotificationsNotPermitted(Event, frozen=True, kw_only=True):
    """The server does not allow SSUBSCRIBE (ACL): the consumer looks every second for what notifications would tell it at once.

    Reported once a consumer.

    Attributes:
        reason: the server's answer.
    """

    reason: str


class PartitionStuck(PartitionEvent, frozen=True, kw_only=True):
    """This member owns a partition, and has not been able to read it for a whole `heartbeat_ttl`. Told again each minute.

    Another member that has not said so gets the partition; where there is none, this one keeps it and goes on trying.

    Attributes:
        reason: what the last attempt failed of, in words.
    """

    reason: str


class TopicMissing(Event, frozen=True, kw_only=True):
    """The topic does not exist yet; the consumer waits for it."""


class MemberJoined(Event, frozen=True, kw_only=True):
    """This consumer became a member of its group, at its start or again after it had lost its leases."""


class GroupLost(Event, frozen=True, kw_only=True):
    """The server lost the group's data (FLUSHALL, restart without persistence); it is made again (M8, T6). Told once for each loss."""


class Disconnected(Event, frozen=True, kw_only=True):
    """The server cannot be reached, refuses us or what we ask, or has not answered for a heartbeat's interval. It is tried again, forever.

    Told again each minute for as long as it lasts.

    Attributes:
        reason: what happened, in words.
    """

    reason: str


class Reconnected(Event, frozen=True, kw_only=True):
    """The server answers again."""
