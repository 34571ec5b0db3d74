"""What is kept, as synchronous steps at a store: what producers declared, trimming what is done with, what trimming took.

See RetentionBroker.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from redisaq.brokers.base import TopicState
from redisaq.brokers.memory.coordination import Coordination
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.memory.streams import GroupCursor, Stream
from redisaq.brokers.retention import Keeping, Sighting, Terms, Trimmed
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import EntryId, format_id
from redisaq.core.retention import IDLE, SEND_TIMEOUT, alone_since, kept_for
from redisaq.errors import LeaseLostError


def declare(store: MemoryStore, topic: str, state: TopicState, terms: Terms) -> TopicState:
    """Keep what a producer asks of a topic (E3); return what stands."""
    longest = max(state.send_timeout, terms.send_timeout)
    store.topics[topic] = standing = replace(state, acked=state.acked or terms.acked, send_timeout=longest)
    if terms.acked:
        store.idle[topic] = max(store.idle.get(topic, 0.0), terms.idle)
    return standing


def keeping(store: MemoryStore, groups: Sequence[GroupName]) -> Keeping:
    """Return what holds, and who is alone."""
    topic, now = groups[0].topic, store.now()
    state = store.topics.get(topic)
    alone: dict[str, float] = {}
    for group in groups:
        since = alone_from(store, group)
        if since == 0 and state is not None and state.acked:
            since = store.alone.setdefault(group, now)
        if since:  # 0: nobody knows, and nothing is to be trimmed
            alone[group.group] = (now - since) / 1e6
    limit = SEND_TIMEOUT if state is None or not state.send_timeout else state.send_timeout
    return Keeping(state is not None and state.acked, now, kept_for(limit), store.idle.get(topic, IDLE), alone)


def alone_from(store: MemoryStore, group: GroupName) -> int | None:
    """Return since when the group has had no member: None while it has one, 0 if nobody knows."""
    found = store.coordination.get(group, Coordination())
    changed = 0 if found.state is None else found.state.changed
    since = alone_since(now=store.now(), last_expiry=max(found.members.values(), default=0), changed=changed)
    return store.alone.get(group, 0) if since == 0 else since


def trim(store: MemoryStore, topic: str, partition: int, keeping: Keeping, groups: Sequence[str]) -> Trimmed:
    """Trim what every group has done with and is old enough (E3)."""
    stream = store.streams.get((topic, partition))
    lapsed = keeping.lapsed
    if stream is None or any(group not in stream.groups and group not in lapsed for group in groups):
        return Trimmed()
    now, recently = store.now(), round(keeping.idle * 1_000_000)
    pinning = [
        cursor for name, cursor in stream.groups.items() if name not in lapsed or (cursor.read_at and now - cursor.read_at < recently)
    ]
    if not pinning:
        return Trimmed()
    floor = min(map(_pinned, pinning))
    oldest_kept = (min(now, keeping.now) // 1000 - round(keeping.kept_for * 1000), (1 << 64) - 1)
    old = stream.last_up_to(oldest_kept)
    later = old is None or old < floor or floor < max(cursor.last_delivered for cursor in pinning)
    target = min(floor, old) if old is not None else None
    return Trimmed(0 if target is None else stream.trim_below(target), more=False, later=later)


def _pinned(cursor: GroupCursor) -> EntryId:
    return min(cursor.pending, default=cursor.last_delivered)


def sight(store: MemoryStore, group: GroupName, partition: int, token: int) -> Sighting:
    """Return where the group stands and what it lost; this store sees each loss as it happens."""
    lease = store.lease(group, partition)
    if lease.token != token:
        raise LeaseLostError(f"another token stands beside partition {partition} of {group.topic} for {group.group}")
    cursor = store.cursor(group, partition)
    if cursor is None:
        return Sighting()
    stream = store.streams.get((group.topic, partition), Stream())
    lost, after = cursor.lost, cursor.lost_after
    cursor.lost = 0
    lease.lost += lost
    position, first = format_id(cursor.last_delivered), stream.first_id
    ordinal = stream.removed + len(stream) - len(stream.after(cursor.last_delivered, len(stream)))
    if not lost:
        return Sighting(position, ordinal)
    return Sighting(position, ordinal, lost, format_id(after), format_id(first) if first is not None else b"")
