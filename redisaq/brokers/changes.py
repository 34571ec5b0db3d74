"""Keeps changes at the server in order: no change is carried out after a later one (E1).

A block of changes begins only once the connections over which an earlier block broke are killed. So nothing that they still carry arrives
late: no pause is carried out after the resume that was to end it. If a block is cancelled, the link kills what it left before it uses
another connection. Where the server forbids CLIENT KILL, there is no such promise.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable
from typing import TypeVar

from redisaq.brokers.access import Access
from redisaq.brokers.terms import ReaderMark
from redisaq.environment import time_limit
from redisaq.errors import ConnectionFailed, ServerError

T = TypeVar("T")


class Change:
    """What one block has done.

    Attributes:
        begun: something may have been changed.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.begun = False

    async def make(self, step: Awaitable[T]) -> T:
        """Carry out one step that changes something, and return its answer."""
        try:
            answer = await step
        except ConnectionFailed as error:
            self.begun = self.begun or error.maybe_executed
            raise
        self.begun = True
        return answer


class Changes:
    """Runs blocks of changes in order."""

    def __init__(self, access: Access, timeout: float) -> None:
        """Begin with no broken connection.

        Args:
            access: gives the broker that carries out the changes.
            timeout: seconds that a block may take.
        """
        self._access = access
        self._timeout = timeout
        self._broken: dict[tuple[int, str, str], None] = {}  # connections to kill: they may still carry a change

    @contextlib.asynccontextmanager
    async def in_order(self) -> AsyncGenerator[Change]:
        """Enclose a block of changes. If it breaks, try at once to kill its connection, which nothing else knows of.

        Raises:
            ConnectionFailed: the server cannot be reached, or the connection broke, or no answer came in time; `maybe_executed` says
                whether something may have been changed.
        """
        with time_limit(self._timeout):
            try:
                await self._kill()
            except ConnectionFailed as error:
                raise error.unsent() from error
            change = Change()
            try:
                yield change
            except ConnectionFailed as error:
                if error.connections:
                    self._broken.update(dict.fromkeys(error.connections))
                    with contextlib.suppress(ConnectionFailed, ServerError):  # then it is killed before the next block
                        await self._kill()
                error.maybe_executed = change.begun
                raise

    async def _kill(self) -> None:
        broken = tuple(self._broken)
        if broken:
            await self._access.broker.kill([ReaderMark(*connection) for connection in broken])
            for connection in broken:
                self._broken.pop(connection, None)
