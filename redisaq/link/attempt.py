"""One attempt at something, shared by all tasks that need it while it is under way."""

from __future__ import annotations

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
        try:
            await event.wait()
        finally:
            self._waiting.remove(event)

    def end(self) -> None:
        """Wake all callers that wait."""
        for event in self._waiting:
            event.set()

    def check(self, url: str) -> None:
        """Raise the error if it failed: a copy, since several tasks raise it, each with its own traceback."""
        if (error := self.error) is not None:
            raise ConnectionFailed(url, error.reason, permanent=error.permanent, silent=error.silent) from error.__cause__
