"""Steps about single messages, at a store; see steps.messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from redisaq.brokers.memory.registry import does
from redisaq.brokers.memory.shelf import Shelf
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.memory.streams import Stream
from redisaq.brokers.steps import messages as steps
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import START, format_id, parse_id
from redisaq.core.records import Entry


@does(steps.ListPending)
def list_pending(store: MemoryStore, step: steps.ListPending) -> steps.PendingPage:
    """Return a page of pending entries."""
    cursor = store.cursor(step.group, step.partition)
    holder = store.lease(step.group, step.partition).holder
    if cursor is None:
        return steps.PendingPage(holder)
    stream = store.streams[step.place]
    ids = sorted(entry_id for entry_id in cursor.pending if entry_id > parse_id(step.after))[: step.count]
    rows = (steps.PendingRow(format_id(one), cursor.pending[one], cursor.delivered_at[one], stream.fields(one)) for one in ids)
    return steps.PendingPage(holder, tuple(rows))


@does(steps.ListRetries)
def list_retries(store: MemoryStore, step: steps.ListRetries) -> steps.ScheduledPage:
    """Return a page of messages that are to be tried again."""
    return _page(store, ((due, name, body) for name, (due, body) in _shelf(store, step.group, step.partition).retry.items()), step)


@does(steps.ListDelayed)
def list_delayed(store: MemoryStore, step: steps.ListDelayed) -> steps.ScheduledPage:
    """Return a page of delayed messages."""
    return _page(store, ((due, name, body) for name, (due, body) in store.delayed.get(step.place, {}).items()), step)


def _page(
    store: MemoryStore, waiting: Iterable[tuple[int, bytes, bytes]], step: steps.ListRetries | steps.ListDelayed
) -> steps.ScheduledPage:
    last = (0, b"") if step.last is None else (int(step.last.score), step.last.id)
    rows = sorted(one for one in waiting if one[:2] > last)[: step.count]
    return steps.ScheduledPage(store.now(), tuple(_scheduled(name, due, body) for due, name, body in rows))


def _scheduled(name: bytes, due: int, body: bytes) -> steps.Scheduled:
    return steps.Scheduled(name, b"%d" % due, due, body)


@does(steps.ReadDelayed)
def read_delayed(store: MemoryStore, step: steps.ReadDelayed) -> steps.Scheduled | None:
    """Return a delayed message."""
    found = store.delayed.get(step.place, {}).get(step.msg_id)
    return None if found is None else _scheduled(step.msg_id, *found)


@does(steps.ReadEntries)
def read_entries(store: MemoryStore, step: steps.ReadEntries) -> list[Entry]:
    """Return entries of the stream."""
    stream = store.streams.get(step.place, Stream())
    newest = stream.after(START, len(stream))[::-1][: step.count] if step.after is None else None
    found = stream.after(parse_id(step.after or b""), step.count) if newest is None else newest
    return [(format_id(entry_id), fields) for entry_id, fields in found]


@does(steps.SummariseEntries)
def summarise_entries(store: MemoryStore, step: steps.SummariseEntries) -> list[steps.EntrySummary]:
    """Return the newest entries of the stream without most of their payloads."""
    stream = store.streams.get(step.place, Stream())
    if step.after:
        there = stream.after(parse_id(step.after), step.count)
    else:
        there = stream.below(parse_id(step.below) if step.below else None, step.count)
    return [_summary(entry_id, fields, step.most) for entry_id, fields in there]


def _summary(entry_id: tuple[int, int], words: Sequence[bytes], most: int) -> steps.EntrySummary:
    fields = dict(zip(words[::2], words[1::2], strict=False))
    key, data = fields.get(b"k"), fields.get(b"d", b"")
    return steps.EntrySummary(format_id(entry_id), fields.get(b"i", b""), None if key is None else key[:most], data[:most], len(data))


@does(steps.CountDue)
def count_due(store: MemoryStore, step: steps.CountDue) -> Sequence[int]:
    """Count delayed messages by when they are due."""
    times = [due for due, _ in store.delayed.get(step.place, {}).values()]
    return [sum(due < moment for due in times) for moment in step.moments]


@does(steps.CountEntries)
def count_entries(store: MemoryStore, step: steps.CountEntries) -> steps.Counted:
    """Count entries of the stream."""
    found = store.streams.get(step.place, Stream()).after(parse_id(step.after), step.count)
    there = [entry_id for entry_id, _ in found if not step.until or entry_id <= parse_id(step.until)]
    return steps.Counted(len(there), None if len(there) < step.count else format_id(there[-1]))


@does(steps.SearchStream)
def search_stream(store: MemoryStore, step: steps.SearchStream) -> steps.Searched:
    """Look for a message in the stream."""
    return _search(store.streams.get(step.place, Stream()), step)


@does(steps.SearchDead)
def search_dead(store: MemoryStore, step: steps.SearchDead) -> steps.Searched:
    """Look for a message among the dead letters."""
    return _search(_shelf(store, step.group, step.partition).dead, step)


def _search(stream: Stream, step: steps.SearchStream | steps.SearchDead) -> steps.Searched:
    entries = [one for one in stream.after(START, len(stream)) if not step.before or one[0] < parse_id(step.before)][::-1]
    for looked, (entry_id, fields) in enumerate(entries[: step.count], start=1):
        if dict(zip(fields[::2], fields[1::2], strict=False)).get(b"i") == step.msg_id:
            return steps.Searched(looked, found=(format_id(entry_id), fields))
    if len(entries) < step.count:
        return steps.Searched(len(entries))
    return steps.Searched(step.count, format_id(entries[step.count - 1][0]))


@does(steps.ReadStanding)
def read_standing(store: MemoryStore, step: steps.ReadStanding) -> steps.Standing:
    """Return what the group has of an entry."""
    cursor, entry_id = store.cursor(step.group, step.partition), parse_id(step.entry_id)
    retry = _shelf(store, step.group, step.partition).retry.get(step.entry_id)
    pending = cursor is not None and entry_id in cursor.pending
    return steps.Standing(
        unread=cursor is None or entry_id > cursor.last_delivered,
        holder=store.lease(step.group, step.partition).holder,
        deliveries=cursor.pending[entry_id] if cursor is not None and pending else None,
        since=cursor.delivered_at[entry_id] if cursor is not None and pending else 0,
        retry=None if retry is None else _scheduled(step.entry_id, *retry),
    )


@does(steps.CancelDelayed)
def cancel_delayed(store: MemoryStore, step: steps.CancelDelayed) -> bool:
    """Drop a delayed message."""
    return store.delayed.get(step.place, {}).pop(step.msg_id, None) is not None


@does(steps.CancelRetry)
def cancel_retry(store: MemoryStore, step: steps.CancelRetry) -> bool:
    """Drop a message that is to be tried again."""
    there = _shelf(store, step.group, step.partition).retry.pop(step.entry_id, None) is not None
    lease = store.leases.get((step.group, step.partition))
    if there and lease is not None:
        lease.moves += 1  # the message was not handled
    return there


@does(steps.RetryNow)
def retry_now(store: MemoryStore, step: steps.RetryNow) -> int:
    """Let messages be due now, and ring."""
    made = _shelf(store, step.group, step.partition).retry_now(step.ids, step.count, store.now())
    if made:
        store.ring(step.place)
    return made


@does(steps.CountBacklog)
def count_backlog(store: MemoryStore, step: steps.CountBacklog) -> int:
    """Count what the group could work on now."""
    stream, cursor, now = store.streams.get(step.place, Stream()), store.cursor(step.group, step.partition), store.now()
    waiting = len(stream) if cursor is None else stream.count_after(cursor.last_delivered) + len(cursor.pending)
    retries = _shelf(store, step.group, step.partition).retry.values()
    return waiting + sum(due <= now for due, _ in (*retries, *store.delayed.get(step.place, {}).values()))


def _shelf(store: MemoryStore, group: GroupName, partition: int) -> Shelf:
    return store.shelves.get((group, partition)) or Shelf()
