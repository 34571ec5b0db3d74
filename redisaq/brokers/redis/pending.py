"""What was delivered: claiming, counting and settling it, and what is left (T5, T6, S1).

In come tokens and entry ids; out go pages, and the tokens that stand. What always holds: nothing here changes anything under a
token that does not stand, and no delivery count moves except by `set_deliveries`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from redisaq.brokers.base import Acks, GroupName, Page, PendingEntry, Remaining, Settled
from redisaq.brokers.redis.commands import checked_of, run, run_each, run_unknown
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.scripts import CLAIM, DELIVERIES, MAKE_GROUP, REMAINING, REMAKE_GROUP, SETTLE, Command
from redisaq.core.records import whole
from redisaq.errors import LeaseLostError, ServerError
from redisaq.link import Link, pack


class Pending:
    """The steps of the Broker about a group's share of its partitions' entries."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def make_groups(self, group: GroupName, partitions: Sequence[int], *, latest: bool, younger: bool) -> None:
        """Make the group where it is not (G6); see Broker."""
        start = b"$" if latest else b"0"
        streams = [self._keys.stream(group.topic, partition) for partition in partitions]
        if streams:
            await run_each(self._link, [MAKE_GROUP(stream, group.group, start, int(younger)) for stream in streams])

    async def remake_group(self, group: GroupName, partition: int, last_id: bytes, start: bytes) -> None:
        """Make a lost group again (T6); see Broker."""
        await run(self._link, REMAKE_GROUP(self._keys.stream(group.topic, partition), group.group, last_id, start))

    async def claim(self, group: GroupName, partition: int, token: int, *, after: bytes, count: int) -> Page:
        """Return a page of what is pending (T5); see Broker."""
        keys = self._keys.of_partition(group, partition)
        try:
            page = await run(self._link, CLAIM(keys.stream, keys.lease, group.group, token, after, count))
        except ServerError as error:
            if error.code == "NOGROUP":  # nothing is pending there; the next read asks for the group to be made again
                return Page((), (), None)
            raise
        if page is None:
            raise LeaseLostError(f"another token stands beside partition {partition} of {group.topic} for {group.group}")
        entries, trimmed, last = page
        return Page(tuple(PendingEntry(entry_id, fields, deliveries) for entry_id, deliveries, fields in entries), tuple(trimmed), last)

    async def set_deliveries(
        self, group: GroupName, partition: int, token: int, counts: Mapping[bytes, int], *, raising: bool = False
    ) -> bool:
        """Set delivery counts (T5); see Broker."""
        keys = self._keys.of_partition(group, partition)
        pairs = [word for pair in counts.items() for word in pair]
        try:
            return bool(await run(self._link, DELIVERIES(keys.stream, keys.lease, group.group, token, int(raising), *pairs)))
        except ServerError as error:
            if error.code == "NOGROUP":  # the token stands, and nothing is pending
                return True
            raise

    async def settle(self, group: GroupName, acks: Sequence[Acks]) -> list[Settled]:
        """Acknowledge, each partition in one step (S1); see Broker."""
        if not acks:
            return []
        commands: list[Command] = []
        for one in acks:
            keys = self._keys.of_partition(group, one.partition)
            commands.append(SETTLE(keys.stream, keys.lease, group.group, one.token, *one.entry_ids))
        replies = await run_unknown(self._link, commands, await self._link.call_packed(pack(commands), len(commands)))
        standing = [whole(await checked_of(command, reply, self._link)) or 0 for command, reply in zip(commands, replies, strict=True)]
        return [Settled(done=token == one.token, token=token) for token, one in zip(standing, acks, strict=True)]

    async def remaining(self, group: GroupName, partitions: Sequence[int]) -> list[Remaining]:
        """Return what is left, each partition in one step; see Broker."""
        if not partitions:
            return []
        keys = [self._keys.of_partition(group, partition) for partition in partitions]
        replies = await run_each(self._link, [REMAINING(one.stream, one.retry, one.delayed, group.group) for one in keys])
        return [Remaining(unread == 1, pending, retry, delayed) for unread, pending, retry, delayed in replies]
