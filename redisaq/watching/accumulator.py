"""The Accumulator: makes snapshots from reports.

Input: what Admin returns, and when. Output: snapshots, with rates, ages, curves, colours and what needs attention. It does no I/O and reads
no clock: the same reports make the same snapshots. Invariants: if a counter falls (the server lost it) or was moved, that is a gap, never a
negative rate. What was not looked at is a gap in the curves.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from redisaq.admin_views import (
    DeadSummary,
    GroupInfo,
    HistoryEntry,
    MemberInfo,
    PartitionInfo,
    ScheduleInfo,
    ServerInfo,
    StreamInfo,
    TopicInfo,
)
from redisaq.watching import attention
from redisaq.watching.attention import BegunSample, DeadSample, HandlerSample, JobSample, MemberSample, Ownerless, Sample, Steady
from redisaq.watching.colours import Slots
from redisaq.watching.counting import Counter, Lately
from redisaq.watching.curves import NEAR_STEP, Series
from redisaq.watching.history import covered, named, sentence_of, unfinished
from redisaq.watching.snapshot import (
    Attention,
    GroupView,
    HistoryView,
    PartitionView,
    RunningView,
    ServerView,
    Severity,
    Snapshot,
    State,
    TopicView,
    Totals,
)
from redisaq.watching.words import day_and_clock, duration, group_name

MOST_CURVES = 500
"""Groups with curves: each takes about 9 kB. The others have numbers only."""

RATE_OVER = 10.0
"""Seconds over which a rate is measured, unless a round over the partitions takes longer."""

REMEMBERED = 90.0
"""Seconds of samples that the rules get."""

ENOUGH = 10.0
"""Seconds of work: a backlog below that is no backlog."""

MOST_DEAD = 20
"""Partitions whose newest dead letter is read at once."""

LATELY = 64
"""Partitions in which messages have arrived lately that are known of a topic."""

MOST_RUNNING = 1000
"""Messages in handlers that a group shows."""

SUMMED = ("unread", "pending", "retry", "dead", "lost")
"""What a group sums up over its partitions."""

AHEAD = 20.0
"""Seconds by which partitions in trouble come before others when not all can be read."""

_STATES: tuple[tuple[str, State], ...] = (("behind", "behind"), ("alone", "no members"), ("slow", "slow handler"))
"""The kinds of findings that give a group its state, the worst first."""

_SEVERITIES: dict[State, Severity | None] = {
    "keeps up": None,
    "behind": "bad",
    "no members": "warn",
    "slow handler": "warn",
    "paused": "calm",
}


class _Topic:
    """What is known of a topic."""

    def __init__(self, topic: str, *, curves: bool) -> None:
        self.topic = topic
        self.generation = 0
        self.partitions = 0
        self.acked: bool | None = None
        self.length = self.delayed = 0  # of all streams: kept as reports come, since there may be thousands
        self.looked = array("d")  # when each stream was read, 0 if it was not; for each of these, the numbers that were read then
        self.counts = array("q"), array("q"), array("q")  # length, delayed, added
        self.arrived = Counter()
        self.lately: dict[int, None] = {}  # partitions in which messages have arrived, the last one last
        self.groups: dict[str, _Group] = {}
        self.series = Series() if curves else None

    @property
    def about(self) -> tuple[str, str]:
        """Its name among the findings."""
        return "topic", self.topic

    def saw(self, number: int, length: int, delayed: int, added: int, at: float) -> None:
        """Record what a report says about a partition."""
        missing = [0] * (number + 1 - len(self.looked))
        for column in (self.looked, *self.counts):
            column.extend(missing)
        lengths, delays, addeds = self.counts
        before = self.looked[number]
        if not before:
            self.arrived.start(at)
        elif at <= before:
            return  # another report has been later
        else:
            self.arrived.grow(added - addeds[number], at)
            if added > addeds[number]:
                self.lately.pop(number, None)
                self.lately[number] = None
                if len(self.lately) > LATELY:
                    del self.lately[next(iter(self.lately))]
        self.length += length - lengths[number]
        self.delayed += delayed - delays[number]
        self.looked[number], lengths[number], delays[number], addeds[number] = at, length, delayed, added

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of the streams that were read."""
        return tuple(length for length, at in zip(self.counts[0], self.looked, strict=True) if at)

    def within(self, at: float) -> float:
        """Return how old the oldest of its numbers is."""
        return at - min(filter(None, self.looked), default=at)

    def arriving(self, at: float, over: float = RATE_OVER) -> float | None:
        """Return the messages per second."""
        return self.arrived.rate(at, max(over, 2 * self.within(at)))


class _Share:
    """A group's share of a partition, as it was last seen: what is shown of it, and the counters that are not."""

    __slots__ = ("added", "at", "died", "last", "moves", "owner", "redriven", "unowned", "view")

    def __init__(self) -> None:
        self.at = 0.0
        self.owner: int | None = None
        self.last = -1  # the slot of the member that owned it last
        self.unowned: float | None = None  # since when nobody has owned it
        self.view: PartitionView | None = None
        self.added = self.redriven = self.moves = self.died = 0


class _Drawn:
    """The curves of a group."""

    def __init__(self) -> None:
        self.handled, self.backlog, self.oldest, self.retry, self.died = Series(), Series(), Series(), Series(), Series()

    def put(self, end: float, *values: float | None) -> None:
        """Set the values for the 20 s that end at this moment."""
        for series, value in zip((self.handled, self.backlog, self.oldest, self.retry, self.died), values, strict=True):
            series.put(end, value)


class _Group:
    """What is known of a group."""

    def __init__(self, topic: _Topic, group: str, *, curves: bool) -> None:
        self.topic = topic
        self.group = group
        self.info: GroupInfo | None = None
        self.at = 0.0
        self.shares: list[_Share] = []
        self.sums = dict.fromkeys(SUMMED, 0)  # over all partitions: kept as reports come, since there may be thousands
        self.born = array("d")  # when the oldest message of each partition was enqueued, 0 if there is none
        self.looked = array("d")  # when each partition was read, 0 if it was not
        self.finished, self.died = Counter(), Counter()
        self.fresh, self.fresh_lost = Lately(attention.LATELY), Lately(attention.LATELY)
        self.slots = Slots()
        self.samples: deque[Sample] = deque()
        self.view: GroupView | None = None
        self.series = _Drawn() if curves else None
        self.history: tuple[HistoryEntry, ...] | None = None
        self.unexplained: dict[int, float] = {}  # partitions in which messages have died since their newest dead letter was read
        self.newest_dead: DeadSample | None = None

    @property
    def about(self) -> tuple[str, str, str]:
        """Its name among the findings."""
        return "group", self.topic.topic, self.group

    def saw(self, info: PartitionInfo) -> None:
        """Record what a report says about a partition."""
        number, at = info.partition, info.now.timestamp()
        self.reach(number + 1)
        share = self.shares[number]
        before = share.view
        if before is None:
            self.finished.start(at)
            self.died.start(at)
        elif at <= share.at:
            return
        else:
            waited = before.unread + before.pending + before.retry
            waits = info.unread + info.pending + info.retry
            finished = (info.added - share.added) + (info.redriven - share.redriven) - (waits - waited) - (info.lost - before.lost)
            moved = info.moves != share.moves or info.added < share.added
            self.finished.grow(-1 if moved else finished, at)
            self.died.grow(info.died - share.died, at)
            self.fresh.put(info.died - share.died, at)
            if info.died > share.died:
                self.unexplained[number] = at
            self.fresh_lost.put(info.lost - before.lost, at)
        for name in SUMMED:
            self.sums[name] += getattr(info, name) - (0 if before is None else getattr(before, name))
        share.at, share.added, share.redriven, share.moves, share.died = at, info.added, info.redriven, info.moves, info.died
        view = share.view = _partition_view(share, info)
        self.looked[number] = at
        self.born[number] = 0.0 if view.oldest is None else at - view.oldest

    def reach(self, partitions: int) -> None:
        """Know so many partitions."""
        missing = partitions - len(self.shares)
        self.shares.extend(_Share() for _ in range(missing))
        for column in (self.born, self.looked):
            column.extend([0.0] * missing)

    def within(self, at: float) -> float:
        """Return how old the oldest of its numbers is."""
        return at - min(filter(None, self.looked), default=at)


class Accumulator:
    """What is known of all topics and groups of one namespace."""

    def __init__(self) -> None:
        """Create an accumulator that has seen nothing."""
        self._topics: dict[str, _Topic] = {}
        self._server = ServerView("", "")
        self._steady = Steady()
        self._jobs: set[tuple[str, str]] = set()
        self._unreadable: set[tuple[str, str]] = set()
        self._at = 0.0
        self._number = 0
        self._curves = 0
        self._bin: int | None = None

    # -- reports -------------------------------------------------------------------------------------------------------------------

    def saw_topics(self, names: Iterable[str], at: float) -> None:
        """Record the names of all topics: others are gone."""
        self._now(at)
        names = set(names)
        for name in self._topics.keys() - names:
            self._forget_topic(name)
        for name in sorted(names - self._topics.keys()):
            self._begin_topic(name, at)

    def _begin_topic(self, name: str, at: float) -> None:
        topic = self._topics[name] = _Topic(name, curves=self._may_draw())
        topic.arrived.start(at)

    def _forget_topic(self, name: str) -> None:
        topic = self._topics.pop(name)
        self.readable(name)
        self._curves -= topic.series is not None
        self._steady.forget(topic.about)
        for group in list(topic.groups):
            self._forget(topic, group)

    def saw_topic(self, info: TopicInfo, at: float) -> None:
        """Record a topic, whole or in part. Groups that it names are known from now on; `missing_group` forgets one."""
        self._now(at)
        known = self._topics.get(info.topic)
        if known is not None and info.partition_count < known.partitions:  # a topic never shrinks: it was deleted, and made again
            self._forget_topic(info.topic)
            self._begin_topic(info.topic, at)
        topic = self._topics.setdefault(info.topic, _Topic(info.topic, curves=False))
        topic.generation, topic.partitions, topic.acked = info.generation, info.partition_count, info.acked
        for name in info.groups:
            if name not in topic.groups:
                topic.groups[name] = _Group(topic, name, curves=self._may_draw())
        self.saw_streams(topic.topic, info.partitions, at)
        length = topic.length
        partial = bool(topic.groups) or len(topic.lengths) < topic.partitions
        findings: list[tuple[Attention, bool]] = []
        if not partial and (unread := attention.unread_topic(topic.topic, length, at)) is not None:
            findings.append((unread, False))
        if (full := info.held_up) is not None:
            held_up = attention.held_up(topic.topic, full.partition, full.max_backlog, full.at.timestamp(), at)
            findings += [] if held_up is None else [(held_up, True)]
        self._steady.put(topic.about, at, findings)

    def saw_streams(self, topic: str, streams: Iterable[StreamInfo], at: float) -> None:
        """Record partitions of a topic, without their groups."""
        for one in streams:
            self._topics[topic].saw(one.partition, one.length, one.delayed, one.added, at)

    def saw_partitions(self, topic: str, group: str, partitions: Iterable[PartitionInfo]) -> None:
        """Record a group's share of partitions."""
        known = self._topics[topic]
        found = known.groups[group]
        for one in partitions:
            at = one.now.timestamp()
            self._now(at)
            known.saw(one.partition, one.length, one.delayed, one.added, at)
            found.saw(one)

    def saw_group(self, info: GroupInfo) -> None:
        """Record a group: its members, and the partitions that are in the report. This makes a sample for the rules."""
        at = info.now.timestamp()
        self._now(at)
        topic = self._topics[info.topic]
        group = topic.groups[info.group]
        self.saw_partitions(info.topic, info.group, info.partitions)
        group.info, group.at = info, at
        group.slots.put(info.members, at)
        _find_owners(group, topic.partitions, at)
        sample, group.view = _summed(group, at)
        if group.samples:
            group.samples[-1] = replace(group.samples[-1], ownerless=())  # there may be thousands, and rules look at the newest alone
        group.samples.append(sample)
        while group.samples[0].at < at - REMEMBERED:
            group.samples.popleft()
        self._steady.put(group.about, at, attention.look(group.samples))

    def unreadable(self, topic: str, group: str, error: str, at: float) -> None:
        """Record that a topic (group "") or a group cannot be read. It keeps its numbers. One sentence about a topic is enough."""
        self._now(at)
        if group and (topic, "") in self._unreadable:
            self.readable(topic, group)
            return
        self._unreadable.add((topic, group))
        self._steady.put(("unreadable", topic, group), at, [(attention.unreadable(topic, group, error, at), True)])

    def readable(self, topic: str, group: str = "") -> None:
        """Record that a topic or a group can be read, or is gone."""
        if (topic, group) in self._unreadable:
            self._unreadable.remove((topic, group))
            self._steady.forget(("unreadable", topic, group))

    def saw_schedules(self, schedules: Sequence[ScheduleInfo], at: float) -> None:
        """Record all cron jobs, and what of them cannot be read: others are gone."""
        self._now(at)
        broken = [attention.unreadable_schedule(one.app, one.name, one.unreadable, at) for one in schedules if one.unreadable]
        self._steady.put("schedules", at, [(one, True) for one in broken])
        gone, self._jobs = self._jobs, set()
        for one in (one for one in schedules if not one.unreadable):
            missed = one.last.timestamp() if one.last is not None and one.outcome == "missed" else None
            since = 0.0 if one.since is None else one.since.timestamp()
            overdue = None if one.overdue is None else one.overdue.timestamp()
            found = attention.missed_tick(JobSample(one.app, one.name, one.grace, missed, since, overdue), at)
            self._jobs.add((one.app, one.name))
            self._steady.put(("job", one.app, one.name), at, [] if found is None else [(found, True)])
        for app, name in gone - self._jobs:
            self._steady.forget(("job", app, name))

    def is_paused(self, topic: str, group: str) -> bool:
        """Return whether a group was paused when it was last seen."""
        info = self._topics[topic].groups[group].info
        return info is not None and info.paused

    def saw_history(self, topic: str, group: str, entries: Iterable[HistoryEntry]) -> None:
        """Take the latest changes of a group, the latest first."""
        known = self._topics[topic].groups[group]
        known.history = tuple(entries)
        known.slots.explain(known.history)

    def unexplained_dead(self, topic: str, group: str) -> list[int]:
        """Return the partitions whose newest dead letter should be read, because messages have died there: a few of them."""
        found = self._topics[topic].groups[group].unexplained
        return sorted(found, key=lambda number: (-found[number], number))[:MOST_DEAD]

    def saw_dead(self, topic: str, group: str, letters: Sequence[DeadSummary]) -> None:
        """Take the newest dead letters of the partitions that were asked for, the newest first."""
        known = self._topics[topic].groups[group]
        known.unexplained.clear()
        if letters:
            newest = letters[0]
            known.newest_dead = DeadSample(newest.error_type, newest.where, newest.died_at.timestamp())

    def missing_group(self, topic: str, group: str) -> None:
        """Forget a group that does not exist any more."""
        if (known := self._topics.get(topic)) is not None and group in known.groups:
            self._forget(known, group)

    def saw_server(self, info: ServerInfo) -> None:
        """Record what the server says about itself."""
        self._now(info.now.timestamp())
        self._server = replace(
            self._server,
            url=info.url,
            namespace=info.namespace,
            name=info.name,
            memory=info.memory,
            max_memory=info.max_memory,
            evicts=info.evicts,
            other_keys=info.keys,
        )
        self._look_at_server()

    def server_answered(self, at: float) -> None:
        """Record that the server has answered."""
        self._now(at)
        old = self._server
        if old.state != "here":
            self._server = replace(old, state="here", since=at, error="")
            self._look_at_server()

    def server_failed(self, error: str, at: float) -> None:
        """Record that the server has not answered. All numbers stay unchanged."""
        self._now(at)
        old = self._server
        since = old.since if old.state == "away" else at
        self._server = replace(old, state="away", since=since, error=error)
        self._look_at_server()

    # -- what to look at -----------------------------------------------------------------------------------------------------------

    def topics(self) -> list[str]:
        """Return the names of all topics, sorted."""
        return sorted(self._topics)

    def groups(self) -> list[tuple[str, str]]:
        """Return the topic and the name of all groups, sorted."""
        return sorted((topic.topic, group) for topic in self._topics.values() for group in topic.groups)

    def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has; 0 if that is not known."""
        known = self._topics.get(topic)
        return 0 if known is None else known.partitions

    def stalest(self, topic: str, group: str = "") -> list[int]:
        """Return the partitions of a topic or a group, in the order in which to look at them: what was in trouble, then the stalest."""
        known = self._topics[topic]
        if not group:
            looked = known.looked
            return sorted(range(known.partitions), key=lambda number: looked[number] if number < len(looked) else 0.0)
        shares = known.groups[group].shares
        return sorted(range(known.partitions), key=lambda number: _staleness(shares[number]) if number < len(shares) else 0.0)

    # -- snapshots -----------------------------------------------------------------------------------------------------------------

    def snapshot(self, at: float) -> Snapshot:
        """Return what is known at this moment, by the server's clock."""
        self._now(at)
        at = self._at
        self._draw(at)
        self._number += 1
        shown = self._steady.shown(at)
        topics = tuple(_topic_view(topic, self._steady, at) for _, topic in sorted(self._topics.items()))
        groups = [group for topic in topics for group in topic.groups]
        return Snapshot(
            number=self._number,
            at=at,
            server=replace(self._server, other_keys=None) if topics else self._server,
            totals=_totals(topics, groups),
            topics=topics,
            attention=tuple(shown),
            well="" if shown else _well(groups, self._server, at),
            within=max((topic.within for topic in topics), default=0.0),
        )

    def _now(self, at: float) -> None:
        self._at = max(self._at, at)

    def _may_draw(self) -> bool:
        may = self._curves < MOST_CURVES
        self._curves += may
        return may

    def _forget(self, topic: _Topic, group: str) -> None:
        gone = topic.groups.pop(group)
        self.readable(topic.topic, group)
        self._curves -= gone.series is not None
        self._steady.forget(gone.about)

    def _look_at_server(self) -> None:
        finding = attention.server(self._server, self._at)
        self._steady.put("server", self._at, [] if finding is None else [(finding, finding.key == "server")])

    def _draw(self, at: float) -> None:
        """Put the values of the bin that has ended into the curves."""
        number = math.floor(at / NEAR_STEP)
        if number == self._bin:
            return
        self._bin, end = number, float(number * NEAR_STEP)
        for topic in self._topics.values():
            if topic.series is not None:
                topic.series.put(end, topic.arriving(at, NEAR_STEP) if _is_fresh(topic.within(at), at - topic.arrived.at) else None)
            for group in topic.groups.values():
                _draw_group(group, at, end)


def _is_fresh(within: float, age: float) -> bool:
    """Tell whether something was looked at lately enough to draw it."""
    return age <= max(1.5 * NEAR_STEP, within)


def _draw_group(group: _Group, at: float, end: float) -> None:
    if group.series is None:
        return
    view, within = group.view, group.within(at)
    if view is None or not _is_fresh(within, at - group.at):
        group.series.put(end, None, None, None, None, None)
        return
    over = max(float(NEAR_STEP), 2 * within)
    rates = group.finished.rate(at, over), group.died.rate(at, over)
    group.series.put(end, rates[0], view.backlog, view.oldest or 0.0, view.retry, rates[1])


def _find_owners(group: _Group, partitions: int, at: float) -> None:
    """Record which member owns which partition, and since when the others have had no owner."""
    info = group.info
    if info is None:
        return
    owners: dict[int, int] = {}
    for member in info.members:
        slot = group.slots.of(member.incarnation)
        if slot is not None and _lives(member):
            owners.update(dict.fromkeys(member.partitions, slot))
    group.reach(partitions)
    for number, share in enumerate(group.shares):
        owner = owners.get(number)
        if owner is not None:
            share.last = owner
        if owner != share.owner or (owner is None) != (share.unowned is not None):
            share.owner, share.unowned = owner, None if owner is not None else at
            if share.view is not None:
                share.view = replace(share.view, owner=owner, unowned=share.unowned)


def _staleness(share: _Share) -> float:
    """Return what to sort by: when it was read, and of a partition in trouble as if that was longer ago."""
    if share.view is None:
        return 0.0
    trouble = share.unowned is not None or (share.view.oldest or 0.0) > attention.BEHIND
    return share.at - (AHEAD if trouble else 0.0)


def _lives(member: MemberInfo) -> bool:
    return member.expires_in is not None and member.expires_in > 0


def _summed(group: _Group, at: float) -> tuple[Sample, GroupView]:
    """Return a group as it is now, for the rules and for people."""
    info, topic = group.info, group.topic
    assert info is not None  # noqa: S101 -- the caller has just set it
    unread, pending, retry, dead, lost = (group.sums[name] for name in SUMMED)
    born = min(filter(None, group.born), default=None)
    oldest = None if born is None else at - born
    ownerless: list[Ownerless] = []
    if any(_lives(member) for member in info.members):
        places = group.slots.places
        ownerless = [
            Ownerless(number, at - share.unowned, places.get(share.last, ""))
            for number, share in enumerate(group.shares)
            if share.unowned is not None and share.view is not None
        ]
    within = group.within(at)
    over = max(RATE_OVER, 2 * within)
    arriving, handled = topic.arriving(at), group.finished.rate(at, over)
    members, gone = group.slots.views(info.members)
    live = tuple(
        MemberSample(view.place, view.heartbeat, view.ttl, view.version, len(view.owns))
        for view, member in zip(members, sorted(info.members, key=group.slots.order), strict=True)
        if _lives(member)
    )
    running, in_handlers = _running(group, info)
    paused = next((one for one in group.history or () if one.what == "paused"), None)
    begun = unfinished(group.history or ())
    sample = Sample(
        at=at,
        topic=topic.topic,
        group=group.group,
        paused=info.paused,
        paused_at=None if paused is None or not info.paused else paused.at.timestamp(),
        paused_by="" if paused is None or not info.paused else paused.by,
        alone=info.alone,
        lapsed=info.lapsed,
        retention_idle=info.retention_idle,
        members=live,
        waiting=unread + pending + retry,
        oldest=oldest,
        arriving=arriving,
        handled=handled,
        fresh=group.fresh.sum(at),
        fresh_lost=group.fresh_lost.sum(at),
        newest_dead=group.newest_dead,
        ownerless=tuple(ownerless),
        begun=None if begun is None else BegunSample(begun.what, begun.at.timestamp(), begun.by),
        handler=attention.slowest(HandlerSample(one.msg_id, one.partition, one.entry_id, at - one.since, one.limit) for one in in_handlers),
    )
    view = GroupView(
        topic=topic.topic,
        group=group.group,
        state="keeps up",
        severity=None,
        paused=info.paused,
        alone=info.alone,
        lapsed=info.lapsed,
        arriving=arriving,
        handled=handled,
        unread=unread,
        pending=pending,
        running=running,
        retry=retry,
        dead=dead,
        fresh=sample.fresh,
        lost=lost,
        oldest=oldest,
        caught_up_in=_caught_up_in(unread + pending, arriving, handled),
        ttl=max((one.ttl for one in members if one.ttl is not None), default=None),
        members=members,
        gone=gone,
        partitions=tuple(share.view for share in group.shares if share.view is not None),
        in_handlers=None if running is None else in_handlers,
        history=None if group.history is None else tuple(_history_view(group, one) for one in group.history),
        arriving_curve=None,
        handled_curve=None,
        backlog_curve=None,
        oldest_curve=None,
        retry_curve=None,
        died_curve=None,
        within=within,
    )
    return sample, view


def _running(group: _Group, info: GroupInfo) -> tuple[int | None, tuple[RunningView, ...]]:
    """Return how many messages are in handlers, None if no member reports that, and those that have been there longest, longest first."""
    counts = [member.running for member in info.members if member.running is not None]
    found = [
        RunningView(one.msg_id, one.partition, one.entry_id, one.key, one.attempt, one.since.timestamp(), one.limit, slot)
        for member in info.members
        if (slot := group.slots.of(member.incarnation)) is not None
        for one in member.in_handlers
    ]
    found.sort(key=lambda one: one.since)
    return sum(counts) if counts or not info.members else None, tuple(found[:MOST_RUNNING])


def _history_view(group: _Group, entry: HistoryEntry) -> HistoryView:
    partitions = named(entry)
    slots = [(group.slots.of(one.member), one) for one in entry.takers]
    known = group.slots.places if slots else {}
    places = {one.member: known[slot] for slot, one in slots if slot is not None}
    return HistoryView(
        at=entry.at.timestamp(),
        what=entry.what,
        member=group.slots.of(entry.member),
        by=entry.by,
        partitions=partitions,
        count=entry.count,
        sentence=sentence_of(entry, partitions, places),
        takers=tuple((slot, covered(one.partitions)) for slot, one in slots if slot is not None),
    )


def _caught_up_in(backlog: int, arriving: float | None, handled: float | None) -> float | None:
    if not backlog:
        return 0.0
    if arriving is None or handled is None:
        return None
    if handled > arriving:
        return backlog / (handled - arriving)
    return 0.0 if backlog <= ENOUGH * handled else math.inf


def _partition_view(share: _Share, info: PartitionInfo) -> PartitionView:
    return PartitionView(
        partition=info.partition,
        owner=share.owner,
        unowned=share.unowned,
        token=info.token,
        length=info.length,
        unread=info.unread,
        pending=info.pending,
        retry=info.retry,
        dead=info.dead,
        delayed=info.delayed,
        lost=info.lost,
        oldest=info.oldest,
        retry_due=info.retry_due,
        last_delivered=info.last_delivered,
        deliveries=info.deliveries or None,
        looked=share.at,
    )


def _topic_view(topic: _Topic, steady: Steady, at: float) -> TopicView:
    groups = tuple(_shown(group, steady.kinds(group.about, at)) for _, group in sorted(topic.groups.items()) if group.view is not None)
    return TopicView(
        topic=topic.topic,
        generation=topic.generation,
        partitions=topic.partitions,
        length=topic.length,
        lengths=topic.lengths,
        delayed=topic.delayed,
        acked=topic.acked,
        arriving=topic.arriving(at),
        arriving_curve=None if topic.series is None else topic.series.curves,
        groups=groups,
        within=topic.within(at),
        lately=tuple(reversed(topic.lately)),
    )


def _shown(group: _Group, kinds: set[str]) -> GroupView:
    """Return a group with its state and its curves."""
    view = group.view
    assert view is not None  # noqa: S101 -- the caller has looked
    found: list[State] = ["paused"] if view.paused else [word for kind, word in _STATES if kind in kinds]
    state: State = found[0] if found else "keeps up"
    arriving, drawn = group.topic.series, group.series
    return replace(
        view,
        state=state,
        severity=_SEVERITIES[state],
        arriving_curve=None if arriving is None else arriving.curves,
        handled_curve=None if drawn is None else drawn.handled.curves,
        backlog_curve=None if drawn is None else drawn.backlog.curves,
        oldest_curve=None if drawn is None else drawn.oldest.curves,
        retry_curve=None if drawn is None else drawn.retry.curves,
        died_curve=None if drawn is None else drawn.died.curves,
    )


def _totals(topics: Sequence[TopicView], groups: Sequence[GroupView]) -> Totals:
    arriving = [topic.arriving for topic in topics if topic.arriving is not None]
    handled = [group.handled for group in groups if group.handled is not None]
    running = [group.running for group in groups if group.running is not None]
    return Totals(
        arriving=sum(arriving) if arriving else None,
        handled=sum(handled) if handled else None,
        backlog=sum(group.backlog for group in groups),
        running=sum(running) if running else None,
        retry=sum(group.retry for group in groups),
        dead=sum(group.dead for group in groups),
        members=sum(len(group.members) for group in groups),
    )


def _well(groups: Sequence[GroupView], server: ServerView, now: float) -> str:
    if server.state != "here" or not groups:
        return ""
    oldest = max((group.oldest for group in groups if group.oldest is not None), default=None)
    waiting = "nothing waits." if oldest is None else f"the oldest waiting message is {duration(oldest)} old."
    happened = [(one.at, group_name(group.topic, group.group), one.sentence) for group in groups for one in (group.history or ())[:1]]
    at, name, sentence = max(happened, default=(0.0, "", ""))
    last = f" The last thing here: {day_and_clock(at, now)} UTC, {name}: {sentence}." if happened else ""
    return f"Nothing. Every group keeps up; {waiting}{last}"
