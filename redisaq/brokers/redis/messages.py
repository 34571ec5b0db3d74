"""Steps about single messages, for administrators: list, search, cancel, retry now.

Invariant: what changes a message does so in one script, which finds it where it is by then.
"""

from __future__ import annotations

from redisaq.brokers.redis.commands import Reply
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import Asked, command
from redisaq.brokers.redis.scripts import Command, Script
from redisaq.brokers.steps.messages import (
    CancelDelayed,
    CancelRetry,
    CountBacklog,
    Counted,
    CountEntries,
    ListDelayed,
    ListPending,
    ListRetries,
    PendingPage,
    PendingRow,
    ReadDelayed,
    ReadEntries,
    ReadStanding,
    RetryNow,
    Scheduled,
    ScheduledPage,
    SearchDead,
    Searched,
    SearchStream,
    Standing,
)
from redisaq.brokers.terms import RawEntry
from redisaq.core.entry_ids import parse_id
from redisaq.core.records import time_of

LIST_PENDING = Script("list_pending", keys=2)
LIST_SCHEDULED = Script("list_scheduled", keys=2)
READ_DELAYED = Script("read_delayed", keys=2)
COUNT = Script("count", keys=1)
SEARCH = Script("search", keys=1)
STANDING = Script("standing", keys=4, begins_with=("facts",))
CANCEL_DELAYED = Script("cancel_delayed", keys=2)
CANCEL_RETRY = Script("cancel_retry", keys=3, begins_with=("whole",))
RETRY_NOW = Script("retry_now", keys=2, begins_with=("whole",))
GROUP_BACKLOG = Script("group_backlog", keys=3, begins_with=("facts",))


@command(ListPending)
def list_pending(step: ListPending, keys: Keys) -> Asked[PendingPage]:
    """Return a page of pending entries."""
    share = keys.of_partition(step.group, step.partition)
    return LIST_PENDING(share.stream, share.lease, step.group.group, step.after, step.count), _pending_page


def _pending_page(reply: Reply) -> PendingPage:
    holder, now, rows = reply
    entries = (PendingRow(entry_id, deliveries, (now - idle) * 1000, fields) for entry_id, deliveries, idle, fields in rows)
    return PendingPage(_holder(holder), tuple(entries))


@command(ListRetries)
def list_retries(step: ListRetries, keys: Keys) -> Asked[ScheduledPage]:
    """Return a page of messages that are to be tried again."""
    share = keys.of_partition(step.group, step.partition)
    return _list_scheduled(share.retry, share.retry_bodies, step.last, step.count), _scheduled_page


@command(ListDelayed)
def list_delayed(step: ListDelayed, keys: Keys) -> Asked[ScheduledPage]:
    """Return a page of delayed messages."""
    names = keys.delayed(step.topic, step.partition), keys.delayed_bodies(step.topic, step.partition)
    return _list_scheduled(*names, step.last, step.count), _scheduled_page


def _list_scheduled(due: bytes, bodies: bytes, last: Scheduled | None, count: int) -> Command:
    return LIST_SCHEDULED(due, bodies, b"" if last is None else last.score, b"" if last is None else last.id, count)


def _scheduled_page(reply: Reply) -> ScheduledPage:
    now, rows = reply
    return ScheduledPage(int(now), tuple(Scheduled(name, score, time_of(score), body) for name, score, body in rows))


@command(ReadDelayed)
def read_delayed(step: ReadDelayed, keys: Keys) -> Asked[Scheduled | None]:
    """Return a delayed message."""

    def answer(reply: Reply) -> Scheduled | None:
        score, body = reply
        return None if score is None else Scheduled(step.msg_id, score, time_of(score), body)

    return READ_DELAYED(keys.delayed(step.topic, step.partition), keys.delayed_bodies(step.topic, step.partition), step.msg_id), answer


@command(ReadEntries)
def read_entries(step: ReadEntries, keys: Keys) -> Asked[list[RawEntry]]:
    """Return entries of the stream."""
    stream, after = keys.stream(step.topic, step.partition), step.after
    if after is None:
        return (b"XREVRANGE", stream, b"+", b"-", b"COUNT", step.count), _entries
    return (b"XRANGE", stream, b"(" + after if after else b"-", b"+", b"COUNT", step.count), _entries


def _entries(reply: Reply) -> list[RawEntry]:
    return [(entry_id, fields) for entry_id, fields in reply]


@command(CountEntries)
def count_entries(step: CountEntries, keys: Keys) -> Asked[Counted]:
    """Count entries of the stream."""
    return COUNT(keys.stream(step.topic, step.partition), step.after, step.until, step.count), _counted


def _counted(reply: Reply) -> Counted:
    number, last = reply
    return Counted(number, last)


@command(SearchStream)
def search_stream(step: SearchStream, keys: Keys) -> Asked[Searched]:
    """Look for a message in the stream."""
    return SEARCH(keys.stream(step.topic, step.partition), step.msg_id, step.before, step.count), _searched


@command(SearchDead)
def search_dead(step: SearchDead, keys: Keys) -> Asked[Searched]:
    """Look for a message among the dead letters."""
    return SEARCH(keys.of_partition(step.group, step.partition).dead, step.msg_id, step.before, step.count), _searched


def _searched(reply: Reply) -> Searched:
    looked, before, found = reply
    return Searched(looked, before, None if found is None else (found[0], found[1]))


@command(ReadStanding)
def read_standing(step: ReadStanding, keys: Keys) -> Asked[Standing]:
    """Return what the group has of an entry."""
    share = keys.of_partition(step.group, step.partition)

    def answer(reply: Reply) -> Standing:
        last, holder, now, deliveries, idle, due, body = reply
        return Standing(
            unread=parse_id(step.entry_id) > parse_id(last),
            holder=_holder(holder),
            deliveries=deliveries,
            since=0 if idle is None else (now - idle) * 1000,
            retry=None if due is None else Scheduled(step.entry_id, due, time_of(due), body),
        )

    return STANDING(share.stream, share.lease, share.retry, share.retry_bodies, step.group.group, step.entry_id), answer


@command(CancelDelayed)
def cancel_delayed(step: CancelDelayed, keys: Keys) -> Asked[bool]:
    """Drop a delayed message."""
    names = keys.delayed(step.topic, step.partition), keys.delayed_bodies(step.topic, step.partition)
    return CANCEL_DELAYED(*names, step.msg_id), bool


@command(CancelRetry)
def cancel_retry(step: CancelRetry, keys: Keys) -> Asked[bool]:
    """Drop a message that is to be tried again."""
    share = keys.of_partition(step.group, step.partition)
    return CANCEL_RETRY(share.retry, share.retry_bodies, share.lease, step.entry_id), bool


@command(RetryNow)
def retry_now(step: RetryNow, keys: Keys) -> Asked[int]:
    """Let messages be due now."""
    share = keys.of_partition(step.group, step.partition)
    doorbell = keys.partition_doorbell(step.group.topic, step.partition)
    if step.ids is not None and not step.ids:
        return RETRY_NOW(share.retry, share.lease, doorbell, 0, b""), int
    return RETRY_NOW(share.retry, share.lease, doorbell, step.count, *(step.ids or ())), int


@command(CountBacklog)
def count_backlog(step: CountBacklog, keys: Keys) -> Asked[int]:
    """Count what the group could work on now."""
    share = keys.of_partition(step.group, step.partition)
    return GROUP_BACKLOG(share.stream, share.retry, share.delayed, step.group.group), sum


def _holder(reply: bytes | None) -> str:
    return (reply or b"").decode("utf-8", "backslashreplace")
