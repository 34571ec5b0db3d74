"""A process for the checks of a simulation, without a simulation."""

from __future__ import annotations

from dataclasses import dataclass, field

from redisaq.brokers.terms import GroupName
from redisaq.settings import RetryPolicy


@dataclass(eq=False)
class Told:
    """A process as `Process` in `redisaq.testing.observing` has it."""

    name: str
    group: GroupName = field(default=GroupName("orders", "billing"))
    crashed: bool = False
    thawed_at: float = -100.0
    suspended: bool = False
    mode: str = "process"
    ordering: str = "partition"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    ttl: float = 12.0
    heartbeat_interval: float = 3.0
    reads_json: bool = True
    concurrency: int | None = None
    batch_size: int = 10
