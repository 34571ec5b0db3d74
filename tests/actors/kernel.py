"""What the kernel's tests share: actors that record what happens to them, and waiting for a condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from redisaq.actors import Actor, RestartPolicy

QUICK = RestartPolicy(on=(ConnectionError,), max_restarts=1000, backoff=0)
"""Restarts at once, as often as it takes."""


async def until(condition: Callable[[], object]) -> None:
    """Return once the condition holds. Works in virtual time, too: there, time must pass."""
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.001)


class Recorder(Actor[Any]):
    """Writes down everything: a message that is an exception is raised, a callable is awaited, all else is kept."""

    def __init__(
        self, log: list[Any] | None = None, *, name: str | None = None, capacity: int = 64, restart: RestartPolicy | None = None
    ) -> None:
        super().__init__(name=name, capacity=capacity, restart=restart)
        self.log: list[Any] = [] if log is None else log
        self.start_failures: list[BaseException] = []
        self.stop_failures: list[BaseException] = []

    def note(self, what: Any) -> None:
        self.log.append((self.name, what))

    async def on_start(self) -> None:
        if self.start_failures:
            self.note("start failed")
            raise self.start_failures.pop(0)
        self.note("start")

    async def on_stop(self) -> None:
        await checkpoint()
        self.note("stop")
        if self.stop_failures:
            raise self.stop_failures.pop(0)

    async def on_lost(self, message: Any, error: BaseException) -> None:
        await checkpoint()
        self.note(("lost", message, error))

    async def receive(self, message: Any) -> None:
        if isinstance(message, BaseException):
            raise message
        if callable(message):
            await message()
        else:
            self.note(message)
