"""What is kept on a real server: trimming what is done with, and what trimming took.

In come topics, groups and tokens; out go facts. What always holds: each method may be repeated, and each step is whole in one slot: who has
no member is known beside the topic, where the groups stand beside each partition.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.brokers.redis.commands import Caller, milliseconds, run, run_each
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.scripts import KEEPING, SIGHT, TRIM, Command
from redisaq.brokers.redis.topics import kept_number
from redisaq.brokers.retention import Keeping, Sighting, Trimmed
from redisaq.brokers.terms import GroupName
from redisaq.core.records import time_of, whole
from redisaq.core.retention import IDLE, SEND_TIMEOUT, alone_since, kept_for
from redisaq.errors import LeaseLostError

MOST = 10_000
"""Entries that one step may take: the server does nothing else meanwhile. More than a node of a stream holds (100 unless configured)."""


class Retention:
    """The steps of RetentionBroker; see there."""

    def __init__(self, link: Caller, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def keeping(self, groups: Sequence[GroupName]) -> Keeping:
        """Return what holds, and who is alone."""
        commands: list[Command] = []
        for group in groups:
            keys = self._keys.group(group)
            commands.append(KEEPING(keys.meta, keys.members, keys.state, group.group))
        alone: dict[str, float] = {}
        replies = await run_each(self._link, commands)
        for group, (now, _, _, _, expiry, changed) in zip(groups, replies, strict=True):
            since = alone_since(now=int(now), last_expiry=(time_of(expiry) or 0) * 1000, changed=(whole(changed) or 0) * 1000)
            if since:  # 0: nobody knows, and nothing is to be trimmed
                alone[group.group] = max(0.0, (int(now) - since) / 1e6)
        now, retention, send_timeout, idle, *_ = replies[0]
        return _keeping(self._keys.meta(groups[0].topic), now, retention, send_timeout, idle, alone=alone)

    async def trim(self, topic: str, partition: int, keeping: Keeping, groups: Sequence[str]) -> Trimmed:
        """Trim what every group has done with (E3)."""
        lapsed = keeping.lapsed
        required = [group for group in groups if group not in lapsed]
        command = TRIM(
            self._keys.stream(topic, partition),
            keeping.now,
            milliseconds(keeping.kept_for),
            milliseconds(keeping.idle),
            MOST,
            len(lapsed),
            *lapsed,
            *required,
        )
        removed, more, later = await run(self._link, command)
        return Trimmed(removed, more == 1, later == 1)

    async def sight(self, group: GroupName, partition: int, token: int, *, since: Sighting | None, read: int) -> Sighting:
        """Count what trimming took before it was read."""
        keys = self._keys.of_partition(group, partition)
        before, ordinal = (since.position, since.ordinal) if since is not None else (b"", None)
        command = SIGHT(keys.stream, keys.lease, group.group, token, before if ordinal is not None else b"", ordinal or 0, read)
        answer = await run(self._link, command)
        if answer is None:
            raise LeaseLostError(f"another token stands beside partition {partition} of {group.topic} for {group.group}")
        position, standing, lost, after, first = answer
        return Sighting(position, standing, lost, after, first)


def _keeping(
    meta: bytes, now: bytes, retention: bytes | None, send_timeout: bytes | None, idle: bytes | None, *, alone: dict[str, float]
) -> Keeping:
    limit, idle_ms = kept_number(meta, "send_timeout", send_timeout), kept_number(meta, "retention_idle", idle)
    return Keeping(
        acked=retention == b"acked",
        now=int(now),
        kept_for=kept_for(SEND_TIMEOUT if limit is None else limit / 1000),
        idle=IDLE if idle_ms is None else idle_ms / 1000,
        alone=alone,
    )
