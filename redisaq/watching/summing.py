"""Makes what a snapshot shows from what is known: a group as it is now, a topic, their sums, and one sentence if all is well."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec.structs import replace

from redisaq.admin_views import (
    GroupInfo,
    HistoryEntry,
)
from redisaq.watching import attention
from redisaq.watching.attention import BegunSample, HandlerSample, MemberSample, Ownerless, Sample
from redisaq.watching.history import covered, named, sentence_of, unfinished
from redisaq.watching.known import RATE_OVER, SUMMED, KnownGroup, KnownTopic, lives
from redisaq.watching.snapshot import (
    GroupView,
    HistoryView,
    RunningView,
    ServerView,
    Severity,
    State,
    TopicView,
    Totals,
)
from redisaq.watching.steady import Steady
from redisaq.watching.words import day_and_clock, duration, group_name

ENOUGH = 10.0
"""Seconds of work: a backlog below that is no backlog."""

MOST_RUNNING = 1000
"""Messages in handlers that a group shows."""

_STATES: tuple[tuple[str, State], ...] = (("behind", "behind"), ("alone", "no members"), ("slow", "slow handler"))
"""The kinds of findings that give a group its state, the worst first."""

_SEVERITIES: dict[State, Severity | None] = {
    "keeps up": None,
    "behind": "bad",
    "no members": "warn",
    "slow handler": "warn",
    "paused": "calm",
}


def summed(group: KnownGroup, at: float) -> tuple[Sample, GroupView]:
    """Return a group as it is now, for the rules and for people."""
    info, topic = group.info, group.topic
    assert info is not None  # noqa: S101 -- the caller has just set it
    unread, pending, retry, dead, lost = (group.sums[name] for name in SUMMED)
    born = min(filter(None, group.born), default=None)
    oldest = None if born is None else at - born
    ownerless: list[Ownerless] = []
    if any(lives(member) for member in info.members):
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
        if lives(member)
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


def _running(group: KnownGroup, info: GroupInfo) -> tuple[int | None, tuple[RunningView, ...]]:
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


def _history_view(group: KnownGroup, entry: HistoryEntry) -> HistoryView:
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


def topic_view(topic: KnownTopic, steady: Steady, at: float) -> TopicView:
    """Return a topic as it is now, with those of its groups that have been looked at."""
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


def _shown(group: KnownGroup, kinds: set[str]) -> GroupView:
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


def totals(topics: Sequence[TopicView], groups: Sequence[GroupView]) -> Totals:
    """Return the sums of all topics and groups."""
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


def well(groups: Sequence[GroupView], server: ServerView, now: float) -> str:
    """Return the sentence to show if nothing needs attention; "" if the server is away, or there is no group."""
    if server.state != "here" or not groups:
        return ""
    oldest = max((group.oldest for group in groups if group.oldest is not None), default=None)
    waiting = "nothing waits." if oldest is None else f"the oldest waiting message is {duration(oldest)} old."
    happened = [(one.at, group_name(group.topic, group.group), one.sentence) for group in groups for one in (group.history or ())[:1]]
    at, name, sentence = max(happened, default=(0.0, "", ""))
    last = f" The last thing here: {day_and_clock(at, now)} UTC, {name}: {sentence}." if happened else ""
    return f"Nothing. Every group keeps up; {waiting}{last}"
