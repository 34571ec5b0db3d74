"""Steps about the schedules of cron jobs, at a store; see steps.schedules."""

from __future__ import annotations

from redisaq.brokers.memory.registry import does
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps import schedules as steps


@does(steps.ReadSchedules)
def read_schedules(store: MemoryStore, step: steps.ReadSchedules) -> steps.Schedules:
    """Return what is stored of all jobs."""
    return steps.Schedules(store.now(), dict(store.schedules.get(step.topic, {})))


@does(steps.SetSchedule)
def set_schedule(store: MemoryStore, step: steps.SetSchedule) -> bool:
    """Store a job's text, if the stored one is what was read."""
    kept = store.schedules.get(step.topic, {})
    if kept.get(step.job) not in (step.was, step.value):
        return False
    rest = {job: value for job, value in kept.items() if job != step.job}
    store.schedules[step.topic] = rest if step.value is None else {**rest, step.job: step.value}
    return True
