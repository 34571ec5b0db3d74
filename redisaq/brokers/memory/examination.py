"""The examination of a store; see steps.examination."""

from __future__ import annotations

from redisaq.brokers.memory.registry import does
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps import examination as steps
from redisaq.core.diagnosis import Examination


@does(steps.Examine)
def examine(store: MemoryStore, step: steps.Examine) -> Examination:
    """Return that it is no server."""
    del store, step
    return Examination("", memory_only=True)
