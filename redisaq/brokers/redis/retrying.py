"""Steps about messages that failed: what is due, retries that begin, and dead letters (S1, S2, S3).

Invariant: a message leaves the dead letters in the same script in which it enters `retry`. Its new body is made here, before that script
runs, which is safe because a dead letter never changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from redisaq.brokers.redis.commands import Reply, run, run_each
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import Asked, command, commands
from redisaq.brokers.redis.scripts import Argument, Command, Script
from redisaq.brokers.redis.settling import resolve
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
    unreadable,
)
from redisaq.brokers.steps.settling import Resolve
from redisaq.core.entry_ids import parse_id
from redisaq.core.records import (
    UNREADABLE,
    Body,
    Resolution,
    decode_retry,
    encode_retry,
    next_life,
    read_dead,
    retry_prefix,
    time_of,
    whole,
)
from redisaq.link import Caller

START_RETRY = Script("start_retry", keys=2)
DUE = Script("due", keys=6)
DEAD_SUMMARIES = Script("dead_summaries", keys=1)
REDRIVE = Script("redrive", keys=4, begins_with=("whole",))

BLOCKED = 1_000_000
"""Microseconds until the next try, after a stream did not take what was due."""

Entries = list[tuple[bytes, list[bytes]]]
Redriven = tuple[bytes, Body]


@command(StartRetry)
def start_retry(step: StartRetry, keys: Keys) -> Asked[bool]:
    """Record that a handler begins on a message of `retry`."""
    share = keys.of_partition(step.group, step.partition)
    before, after = retry_prefix(step.life, step.attempt - 1), retry_prefix(step.life, step.attempt)
    return START_RETRY(share.lease, share.retry_bodies, step.token, step.entry_id, before, after), bool


@commands(TakeDue)
async def take_due(step: TakeDue, link: Caller, keys: Keys) -> Due:
    """Move delayed messages that are due, return retries that are due; then set aside the unreadable ones."""
    share = keys.of_partition(step.group, step.partition)
    names = (share.stream, share.lease, share.retry, share.retry_bodies, share.delayed, share.delayed_bodies)
    reply = await run(link, DUE(*names, step.token, step.count))
    if reply is None:
        raise step.lost()
    now, moved, found, next_retry, next_delayed, blocked, lost_retries, lost_delayed, found_again = reply
    times = [int(now) + BLOCKED if blocked else time_of(next_delayed), time_of(next_retry)]
    retries: list[Body] = []
    resolutions: list[Resolution] = []
    set_aside = [SetAside(entry_id, GONE) for entry_id in (*lost_retries, *lost_delayed)]
    set_aside += [SetAside(b"", f"{found_again} {FOUND}")] if found_again else []
    for entry_id, data in zip(found[::2], found[1::2], strict=True):
        try:
            retries.append(decode_retry(entry_id, data))
        except UNREADABLE as error:
            resolution, report = unreadable(entry_id, data, error)
            resolutions.append(resolution)
            set_aside.append(report)
    if resolutions:
        asked, _ = resolve(Resolve(step.group, step.partition, step.token, resolutions, step.dead_maxlen), keys)
        await run(link, asked)
    return Due(
        retries=tuple(retries),
        moved=moved,
        next_due=min((time for time in times if time is not None), default=None),
        now=int(now),
        set_aside=tuple(set_aside),
    )


@command(ReadDead)
def read_dead_letters(step: ReadDead, keys: Keys) -> Asked[list[DeadLetterEntry]]:
    """Return a page of dead letters."""
    return _range(keys.of_partition(step.group, step.partition).dead, step.after, step.count), _letters


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


@commands(Redrive)
async def redrive(step: Redrive, link: Caller, keys: Keys) -> int:
    """Give up to `count` dead letters a new life."""
    share, ids, count = keys.of_partition(step.group, step.partition), step.ids, step.count
    found = await (_first(link, share.dead, count) if ids is None else _named(link, share.dead, ids, count))
    if not found:
        return 0
    words: list[Argument] = [share.dead, share.retry, share.retry_bodies, share.lease]
    words.append(keys.partition_doorbell(step.group.topic, step.partition))
    for dead_id, body in found[:count]:
        words += [dead_id, body.entry_id, encode_retry(body)]
    return cast("int", await run(link, REDRIVE(*words)))


@commands(Purge)
async def purge(step: Purge, link: Caller, keys: Keys) -> int:
    """Drop these dead letters, or all."""
    dead, ids = keys.of_partition(step.group, step.partition).dead, step.ids
    if ids is None:
        # Trim, do not delete the key: if ids came again, a redrive of an older page would reach another message.
        return cast("int", await run(link, (b"XTRIM", dead, b"MAXLEN", b"=", 0)))
    return cast("int", await run(link, (b"XDEL", dead, *ids))) if ids else 0


def _range(dead: bytes, after: bytes, count: int) -> Command:
    return (b"XRANGE", dead, b"(" + after if after else b"-", b"+", b"COUNT", count)


async def _first(link: Caller, dead: bytes, count: int) -> list[Redriven]:
    """Return the first `count` dead letters that can be redriven, passing over entries that are no dead letters."""
    found: list[Redriven] = []
    after = b""
    while len(found) < count and (page := cast("Entries", await run(link, _range(dead, after, count)))):
        found += _redriven(page)
        after = page[-1][0]
    return found


async def _named(link: Caller, dead: bytes, ids: Sequence[bytes], count: int) -> list[Redriven]:
    """Return the first `count` of these that are there and can be redriven, never requesting more than that at once."""
    wanted = sorted(set(ids), key=parse_id)
    found: list[Redriven] = []
    while wanted and len(found) < count:
        missing = count - len(found)
        asked: list[Command] = [(b"XRANGE", dead, dead_id, dead_id) for dead_id in wanted[:missing]]
        wanted = wanted[missing:]
        found += _redriven([entry for reply in await run_each(link, asked) for entry in cast("Entries", reply)])
    return found


def _redriven(entries: Entries) -> list[Redriven]:
    bodies = ((dead_id, next_life(read_dead(dead_id, words))) for dead_id, words in entries)
    return [(dead_id, body) for dead_id, body in bodies if body is not None]
