"""Keeps the shared connection up: one attempt at a time, whoever needs it (docs/link.md, rule 8).

In: callers who need the connection. Out: the live connection, or ConnectionFailed. What always holds: at most one attempt is under way; an
attempt that ends, also because its caller was cancelled, wakes all who wait for it. If it failed, so have they; if its caller was
cancelled, the first of them begins the next.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from redisaq.errors import ConnectionFailed
from redisaq.link.shared import SharedConnection


class _Attempt:
    """One attempt to connect, and who waits for its end."""

    def __init__(self) -> None:
        self.error: ConnectionFailed | None = None
        self._waiting: list[anyio.Event] = []

    async def wait(self) -> None:
        """Return at its end."""
        # An event of one's own: one that is kept would belong to the event loop that first waited for it.
        event = anyio.Event()
        self._waiting.append(event)
        try:
            await event.wait()
        finally:
            self._waiting.remove(event)

    def end(self) -> None:
        """Wake all who wait."""
        for event in self._waiting:
            event.set()


class Connector:
    """See the module.

    Attributes:
        current: the last connection made; it may have broken since.
        era: grows with each `close`; who was waiting in an older one has failed.
    """

    def __init__(self, connect: Callable[[], Awaitable[SharedConnection]], url: str) -> None:
        self.current: SharedConnection | None = None
        self.era = 0
        self._connect = connect
        self._url = url
        self._attempt: _Attempt | None = None

    @property
    def live(self) -> SharedConnection | None:
        """The connection, if it is up."""
        current = self.current
        return current if current is not None and current.broken is None else None

    async def get(self) -> SharedConnection:
        """Return the live connection; make one if need be, in one attempt.

        Raises:
            ConnectionFailed: the attempt failed, or it was closed meanwhile.
        """
        era = self.era
        while True:
            if self.era != era:
                raise ConnectionFailed(self._url, "the link was closed")
            if (connection := self.live) is not None:
                return connection
            attempt = self._attempt
            if attempt is None:
                attempt = self._attempt = _Attempt()
                await self._run(attempt)
            else:
                await attempt.wait()
            if (error := attempt.error) is not None:
                # A copy: several tasks raise it, each with its own traceback.
                raise ConnectionFailed(self._url, error.reason, permanent=error.permanent, silent=error.silent) from error.__cause__

    def close(self) -> None:
        """Fail everybody who waits; break the connection. An attempt under way is for its dialer to end."""
        self.era += 1
        if self.current is not None:
            self.current.fail("the link was closed")
            self.current = None

    async def _run(self, attempt: _Attempt) -> None:
        try:
            self.current = await self._connect()
        except ConnectionFailed as error:
            attempt.error = error
        finally:
            self._attempt = None
            attempt.end()
