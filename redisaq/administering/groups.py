"""Makes what an Admin returns of topics and groups from what brokers answer: members, partitions, what happened. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from redisaq.admin_views import HeldUpInfo, HistoryEntry, MemberInfo, PartitionInfo, PartitionWaits, RunningInfo, moment
from redisaq.brokers.steps.administration import GroupView, PartitionView
from redisaq.brokers.steps.growing import Passed
from redisaq.brokers.steps.topics import TopicState
from redisaq.core.entry_ids import parse_id
from redisaq.core.history import Change
from redisaq.core.running import Report


def members_of(view: GroupView) -> list[MemberInfo]:
    """Return the members that the group's document names, sorted by name, each with its incarnations; the running one is the first."""
    if view.document is None:
        return []
    owned: dict[str, list[int]] = {}
    for number, owner in sorted(view.document.lease.items()):
        owned.setdefault(owner, []).append(number)
    return [
        _member_info(view, member, incarnation, tuple(owned.get(incarnation, ())), waiting=incarnation != entry.incarnation)
        for member, entry in sorted(view.document.members.items())
        for incarnation in (entry.incarnation, *entry.successors)
    ]


def _member_info(view: GroupView, name: str, incarnation: str, owned: tuple[int, ...], *, waiting: bool) -> MemberInfo:
    expiry, presence = view.members.get(incarnation), view.presences.get(incarnation)
    left = None if expiry is None else (expiry - view.now) / 1_000_000
    if presence is None:
        return MemberInfo(name, incarnation, left, owned, waiting)
    profile = presence.profile
    return MemberInfo(
        name,
        incarnation,
        left,
        owned,
        waiting,
        client=profile.client,
        host=profile.host,
        pid=profile.pid,
        version=profile.version,
        since=moment(presence.since / 1000),
        ttl=profile.ttl or None,
    )


def waits_of(found: tuple[int, Passed] | None, view: PartitionView, state: TopicState) -> PartitionWaits | None:
    """Return what a partition waits for; nothing, if it has been read: then its group asks for no order, or is about to wait again."""
    if found is None or parse_id(view.last_delivered) > (0, 0):
        return None
    partition, passed = found
    return PartitionWaits(partition, passed.waiting, passed.oldest.decode(), moment(state.grown))


def partition_info(
    number: int, view: PartitionView, owner: str, names: Mapping[str, str], waits: PartitionWaits | None = None
) -> PartitionInfo:
    """Return what a group has in a partition.

    Args:
        number: the partition.
        view: what the broker says of it.
        owner: the incarnation that owns it; "" if none does.
        names: the members' names, by incarnation.
        waits: what the partition waits for, if anything.
    """
    return PartitionInfo(
        partition=number,
        owner=owner,
        owner_name=names.get(owner, ""),
        token=view.token,
        length=view.length,
        unread=view.unread,
        pending=view.pending,
        retry=view.retry,
        dead=view.dead,
        delayed=view.delayed,
        last_delivered=view.last_delivered.decode(),
        deliveries=view.deliveries,
        lost=view.lost,
        added=view.added,
        died=view.died,
        redriven=view.redriven,
        moves=view.moves,
        oldest_unread=_age(view.oldest_unread, view.now),
        oldest_pending=_age(view.oldest_pending, view.now),
        retry_due=None if view.retry_due is None else (view.retry_due - view.now) / 1e6,
        now=moment(view.now / 1000),
        waits=waits,
    )


def _age(milliseconds: int | None, now: int) -> float | None:
    return None if milliseconds is None else max(0.0, now / 1e6 - milliseconds / 1e3)


def held_up_info(state: TopicState) -> HeldUpInfo | None:
    """Return the producer that last had to wait."""
    found = state.held_up
    return None if found is None else HeldUpInfo(moment(found.at / 1000), found.partition, found.max_backlog)


def running_of(report: Report) -> tuple[RunningInfo, ...]:
    """Return what a member has in handlers."""
    return tuple(
        RunningInfo(one.msg_id, one.partition, one.entry_id, one.key, one.attempt, moment(one.since), one.limit) for one in report.messages
    )


def history_entry(entry_id: bytes, change: Change) -> HistoryEntry:
    """Return a change as people see it."""
    return HistoryEntry(
        entry_id=entry_id.decode(),
        at=moment(int(entry_id.split(b"-")[0])),
        what=change.what,
        member=change.member,
        name=change.name,
        by=change.by,
        partitions=change.partitions,
        count=change.count,
        to=change.to,
        msg_id=change.msg_id,
        began=moment(change.began) if change.began > 0 else None,
        takers=change.takers,
    )
