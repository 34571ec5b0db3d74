"""The memory broker's steps for messages that did not simply succeed: retries, dead letters, delays.

In come the store and what is asked of it; out go answers. Each function is one whole step, fenced where the protocol says so. What always
holds: a message is in exactly one of delayed, stream-unread, pending, retry, dead, done, before and after each.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.brokers.delivery import Body, Due, Resolution, Resolved, SetAside, unreadable
from redisaq.brokers.memory.holdings import Place
from redisaq.brokers.memory.store import OUT_OF_MEMORY, MemoryStore
from redisaq.brokers.memory.streams import GroupCursor
from redisaq.brokers.producing import Delayed
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import parse_id
from redisaq.core.records import RAW, UNREADABLE, decode_delayed, decode_retry, encode_delayed
from redisaq.errors import LeaseLostError, ServerError

BLOCKED = 1_000_000
"""Microseconds until a stream that did not take what was due is tried again."""


def resolve(
    store: MemoryStore, group: GroupName, partition: int, token: int, resolutions: Sequence[Resolution], *, dead_maxlen: int | None
) -> Resolved:
    """Settle some messages under the token, each only if it is still what and where it says (S1)."""
    standing = store.lease(group, partition).token
    if standing != token:
        return Resolved(done=False, token=standing)
    cursor, shelf = store.cursor(group, partition), store.shelf(group, partition)
    moved: list[bool] = []
    for one in resolutions:
        there = shelf.take(one) if one.source == "retry" else _acknowledge(cursor, one.body.entry_id)
        if there:
            shelf.put(one, store.now() // 1000, dead_maxlen)
        moved.append(there)
    return Resolved(done=True, token=token, moved=tuple(moved))


def _acknowledge(cursor: GroupCursor | None, entry_id: bytes) -> bool:
    return cursor is not None and cursor.pending.pop(parse_id(entry_id), None) is not None


def start_retry(store: MemoryStore, group: GroupName, partition: int, token: int, *, entry_id: bytes, life: int, attempt: int) -> bool:
    """Note under the token that a handler begins on a message of `retry`; not once it was released (T5)."""
    lease = store.lease(group, partition)
    return lease.token == token and bool(lease.holder) and store.shelf(group, partition).start(entry_id, life, attempt)


def due(store: MemoryStore, group: GroupName, partition: int, token: int, *, count: int, dead_maxlen: int | None) -> Due:
    """Move due delayed messages into the stream; return due retries, and when to ask again."""
    if store.lease(group, partition).token != token:
        raise LeaseLostError(f"another token stands beside partition {partition} of {group.topic} for {group.group}")
    now = store.now()
    moved, next_delayed = _move_delayed(store, (group.topic, partition), now, count)
    found, next_retry = store.shelf(group, partition).due(now, count)
    retries: list[Body] = []
    resolutions: list[Resolution] = []
    set_aside: list[SetAside] = []
    for entry_id, data in found:
        try:
            retries.append(decode_retry(entry_id, data))
        except UNREADABLE as error:
            resolution, report = unreadable(entry_id, data, error)
            resolutions.append(resolution)
            set_aside.append(report)
    if resolutions:
        resolve(store, group, partition, token, resolutions, dead_maxlen=dead_maxlen)
    times = [time for time in (next_delayed, next_retry) if time is not None]
    return Due(tuple(retries), moved, min(times, default=None), now, tuple(set_aside))


def _move_delayed(store: MemoryStore, place: Place, now: int, count: int) -> tuple[int, int | None]:
    delayed = store.delayed.get(place, {})
    order = sorted((due, msg_id) for msg_id, (due, _) in delayed.items())
    moved = 0
    for due, msg_id in order[:count]:
        if due > now:
            break
        if store.append_one(place, _words_of(delayed[msg_id][1]), None) is None:
            return moved, now + BLOCKED
        del delayed[msg_id]
        moved += 1
    return moved, order[moved][0] if moved < len(order) else None


def _words_of(body: bytes) -> list[bytes]:
    """Return the entry that a delayed body becomes; what is none goes into the stream as it is, so that each group finds it."""
    try:
        words = decode_delayed(body)
    except ValueError:
        words = []
    return words if words and len(words) % 2 == 0 else [RAW, body]


def delay(store: MemoryStore, topic: str, messages: Sequence[Delayed]) -> list[bool]:
    """Keep messages until they are due, each once by its id; ring where one is due before what was there."""
    if store.full and messages:
        raise ServerError(OUT_OF_MEMORY)
    earliest = {place: min(due for due, _ in delayed.values()) for place, delayed in store.delayed.items() if delayed}
    kept: list[bool] = []
    for message in messages:
        place = (topic, message.partition)
        if place in store.streams:
            store.delayed.setdefault(place, {}).setdefault(message.msg_id, (message.due, encode_delayed(message.fields)))
        kept.append(place in store.streams)
    for place in dict.fromkeys((topic, message.partition) for message, stays in zip(messages, kept, strict=True) if stays):
        first = min(due for due, _ in store.delayed[place].values())
        if place not in earliest or first < earliest[place]:
            store.ring(place)
    return kept


def redrive(store: MemoryStore, group: GroupName, partition: int, ids: Sequence[bytes] | None, count: int) -> int:
    """Let dead letters be tried again, and ring."""
    redriven = store.shelf(group, partition).redrive(ids, count, store.now())
    if redriven:
        store.ring((group.topic, partition))
    return redriven
