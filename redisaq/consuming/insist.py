"""Repeats a step that may be repeated, until it is done.

After its first connection a consumer never gives up: what bounds the waiting is the lease, whose scope cancels it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from redisaq.actors.restart import RestartPolicy
from redisaq.core.backoff import full_jitter
from redisaq.environment import Environment
from redisaq.errors import ServerFull

T = TypeVar("T")

PASSING: tuple[type[Exception], ...] = (ConnectionError, ServerFull)
"""What a consumer's own steps are repeated after, forever: a server that cannot be reached, refuses a log-in or is busy, and one whose
memory is full. Any other error ends the consumer."""


async def insist(step: Callable[[], Awaitable[T]], environment: Environment, failed: Callable[[str], None] = lambda _: None) -> T:
    """Return what `step` answers, repeating it after errors that pass, with full jitter, 0.05 s growing to 1 s.

    `failed` is told the reason of each failure.
    """
    failures = 0
    while True:
        try:
            return await step()
        except PASSING as error:
            failures += 1
            failed(reason_of(error))
            await anyio.sleep(full_jitter(failures, base=0.05, most=1.0, random=environment.random))


def forever(*, backoff: float = 0.05, max_backoff: float = 1.0, reset_after: float) -> RestartPolicy:
    """Return the policy of a consumer's own actor: it runs again after each error that passes."""
    return RestartPolicy(on=PASSING, max_restarts=math.inf, within=60.0, backoff=backoff, max_backoff=max_backoff, reset_after=reset_after)


def reason_of(error: Exception) -> str:
    """Return why a step failed, in words, without the server's address."""
    return str(getattr(error, "reason", "") or error) or type(error).__name__
