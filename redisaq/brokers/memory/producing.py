"""What makes enqueueing effectively once, as synchronous steps at a store; see ProducingBroker."""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.brokers.memory.delivery import delay
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.memory.streams import Stream
from redisaq.brokers.producing import Delayed, Found
from redisaq.core.entry_ids import format_id, parse_id


def anchor(store: MemoryStore, topic: str, partition: int) -> bytes | None:
    """Return the stream's last id ever (E2)."""
    stream = store.streams.get((topic, partition))
    return None if stream is None else format_id(stream.last_id)


def find(store: MemoryStore, topic: str, partition: int, after: bytes, msg_ids: Sequence[bytes]) -> Found:
    """Look for messages among the delayed and in the stream's entries after an anchor (E2, E7)."""
    stream = store.streams.get((topic, partition), Stream())  # with a stream went whatever was in it
    ids = dict.fromkeys(store.delayed.get((topic, partition), ()), b"")
    ids |= {fields[1]: format_id(entry_id) for entry_id, fields in stream.after(parse_id(after), len(stream)) if fields[:1] == (b"i",)}
    first = stream.first_id
    complete = stream.removed == 0 or (first is not None and first <= parse_id(after))
    return Found(tuple(ids.get(msg_id) for msg_id in msg_ids), complete, format_id(stream.last_id))


def append_once(
    store: MemoryStore,
    topic: str,
    partition: int,
    fields: Sequence[bytes],
    *,
    dedup_id: str,
    window: float,
    due: int | None,
    maxlen: int | None,
) -> bytes | None:
    """Append, or delay, under a mark (E7)."""
    place, now = (topic, partition, dedup_id), store.now()
    standing = store.marks.get(place)
    if standing is not None and standing[1] > now:
        return standing[0]
    if due is not None:
        if not delay(store, topic, [Delayed(partition, fields[1], due, fields)])[0]:
            return None
    elif store.append(topic, [(partition, fields)], maxlen) == [None]:
        return None
    store.marks[place] = (fields[1], now + round(window * 1_000_000))
    return fields[1]


def backlog(store: MemoryStore, topic: str, partition: int) -> int:
    """Return how much the slowest group has not been given."""
    stream = store.streams.get((topic, partition), Stream())
    if not stream.groups:
        return len(stream)
    return max(len(stream.after(cursor.last_delivered, len(stream))) for cursor in stream.groups.values()) if len(stream) else 0
