"""Steps about retention on a real server.

Whether a group has members is known in the topic's slot, and the groups' positions in each partition's. So two steps are needed.
"""

from __future__ import annotations

from redisaq.brokers.redis.commands import Reply, milliseconds
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import Asked, command
from redisaq.brokers.redis.scripts import Script
from redisaq.brokers.redis.topics import kept_number
from redisaq.brokers.steps import retention as steps
from redisaq.core.records import time_of, whole
from redisaq.core.retention import IDLE, SEND_TIMEOUT, alone_since, kept_for

KEEPING = Script("keeping", keys=3, begins_with=("whole",))
TRIM = Script("trim", keys=1, begins_with=("above", "facts"))
SIGHT = Script("sight", keys=2, begins_with=("above", "facts", "whole"))

MOST = 10_000
"""How many entries one step may trim, since the server does nothing else meanwhile.

More than one node of a stream holds (100 by default).
"""


@command(steps.ReadKeeping)
def read_keeping(step: steps.ReadKeeping, keys: Keys) -> Asked[steps.Keeping]:
    """Return the topic's retention, and for how long the group has had no member."""
    group = keys.group(step.group)

    def answer(reply: Reply) -> steps.Keeping:
        now, retention, send_timeout, idle, expiry, changed = reply
        since = alone_since(now=int(now), last_expiry=(time_of(expiry) or 0) * 1000, changed=(whole(changed) or 0) * 1000)
        limit, idle_ms = kept_number(group.meta, "send_timeout", send_timeout), kept_number(group.meta, "retention_idle", idle)
        return steps.Keeping(
            acked=retention == b"acked",
            now=int(now),
            kept_for=kept_for(SEND_TIMEOUT if limit is None else limit / 1000),
            idle=IDLE if idle_ms is None else idle_ms / 1000,
            alone={step.group.group: max(0.0, (int(now) - since) / 1e6)} if since else {},  # 0: not known, and nothing is to be trimmed
        )

    return KEEPING(group.meta, group.members, group.state, step.group.group), answer


@command(steps.Trim)
def trim(step: steps.Trim, keys: Keys) -> Asked[steps.Trimmed]:
    """Trim what every group has settled (E3)."""
    keeping = step.keeping
    lapsed = keeping.lapsed
    required = [group for group in step.groups if group not in lapsed]
    kept_ms, idle_ms = milliseconds(keeping.kept_for), milliseconds(keeping.idle)
    stream = keys.stream(step.topic, step.partition)
    return TRIM(stream, keeping.now, kept_ms, idle_ms, MOST, len(lapsed), *lapsed, *required), _trimmed


def _trimmed(reply: Reply) -> steps.Trimmed:
    removed, more, later = reply
    return steps.Trimmed(removed, more == 1, later == 1)


@command(steps.Sight)
def sight(step: steps.Sight, keys: Keys) -> Asked[steps.Sighting]:
    """Count the entries that trimming took before they were read."""
    share, since = keys.of_partition(step.group, step.partition), step.since
    before, ordinal = (since.position, since.ordinal) if since is not None else (b"", None)

    def answer(reply: Reply) -> steps.Sighting:
        if reply is None:
            raise step.lost()
        position, standing, lost, after, first = reply
        return steps.Sighting(position, standing, lost, after, first)

    words = (step.group.group, step.token, before if ordinal is not None else b"", ordinal or 0, step.read)
    return SIGHT(share.stream, share.lease, *words), answer
