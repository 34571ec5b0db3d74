"""Repeats a step that may be repeated, until it is done.

After its first connection a consumer never gives up: what bounds the waiting is the lease, whose scope cancels it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from redisaq.core.backoff import full_jitter
from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed

T = TypeVar("T")


async def insist(step: Callable[[], Awaitable[T]], environment: Environment) -> T:
    """Return what `step` answers, repeating it over broken connections with full jitter, 0.05 s growing to 1 s."""
    failures = 0
    while True:
        try:
            return await step()
        except ConnectionFailed:
            failures += 1
            await anyio.sleep(full_jitter(failures, base=0.05, most=1.0, random=environment.random))
