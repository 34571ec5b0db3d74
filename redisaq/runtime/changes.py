"""Lets no change be carried out behind a later one (E1).

In: blocks that change something at the server. Out: nothing. What always holds: a block begins only once the connections under which an
earlier one broke are killed, so that nothing these still carry comes late: no pause behind the resume that was to end it. Where the
server forbids CLIENT KILL there is no such promise.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from redisaq.brokers.terms import ReaderMark
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.runtime.access import Access


class Changes:
    """See the module."""

    def __init__(self, access: Access) -> None:
        """Take what the changes go through."""
        self._access = access
        self._broken: dict[tuple[int, str, str], None] = {}  # connections that may still carry something, and are to be killed

    @contextlib.asynccontextmanager
    async def in_order(self) -> AsyncGenerator[None]:
        """Enclose what changes something. If it breaks, its connection is killed at once if that can be: nobody else knows of it.

        Raises:
            ConnectionFailed: the server cannot be reached, or the connection broke.
        """
        await self._kill()
        try:
            yield
        except ConnectionFailed as error:
            if error.connection is not None:
                self._broken[error.connection] = None
                with contextlib.suppress(ConnectionFailed, ServerError):  # before the next one, then
                    await self._kill()
            raise

    async def _kill(self) -> None:
        broken = tuple(self._broken)
        if broken:
            await self._access.broker.kill([ReaderMark(*connection) for connection in broken])
            for connection in broken:
                self._broken.pop(connection, None)
