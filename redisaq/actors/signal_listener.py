"""Listens to a doorbell (the group's, or one partition's) and rings whoever it concerns.

A ring is a hint: missing one costs time, never correctness.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from redisaq.actors.actor import Actor
from redisaq.actors.restart import RestartPolicy
from redisaq.brokers.base import Doorbell


class SignalListener(Actor[None]):
    """See the module."""

    def __init__(self, listen: Callable[[], Awaitable[Doorbell]], look: Callable[[], None], *, name: str = "signal_listener") -> None:
        """Take what opens the doorbell, and whom it concerns."""
        policy = RestartPolicy(on=(ConnectionError,), max_restarts=math.inf, within=60.0, backoff=0.1, max_backoff=5.0, reset_after=10.0)
        super().__init__(name=name, capacity=1, restart=policy)
        self._listen = listen
        self._look = look
        self._doorbell: Doorbell | None = None

    async def run(self) -> None:
        """Ring at each ring, and once when the listening begins: what changed before was not heard."""
        await self.on_stop()
        self._doorbell = await self._listen()
        self._look()
        while True:
            await self._doorbell.wait()
            self._look()

    async def on_stop(self) -> None:
        """Stop listening."""
        if self._doorbell is not None:
            doorbell, self._doorbell = self._doorbell, None
            await doorbell.close()
