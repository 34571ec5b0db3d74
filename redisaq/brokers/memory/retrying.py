"""Steps about messages that failed, at a store: what is due, retries that begin, dead letters; see steps.retrying.

Invariant: before and after each step, a message is in exactly one of delayed, stream-unread, pending, retry, dead, done.
"""

from __future__ import annotations

from redisaq.brokers.memory.holdings import Place
from redisaq.brokers.memory.registry import does
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps import retrying as steps
from redisaq.core.failures import own_frame
from redisaq.core.records import FOREIGN, NO_FAILURE, RAW, decode_delayed


@does(steps.StartRetry)
def start_retry(store: MemoryStore, step: steps.StartRetry) -> bool:
    """Record, under the token, that a handler begins on a message of `retry`; not once the token was released (T5)."""
    lease = store.lease(step.group, step.partition)
    shelf = store.shelf(step.group, step.partition)
    return lease.token == step.token and bool(lease.holder) and shelf.start(step.entry_id, step.life, step.attempt)


@does(steps.TakeDue)
def take_due(store: MemoryStore, step: steps.TakeDue) -> steps.Due:
    """Move due delayed messages into the stream; return due retries, and when to ask again."""
    if store.lease(step.group, step.partition).token != step.token:
        raise step.lost()
    now = store.now()
    naming = store.naming(step.place)
    unswept = naming.swept < naming.number
    moved, next_delayed = _move_delayed(store, step.place, now, 0 if unswept else step.count)
    found, next_retry = store.shelf(step.group, step.partition).due(now, step.count)
    retries, unreadable, reports = steps.read_retries(found)
    times = [time for time in (next_delayed, next_retry) if time is not None]
    return steps.Due(tuple(retries), moved, min(times, default=None), now, tuple(reports), tuple(unreadable), unswept)


def _move_delayed(store: MemoryStore, place: Place, now: int, count: int) -> tuple[int, int | None]:
    delayed = store.delayed.get(place, {})
    order = sorted((due, msg_id) for msg_id, (due, _) in delayed.items())
    moved = 0
    for due, msg_id in order[:count]:
        if due > now:
            break
        if store.append_one(place, _words_of(delayed[msg_id][1]), None) is None:
            return moved, now + steps.BLOCKED
        del delayed[msg_id]
        moved += 1
    return moved, order[moved][0] if moved < len(order) else None


def _words_of(body: bytes) -> list[bytes]:
    """Return the entry for a delayed body. An unreadable body goes into the stream unchanged, so that each group finds it."""
    try:
        words = decode_delayed(body)
    except ValueError:
        words = []
    return words if words and len(words) % 2 == 0 else [RAW, body]


@does(steps.ReadDead)
def read_dead_letters(store: MemoryStore, step: steps.ReadDead) -> list[steps.DeadLetterEntry]:
    """Return a page of dead letters."""
    return store.shelf(step.group, step.partition).dead_page(step.after, step.count)


@does(steps.ReadNewestDead)
def read_newest_dead_letters(store: MemoryStore, step: steps.ReadNewestDead) -> list[steps.DeadLetterEntry]:
    """Return a page of dead letters, the newest first."""
    return store.shelf(step.group, step.partition).newest_dead(step.below, step.count)


@does(steps.SummariseDead)
def summarise_dead_letters(store: MemoryStore, step: steps.SummariseDead) -> list[steps.DeadLetterSummary]:
    """Return the newest dead letters without payloads."""
    return [_summary(one, step.most_text) for one in store.shelf(step.group, step.partition).newest_dead(step.below, step.count)]


@does(steps.CountDead)
def count_dead_letters(store: MemoryStore, step: steps.CountDead) -> steps.CountedDead:
    """Count dead letters by their failures."""
    found = [_summary(one, step.most_text) for one in store.shelf(step.group, step.partition).newest_dead(step.below, step.count)]
    alike: dict[tuple[object, ...], list[steps.DeadLetterSummary]] = {}
    for one in found:
        alike.setdefault((one.foreign, one.error_type, one.error, one.frame), []).append(one)
    kinds = [
        steps.DeadKind(len(some), some[0].dead_id, some[-1].dead_id, some[0].error_type, some[0].error, some[0].frame, some[0].foreign)
        for some in alike.values()
    ]
    return steps.CountedDead(len(found), found[-1].dead_id if found else b"", tuple(kinds))


def _summary(letter: steps.DeadLetterEntry, most_text: int) -> steps.DeadLetterSummary:
    body = letter.body
    if body.life == FOREIGN:
        return steps.DeadLetterSummary(letter.dead_id, foreign=True)
    fields = dict(zip(body.fields[::2], body.fields[1::2], strict=True))
    failure = body.failure or NO_FAILURE
    file, line, function = own_frame(failure.traceback)
    return steps.DeadLetterSummary(
        letter.dead_id,
        fields.get(b"i", b""),
        fields.get(b"k"),
        failure.error_type.encode(),
        failure.error.encode()[:most_text],
        body.attempt,
        body.entry_id,
        body.life,
        (file.encode(), line.encode(), function.encode()),
    )


@does(steps.Redrive)
def redrive(store: MemoryStore, step: steps.Redrive) -> int | None:
    """Give dead letters a new life, and ring."""
    if store.naming(step.place).number > step.cuts:
        return None
    redriven = store.shelf(step.group, step.partition).redrive(step.lives, store.now())
    if redriven:
        store.ring(step.place)
    return redriven


@does(steps.Purge)
def purge(store: MemoryStore, step: steps.Purge) -> int:
    """Drop dead letters."""
    return store.shelf(step.group, step.partition).purge(step.ids)
