"""Steps about the schedules of cron jobs.

Invariant: a write replaces only what its writer has read, so a slow writer never restores an older state.
"""

from __future__ import annotations

from redisaq.brokers.redis.commands import Reply, yes
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import Asked, command
from redisaq.brokers.redis.scripts import Script
from redisaq.brokers.steps import schedules as steps
from redisaq.core.records import text_or_none

READ_SCHEDULES = Script("read_schedules", keys=1)
SET_SCHEDULE = Script("set_schedule", keys=1)


@command(steps.ReadSchedules)
def read_schedules(step: steps.ReadSchedules, keys: Keys) -> Asked[steps.Schedules]:
    """Return what is stored of all jobs."""
    return READ_SCHEDULES(keys.schedules(step.topic)), _schedules


def _schedules(reply: Reply) -> steps.Schedules:
    now, words = reply
    pairs = zip(words[::2], words[1::2], strict=True)
    return steps.Schedules(int(now), {job: value for name, value in pairs if (job := text_or_none(name)) is not None})


@command(steps.SetSchedule)
def set_schedule(step: steps.SetSchedule, keys: Keys) -> Asked[bool]:
    """Store a job's text."""
    asked = SET_SCHEDULE(keys.schedules(step.topic), step.job, step.was or b"", step.value or b"")
    return asked, yes
