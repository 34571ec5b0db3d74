"""The Broker that needs no server; see `broker`, and `store` for what it holds."""

from redisaq.brokers.memory.broker import MemoryBroker
from redisaq.brokers.memory.store import MemoryStore

__all__ = ["MemoryBroker", "MemoryStore"]
