"""Steps that settle messages, and what is left to settle (S1, S2).

Invariants: each step is one script. It changes nothing under a token that is not the current one, and nothing when it is repeated.
"""

from __future__ import annotations

from redisaq.brokers.redis.commands import Reply
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import Asked, command
from redisaq.brokers.redis.scripts import Argument, Script
from redisaq.brokers.steps import settling as steps
from redisaq.core.records import Resolution, encode_dead, encode_retry, whole

SETTLE = Script("settle", keys=2)
RESOLVE = Script("resolve", keys=5)
REMAINING = Script("remaining", keys=3)


@command(steps.Acknowledge)
def acknowledge(step: steps.Acknowledge, keys: Keys) -> Asked[steps.Settled]:
    """Acknowledge entries (S1)."""
    share, token = keys.of_partition(step.group, step.partition), step.token

    def answer(reply: Reply) -> steps.Settled:
        standing, moved = (reply, None) if isinstance(reply, bytes) else reply
        number = whole(standing) or 0
        return steps.Settled(done=number == token, token=number, spent=moved is not None)

    return SETTLE(share.stream, share.lease, step.group.group, token, *step.entry_ids), answer


@command(steps.Resolve)
def resolve(step: steps.Resolve, keys: Keys) -> Asked[steps.Resolved]:
    """Settle each message as its resolution says (S1)."""
    share = keys.of_partition(step.group, step.partition)
    words: list[Argument] = [share.stream, share.lease, share.retry, share.retry_bodies, share.dead]
    words += [step.group.group, step.token, "" if step.dead_maxlen is None else step.dead_maxlen]
    for one in step.resolutions:
        words += _words(one)

    def answer(reply: Reply) -> steps.Resolved:
        standing, moved, *spent = reply
        number = whole(standing) or 0
        return steps.Resolved(number == step.token, number, tuple(flag == 1 for flag in moved), spent=any(spent))

    return RESOLVE(*words), answer


def _words(one: Resolution) -> list[Argument]:
    """Return one message's part of the script's arguments."""
    body = one.body
    words: list[Argument] = [one.source, one.to, body.entry_id, one.beginning]
    match one.to:
        case "retry":
            words += [one.due, encode_retry(one.kept)]
        case "dead":
            entry = encode_dead(body)
            words += [len(entry), *entry]
        case "done":
            pass
    return words


@command(steps.ReadRemaining)
def read_remaining(step: steps.ReadRemaining, keys: Keys) -> Asked[steps.Remaining]:
    """Return what is left."""
    share = keys.of_partition(step.group, step.partition)
    return REMAINING(share.stream, share.retry, share.delayed, step.group.group), _remaining


def _remaining(reply: Reply) -> steps.Remaining:
    unread, pending, retry, delayed = reply
    return steps.Remaining(unread == 1, pending, retry, delayed)
