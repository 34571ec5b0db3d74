"""Steps on topics and groups for an administrator, at a store; see steps.administration."""

from __future__ import annotations

from collections import Counter

from redisaq.brokers.memory import retention
from redisaq.brokers.memory.members import Coordination
from redisaq.brokers.memory.registry import does
from redisaq.brokers.memory.shelf import Shelf
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.memory.streams import GroupCursor, Stream
from redisaq.brokers.steps import administration as steps
from redisaq.core.entry_ids import START, format_id, parse_id
from redisaq.core.history import read_change
from redisaq.core.membership import read_document
from redisaq.core.retention import IDLE


@does(steps.ReadServer)
def read_server(store: MemoryStore, step: steps.ReadServer) -> steps.ServerFacts:
    """Return what there is to say of a store in this process."""
    del step
    return steps.ServerFacts(store.url, "memory broker", store.now())


@does(steps.ViewStream)
def view_stream(store: MemoryStore, step: steps.ViewStream) -> steps.StreamView:
    """Return what the partition holds."""
    stream = store.streams.get(step.place, Stream())
    return steps.StreamView(len(stream), len(store.delayed.get(step.place, ())), tuple(sorted(stream.groups)), stream.added)


@does(steps.ViewGroup)
def view_group(store: MemoryStore, step: steps.ViewGroup) -> steps.GroupView:
    """Return the group's coordination."""
    group = step.group
    found = store.coordination.get(group, Coordination())
    document = None if found.state is None else read_document(found.state.document)
    since = retention.alone_from(store, group)
    alone = (store.now() - since) / 1e6 if since else 0.0
    topic = store.topics.get(group.topic)
    idle = store.idle.get(group.topic, IDLE) if topic is not None and topic.acked else None
    lapsed = idle is not None and alone >= idle
    presences = dict(found.presences)
    return steps.GroupView(store.now(), found.paused, dict(found.members), document, alone, lapsed, idle, presences, found.paused_at)


@does(steps.ViewPartition)
def view_partition(store: MemoryStore, step: steps.ViewPartition) -> steps.PartitionView:
    """Return what the partition holds for the group."""
    group, partition = step.group, step.partition
    stream = store.streams.get(step.place, Stream())
    found, lease = stream.groups.get(group.group), store.lease(group, partition)
    cursor = found or GroupCursor(START)
    shelf = store.shelves.get((group, partition)) or Shelf()
    next_one = stream.after(cursor.last_delivered, 1)
    seen = sorted(cursor.pending)[: steps.LOOKED_AT if step.deliveries else 0]
    return steps.PartitionView(
        there=bool(found is not None or shelf.retry or len(shelf.dead) or lease.token),
        length=len(stream),
        unread=stream.count_after(cursor.last_delivered),
        pending=len(cursor.pending),
        retry=len(shelf.retry),
        dead=len(shelf.dead),
        delayed=len(store.delayed.get(step.place, ())),
        token=lease.token,
        holder=lease.holder,
        last_delivered=format_id(cursor.last_delivered),
        deliveries=dict(sorted(Counter([cursor.pending[entry_id] for entry_id in seen]).items())),
        lost=lease.lost,
        added=stream.added,
        died=shelf.dead.added,
        redriven=shelf.again,
        moves=lease.moves,
        oldest_unread=next_one[0][0][0] if next_one else None,
        oldest_pending=min(cursor.pending)[0] if cursor.pending else None,
        retry_due=min((due for due, _ in shelf.retry.values()), default=None),
        now=store.now(),
    )


@does(steps.SetPaused)
def set_paused(store: MemoryStore, step: steps.SetPaused) -> None:
    """Pause or resume the group."""
    members = store.members(step.group)
    if step.paused != members.paused:
        members.paused_at = store.now() if step.paused else 0
    members.paused = step.paused
    if step.change is not None:
        members.note((step.change,), store.now())
    store.ring(step.group)


@does(steps.Note)
def note(store: MemoryStore, step: steps.Note) -> bytes:
    """Add a change to the group's history."""
    members = store.members(step.group)
    if step.replaces:
        members.history.delete((parse_id(step.replaces),))
    if step.change is None:
        return b""
    members.note((step.change,), store.now())
    return format_id(members.history.last_id)


@does(steps.ReadHistory)
def read_history(store: MemoryStore, step: steps.ReadHistory) -> list[steps.NotedChange]:
    """Return a page of the group's history."""
    history = store.coordination.get(step.group, Coordination()).history
    entries = history.below(parse_id(step.before) if step.before else None, step.count)
    return [steps.NotedChange(format_id(entry_id), read_change(fields[1])) for entry_id, fields in entries]


@does(steps.Seek)
def seek(store: MemoryStore, step: steps.Seek) -> None:
    """Continue delivery after a position; what was delivered after it is new again, if it is still in the stream."""
    stream, name = store.make_stream(*step.place), step.group.group
    wanted = stream.last_id if step.position == steps.END else min(parse_id(step.position), stream.last_id)
    delivered = stream.groups[name].last_delivered if name in stream.groups else stream.last_id
    stream.make_group(name, wanted)
    cursor = stream.groups[name]
    for entry_id in [one for one in cursor.pending if one > wanted and stream.fields(one) is not None]:
        del cursor.pending[entry_id]
    retry = store.shelf(step.group, step.partition).retry
    for retried in [one for one in retry if parse_id(one) > wanted and stream.fields(parse_id(one)) is not None]:
        del retry[retried]
    if (lease := store.leases.get((step.group, step.partition))) is not None and lease.token:
        lease.spend(wanted, delivered, store.now())
        store.ring(step.place)
    cursor.last_delivered, cursor.lost = wanted, 0  # entries missing at the new position are no loss


@does(steps.Disband)
def disband(store: MemoryStore, step: steps.Disband) -> tuple[str, ...]:
    """Drop the group's coordination, unless members live and `force` is False; return the live members."""
    live = view_group(store, steps.ViewGroup(step.group)).live
    if step.force or not live:
        history = store.members(step.group).history
        store.forget_group(step.group)
        if step.keeps_history:
            store.members(step.group).history = history
        store.alone.pop(step.group, None)
        store.ring(step.group)
    return live


@does(steps.DropHistory)
def drop_history(store: MemoryStore, step: steps.DropHistory) -> None:
    """Drop the group's history."""
    store.members(step.group).history = Stream()


@does(steps.DropGroup)
def drop_group(store: MemoryStore, step: steps.DropGroup) -> None:
    """Remove the group from the partition."""
    store.forget_cursor(step.group, step.partition)
    store.leases.pop((step.group, step.partition), None)
    store.shelves.pop((step.group, step.partition), None)


@does(steps.DropTopic)
def drop_topic(store: MemoryStore, step: steps.DropTopic) -> None:
    """Drop the whole topic."""
    topic = step.topic
    beside = {(group.topic, number) for group, number in {*store.leases, *store.shelves}}
    for number in {number for name, number in {*store.streams, *store.delayed, *beside} if name == topic}:
        store.forget_partition(topic, number)
    for mark in [one for one in store.marks if one[0] == topic]:
        del store.marks[mark]
    store.forget_coordination(topic)
    store.topic_names.discard(topic)
    store.ring(topic)
