"""What redisaq's own tests use, for yours: virtual time and seeded interleavings, on trio and on asyncio."""

from __future__ import annotations

from redisaq.testing.standstill import VirtualDeadlock, VirtualTimeUnavailable
from redisaq.testing.virtual import EPOCH, virtual_run

__all__ = ["EPOCH", "VirtualDeadlock", "VirtualTimeUnavailable", "virtual_run"]
