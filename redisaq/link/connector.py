"""Keeps the shared connection up: one attempt at a time, whoever needs it (docs/link.md, rule 8).

In: callers who need the connection, each with a deadline for retrying. Out: the live connection, or ConnectionFailed.
What always holds: at most one attempt is under way; an attempt that ends, also because its caller was cancelled, wakes all who wait for it,
and the first of them begins the next; between failed attempts lies one back-off, however many wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed
from redisaq.link.backoff import Backoff
from redisaq.link.shared import SharedConnection


class _Attempt:
    """One attempt to connect, and who waits for its end."""

    def __init__(self) -> None:
        self.error: ConnectionFailed | None = None
        self.waiting: list[anyio.Event] = []


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
        self._backoff: Backoff | None = None
        self._not_before = 0.0
        self._sleepers: list[anyio.Event] = []

    @property
    def live(self) -> SharedConnection | None:
        """The connection, if it is up."""
        current = self.current
        return current if current is not None and current.broken is None else None

    async def get(self, deadline: float, environment: Environment) -> SharedConnection:
        """Return the live connection; make one if need be, trying again until `deadline` (at least once).

        Raises:
            ConnectionFailed: no attempt succeeded, or it was closed meanwhile.
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
                await self._run(attempt, environment)
            else:
                await _wait_in(attempt.waiting)
            error = attempt.error
            if error is None:
                continue  # it succeeded, or its caller was cancelled
            if error.permanent or environment.clock() >= deadline:
                # A copy: several tasks raise it, each with its own traceback.
                raise ConnectionFailed(self._url, error.reason, permanent=error.permanent, silent=error.silent) from error.__cause__
            pause = min(self._not_before, deadline) - environment.clock()
            with anyio.move_on_after(max(0.0, pause)):
                await _wait_in(self._sleepers)

    def close(self) -> None:
        """Fail everybody who waits; break the connection. An attempt under way is for its dialer to end."""
        self.era += 1
        self._backoff = None
        if self.current is not None:
            self.current.fail("the link was closed")
            self.current = None
        _wake(self._sleepers)

    async def _run(self, attempt: _Attempt, environment: Environment) -> None:
        backoff = self._backoff = self._backoff or Backoff(environment.random)
        try:
            self.current = await self._connect()
        except ConnectionFailed as error:
            attempt.error = error
            self._not_before = environment.clock() + backoff.failed()
        else:
            backoff.succeeded()
            _wake(self._sleepers)
        finally:
            self._attempt = None
            _wake(attempt.waiting)


async def _wait_in(queue: list[anyio.Event]) -> None:
    # Events of one's own: one that is kept would belong to the event loop that first waited for it.
    event = anyio.Event()
    queue.append(event)
    try:
        await event.wait()
    finally:
        queue.remove(event)


def _wake(queue: list[anyio.Event]) -> None:
    for event in queue:
        event.set()
