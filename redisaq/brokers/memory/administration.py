"""Looking after topics and groups, as synchronous steps at a store; see AdminBroker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from redisaq.brokers.administration import END, LOOKED_AT, GroupView, PartitionView, StreamView
from redisaq.brokers.memory import retention
from redisaq.brokers.memory.coordination import Coordination
from redisaq.brokers.memory.shelf import Shelf
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.memory.streams import GroupCursor, Stream
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import START, format_id, parse_id
from redisaq.core.membership import read_document
from redisaq.core.retention import IDLE


def view_streams(store: MemoryStore, topic: str, partitions: Sequence[int]) -> list[StreamView]:
    """Return how each partition stands."""
    views: list[StreamView] = []
    for number in partitions:
        stream = store.streams.get((topic, number), Stream())
        views.append(StreamView(len(stream), len(store.delayed.get((topic, number), ())), tuple(sorted(stream.groups))))
    return views


def view_group(store: MemoryStore, group: GroupName) -> GroupView:
    """Return how the group's coordination stands."""
    found = store.coordination.get(group, Coordination())
    document = None if found.state is None else read_document(found.state.document)
    since = retention.alone_from(store, group)
    alone = (store.now() - since) / 1e6 if since else 0.0
    topic = store.topics.get(group.topic)
    lapsed = topic is not None and topic.acked and alone >= store.idle.get(group.topic, IDLE)
    return GroupView(store.now(), found.paused, dict(found.members), document, alone, lapsed)


def view_partitions(store: MemoryStore, group: GroupName, partitions: Sequence[int]) -> list[PartitionView]:
    """Return how the group stands in each partition."""
    return [_view_partition(store, group, number) for number in partitions]


def _view_partition(store: MemoryStore, group: GroupName, partition: int) -> PartitionView:
    stream = store.streams.get((group.topic, partition), Stream())
    found, lease = stream.groups.get(group.group), store.lease(group, partition)
    cursor = found or GroupCursor(START)
    shelf = store.shelves.get((group, partition)) or Shelf()
    return PartitionView(
        there=bool(found is not None or shelf.retry or len(shelf.dead) or lease.token),
        length=len(stream),
        unread=len(stream.after(cursor.last_delivered, len(stream))),
        pending=len(cursor.pending),
        retry=len(shelf.retry),
        dead=len(shelf.dead),
        delayed=len(store.delayed.get((group.topic, partition), ())),
        token=lease.token,
        holder=lease.holder,
        last_delivered=format_id(cursor.last_delivered),
        deliveries=dict(sorted(Counter([cursor.pending[entry_id] for entry_id in sorted(cursor.pending)[:LOOKED_AT]]).items())),
        lost=lease.lost,
    )


def set_paused(store: MemoryStore, group: GroupName, *, paused: bool) -> None:
    """Pause the group, or let it go on."""
    store.members(group).paused = paused
    store.ring(group)


def seek(store: MemoryStore, group: GroupName, partition: int, position: bytes) -> None:
    """Let the group go on after a position; what stands after it and was delivered is new again, if it is still there."""
    stream = store.make_stream(group.topic, partition)
    wanted = stream.last_id if position == END else min(parse_id(position), stream.last_id)
    stream.make_group(group.group, wanted)
    cursor = stream.groups[group.group]
    for entry_id in [one for one in cursor.pending if one > wanted and stream.fields(one) is not None]:
        del cursor.pending[entry_id]
    retry = store.shelf(group, partition).retry
    for name in [one for one in retry if parse_id(one) > wanted and stream.fields(parse_id(one)) is not None]:
        del retry[name]
    cursor.last_delivered, cursor.lost = wanted, 0  # what is not there any more at the new position is nobody's loss


def disband(store: MemoryStore, group: GroupName, *, force: bool) -> tuple[str, ...]:
    """Drop the group's coordination, but for live members without force; return these."""
    live = view_group(store, group).live
    if force or not live:
        store.forget_group(group)
        store.ring(group)
    return live


def drop_group(store: MemoryStore, group: GroupName, partitions: Sequence[int]) -> None:
    """Take the group out of each partition."""
    for number in partitions:
        store.forget_cursor(group, number)
        store.leases.pop((group, number), None)
        store.shelves.pop((group, number), None)


def drop_topic(store: MemoryStore, topic: str) -> None:
    """Drop the topic whole."""
    beside = {(group.topic, number) for group, number in {*store.leases, *store.shelves}}
    for number in {number for name, number in {*store.streams, *store.delayed, *beside} if name == topic}:
        store.forget_partition(topic, number)
    for mark in [one for one in store.marks if one[0] == topic]:
        del store.marks[mark]
    for group in [one for one in store.coordination if one.topic == topic]:
        del store.coordination[group]
    store.topic_names.discard(topic)
    store.forget_topic(topic)
    store.ring(topic)
