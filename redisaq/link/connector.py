"""Keep the shared connection up, with one attempt to connect at a time (docs/understand/link.md, rule 8).

Callers that need the connection get the live one, or a ConnectionFailed. At most one attempt is under way. When it ends, even because its
caller was cancelled, it wakes all callers that wait for it. If it failed, they fail too. If its caller was cancelled, the first of them
starts the next attempt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from redisaq.errors import ConnectionFailed
from redisaq.link.attempt import Attempts
from redisaq.link.shared import SharedConnection


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
        self._attempts = Attempts()

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
            await self._attempts.share(self._make, self._url)

    def close(self, reason: str) -> None:
        """Fail all callers that wait, and break the connection. The dialer ends an attempt that is under way."""
        self.era += 1
        if self.current is not None:
            self.current.fail(reason)
            self.current = None

    async def _make(self) -> None:
        self.current = await self._connect()
