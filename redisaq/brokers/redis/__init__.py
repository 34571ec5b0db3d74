"""The broker that uses a real server."""

from __future__ import annotations

from redisaq.brokers.redis.broker import RedisBroker

__all__ = ["RedisBroker"]
