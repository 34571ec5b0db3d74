"""Steps about retention, at a store; see steps.retention."""

from __future__ import annotations

from redisaq.brokers.memory.members import Coordination
from redisaq.brokers.memory.registry import does
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.memory.streams import GroupCursor, Stream
from redisaq.brokers.steps import retention as steps
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import LAST, EntryId, format_id
from redisaq.core.records import microseconds
from redisaq.core.retention import IDLE, SEND_TIMEOUT, alone_since, kept_for


@does(steps.ReadKeeping)
def read_keeping(store: MemoryStore, step: steps.ReadKeeping) -> steps.Keeping:
    """Return the topic's retention, and for how long the group has had no member."""
    topic, now = step.group.topic, store.now()
    state = store.topics.get(topic)
    since = alone_from(store, step.group)
    if since == 0 and state is not None and state.acked:
        since = store.alone.setdefault(step.group, now)
    alone = {step.group.group: (now - since) / 1e6} if since else {}  # 0: not known, and nothing is to be trimmed
    limit = SEND_TIMEOUT if state is None or not state.send_timeout else state.send_timeout
    return steps.Keeping(state is not None and state.acked, now, kept_for(limit), store.idle.get(topic, IDLE), alone)


def alone_from(store: MemoryStore, group: GroupName) -> int | None:
    """Return since when the group has had no member: None while it has one, 0 if that is not known."""
    found = store.coordination.get(group, Coordination())
    changed = 0 if found.state is None else found.state.changed
    since = alone_since(now=store.now(), last_expiry=max(found.members.values(), default=0), changed=changed)
    return store.alone.get(group, 0) if since == 0 else since


@does(steps.Trim)
def trim(store: MemoryStore, step: steps.Trim) -> steps.Trimmed:
    """Trim what every group has settled and is old enough (E3)."""
    stream, keeping = store.streams.get(step.place), step.keeping
    lapsed = keeping.lapsed
    if stream is None or any(group not in stream.groups and group not in lapsed for group in step.groups):
        return steps.Trimmed()
    now, recently = store.now(), microseconds(keeping.idle)
    pinning = [
        cursor for name, cursor in stream.groups.items() if name not in lapsed or (cursor.read_at and now - cursor.read_at < recently)
    ]
    if not pinning:
        return steps.Trimmed()
    floor = min(map(_pinned, pinning))
    oldest_kept = (min(now, keeping.now) // 1000 - round(keeping.kept_for * 1000), LAST)
    old = stream.last_up_to(oldest_kept)
    later = old is None or old < floor or floor < max(cursor.last_delivered for cursor in pinning)
    target = min(floor, old) if old is not None else None
    return steps.Trimmed(0 if target is None else stream.trim_below(target), more=False, later=later)


def _pinned(cursor: GroupCursor) -> EntryId:
    return min(cursor.pending, default=cursor.last_delivered)


@does(steps.Sight)
def sight(store: MemoryStore, step: steps.Sight) -> steps.Sighting:
    """Return the group's position and its losses; this store sees each loss as it happens."""
    lease = store.lease(step.group, step.partition)
    if lease.token != step.token:
        raise step.lost()
    cursor = store.cursor(step.group, step.partition)
    if cursor is None:
        return steps.Sighting()
    stream = store.streams.get(step.place, Stream())
    lost, after = cursor.lost, cursor.lost_after
    cursor.lost = 0
    lease.lost += lost
    position, first = format_id(cursor.last_delivered), stream.first_id
    ordinal = stream.added - stream.count_after(cursor.last_delivered)
    if not lost:
        return steps.Sighting(position, ordinal)
    return steps.Sighting(position, ordinal, lost, format_id(after), format_id(first) if first is not None else b"")
