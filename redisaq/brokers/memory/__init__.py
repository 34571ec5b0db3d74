"""The Broker that needs no server: `broker` does the steps, `store` holds the data."""

from redisaq.brokers.memory.broker import MemoryBroker
from redisaq.brokers.memory.store import MemoryStore

__all__ = ["MemoryBroker", "MemoryStore"]
