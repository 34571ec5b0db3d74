"""The frozen structs of a snapshot: everything that one frame of the page or of `redisaq top` shows.

A snapshot is complete in itself and never changes. Moments are seconds since 1970 by the server's clock, so that an age is `snapshot.at`
less a moment, whatever the clock of the person who looks says. Ages and durations are seconds. Rates are messages per second. None always
means "not known": show nothing, or a gap, never 0.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

Severity = Literal["bad", "warn", "calm"]
"""How serious something is: broken (▲), needs attention (◆), and deliberate (‖)."""

State = Literal["keeps up", "behind", "no members", "slow handler", "paused"]
"""A group's state, in the words to show."""

ViewName = Literal["overview", "topic", "group", "partition", "dead letters", "message", "schedule"]
"""The views that a Screen may name."""

GAP = math.nan


class Curve(msgspec.Struct, frozen=True):
    """Values at equal distances in time, the newest last.

    Attributes:
        step: seconds between two values.
        at: the moment of the newest value.
        data: the values as little-endian 32-bit floats. NaN: a gap, because nobody looked or the server was away. In JSON this is base64,
            which a browser reads with `new Float32Array(...)`.
    """

    step: float
    at: float
    data: bytes

    @classmethod
    def of(cls, step: float, at: float, values: Iterable[float | None]) -> Curve:
        """Create a curve from its values; None: a gap."""
        floats = array("f", (GAP if value is None else value for value in values))
        if sys.byteorder == "big":
            floats.byteswap()
        return cls(step, at, floats.tobytes())

    @property
    def values(self) -> tuple[float | None, ...]:
        """The values; None: a gap."""
        floats = array("f", self.data)
        if sys.byteorder == "big":
            floats.byteswap()
        return tuple(None if math.isnan(value) else value for value in floats)


class Curves(msgspec.Struct, frozen=True):
    """One number over time: the last half hour, and the last day.

    Attributes:
        near: 90 values, one for every 20 s.
        far: 288 values, one for every 5 minutes.
    """

    near: Curve
    far: Curve


class Screen(msgspec.Struct, frozen=True):
    """What somebody looks at, or should look at: a page makes a link of it.

    Attributes:
        view: the kind of view.
        topic: the topic; "" for none.
        group: the group; "" for none.
        partition: the partition; None for none.
        entry_id: the message's stream entry; "" for none.
        msg_id: the message's id; "" for none.
    """

    view: ViewName
    topic: str = ""
    group: str = ""
    partition: int | None = None
    entry_id: str = ""
    msg_id: str = ""


class Attention(msgspec.Struct, frozen=True):
    """Something that needs attention, as a sentence: `subject`, then `sentence`, then `code` and `more` if they are not empty.

    Attributes:
        key: identifies it from snapshot to snapshot, so that rows stay where they are.
        severity: how serious it is.
        subject: what it is about, such as "orders › billing" or "orders/3".
        sentence: the rest of the sentence, such as "is 12 min behind and falling further back.".
        since: when it began.
        code: a short text to be shown as code, such as the class of an error.
        more: details with numbers, as further sentences.
        screen: where to look.
        label: the words of the link, such as "Open group".
    """

    key: str
    severity: Severity
    subject: str
    sentence: str
    since: float
    code: str
    more: str
    screen: Screen
    label: str

    @property
    def kind(self) -> str:
        """What kind of finding it is, such as "behind"."""
        return self.key.partition(":")[0]


class MemberView(msgspec.Struct, frozen=True):
    """A member of a group, present or gone.

    Attributes:
        slot: identifies its colour, from 0: the colour is `slot % 8`, hatched if `slot % 16 >= 8`. It stays the same until an hour after
            the member has gone.
        tag: its letter.
        name: its `consumer_name`, or its incarnation if it has none.
        incarnation: the id of this start of the member.
        host: its machine; "" if not known.
        pid: its process; None if not known.
        version: the version of redisaq that it runs; "" if not known.
        since: when it joined; None if not known.
        owns: the partitions that it owns, sorted.
        heartbeat: seconds since its last heartbeat; None if not known.
        ttl: seconds without a heartbeat after which it counts as dead; None if not known.
        waiting: whether it waits because an earlier start with the same name is still a member.
        gone: when it left or was taken for dead; None while it is a member.
        went: how it went: "left", "taken for dead", or "" while it is a member.
    """

    slot: int
    tag: str
    name: str
    incarnation: str
    host: str
    pid: int | None
    version: str
    since: float | None
    owns: tuple[int, ...]
    heartbeat: float | None
    ttl: float | None
    waiting: bool = False
    gone: float | None = None
    went: Literal["", "left", "taken for dead"] = ""

    @property
    def place(self) -> str:
        """Its process as host:pid, or its name if that is not known."""
        return f"{self.host}:{self.pid}" if self.host and self.pid is not None else self.name


class PartitionView(msgspec.Struct, frozen=True):
    """A group's share of a partition.

    Attributes:
        partition: its number.
        owner: the slot of the member that owns it; None: nobody owns it.
        unowned: since when nobody has owned it; None while it has an owner.
        token: the current fencing token; 0 before the first.
        length: entries in the stream, regardless of the group.
        unread: entries that were never delivered to the group.
        pending: entries that were delivered and not settled.
        retry: messages that wait for a retry.
        dead: dead letters.
        delayed: messages that are not in the stream yet, regardless of the group.
        lost: entries that were trimmed before the group had finished them.
        oldest: the age of the oldest message that is unread or pending; None if there is none, or if it is not known.
        retry_due: seconds until the next retry is due, negative if it is overdue; None if there is none, or if it is not known.
        last_delivered: the id of the last entry that was delivered to the group.
        deliveries: the number of pending entries for each delivery count; None unless somebody watches this partition.
        looked: when this was read.
    """

    partition: int
    owner: int | None
    unowned: float | None
    token: int
    length: int
    unread: int
    pending: int
    retry: int
    dead: int
    delayed: int
    lost: int
    oldest: float | None
    retry_due: float | None
    last_delivered: str
    deliveries: Mapping[int, int] | None
    looked: float

    @property
    def backlog(self) -> int:
        """Messages that wait or are in handlers, without retries and delayed ones."""
        return self.unread + self.pending


class RunningView(msgspec.Struct, frozen=True):
    """A message that is in a handler.

    Attributes:
        msg_id: the message's id.
        partition: its partition.
        entry_id: its stream entry.
        key: its key.
        attempt: the number of the delivery, from 1.
        since: when the handler started.
        limit: seconds that the handler may run; None: no limit.
        member: the slot of the member that runs it.
    """

    msg_id: str
    partition: int
    entry_id: str
    key: str | None
    attempt: int
    since: float
    limit: float | None
    member: int


class HistoryView(msgspec.Struct, frozen=True):
    """A change in a group: something that its members or an administrator did.

    Attributes:
        at: when it happened.
        what: what happened: see `HistoryEntry.what`.
        member: the slot of the member that it is about; None if it is about none, or if that member is forgotten.
        by: who did it: the name of a member or of an administrator; "" if not known.
        partitions: the partitions that it is about, sorted.
        count: the number of messages or partitions that it is about; None if it has none.
        sentence: what to show, such as "joined, took 20–23".
        takers: the slots of the members that take the partitions over, each with its partitions.
    """

    at: float
    what: str
    member: int | None
    by: str
    partitions: tuple[int, ...]
    count: int | None
    sentence: str
    takers: tuple[tuple[int, tuple[int, ...]], ...] = ()


class GroupView(msgspec.Struct, frozen=True):
    """A consumer group of a topic.

    Attributes:
        topic: the topic.
        group: the group's name.
        state: its state, in the word to show.
        severity: how serious that state is; None: not at all.
        paused: whether the group is paused.
        alone: seconds since it last had a member; 0 while it has one, or if this is not known.
        lapsed: whether it has had no member for so long that `retention="acked"` no longer keeps entries for it.
        arriving: messages per second that arrive in the topic.
        handled: messages per second that the group finishes: those that succeed, and those that die.
        unread: entries that were never delivered to the group.
        pending: entries that were delivered and not settled.
        running: messages in handlers.
        retry: messages that wait for a retry.
        dead: dead letters.
        fresh: dead letters of the last 5 minutes.
        lost: entries that were trimmed before the group had finished them.
        oldest: the age of the oldest message that waits or is in a handler; None if nothing waits, or if it is not known.
        caught_up_in: seconds until nothing waits if the rates stay as they are; infinite: never; None if not known.
        ttl: seconds without a heartbeat after which a member counts as dead; None if not known.
        members: its members, sorted by slot.
        gone: members that went within the last hour, the latest first.
        partitions: its partitions, in order. They may be fewer than the topic has until the first round is complete.
        in_handlers: the messages that have been in handlers longest, longest first; None unless somebody watches this group.
        history: the latest changes, the newest first; None if they are not known: they are read while somebody watches this group.
        arriving_curve: `arriving` over time; None for a group without curves (see Sampler).
        handled_curve: `handled` over time.
        backlog_curve: `unread + pending` over time.
        oldest_curve: `oldest` over time.
        retry_curve: `retry` over time.
        died_curve: dead letters per second over time.
        within: every number is at most this many seconds old.
    """

    topic: str
    group: str
    state: State
    severity: Severity | None
    paused: bool
    alone: float
    lapsed: bool
    arriving: float | None
    handled: float | None
    unread: int
    pending: int
    running: int | None
    retry: int
    dead: int
    fresh: int | None
    lost: int
    oldest: float | None
    caught_up_in: float | None
    ttl: float | None
    members: tuple[MemberView, ...]
    gone: tuple[MemberView, ...]
    partitions: tuple[PartitionView, ...]
    in_handlers: tuple[RunningView, ...] | None
    history: tuple[HistoryView, ...] | None
    arriving_curve: Curves | None
    handled_curve: Curves | None
    backlog_curve: Curves | None
    oldest_curve: Curves | None
    retry_curve: Curves | None
    died_curve: Curves | None
    within: float

    @property
    def backlog(self) -> int:
        """Messages that wait or are in handlers, without retries and delayed ones."""
        return self.unread + self.pending


class TopicView(msgspec.Struct, frozen=True):
    """A topic.

    Attributes:
        topic: its name.
        generation: how often it has grown.
        partitions: how many partitions it has.
        length: entries in all its streams.
        lengths: entries in the stream of each partition.
        delayed: messages that are not in their streams yet.
        acked: whether it is trimmed of what every group has finished (`retention="acked"`); None if not known.
        arriving: messages per second that arrive.
        arriving_curve: `arriving` over time; None for a topic without curves.
        groups: its groups, sorted by name.
        within: every number is at most this many seconds old.
        lately: the partitions in which messages were seen to arrive, the latest first, 64 at most.
    """

    topic: str
    generation: int
    partitions: int
    length: int
    lengths: tuple[int, ...]
    delayed: int
    acked: bool | None
    arriving: float | None
    arriving_curve: Curves | None
    groups: tuple[GroupView, ...]
    within: float
    lately: tuple[int, ...] = ()


class Totals(msgspec.Struct, frozen=True):
    """The sums over all topics and groups.

    Attributes:
        arriving: messages per second that arrive.
        handled: messages per second that all groups finish.
        backlog: messages that wait or are in handlers.
        running: messages in handlers, as far as members have said.
        retry: messages that wait for a retry.
        dead: dead letters.
        members: members, each counted in each of its groups.
    """

    arriving: float | None = None
    handled: float | None = None
    backlog: int = 0
    running: int | None = None
    retry: int = 0
    dead: int = 0
    members: int = 0


class ServerView(msgspec.Struct, frozen=True):
    """The server.

    Attributes:
        url: its URL without a password.
        namespace: the namespace of the topics.
        name: what it is, such as "Valkey 9.1"; "" if not known.
        state: "connecting" before the first answer, "here", or "away": then every number of the snapshot is from before.
        since: when that state began; 0 while it is connecting.
        error: why it is away, in words; "" while it is here.
        memory: bytes that it uses; None if not known.
        max_memory: bytes that it may use; None if unlimited or not known.
        evicts: whether it evicts keys when it is full; None if not known.
        other_keys: keys of the database, if the namespace has no topic; None if not known.
    """

    url: str
    namespace: str
    name: str = ""
    state: Literal["connecting", "here", "away"] = "connecting"
    since: float = 0.0
    error: str = ""
    memory: int | None = None
    max_memory: int | None = None
    evicts: bool | None = None
    other_keys: int | None = None


class Snapshot(msgspec.Struct, frozen=True):
    """Everything that was known at one moment.

    Attributes:
        number: grows with every snapshot of a Sampler; 0 before the first look.
        at: the moment, by the server's clock; 0 before the first look.
        server: the server.
        totals: the sums.
        topics: all topics, sorted by name.
        attention: what needs attention, the most serious first; empty if nothing does.
        well: the line to show if nothing needs attention; "" if something does.
        within: every number of `totals` is at most this many seconds old.
    """

    number: int
    at: float
    server: ServerView
    totals: Totals = Totals()
    topics: tuple[TopicView, ...] = ()
    attention: tuple[Attention, ...] = ()
    well: str = ""
    within: float = 0.0

    def topic(self, topic: str) -> TopicView | None:
        """Return a topic; None if there is no such topic."""
        return next((one for one in self.topics if one.topic == topic), None)

    def unreadable(self, topic: str, group: str = "") -> str:
        """Return why a topic, or a group of it, cannot be read; "" if it can, or if there is no such thing."""
        of_it = [one for one in self.attention if one.kind == "unreadable" and one.screen.topic == topic]
        return next((one.more for one in of_it if one.screen.group in ("", group)), "")

    def group(self, topic: str, group: str) -> GroupView | None:
        """Return a group; None if there is no such group."""
        found = self.topic(topic)
        return None if found is None else next((one for one in found.groups if one.group == group), None)
