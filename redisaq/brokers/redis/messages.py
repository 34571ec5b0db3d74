"""Steps about single messages, for administrators: list, search, cancel, retry now.

Invariant: what changes a message does so in one script, which finds it where it is by then.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.brokers.redis.commands import Reply, yes
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import Asked, command
from redisaq.brokers.redis.scripts import Command, Script
from redisaq.brokers.steps import messages as steps
from redisaq.core.entry_ids import parse_id
from redisaq.core.records import Entry, time_of

LIST_PENDING = Script("list_pending", keys=2)
LIST_SCHEDULED = Script("list_scheduled", keys=2)
READ_DELAYED = Script("read_delayed", keys=2)
COUNT = Script("count", keys=1)
COUNT_DUE = Script("count_due", keys=1)
ENTRY_SUMMARIES = Script("entry_summaries", keys=1)
SEARCH = Script("search", keys=1)
STANDING = Script("standing", keys=4, begins_with=("facts",))
CANCEL_DELAYED = Script("cancel_delayed", keys=2)
CANCEL_RETRY = Script("cancel_retry", keys=3, begins_with=("whole",))
RETRY_NOW = Script("retry_now", keys=2, begins_with=("whole",))
GROUP_BACKLOG = Script("group_backlog", keys=3, begins_with=("above", "facts", "unread"))


@command(steps.ListPending)
def list_pending(step: steps.ListPending, keys: Keys) -> Asked[steps.PendingPage]:
    """Return a page of pending entries."""
    share = keys.of_partition(step.group, step.partition)
    return LIST_PENDING(share.stream, share.lease, step.group.group, step.after, step.count), _pending_page


def _pending_page(reply: Reply) -> steps.PendingPage:
    holder, now, rows = reply
    entries = (steps.PendingRow(entry_id, deliveries, (now - idle) * 1000, fields) for entry_id, deliveries, idle, fields in rows)
    return steps.PendingPage(_holder(holder), tuple(entries))


@command(steps.ListRetries)
def list_retries(step: steps.ListRetries, keys: Keys) -> Asked[steps.ScheduledPage]:
    """Return a page of messages that are to be tried again."""
    share = keys.of_partition(step.group, step.partition)
    return _list_scheduled(share.retry, share.retry_bodies, step.last, step.count), _scheduled_page


@command(steps.ListDelayed)
def list_delayed(step: steps.ListDelayed, keys: Keys) -> Asked[steps.ScheduledPage]:
    """Return a page of delayed messages."""
    names = keys.delayed(step.topic, step.partition), keys.delayed_bodies(step.topic, step.partition)
    return _list_scheduled(*names, step.last, step.count), _scheduled_page


def _list_scheduled(due: bytes, bodies: bytes, last: steps.Scheduled | None, count: int) -> Command:
    return LIST_SCHEDULED(due, bodies, b"" if last is None else last.score, b"" if last is None else last.id, count)


def _scheduled_page(reply: Reply) -> steps.ScheduledPage:
    now, rows = reply
    return steps.ScheduledPage(int(now), tuple(steps.Scheduled(name, score, time_of(score), body) for name, score, body in rows))


@command(steps.ReadDelayed)
def read_delayed(step: steps.ReadDelayed, keys: Keys) -> Asked[steps.Scheduled | None]:
    """Return a delayed message."""

    def answer(reply: Reply) -> steps.Scheduled | None:
        score, body = reply
        return None if score is None else steps.Scheduled(step.msg_id, score, time_of(score), body)

    return READ_DELAYED(keys.delayed(step.topic, step.partition), keys.delayed_bodies(step.topic, step.partition), step.msg_id), answer


@command(steps.ReadEntries)
def read_entries(step: steps.ReadEntries, keys: Keys) -> Asked[list[Entry]]:
    """Return entries of the stream."""
    stream, after = keys.stream(step.topic, step.partition), step.after
    if after is None:
        return (b"XREVRANGE", stream, b"+", b"-", b"COUNT", step.count), _entries
    return (b"XRANGE", stream, b"(" + after if after else b"-", b"+", b"COUNT", step.count), _entries


def _entries(reply: Reply) -> list[Entry]:
    return [(entry_id, fields) for entry_id, fields in reply]


@command(steps.SummariseEntries)
def summarise_entries(step: steps.SummariseEntries, keys: Keys) -> Asked[list[steps.EntrySummary]]:
    """Return the newest entries of the stream without most of their payloads."""
    return ENTRY_SUMMARIES(keys.stream(step.topic, step.partition), step.below, step.count, step.most, step.after), _summaries


def _summaries(reply: Reply) -> list[steps.EntrySummary]:
    return [steps.EntrySummary(*row) for row in reply]


@command(steps.CountDue)
def count_due(step: steps.CountDue, keys: Keys) -> Asked[Sequence[int]]:
    """Count delayed messages by when they are due."""
    return COUNT_DUE(keys.delayed(step.topic, step.partition), *step.moments), list


@command(steps.CountEntries)
def count_entries(step: steps.CountEntries, keys: Keys) -> Asked[steps.Counted]:
    """Count entries of the stream."""
    return COUNT(keys.stream(step.topic, step.partition), step.after, step.until, step.count), _counted


def _counted(reply: Reply) -> steps.Counted:
    number, last = reply
    return steps.Counted(number, last)


@command(steps.SearchStream)
def search_stream(step: steps.SearchStream, keys: Keys) -> Asked[steps.Searched]:
    """Look for a message in the stream."""
    return SEARCH(keys.stream(step.topic, step.partition), step.msg_id, step.before, step.count), _searched


@command(steps.SearchDead)
def search_dead(step: steps.SearchDead, keys: Keys) -> Asked[steps.Searched]:
    """Look for a message among the dead letters."""
    return SEARCH(keys.of_partition(step.group, step.partition).dead, step.msg_id, step.before, step.count), _searched


def _searched(reply: Reply) -> steps.Searched:
    looked, before, found = reply
    return steps.Searched(looked, before, None if found is None else (found[0], found[1]))


@command(steps.ReadStanding)
def read_standing(step: steps.ReadStanding, keys: Keys) -> Asked[steps.Standing]:
    """Return what the group has of an entry."""
    share = keys.of_partition(step.group, step.partition)

    def answer(reply: Reply) -> steps.Standing:
        last, holder, now, deliveries, idle, due, body = reply
        return steps.Standing(
            unread=parse_id(step.entry_id) > parse_id(last),
            holder=_holder(holder),
            deliveries=deliveries,
            since=0 if idle is None else (now - idle) * 1000,
            retry=None if due is None else steps.Scheduled(step.entry_id, due, time_of(due), body),
        )

    return STANDING(share.stream, share.lease, share.retry, share.retry_bodies, step.group.group, step.entry_id), answer


@command(steps.CancelDelayed)
def cancel_delayed(step: steps.CancelDelayed, keys: Keys) -> Asked[bool]:
    """Drop a delayed message."""
    names = keys.delayed(step.topic, step.partition), keys.delayed_bodies(step.topic, step.partition)
    return CANCEL_DELAYED(*names, step.msg_id), yes


@command(steps.CancelRetry)
def cancel_retry(step: steps.CancelRetry, keys: Keys) -> Asked[bool]:
    """Drop a message that is to be tried again."""
    share = keys.of_partition(step.group, step.partition)
    return CANCEL_RETRY(share.retry, share.retry_bodies, share.lease, step.entry_id), yes


@command(steps.RetryNow)
def retry_now(step: steps.RetryNow, keys: Keys) -> Asked[int]:
    """Let messages be due now."""
    share = keys.of_partition(step.group, step.partition)
    doorbell = keys.partition_doorbell(step.group.topic, step.partition)
    if step.ids is not None and not step.ids:
        return RETRY_NOW(share.retry, share.lease, doorbell, 0, b""), int
    return RETRY_NOW(share.retry, share.lease, doorbell, step.count, *(step.ids or ())), int


@command(steps.CountBacklog)
def count_backlog(step: steps.CountBacklog, keys: Keys) -> Asked[int]:
    """Count what the group could work on now."""
    share = keys.of_partition(step.group, step.partition)
    return GROUP_BACKLOG(share.stream, share.retry, share.delayed, step.group.group), sum


def _holder(reply: bytes | None) -> str:
    return (reply or b"").decode("utf-8", "backslashreplace")
