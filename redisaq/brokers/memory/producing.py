"""Steps for enqueueing effectively once, and for delayed messages, at a store; see steps.producing."""

from __future__ import annotations

from redisaq.brokers.memory.registry import carry_out, does
from redisaq.brokers.memory.store import OUT_OF_MEMORY, MemoryStore
from redisaq.brokers.memory.streams import Stream
from redisaq.brokers.steps import producing as steps
from redisaq.core.entry_ids import format_id, parse_id
from redisaq.core.records import encode_delayed, microseconds
from redisaq.errors import ServerFull


@does(steps.ReadAnchor)
def read_anchor(store: MemoryStore, step: steps.ReadAnchor) -> bytes | None:
    """Return the last id that the stream ever had (E2)."""
    stream = store.streams.get(step.place)
    return None if stream is None else format_id(stream.last_id)


@does(steps.Find)
def find(store: MemoryStore, step: steps.Find) -> steps.Found:
    """Look for messages among the delayed and in the stream's entries after an anchor (E2, E7)."""
    stream = store.streams.get(step.place, Stream())  # a missing stream has lost its entries, too
    anchor = parse_id(step.anchor)
    ids = dict.fromkeys(store.delayed.get(step.place, ()), b"")
    entries = stream.after(anchor, step.most)
    ids |= {fields[1]: format_id(entry_id) for entry_id, fields in entries if fields[:1] == (b"i",)}
    first = stream.first_id
    complete = stream.removed == 0 or (first is not None and first <= anchor)
    rest = format_id(entries[-1][0]) if len(entries) == step.most else None
    return steps.Found(tuple(ids.get(msg_id) for msg_id in step.msg_ids), complete, format_id(stream.last_id), rest)


@does(steps.Confirm)
def confirm(store: MemoryStore, step: steps.Confirm) -> None:
    """Ring (C7)."""
    store.ring(step.place)


@does(steps.Delay)
def delay(store: MemoryStore, step: steps.Delay) -> bool:
    """Keep messages until they are due, each once by its id; ring if one is due before all others."""
    if store.full and step.messages:
        raise ServerFull(OUT_OF_MEMORY)
    if step.place not in store.streams or store.number(step.place) != step.cuts:
        return False
    store.delay(step.place, [(message.msg_id, message.due, encode_delayed(message.fields)) for message in step.messages])
    return True


@does(steps.AppendOnce)
def append_once(store: MemoryStore, step: steps.AppendOnce) -> bytes | None:
    """Append, or delay, under a mark (E7); `approximate` trims exactly, too."""
    mark, fields, now = (step.topic, step.partition, step.dedup_id), step.fields, store.now()
    standing = store.marks.get(mark)
    if standing is not None and standing[1] > now:
        return standing[0]
    if step.due is not None:
        delayed = steps.Delayed(step.partition, fields[1], step.due, fields)
        if not carry_out(store, steps.Delay(step.topic, step.partition, [delayed], step.cuts)):
            return _refused(store, step)
    elif store.append(step.topic, [(step.partition, fields)], step.maxlen, step.cuts) == [None]:
        return _refused(store, step)
    store.keep_mark(mark, fields[1], now + microseconds(step.window))
    return fields[1]


def _refused(store: MemoryStore, step: steps.AppendOnce) -> bytes | None:
    return steps.SEALED if step.cuts in store.naming(step.place).seals else None


@does(steps.ReadMark)
def read_mark(store: MemoryStore, step: steps.ReadMark) -> bytes | None:
    """Return what a mark holds (E7)."""
    standing = store.marks.get((step.topic, step.partition, step.dedup_id))
    return standing[0] if standing is not None and standing[1] > store.now() else None


@does(steps.ReadBacklog)
def read_backlog(store: MemoryStore, step: steps.ReadBacklog) -> int:
    """Return how many entries the slowest group has not been given."""
    stream = store.streams.get(step.place, Stream())
    if not stream.groups:
        return len(stream)
    return max(stream.count_after(cursor.last_delivered) for cursor in stream.groups.values())
