"""Looking after topics and groups: look, pause, seek, delete.

In come names; out go views. What always holds: nothing here asks for a token, and whatever is called again goes on where it was cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.brokers.administration import LOOKED_AT, GroupView, PartitionView, StreamView
from redisaq.brokers.redis.commands import Caller, run, run_all, run_each
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.scripts import DISBAND, DROP_GROUP, PAUSE, SEEK, VIEW_GROUP, VIEW_PARTITION, VIEW_STREAM, Command
from redisaq.brokers.redis.topics import kept_number
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import read_document
from redisaq.core.records import MOST_NUMBER, text_or_none, time_of, whole
from redisaq.core.retention import IDLE, alone_since

PAGE = 1000
"""Keys that one SCAN looks at."""


class Administration:
    """The steps of the AdminBroker."""

    def __init__(self, link: Caller, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def view_streams(self, topic: str, partitions: Sequence[int]) -> list[StreamView]:
        """Return how each partition stands; see AdminBroker."""
        keys = self._keys
        if not partitions:
            return []
        commands = [VIEW_STREAM(keys.stream(topic, number), keys.delayed(topic, number)) for number in partitions]
        return [
            StreamView(length, delayed, tuple(sorted(name.decode("utf-8", "backslashreplace") for name in names)))
            for length, delayed, names in await run_each(self._link, commands)
        ]

    async def view_group(self, group: GroupName) -> GroupView:
        """Return how the group's coordination stands; see AdminBroker."""
        keys = self._keys.group(group)
        command = VIEW_GROUP(keys.members, keys.state, keys.meta, group.group)
        now, paused, document, members, changed, retention, idle = await run(self._link, command)
        expiries: dict[str, int] = {}
        for member, expiry in zip(members[::2], members[1::2], strict=True):
            if (incarnation := text_or_none(member)) is not None:
                expiries[incarnation] = (time_of(expiry) or MOST_NUMBER) * 1000
        idle_ms = kept_number(keys.meta, "retention_idle", idle)
        since = alone_since(now=int(now), last_expiry=max(expiries.values(), default=0), changed=(whole(changed) or 0) * 1000)
        alone = max(0.0, (int(now) - since) / 1e6) if since else 0.0
        return GroupView(
            now=int(now),
            paused=paused == 1,
            members=expiries,
            document=read_document(document),
            alone=alone,
            lapsed=retention == b"acked" and alone >= (IDLE if idle_ms is None else idle_ms / 1000),
        )

    async def view_partitions(self, group: GroupName, partitions: Sequence[int]) -> list[PartitionView]:
        """Return how the group stands in each partition; see AdminBroker."""
        if not partitions:
            return []
        commands: list[Command] = []
        for number in partitions:
            keys = self._keys.of_partition(group, number)
            commands.append(VIEW_PARTITION(keys.stream, keys.lease, keys.retry, keys.delayed, keys.dead, group.group, LOOKED_AT))
        views: list[PartitionView] = []
        for there, length, unread, pending, retry, dead, delayed, token, holder, last, counts, lost in await run_each(self._link, commands):
            views.append(
                PartitionView(
                    there=bool(there or retry or dead or token),
                    length=length,
                    unread=unread,
                    pending=pending,
                    retry=retry,
                    dead=dead,
                    delayed=delayed,
                    token=whole(token) or 0,
                    holder=(holder or b"").decode("utf-8", "backslashreplace"),
                    last_delivered=last,
                    deliveries=dict(sorted(zip(counts[::2], counts[1::2], strict=True))),
                    lost=whole(lost) or 0,
                )
            )
        return views

    async def set_paused(self, group: GroupName, *, paused: bool) -> None:
        """Pause the group, or let it go on; see AdminBroker."""
        keys = self._keys.group(group)
        await run(self._link, PAUSE(keys.state, keys.doorbell, int(paused)))

    async def seek(self, group: GroupName, partition: int, position: bytes) -> None:
        """Deliver what stands after the position next; see AdminBroker."""
        keys = self._keys.of_partition(group, partition)
        await run(self._link, SEEK(keys.stream, keys.retry, keys.retry_bodies, group.group, position))

    async def disband(self, group: GroupName, *, force: bool) -> tuple[str, ...]:
        """Drop the group's coordination; see AdminBroker."""
        keys = self._keys.group(group)
        live: list[bytes] = await run(self._link, DISBAND(keys.members, keys.state, keys.doorbell, int(force)))
        return tuple(sorted(member.decode() for member in live))

    async def drop_group(self, group: GroupName, partitions: Sequence[int]) -> None:
        """Take the group out of each partition; see AdminBroker."""
        commands: list[Command] = []
        for number in partitions:
            keys = self._keys.of_partition(group, number)
            commands.append(DROP_GROUP(keys.stream, keys.lease, keys.retry, keys.retry_bodies, keys.dead, group.group))
        if commands:
            await run_each(self._link, commands)

    async def drop_topic(self, topic: str) -> None:
        """Drop every key of the topic; see AdminBroker.

        Marks of deduplication, and what stands beside partitions for groups that are no more, are named nowhere: so all keys are scanned.
        """
        keys = self._keys
        cursor = b"0"
        while True:
            cursor, found = await run(self._link, (b"SCAN", cursor, b"MATCH", keys.topic_pattern(topic), b"COUNT", PAGE))
            commands: list[Command] = [(b"UNLINK", key) for key in found if keys.is_of_topic(key, topic)]
            if commands:
                await run_each(self._link, commands)
            if int(cursor) == 0:
                break
        # The count comes last: whoever repeats this, cut short, has to know it.
        await run(self._link, (b"SREM", keys.topics, topic))
        await run(self._link, (b"UNLINK", keys.meta(topic)))
        await run_all(self._link, [(b"SPUBLISH", keys.topic_doorbell(topic), b"")])  # a hint: it must not fail what is done
