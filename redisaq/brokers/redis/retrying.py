"""Steps about messages that failed: what is due, retries that begin, and dead letters (S1, S2, S3).

Invariant: a message leaves the dead letters in the same script in which it enters `retry`.
"""

from __future__ import annotations

from redisaq.brokers.redis.commands import Reply
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import Asked, command
from redisaq.brokers.redis.scripts import Argument, Script
from redisaq.brokers.steps.retrying import (
    FOUND,
    GONE,
    DeadLetterEntry,
    DeadLetterSummary,
    Due,
    Purge,
    ReadDead,
    Redrive,
    SetAside,
    StartRetry,
    SummariseDead,
    TakeDue,
    read_retries,
)
from redisaq.core.records import encode_retry, read_dead, retry_prefix, time_of, whole

START_RETRY = Script("start_retry", keys=2)
DUE = Script("due", keys=6)
DEAD_SUMMARIES = Script("dead_summaries", keys=1)
REDRIVE = Script("redrive", keys=4, begins_with=("whole",))

BLOCKED = 1_000_000
"""Microseconds until the next try, after a stream did not take what was due."""

NO_ENTRY = b"0-0"
"""An id that no entry has."""


@command(StartRetry)
def start_retry(step: StartRetry, keys: Keys) -> Asked[bool]:
    """Record that a handler begins on a message of `retry`."""
    share = keys.of_partition(step.group, step.partition)
    before, after = retry_prefix(step.life, step.attempt - 1), retry_prefix(step.life, step.attempt)
    return START_RETRY(share.lease, share.retry_bodies, step.token, step.entry_id, before, after), bool


@command(TakeDue)
def take_due(step: TakeDue, keys: Keys) -> Asked[Due]:
    """Move delayed messages that are due, return retries that are due."""
    share = keys.of_partition(step.group, step.partition)

    def answer(reply: Reply) -> Due:
        if reply is None:
            raise step.lost()
        now, moved, found, next_retry, next_delayed, blocked, lost_retries, lost_delayed, found_again = reply
        times = [int(now) + BLOCKED if blocked else time_of(next_delayed), time_of(next_retry)]
        retries, unreadable, reports = read_retries(zip(found[::2], found[1::2], strict=True))
        set_aside = [SetAside(entry_id, GONE) for entry_id in (*lost_retries, *lost_delayed)]
        set_aside += [SetAside(b"", f"{found_again} {FOUND}")] if found_again else []
        return Due(
            retries=tuple(retries),
            moved=moved,
            next_due=min((time for time in times if time is not None), default=None),
            now=int(now),
            set_aside=(*set_aside, *reports),
            unreadable=tuple(unreadable),
        )

    names = (share.stream, share.lease, share.retry, share.retry_bodies, share.delayed, share.delayed_bodies)
    return DUE(*names, step.token, step.count), answer


@command(ReadDead)
def read_dead_letters(step: ReadDead, keys: Keys) -> Asked[list[DeadLetterEntry]]:
    """Return a page of dead letters."""
    dead, after = keys.of_partition(step.group, step.partition).dead, b"(" + step.after if step.after else b"-"
    return (b"XRANGE", dead, after, b"+", b"COUNT", step.count), _letters


def _letters(reply: Reply) -> list[DeadLetterEntry]:
    return [DeadLetterEntry(dead_id, read_dead(dead_id, words)) for dead_id, words in reply]


@command(SummariseDead)
def summarise_dead_letters(step: SummariseDead, keys: Keys) -> Asked[list[DeadLetterSummary]]:
    """Return the newest dead letters without payloads."""
    return DEAD_SUMMARIES(keys.of_partition(step.group, step.partition).dead, step.below, step.count, step.most_text), _summaries


def _summaries(reply: Reply) -> list[DeadLetterSummary]:
    found: list[DeadLetterSummary] = []
    for dead_id, *rest in reply:
        if not rest:
            found.append(DeadLetterSummary(dead_id, foreign=True))
            continue
        msg_id, key, error_type, error, attempts, origin, life, *frame = rest
        file, line, function = frame
        numbers = whole(attempts) or 0, whole(life) or 0
        found.append(DeadLetterSummary(dead_id, msg_id, key, error_type, error, numbers[0], origin, numbers[1], (file, line, function)))
    return found


@command(Redrive)
def redrive(step: Redrive, keys: Keys) -> Asked[int]:
    """Give dead letters a new life."""
    share = keys.of_partition(step.group, step.partition)
    words: list[Argument] = [share.dead, share.retry, share.retry_bodies, share.lease]
    words.append(keys.partition_doorbell(step.group.topic, step.partition))
    for dead_id, body in step.lives:
        words += [dead_id, body.entry_id, encode_retry(body)]
    return REDRIVE(*words), int


@command(Purge)
def purge(step: Purge, keys: Keys) -> Asked[int]:
    """Drop these dead letters, or all."""
    dead = keys.of_partition(step.group, step.partition).dead
    if step.ids is None:
        # Trim, do not delete the key: if ids came again, a redrive of an older page would reach another message.
        return (b"XTRIM", dead, b"MAXLEN", b"=", 0), int
    return (b"XDEL", dead, *(step.ids or (NO_ENTRY,))), int
