"""Lets no change be carried out behind a later one (E1).

In: blocks that change something at the server. Out: nothing. What always holds: a block begins only once the connections under which an
earlier one broke are killed, so that nothing these still carry comes late: no pause behind the resume that was to end it. What a block
that was cancelled left, the link kills before it uses another connection. Where the server forbids CLIENT KILL there is no such promise.
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
        """Carry out one step that changes something; return its answer."""
        try:
            answer = await step
        except ConnectionFailed as error:
            self.begun = self.begun or error.maybe_executed
            raise
        self.begun = True
        return answer


class Changes:
    """See the module."""

    def __init__(self, access: Access, timeout: float) -> None:
        """Make one.

        Args:
            access: gives the broker that the changes go through.
            timeout: seconds that a block may take.
        """
        self._access = access
        self._timeout = timeout
        self._broken: dict[tuple[int, str, str], None] = {}  # connections that may still carry something, and are to be killed

    @contextlib.asynccontextmanager
    async def in_order(self) -> AsyncGenerator[Change]:
        """Enclose what changes something. If it breaks, its connection is killed at once if that can be: nobody else knows of it.

        Raises:
            ConnectionFailed: the server cannot be reached, or the connection broke, or no answer came in time; `maybe_executed` tells
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
                if error.connection is not None:
                    self._broken[error.connection] = None
                    with contextlib.suppress(ConnectionFailed, ServerError):  # before the next one, then
                        await self._kill()
                error.maybe_executed = change.begun
                raise

    async def _kill(self) -> None:
        broken = tuple(self._broken)
        if broken:
            await self._access.broker.kill([ReaderMark(*connection) for connection in broken])
            for connection in broken:
                self._broken.pop(connection, None)
