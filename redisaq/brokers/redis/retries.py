"""What did not simply succeed: settling it, trying it again, and what is due (S1, S2, S3).

In come resolutions and tokens; out goes what was moved, and what is due. What always holds: each call is one script, which changes
nothing under a token that does not stand, and nothing when it is sent again.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.brokers.delivery import Due, Resolution, Resolved
from redisaq.brokers.redis.commands import Caller, run
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.scripts import DUE, RESOLVE, START_RETRY, Argument
from redisaq.brokers.terms import GroupName
from redisaq.core.records import decode_retry, encode_dead, encode_retry, retry_prefix
from redisaq.errors import LeaseLostError

BLOCKED = 1_000_000
"""Microseconds until a stream that did not take what was due is tried again."""


class Retries:
    """The steps of the DeliveryBroker."""

    def __init__(self, link: Caller, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def resolve(
        self, group: GroupName, partition: int, token: int, resolutions: Sequence[Resolution], *, dead_maxlen: int | None
    ) -> Resolved:
        """Settle some messages in one step (S1); see DeliveryBroker."""
        keys = self._keys.of_partition(group, partition)
        words: list[Argument] = [keys.stream, keys.lease, keys.retry, keys.retry_bodies, keys.dead]
        words += [group.group, token, "" if dead_maxlen is None else dead_maxlen]
        for one in resolutions:
            words += _words(one)
        standing, moved = await run(self._link, RESOLVE(*words))
        return Resolved(done=int(standing or 0) == token, token=int(standing or 0), moved=tuple(flag == 1 for flag in moved))

    async def start_retry(self, group: GroupName, partition: int, token: int, *, entry_id: bytes, life: int, attempt: int) -> bool:
        """Note that a handler begins on a message of `retry`; see DeliveryBroker."""
        keys = self._keys.of_partition(group, partition)
        before, after = retry_prefix(life, attempt - 1), retry_prefix(life, attempt)
        return bool(await run(self._link, START_RETRY(keys.lease, keys.retry_bodies, token, entry_id, before, after)))

    async def due(self, group: GroupName, partition: int, token: int, *, count: int) -> Due:
        """Move what is delayed and due, return what is to be tried again; see DeliveryBroker."""
        keys = self._keys.of_partition(group, partition)
        command = DUE(keys.stream, keys.lease, keys.retry, keys.retry_bodies, keys.delayed, keys.delayed_bodies, token, count)
        answer = await run(self._link, command)
        if answer is None:
            raise LeaseLostError(f"another token stands beside partition {partition} of {group.topic} for {group.group}")
        now, moved, found, next_retry, next_delayed, blocked = answer
        times = [int(now) + BLOCKED if blocked else next_delayed, next_retry]
        return Due(
            retries=tuple(decode_retry(entry_id, data) for entry_id, data in zip(found[::2], found[1::2], strict=True)),
            moved=moved,
            next_due=min((int(time) for time in times if time is not None), default=None),
            now=int(now),
        )


def _words(one: Resolution) -> list[Argument]:
    """Return one message's part of the script's arguments."""
    body = one.body
    words: list[Argument] = [one.source, one.to, body.entry_id, retry_prefix(body.life, body.attempt)]
    match one.to:
        case "retry":
            words += [one.due, encode_retry(one.kept)]
        case "dead":
            entry = encode_dead(body)
            words += [len(entry), *entry]
        case "done":
            pass
    return words
