"""The examination of a store; see steps.examination."""

from __future__ import annotations

from redisaq.brokers.memory.registry import does
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps.examination import Examine
from redisaq.core.diagnosis import Examination


@does(Examine)
def examine(store: MemoryStore, step: Examine) -> Examination:
    """Return that it is no server."""
    del store, step
    return Examination("", memory_only=True)
