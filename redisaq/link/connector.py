"""Keep the shared connection up, with one attempt to connect at a time (docs/understand/link.md, rule 8).

Callers that need the connection get the live one, or a ConnectionFailed. At most one attempt is under way. When it ends, even because its
caller was cancelled, it wakes all callers that wait for it. If it failed, they fail too. If its caller was cancelled, the first of them
starts the next attempt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from redisaq.errors import ConnectionFailed
from redisaq.link.shared import SharedConnection


class _Attempt:
    """One attempt to connect, and the callers that wait for its end."""

    def __init__(self) -> None:
        self.error: ConnectionFailed | None = None
        self._waiting: list[anyio.Event] = []

    async def wait(self) -> None:
        """Wait until the attempt ends."""
        # Each caller has its own event: a shared one would belong to the event loop that first waited for it.
        event = anyio.Event()
        self._waiting.append(event)
        try:
            await event.wait()
        finally:
            self._waiting.remove(event)

    def end(self) -> None:
        """Wake all callers that wait."""
        for event in self._waiting:
            event.set()


class Connector:
    """Makes the shared connection when it is needed, and makes it again after it broke.

    Attributes:
        current: the last connection made; it may have broken since.
        era: a number that grows with each `close`; callers that were waiting in an older era fail.
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
        """Return the live connection; if there is none, make one, in one attempt.

        Raises:
            ConnectionFailed: the attempt failed, or the link was closed meanwhile.
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
        """Fail all callers that wait, and break the connection. The dialer ends an attempt that is under way."""
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
