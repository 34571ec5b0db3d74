"""Steps that settle messages, and what is left to settle, at a store; see steps.settling."""

from __future__ import annotations

from redisaq.brokers.memory.registry import does
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.memory.streams import GroupCursor
from redisaq.brokers.steps import settling as steps
from redisaq.core.entry_ids import parse_id


@does(steps.Acknowledge)
def acknowledge(store: MemoryStore, step: steps.Acknowledge) -> steps.Settled:
    """Acknowledge under the token (S1)."""
    lease = store.lease(step.group, step.partition)
    standing = lease.token
    if standing != step.token:
        return steps.Settled(done=False, token=standing, spent=lease.moved is not None)
    cursor = store.cursor(step.group, step.partition)
    if cursor is not None:
        for entry_id in step.entry_ids:
            cursor.pending.pop(parse_id(entry_id), None)
    return steps.Settled(done=True, token=standing)


@does(steps.Resolve)
def resolve(store: MemoryStore, step: steps.Resolve) -> steps.Resolved:
    """Settle some messages under the token, each only if its place, life and attempt still match (S1)."""
    lease = store.lease(step.group, step.partition)
    standing = lease.token
    if standing != step.token:
        return steps.Resolved(done=False, token=standing, spent=lease.moved is not None)
    cursor, shelf = store.cursor(step.group, step.partition), store.shelf(step.group, step.partition)
    moved: list[bool] = []
    for one in step.resolutions:
        there = shelf.take(one) if one.source == "retry" else _acknowledge(cursor, one.body.entry_id)
        if there:
            shelf.put(one, store.now() // 1000, step.dead_maxlen)
        moved.append(there)
    return steps.Resolved(done=True, token=standing, moved=tuple(moved))


def _acknowledge(cursor: GroupCursor | None, entry_id: bytes) -> bool:
    return cursor is not None and cursor.pending.pop(parse_id(entry_id), None) is not None


@does(steps.ReadRemaining)
def read_remaining(store: MemoryStore, step: steps.ReadRemaining) -> steps.Remaining:
    """Return what is left for the group."""
    return store.remaining(step.group, step.partition)
