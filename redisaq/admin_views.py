"""The frozen structs that Admin returns: topics, groups, messages and dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

from redisaq.core.entry_ids import parse_id
from redisaq.core.history import UNFINISHED, Taker
from redisaq.core.records import is_id
from redisaq.core.schedules import Schedule

EPOCH = datetime.fromtimestamp(0, UTC)
"""Of what no server has said when it was read."""

LAST_MOMENT = datetime.max.replace(microsecond=0, tzinfo=UTC)
"""The last time there is, in whole seconds: `datetime.max` as a number of seconds is rounded up, to a time that does not exist."""


class ServerInfo(msgspec.Struct, frozen=True):
    """The server.

    Attributes:
        url: its URL without a password.
        namespace: the namespace of the keys.
        name: what it is, such as "Valkey 9.1".
        now: its time.
        memory: bytes that it uses; None for the memory broker.
        max_memory: bytes that it may use; None: no limit.
        evicts: whether it evicts keys when it is full, instead of refusing to write.
        keys: keys in the database, also of others; None if it may not be asked.
    """

    url: str
    namespace: str
    name: str
    now: datetime
    memory: int | None
    max_memory: int | None
    evicts: bool
    keys: int | None


class StreamInfo(msgspec.Struct, frozen=True):
    """A partition of a topic, without its groups.

    Attributes:
        partition: the partition's number.
        length: entries in its stream, including finished ones until they are trimmed.
        delayed: messages that are not in the stream yet.
        added: entries that were ever added to the stream. It falls only if the stream is lost.
    """

    partition: int
    length: int
    delayed: int
    added: int = 0


class HeldUpInfo(msgspec.Struct, frozen=True):
    """A producer had to wait, because a partition held as many waiting messages as its `max_backlog` allows.

    Attributes:
        at: when a producer last said so. While it waits, it says so every 10 s.
        partition: the partition.
        max_backlog: how many messages it allows.
    """

    at: datetime
    partition: int
    max_backlog: int


class TopicInfo(msgspec.Struct, frozen=True):
    """A topic and its partitions.

    Attributes:
        topic: the topic's name.
        generation: how often it has grown.
        partitions: its partitions, in order; or those that were asked for.
        groups: the names of its groups, sorted; or of the groups in the partitions that were asked for.
        partition_count: how many partitions it has.
        acked: whether it is trimmed of what every group has finished (`retention="acked"`).
        held_up: the producer that last had to wait because of its `max_backlog`; None if none has. Older versions do not say it.
        history: how many partitions it had from the beginning and after each growth; empty if it has never grown.
        pending: how many it is going to have, while it grows; None otherwise.
    """

    topic: str
    generation: int
    partitions: tuple[StreamInfo, ...]
    groups: tuple[str, ...]
    partition_count: int = 0
    acked: bool = False
    held_up: HeldUpInfo | None = None
    history: tuple[int, ...] = ()
    pending: int | None = None

    @property
    def length(self) -> int:
        """Entries in all streams of the topic."""
        return sum(one.length for one in self.partitions)

    @property
    def delayed(self) -> int:
        """Messages that are not in their streams yet."""
        return sum(one.delayed for one in self.partitions)


class ScheduleInfo(msgspec.Struct, frozen=True):
    """A cron job, as the server keeps it. Programs write it, and their jobs need not run.

    Attributes:
        app: the program's name.
        name: the job's name.
        spec: its cron expression.
        tz: its time zone.
        catch_up: which missed ticks are run: "none", "latest" or "all".
        grace: seconds after which a tick that has not begun is missed.
        next: when it ticks next; None if no program that has the job is running to say it: see `overdue`.
        last: the newest tick that has begun, or was missed; None before the first.
        outcome: what came of that: "running", "done", "failed" (it is tried again), "dead", or "missed"; "" before the first.
        since: since when that is so.
        attempt: the number of its last attempt; 0 before the first.
        error: what it failed of, shortened; "" if it did not.
        overdue: the tick that is due while no such program is running; None if there is none.
        timeout: seconds that its handler may run; None: no limit, or a program of an older version.
        unreadable: why it cannot be read; "" if it can. Then only `app` and `name` are known, and without a name this is about all jobs
            of the program.
    """

    app: str
    name: str
    spec: str
    tz: str
    catch_up: str
    grace: float
    next: datetime | None = None
    last: datetime | None = None
    outcome: str = ""
    since: datetime | None = None
    attempt: int = 0
    error: str = ""
    overdue: datetime | None = None
    timeout: float | None = None
    unreadable: str = ""

    @classmethod
    def broken(cls, app: str, name: str, reason: str) -> ScheduleInfo:
        """Return a job, or without a name a program, that cannot be read."""
        return cls(app, name, "", "", "", 0.0, unreadable=reason)

    @classmethod
    def of(cls, app: str, name: str, kept: Schedule | None, now: float) -> ScheduleInfo:
        """Return what is shown of a job.

        Args:
            app: the program's name.
            name: the job's name.
            kept: what the server keeps of it; None: that cannot be read.
            now: the server's time in seconds.
        """
        if kept is None:
            return cls.broken(app, name, "it is damaged, or a later version wrote it; a program that has the job writes it again")
        terms, run = kept.terms, kept.run
        coming = moment(kept.due * 1000) if kept.due > now else None
        overdue = moment(kept.due * 1000) if kept.due <= now and (run is None or run.at < kept.due) else None
        limit = terms.timeout if isinstance(terms.timeout, float) else None
        if run is None:
            return cls(app, name, terms.spec, terms.tz, terms.catch_up, terms.grace, coming, overdue=overdue, timeout=limit)
        return cls(
            *(app, name, terms.spec, terms.tz, terms.catch_up, terms.grace, coming),
            last=moment(run.at * 1000),
            outcome=run.outcome,
            since=moment(run.since * 1000),
            attempt=run.attempt,
            error=run.error,
            overdue=overdue,
            timeout=limit,
        )


class RunningInfo(msgspec.Struct, frozen=True):
    """A message that is in a handler, as its member reports it.

    Attributes:
        msg_id: the message's id, at most 100 characters of it.
        partition: its partition.
        entry_id: its stream entry.
        key: its key, at most 100 characters of it.
        attempt: the number of the delivery, from 1.
        since: when the handler began. A consumer without `on_event` and logging at DEBUG notices that at a heartbeat.
        limit: seconds that the handler may take; None: no limit.
    """

    msg_id: str
    partition: int
    entry_id: str
    key: str | None
    attempt: int
    since: datetime
    limit: float | None


class MemberInfo(msgspec.Struct, frozen=True):
    """A member of a group.

    Attributes:
        name: its `consumer_name`, or its incarnation if it has none.
        incarnation: the id of this start of the member.
        expires_in: seconds until it counts as dead, unless it sends a heartbeat. 0 or less: it is overdue. None: it no longer counts.
        partitions: the partitions it owns, sorted.
        waiting: whether it waits because an earlier start with the same name is still a member.
        client: its label: the option `client`, or "host:pid". This, and what follows, is what it said about itself when it joined; members
            of older versions say nothing.
        host: the name of its machine; "" if it is not known.
        pid: the number of its process there; 0 if it is not known.
        version: its version of redisaq; "" if it is not known.
        since: when it joined, by the server's clock; None if it is not known.
        ttl: seconds that its heartbeat lasts; None if it is not known.
        running: how many messages it has in handlers; None if it has not reported that: it does only while somebody watches the group.
        in_handlers: of those, the ones that have been there longest, longest first: at most 100.
    """

    name: str
    incarnation: str
    expires_in: float | None
    partitions: tuple[int, ...] = ()
    waiting: bool = False
    client: str = ""
    host: str = ""
    pid: int = 0
    version: str = ""
    since: datetime | None = None
    ttl: float | None = None
    running: int | None = None
    in_handlers: tuple[RunningInfo, ...] = ()

    @property
    def heartbeat_age(self) -> float | None:
        """Seconds since its last heartbeat, by the server's clock; None if it is not known."""
        return None if self.ttl is None or self.expires_in is None else max(0.0, self.ttl - self.expires_in)


class PartitionWaits(msgspec.Struct, frozen=True):
    """What a partition waits for that the topic grew by: it is read once the group is done with what was in the older ones before.

    Attributes:
        partition: the number of the first older partition that the group is not done with.
        messages: how many of its messages are not done; at most 1,000 are counted.
        oldest: the entry id of the oldest of them; "" if it is not known.
        since: when the topic grew last.
    """

    partition: int
    messages: int
    oldest: str
    since: datetime


class PartitionInfo(msgspec.Struct, frozen=True):
    """The state of one partition for a group.

    Attributes:
        partition: the partition's number.
        owner: the incarnation of the member that owns it; "" if there is no owner.
        owner_name: the name of that member.
        token: the current fencing token; 0 before the first.
        length: entries in the stream, regardless of the group.
        unread: entries that were never delivered to the group, which is its lag.
        pending: entries that were delivered and not settled: they are in a handler, or will be soon.
        retry: messages that failed and wait for a retry.
        dead: dead letters.
        delayed: messages that are not in the stream yet, regardless of the group.
        last_delivered: the id of the last entry that was delivered to the group; "0-0" before the first.
        deliveries: the number of pending entries for each delivery count, among the 1,000 oldest.
        lost: entries that were trimmed before the group had finished them, as far as its members have noticed.
        added: entries that were ever added to the stream, regardless of the group. It falls only if the stream is lost.
        died: messages that ever became dead letters here. It falls only if the dead letters are lost.
        redriven: dead letters that were ever redriven here.
        moves: how often `seek` has moved the group here, or `cancel` has taken a retry away, since it had its first owner.
        oldest_unread: the age in seconds of the oldest entry that was never delivered to the group; None if there is none.
        oldest_pending: the age in seconds of the oldest entry that was delivered and not settled; None if there is none.
        retry_due: seconds until the next retry is due, negative if it is overdue; None if there is none.
        now: the server's time when this was read.
        waits: what it waits for, after a growth; None if it is read. Only `Admin.group` says this.
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
    added: int = 0
    died: int = 0
    redriven: int = 0
    moves: int = 0
    oldest_unread: float | None = None
    oldest_pending: float | None = None
    retry_due: float | None = None
    now: datetime = EPOCH
    waits: PartitionWaits | None = None

    @property
    def max_deliveries(self) -> int:
        """The highest delivery count in `deliveries`; 0 if it is empty."""
        return max(self.deliveries, default=0)

    @property
    def oldest(self) -> float | None:
        """The age in seconds of the oldest entry that is not settled, without retries; None if there is none."""
        ages = [age for age in (self.oldest_unread, self.oldest_pending) if age is not None]
        return max(ages, default=None)


class SeekPreview(msgspec.Struct, frozen=True):
    """What `seek` would do to a group in one partition.

    Attributes:
        partition: the partition's number.
        unread: entries that were never delivered to the group.
        again: entries that were delivered and would be delivered again as if they were new.
        skipped: unread entries that would not be delivered.
        complete: whether `again` and `skipped` are exact; otherwise they are at least so many, since the count ended at its limit.
        pending: entries that were delivered and are not settled.
        retry: messages that wait for a retry. Those at or after the position become new, the others are still tried again.
        dead: dead letters, which stay.
    """

    partition: int
    unread: int
    again: int
    skipped: int
    complete: bool
    pending: int
    retry: int
    dead: int

    @property
    def waiting(self) -> int:
        """How many entries would wait then."""
        return self.unread + self.again - self.skipped


class HistoryEntry(msgspec.Struct, frozen=True):
    """Something that happened in a group.

    Attributes:
        entry_id: its id in the group's history.
        at: when it happened, by the server's clock.
        what: "joined", "left", "taken for dead", "grown", "paused", "resumed", "sought", "redriven", "purged", "retried now",
            "cancelled" or "cancelled while delayed"; or what has begun and not ended: "seek begun", "redrive begun", "purge begun",
            "retry begun", "cancellation begun", "cancellation of a delayed message begun", "growth begun", "deletion begun" or
            "deletion of the topic begun". "unreadable": this version cannot read it. Other versions of redisaq may write other words.
        member: the incarnation of the member that it is about; "" if it is about none.
        name: that member's label.
        by: the label of the administrator or member that did it; "" if the member did it to itself.
        partitions: ranges of partitions, first and last, that it is about; the first 64.
        count: the number of messages or partitions that it is about; None if it has none.
        to: where a seek went: "earliest", "latest", or a time; "" for entries, and for other changes.
        msg_id: the message that it is about; "" if it is not about a single one.
        began: when it began, by the server's clock; None if it is one step, or if that was not noted.
        takers: who takes the partitions of a member that was taken for dead over; the 16 that take the most, with 8 ranges each.
    """

    entry_id: str
    at: datetime
    what: str
    member: str
    name: str
    by: str
    partitions: tuple[tuple[int, int], ...]
    count: int | None
    to: str
    msg_id: str = ""
    began: datetime | None = None
    takers: tuple[Taker, ...] = ()

    @property
    def unfinished(self) -> bool:
        """Whether this has begun, and its end was not noted: it still works, or was interrupted and may be half done."""
        return self.what in UNFINISHED


class GroupInfo(msgspec.Struct, frozen=True):
    """A consumer group of a topic.

    Attributes:
        topic: the topic.
        group: the group's name.
        paused: whether the group is paused.
        members: its members, sorted by name.
        partitions: its partitions, in order; or those that were asked for.
        alone: seconds since it last had a member; 0 while it has one, or if this is not known.
        lapsed: whether it has had no member for so long that `retention="acked"` no longer keeps entries for it.
        retention_idle: seconds without a member after which it has `lapsed`; None without `retention="acked"`.
        now: the server's time when its members were read.
    """

    topic: str
    group: str
    paused: bool
    members: tuple[MemberInfo, ...]
    partitions: tuple[PartitionInfo, ...]
    alone: float = 0.0
    lapsed: bool = False
    retention_idle: float | None = None
    now: datetime = EPOCH

    @property
    def unread(self) -> int:
        """Entries that were never delivered to the group, which is its lag."""
        return sum(one.unread for one in self.partitions)

    @property
    def pending(self) -> int:
        """Entries that were delivered and not settled."""
        return sum(one.pending for one in self.partitions)

    @property
    def retry(self) -> int:
        """Messages that wait for a retry."""
        return sum(one.retry for one in self.partitions)

    @property
    def dead(self) -> int:
        """Dead letters of the group."""
        return sum(one.dead for one in self.partitions)

    @property
    def lost(self) -> int:
        """Entries that were trimmed before the group had finished them."""
        return sum(one.lost for one in self.partitions)

    @property
    def delayed(self) -> int:
        """Messages of the topic that are not in their streams yet."""
        return sum(one.delayed for one in self.partitions)


class DeadLetterInfo(msgspec.Struct, frozen=True):
    """What is known of a dead letter, with its content (`DeadMessage`) or without (`DeadSummary`).

    Attributes:
        topic: the topic.
        group: the group in which it died.
        partition: the partition's number.
        dead_id: the id of the dead letter itself, unique within the partition and group.
        msg_id: the message's id; "" for an entry that no redisaq producer made.
        entry_id: the id of the stream entry it came from.
        key: the message's key.
        error_type: the qualified class name of the last exception, or a word for another failure; "" if it is not known.
        error: the text of the last failure, shortened to a limit; in a summary to 200 bytes.
        attempts: how many handlers were started for it in its last life.
        died_at: when it became a dead letter.
        life: how often it was redriven before it died.
    """

    topic: str
    group: str
    partition: int
    dead_id: str
    msg_id: str
    entry_id: str
    key: str | None
    error_type: str
    error: str
    attempts: int
    died_at: datetime
    life: int


class DeadMessage(DeadLetterInfo, frozen=True):
    """A dead letter: a message that is not retried unless you redrive it.

    Attributes:
        data: the payload's bytes; b"" if there is none. For a record that could not be read, the unchanged record.
        payload: the deserialized payload; None if it could not be deserialized.
        unreadable: why it could not be deserialized; "" if it could.
        headers: the message's headers.
        traceback: the traceback of the last failure, shortened to a limit; "" if there is none.
        first_failed: the first failure of its last life, by the server's clock; None if it is not known.
        last_failed: the last failure of its last life, likewise.
        member: the incarnation of the member that reported the last failure.
    """

    data: bytes
    payload: Any
    unreadable: str
    headers: Mapping[str, str]
    traceback: str
    first_failed: datetime | None
    last_failed: datetime | None
    member: str


class DeadKind(msgspec.Struct, frozen=True):
    """Dead letters of one group whose last failures are of one kind.

    Attributes:
        kind: identifies the kind, as `DeadSummary.kind` does.
        error_type: the class of the failures.
        error: the text of the newest one, shortened to 200 bytes.
        where: the last line of the traceback that is your own code; "" if there is none.
        count: how many there are.
        first: when the first of them died.
        last: when the last of them died.
        partition: the partition of the newest.
        dead_id: the id of the newest.
    """

    kind: str
    error_type: str
    error: str
    where: str
    count: int
    first: datetime
    last: datetime
    partition: int
    dead_id: str


class DeadKinds(msgspec.Struct, frozen=True):
    """Dead letters of one group by kind of failure, as far as they have been counted.

    Attributes:
        kinds: the kinds, the most frequent first.
        counted: how many letters have been counted.
        total: how many there were when the count began.
        complete: whether all have been counted that are still there.
    """

    kinds: tuple[DeadKind, ...]
    counted: int
    total: int
    complete: bool


class DeadSummary(DeadLetterInfo, frozen=True):
    """A dead letter without its payload and traceback, for lists.

    Attributes:
        where: the last line of the traceback that is your own code ("bank.py:41 in charge"); "" if there is none.
        kind: identifies failures of the same type, text and line, where numbers, names, paths and the like in the text do not count.
    """

    where: str
    kind: str


class DeadPage(msgspec.Struct, frozen=True):
    """A page of dead letters.

    Attributes:
        letters: the dead letters, the newest death first.
        looked: how many were looked at to find them.
        older: the id below which the next page begins; "" if this is the last one.
    """

    letters: tuple[DeadSummary, ...]
    looked: int
    older: str


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it is stored.

    Attributes:
        topic: the topic.
        partition: the partition's number.
        msg_id: the message's id; "" for an entry that no redisaq producer made.
        entry_id: the id of its stream entry; "" while it is delayed.
        data: the payload's bytes; b"" if there is none, or if they are gone. For a record that could not be read, the unchanged record.
        payload: the deserialized payload; None if it could not be deserialized.
        unreadable: why it could not be deserialized; "" if it could.
        key: the message's key.
        headers: the message's headers.
    """

    topic: str
    partition: int
    msg_id: str
    entry_id: str
    data: bytes
    payload: Any
    unreadable: str
    key: str | None
    headers: Mapping[str, str]

    @property
    def enqueued_at(self) -> datetime | None:
        """When it was appended to the stream, by the server's clock; None while it is delayed."""
        entry_id = self.entry_id.encode()
        return moment(parse_id(entry_id)[0]) if is_id(entry_id) else None


class StreamMessage(StoredMessage, frozen=True, kw_only=True):
    """A message in its stream."""


class MessageSummary(msgspec.Struct, frozen=True):
    """A message in its stream without most of its payload, for lists.

    Attributes:
        topic: the topic.
        partition: the partition's number.
        msg_id: the message's id; "" for an entry that no redisaq producer made.
        entry_id: the id of its stream entry.
        key: the message's key, as much of it as was asked for.
        start: the beginning of the payload's bytes.
        size: how many bytes the payload has.
    """

    topic: str
    partition: int
    msg_id: str
    entry_id: str
    key: str | None
    start: bytes
    size: int

    @property
    def enqueued_at(self) -> datetime:
        """When it was appended to the stream, by the server's clock."""
        return moment(parse_id(self.entry_id.encode())[0])


class DelayedMessage(StoredMessage, frozen=True, kw_only=True):
    """A message that is not in its stream yet.

    Attributes:
        due: when it will be appended.
    """

    due: datetime


class PendingMessage(StoredMessage, frozen=True, kw_only=True):
    """A message that was delivered to a group and is not settled: it is in a handler, or will be soon.

    Attributes:
        group: the group.
        owner: the incarnation of the member that owns the partition; "" if there is no owner.
        owner_name: the name of that member.
        deliveries: how many times it was delivered.
        since: when it was delivered, or when its handler began if it had been delivered before, by the server's clock.
    """

    group: str
    owner: str
    owner_name: str
    deliveries: int
    since: datetime


class RetryMessage(StoredMessage, frozen=True, kw_only=True):
    """A message that failed and waits for a retry. It remains one while its handler runs again.

    Attributes:
        group: the group.
        due: when it is to be tried again.
        attempts: how many handlers were started for it in this life, without those that do not count.
        life: how often it was redriven.
        error_type: the qualified class name of the last exception, or a word for another failure; "" if it was redriven.
        error: the text of the last failure, shortened to a limit.
        traceback: its traceback, shortened to a limit; "" if there is none.
        first_failed: the first failure of this life, by the server's clock; None if it is not known.
        last_failed: the last failure of this life, likewise.
        member: the incarnation of the member that reported the last failure.
        failed_between: when it failed between the first and the last time, as far as that is known: the latest 14 times.
    """

    group: str
    due: datetime
    attempts: int
    life: int
    error_type: str
    error: str
    traceback: str
    first_failed: datetime | None
    last_failed: datetime | None
    member: str
    failed_between: tuple[datetime, ...] = ()


class GroupStanding(msgspec.Struct, frozen=True):
    """What a group has done with a message.

    Attributes:
        state: "unread", "pending", "retry", "dead" or "done"; "unknown" if the search reached its limit before it could tell "dead" from
            "done". "done" also means that the group began after the message, or moved past it (`seek`).
        owner: if it is pending, the incarnation of the member that owns the partition.
        owner_name: the name of that member.
        since: if it is pending, when it was delivered, or when its handler began if it had been delivered before.
        deliveries: if it is pending, how many times it was delivered; 0 if a member gave it back before a handler began.
        retry: if it waits for a retry, the retry; `retry.due` says when.
        dead: if it is dead, the newest dead letter of the message.
    """

    state: Literal["unread", "pending", "retry", "dead", "done", "unknown"]
    owner: str = ""
    owner_name: str = ""
    since: datetime | None = None
    deliveries: int = 0
    retry: RetryMessage | None = None
    dead: DeadMessage | None = None


class Whereabouts(msgspec.Struct, frozen=True):
    """Where a message is.

    Attributes:
        topic: the topic.
        msg_id: the message's id.
        entry: the message in its stream; None if it is not there.
        delayed: the message, if it is delayed.
        groups: group -> what it has done with the message. Of a message that is in no stream any more, only groups that still have it.
        looked: how many entries, retries and dead letters were searched.
        complete: False if the search ended at its limit.
    """

    topic: str
    msg_id: str
    entry: StreamMessage | None = None
    delayed: DelayedMessage | None = None
    groups: Mapping[str, GroupStanding] = {}
    looked: int = 0
    complete: bool = True

    @property
    def found(self) -> bool:
        """Whether the message is anywhere. If not, it was never there, or it was trimmed, or the search ended before it."""
        return self.entry is not None or self.delayed is not None or bool(self.groups)

    @property
    def partition(self) -> int | None:
        """The partition that has it; None if it was not found."""
        kept = (self.entry, self.delayed, *(kept for one in self.groups.values() for kept in (one.retry, one.dead)))
        return next((one.partition for one in kept if one is not None), None)


def microseconds(time: datetime) -> int:
    """Return an aware time as microseconds since 1970: exactly what `moment` was made of, if that was a whole number of them."""
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def moment(milliseconds: float) -> datetime:
    """Return the time; the last one there is for a number that redisaq did not write."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # an id or a time that redisaq did not write
        return LAST_MOMENT
