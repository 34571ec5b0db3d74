"""Steps about messages that failed: what is due, retries that begin, and dead letters (S1, S2, S3).

Invariant: a message leaves the dead letters in the same script in which it enters `retry`.
"""

from __future__ import annotations

from redisaq.brokers.redis.commands import Reply, yes
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import Asked, command
from redisaq.brokers.redis.scripts import Argument, Script
from redisaq.brokers.steps import retrying as steps
from redisaq.core.records import encode_retry, read_dead, retry_prefix, time_of, whole

START_RETRY = Script("start_retry", keys=2)
DUE = Script("due", keys=7, begins_with=("whole",))
DEAD_SUMMARIES = Script("dead_summaries", keys=1, begins_with=("own_frame",))
DEAD_KINDS = Script("dead_kinds", keys=1, begins_with=("own_frame",))
REDRIVE = Script("redrive", keys=5, begins_with=("whole",))

NO_ENTRY = b"0-0"
"""An id that no entry has."""


@command(steps.StartRetry)
def start_retry(step: steps.StartRetry, keys: Keys) -> Asked[bool]:
    """Record that a handler begins on a message of `retry`."""
    share = keys.of_partition(step.group, step.partition)
    before, after = retry_prefix(step.life, step.attempt - 1), retry_prefix(step.life, step.attempt)
    return START_RETRY(share.lease, share.retry_bodies, step.token, step.entry_id, before, after), yes


@command(steps.TakeDue)
def take_due(step: steps.TakeDue, keys: Keys) -> Asked[steps.Due]:
    """Move delayed messages that are due, return retries that are due."""
    share = keys.of_partition(step.group, step.partition)

    def answer(reply: Reply) -> steps.Due:
        if reply is None:
            raise step.lost()
        now, moved, found, next_retry, next_delayed, blocked, lost_retries, lost_delayed, found_again, unswept = reply
        times = [int(now) + steps.BLOCKED if blocked else time_of(next_delayed), time_of(next_retry)]
        retries, unreadable, reports = steps.read_retries(zip(found[::2], found[1::2], strict=True))
        set_aside = [steps.SetAside(entry_id, steps.GONE) for entry_id in (*lost_retries, *lost_delayed)]
        set_aside += [steps.SetAside(b"", f"{found_again} {steps.FOUND}")] if found_again else []
        return steps.Due(
            retries=tuple(retries),
            moved=moved,
            next_due=min((time for time in times if time is not None), default=None),
            now=int(now),
            set_aside=(*set_aside, *reports),
            unreadable=tuple(unreadable),
            unswept=unswept == 1,
        )

    names = (share.stream, share.lease, share.retry, share.retry_bodies, share.delayed, share.delayed_bodies, share.cuts)
    return DUE(*names, step.token, step.count, keys.number(step.group.topic)), answer


@command(steps.ReadDead)
def read_dead_letters(step: steps.ReadDead, keys: Keys) -> Asked[list[steps.DeadLetterEntry]]:
    """Return a page of dead letters."""
    dead, after = keys.of_partition(step.group, step.partition).dead, b"(" + step.after if step.after else b"-"
    return (b"XRANGE", dead, after, b"+", b"COUNT", step.count), _letters


@command(steps.ReadNewestDead)
def read_newest_dead_letters(step: steps.ReadNewestDead, keys: Keys) -> Asked[list[steps.DeadLetterEntry]]:
    """Return a page of dead letters, the newest first."""
    dead, below = keys.of_partition(step.group, step.partition).dead, b"(" + step.below if step.below else b"+"
    return (b"XREVRANGE", dead, below, b"-", b"COUNT", step.count), _letters


def _letters(reply: Reply) -> list[steps.DeadLetterEntry]:
    return [steps.DeadLetterEntry(dead_id, read_dead(dead_id, words)) for dead_id, words in reply]


@command(steps.SummariseDead)
def summarise_dead_letters(step: steps.SummariseDead, keys: Keys) -> Asked[list[steps.DeadLetterSummary]]:
    """Return the newest dead letters without payloads."""
    return DEAD_SUMMARIES(keys.of_partition(step.group, step.partition).dead, step.below, step.count, step.most_text), _summaries


def _summaries(reply: Reply) -> list[steps.DeadLetterSummary]:
    found: list[steps.DeadLetterSummary] = []
    for dead_id, *rest in reply:
        if not rest:
            found.append(steps.DeadLetterSummary(dead_id, foreign=True))
            continue
        msg_id, key, error_type, error, attempts, origin, life, *frame = rest
        file, line, function = frame
        numbers = whole(attempts) or 0, whole(life) or 0
        found.append(
            steps.DeadLetterSummary(dead_id, msg_id, key, error_type, error, numbers[0], origin, numbers[1], (file, line, function))
        )
    return found


@command(steps.CountDead)
def count_dead_letters(step: steps.CountDead, keys: Keys) -> Asked[steps.CountedDead]:
    """Count dead letters by their failures."""
    return DEAD_KINDS(keys.of_partition(step.group, step.partition).dead, step.below, step.count, step.most_text), _counted


def _counted(reply: Reply) -> steps.CountedDead:
    number, last, rows = reply
    kinds: list[steps.DeadKind] = []
    for count, newest, oldest, *rest in rows:
        if rest:
            error_type, error, file, line, function = rest
            kinds.append(steps.DeadKind(count, newest, oldest, error_type, error, (file, line, function)))
        else:
            kinds.append(steps.DeadKind(count, newest, oldest, foreign=True))
    return steps.CountedDead(number, last, tuple(kinds))


@command(steps.Redrive)
def redrive(step: steps.Redrive, keys: Keys) -> Asked[int | None]:
    """Give dead letters a new life."""
    share = keys.of_partition(step.group, step.partition)
    words: list[Argument] = [share.dead, share.retry, share.retry_bodies, share.lease]
    words.append(keys.stream(step.group.topic, step.partition, step.cuts))
    words.append(keys.partition_doorbell(step.group.topic, step.partition))
    for dead_id, body in step.lives:
        words += [dead_id, body.entry_id, encode_retry(body)]
    return REDRIVE(*words), int


@command(steps.Purge)
def purge(step: steps.Purge, keys: Keys) -> Asked[int]:
    """Drop these dead letters, or all."""
    dead = keys.of_partition(step.group, step.partition).dead
    if step.ids is None:
        # Trim, do not delete the key: if ids came again, a redrive of an older page would reach another message.
        return (b"XTRIM", dead, b"MAXLEN", b"=", 0), int
    return (b"XDEL", dead, *(step.ids or (NO_ENTRY,))), int
