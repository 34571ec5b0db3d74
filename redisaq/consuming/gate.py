"""A gate before reading: the group's, closed while it is paused; and that of a partition that waits for older ones (G4)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import anyio

from redisaq.actors.waiting import Signal
from redisaq.consuming.scopes import Scopes


class Gate:
    """While it is closed, nothing is read, no handler begins, and no message is handed out. Running handlers continue, and leases are kept.

    The coordinator opens and closes the group's; readers, retry timers and handler pools obey it. A partition that came by a growth has a
    gate of its own for its reader and its retry timer. The growth watch keeps that one closed while the group's is.

    Attributes:
        closed: whether it is.
        moves: how often it was opened or closed.
        moved: called when it is opened or closed.
    """

    def __init__(self, *, closed: bool = False) -> None:
        """Begin open, or closed."""
        self.closed = closed
        self.moves = 0
        self.moved: Callable[[], None] = lambda: None
        self._opened = Signal()
        self._scopes = Scopes()

    def move(self, *, closed: bool) -> None:
        """Close or open it."""
        if closed == self.closed:
            return
        self.closed = closed
        self.moves += 1
        if closed:
            self._scopes.cancel()
        else:
            self._opened.fire()
        self.moved()

    async def wait_open(self) -> None:
        """Return once it is open."""
        while self.closed:
            await self._opened.wait()

    def while_open(self, beside: Scopes | None = None, *, over: bool = False) -> contextlib.AbstractContextManager[anyio.CancelScope]:
        """Return a cancel scope that ends when it closes, and with those `beside`, or at once if these are `over`."""
        return self._scopes.open(over=over or self.closed, beside=beside)
