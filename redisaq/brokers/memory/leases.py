"""Steps that take a partition and give it back, at a store; see steps.leases."""

from __future__ import annotations

from redisaq.brokers.memory.holdings import Lease
from redisaq.brokers.memory.registry import does
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps import leases as steps
from redisaq.core.entry_ids import START, format_id, parse_id


@does(steps.Install)
def install(store: MemoryStore, step: steps.Install) -> steps.Installed:
    """Put the token beside the partition's data, if it may be current (T2)."""
    lease = store.leases.setdefault((step.group, step.partition), Lease())
    return lease.install(step.token, step.incarnation, foreign=step.foreign)


@does(steps.Fence)
def fence(store: MemoryStore, step: steps.Fence) -> bool:
    """Kill these connections and remove them from the list (T3); False if that is not permitted (T4)."""
    if not store.kill(step.readers):
        return False
    lease = store.lease(step.group, step.partition)
    if lease.token == step.token:
        lease.readers = [mark for mark in lease.readers if mark not in step.readers]
    return True


@does(steps.Claim)
def claim(store: MemoryStore, step: steps.Claim) -> steps.Page:
    """Return a page of pending entries (T5)."""
    if store.lease(step.group, step.partition).token != step.token:
        raise step.lost()
    cursor = store.cursor(step.group, step.partition)
    if cursor is None:
        return steps.Page((), (), None)
    above = parse_id(step.after)
    ids = sorted(entry_id for entry_id in cursor.pending if entry_id > above)
    page, more = ids[: step.count], len(ids) > step.count
    stream = store.streams[step.place]
    entries: list[steps.PendingEntry] = []
    trimmed: list[bytes] = []
    for entry_id in page:
        fields = stream.fields(entry_id)
        if fields is None:
            del cursor.pending[entry_id]
            trimmed.append(format_id(entry_id))
            store.leases[step.group, step.partition].lost += 1
        else:
            entries.append(steps.PendingEntry(format_id(entry_id), fields, cursor.pending[entry_id]))
    return steps.Page(tuple(entries), tuple(trimmed), format_id(page[-1]) if more else None)


@does(steps.SetDeliveries)
def set_deliveries(store: MemoryStore, step: steps.SetDeliveries) -> bool:
    """Set the delivery counts of pending entries; `raising` lowers none (T5)."""
    lease = store.lease(step.group, step.partition)
    if lease.token != step.token or (step.raising and not lease.holder):
        return False
    cursor = store.cursor(step.group, step.partition)
    for entry_id, count in step.counts.items():
        if cursor is not None and (number := parse_id(entry_id)) in cursor.pending:
            if step.raising and count <= cursor.pending[number]:
                continue
            cursor.pending[number] = count
            cursor.delivered_at[number] = store.now()
    return True


@does(steps.Release)
def release(store: MemoryStore, step: steps.Release) -> bool:
    """Clear holder and readers under the token (M8)."""
    lease = store.lease(step.group, step.partition)
    if lease.token != step.token:
        return False
    lease.release()
    return True


@does(steps.RemakeGroup)
def remake_group(store: MemoryStore, step: steps.RemakeGroup) -> None:
    """Make a lost group after `start`, or from the beginning if the entry `last_id` is not there (T6)."""
    stream = store.make_stream(*step.place)
    there = stream.fields(parse_id(step.last_id)) is not None
    stream.make_group(step.group.group, parse_id(step.start or step.last_id) if there else START)
