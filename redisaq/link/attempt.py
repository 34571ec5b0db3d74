"""One attempt at a time, shared by all tasks that need its result while it is under way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from redisaq.errors import ConnectionFailed


class Attempt:
    """One attempt, made by one task, and the tasks that wait for its end.

    Attributes:
        done: True if it has succeeded.
        error: why it failed. None, and not done, after its end: its task was cancelled, and one that waited has to try again.
    """

    def __init__(self) -> None:
        self.done = False
        self.error: ConnectionFailed | None = None
        self._waiting: list[anyio.Event] = []

    async def wait(self) -> None:
        """Wait until the attempt ends."""
        # Each caller has its own event: a shared one would belong to the event loop that first waited for it.
        event = anyio.Event()
        self._waiting.append(event)
        await event.wait()

    def end(self) -> None:
        """Wake all callers that wait."""
        for event in self._waiting:
            event.set()

    def check(self, url: str) -> None:
        """Raise the error if it failed: a copy, since several tasks raise it, each with its own traceback."""
        if (error := self.error) is not None:
            raise ConnectionFailed(url, error.reason, permanent=error.permanent, silent=error.silent) from error.__cause__


class Attempts:
    """Makes one attempt at a time. A task that needs one while another task makes it waits for that.

    Attributes:
        current: the attempt under way; None: there is none.
    """

    def __init__(self) -> None:
        self.current: Attempt | None = None

    async def share(self, make: Callable[[], Awaitable[object]], url: str) -> bool:
        """Make an attempt, or wait for the end of the one under way.

        Args:
            make: makes the attempt.
            url: the server, for the error.

        Returns:
            True if it has succeeded. False: its task was cancelled, and this one has to try again.

        Raises:
            ConnectionFailed: it failed.
        """
        attempt = self.current
        if attempt is None:
            attempt = self.current = Attempt()
            try:
                await make()
                attempt.done = True
            except ConnectionFailed as error:
                attempt.error = error
            finally:
                self.current = None
                attempt.end()
        else:
            await attempt.wait()
        attempt.check(url)
        return attempt.done
