"""The Accumulator: makes snapshots from reports.

Input: what Admin returns, and when. Output: snapshots, with rates, ages, curves, colours and what needs attention. It does no I/O and reads
no clock: the same reports make the same snapshots. What was not looked at is a gap in the curves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from redisaq.admin_views import (
    DeadSummary,
    GroupInfo,
    HistoryEntry,
    PartitionInfo,
    ScheduleInfo,
    ServerInfo,
    StreamInfo,
    TopicInfo,
)
from redisaq.watching import attention
from redisaq.watching.attention import DeadSample, JobSample
from redisaq.watching.curves import NEAR_STEP
from redisaq.watching.known import KnownGroup, KnownTopic, find_owners, staleness
from redisaq.watching.snapshot import (
    Attention,
    ServerView,
    Snapshot,
)
from redisaq.watching.steady import Steady
from redisaq.watching.summing import summed, topic_view, totals, well

MOST_CURVES = 500
"""Groups with curves: each takes about 9 kB. The others have numbers only."""

REMEMBERED = 90.0
"""Seconds of samples that the rules get."""

MOST_DEAD = 20
"""Partitions whose newest dead letter is read at once."""


class Accumulator:
    """What is known of all topics and groups of one namespace."""

    def __init__(self, after: int = 0) -> None:
        """Create an accumulator that has seen nothing; its snapshots have greater numbers than `after`."""
        self._topics: dict[str, KnownTopic] = {}
        self._server = ServerView("", "")
        self._steady = Steady()
        self._jobs: set[tuple[str, str]] = set()
        self._unreadable: set[tuple[str, str]] = set()
        self._at = 0.0
        self._number = after
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
        topic = self._topics[name] = KnownTopic(name, curves=self._may_draw())
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
        topic = self._topics.setdefault(info.topic, KnownTopic(info.topic, curves=False))
        topic.generation, topic.partitions, topic.acked = info.generation, info.partition_count, info.acked
        for name in info.groups:
            if name not in topic.groups:
                topic.groups[name] = KnownGroup(topic, name, curves=self._may_draw())
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
        find_owners(group, topic.partitions, at)
        sample, group.view = summed(group, at)
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
        return sorted(range(known.partitions), key=lambda number: staleness(shares[number]) if number < len(shares) else 0.0)

    # -- snapshots -----------------------------------------------------------------------------------------------------------------

    def snapshot(self, at: float) -> Snapshot:
        """Return what is known at this moment, by the server's clock."""
        self._now(at)
        at = self._at
        self._draw(at)
        self._number += 1
        shown = self._steady.shown(at)
        topics = tuple(topic_view(topic, self._steady, at) for _, topic in sorted(self._topics.items()))
        groups = [group for topic in topics for group in topic.groups]
        return Snapshot(
            number=self._number,
            at=at,
            server=replace(self._server, other_keys=None) if topics else self._server,
            totals=totals(topics, groups),
            topics=topics,
            attention=tuple(shown),
            well="" if shown else well(groups, self._server, at),
            within=max((topic.within for topic in topics), default=0.0),
        )

    def _now(self, at: float) -> None:
        self._at = max(self._at, at)

    def _may_draw(self) -> bool:
        may = self._curves < MOST_CURVES
        self._curves += may
        return may

    def _forget(self, topic: KnownTopic, group: str) -> None:
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


def _draw_group(group: KnownGroup, at: float, end: float) -> None:
    if group.series is None:
        return
    view, within = group.view, group.within(at)
    if view is None or not _is_fresh(within, at - group.at):
        group.series.put(end, None, None, None, None, None)
        return
    over = max(float(NEAR_STEP), 2 * within)
    rates = group.finished.rate(at, over), group.died.rate(at, over)
    group.series.put(end, rates[0], view.backlog, view.oldest or 0.0, view.retry, rates[1])
