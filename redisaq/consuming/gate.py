"""Closed while the group is paused: nothing is read and no handler begins; what runs goes on, leases are kept."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import anyio


class Gate:
    """One consumer's; the coordinator moves it, readers and workers heed it."""

    def __init__(self) -> None:
        """Begin open."""
        self.closed = False
        self._opened: anyio.Event | None = None
        self._scopes: dict[anyio.CancelScope, None] = {}  # in the order of opening: a set's would differ between runs

    def move(self, *, closed: bool) -> bool:
        """Close or open it; False if it was so already."""
        if closed == self.closed:
            return False
        self.closed = closed
        if closed:
            for scope in tuple(self._scopes):
                scope.cancel()
        elif self._opened is not None:
            self._opened.set()
            self._opened = None
        return True

    async def wait_open(self) -> None:
        """Return once it is open."""
        while self.closed:
            if self._opened is None:
                self._opened = anyio.Event()
            await self._opened.wait()

    @contextlib.contextmanager
    def while_open(self) -> Generator[anyio.CancelScope]:
        """Return a cancel scope that ends when it closes."""
        with anyio.CancelScope() as scope:
            self._scopes[scope] = None
            if self.closed:
                scope.cancel()
            try:
                yield scope
            finally:
                self._scopes.pop(scope, None)
