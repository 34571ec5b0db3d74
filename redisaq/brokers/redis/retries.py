"""What did not simply succeed: settling it, trying it again, and what is due (S1, S2, S3).

In come resolutions and tokens; out goes what was moved, and what is due. What always holds: each call is one script, which changes
nothing under a token that does not stand, and nothing when it is sent again.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.brokers.delivery import FOUND, GONE, Body, Due, Resolution, Resolved, SetAside, unreadable
from redisaq.brokers.redis.commands import Caller, run
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.scripts import DUE, RESOLVE, START_RETRY, Argument
from redisaq.brokers.terms import GroupName
from redisaq.core.records import UNREADABLE, decode_retry, encode_dead, encode_retry, retry_prefix, time_of, whole
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
        return Resolved(done=whole(standing) == token, token=whole(standing) or 0, moved=tuple(flag == 1 for flag in moved))

    async def start_retry(self, group: GroupName, partition: int, token: int, *, entry_id: bytes, life: int, attempt: int) -> bool:
        """Note that a handler begins on a message of `retry`; see DeliveryBroker."""
        keys = self._keys.of_partition(group, partition)
        before, after = retry_prefix(life, attempt - 1), retry_prefix(life, attempt)
        return bool(await run(self._link, START_RETRY(keys.lease, keys.retry_bodies, token, entry_id, before, after)))

    async def due(self, group: GroupName, partition: int, token: int, *, count: int, dead_maxlen: int | None) -> Due:
        """Move what is delayed and due, return what is to be tried again; see DeliveryBroker."""
        keys = self._keys.of_partition(group, partition)
        command = DUE(keys.stream, keys.lease, keys.retry, keys.retry_bodies, keys.delayed, keys.delayed_bodies, token, count)
        answer = await run(self._link, command)
        if answer is None:
            raise LeaseLostError(f"another token stands beside partition {partition} of {group.topic} for {group.group}")
        now, moved, found, next_retry, next_delayed, blocked, lost_retries, lost_delayed, found_again = answer
        times = [int(now) + BLOCKED if blocked else time_of(next_delayed), time_of(next_retry)]
        retries: list[Body] = []
        resolutions: list[Resolution] = []
        set_aside = [SetAside(entry_id, GONE) for entry_id in (*lost_retries, *lost_delayed)]
        set_aside += [SetAside(b"", f"{found_again}: {FOUND}")] if found_again else []
        for entry_id, data in zip(found[::2], found[1::2], strict=True):
            try:
                retries.append(decode_retry(entry_id, data))
            except UNREADABLE as error:
                resolution, report = unreadable(entry_id, data, error)
                resolutions.append(resolution)
                set_aside.append(report)
        if resolutions:
            await self.resolve(group, partition, token, resolutions, dead_maxlen=dead_maxlen)
        return Due(
            retries=tuple(retries),
            moved=moved,
            next_due=min((time for time in times if time is not None), default=None),
            now=int(now),
            set_aside=tuple(set_aside),
        )


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
