"""Cancel scopes that end together: all under one lease, all of one owned partition, all that wait before one gate."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator

import anyio


class Scopes:
    """Cancel scopes that end together.

    Attributes:
        entered: those that are open, in the order of opening: that of a set would differ between runs.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.entered: dict[anyio.CancelScope, None] = {}

    @contextlib.contextmanager
    def open(self, *, over: bool, deadline: float = math.inf, beside: Scopes | None = None) -> Generator[anyio.CancelScope]:
        """Return a new one, which is open until the block ends.

        Args:
            over: cancel it at once.
            deadline: its deadline, by the local clock.
            beside: others with which it ends, too.
        """
        with anyio.CancelScope(deadline=deadline) as scope:
            self.entered[scope] = None
            if beside is not None:
                beside.entered[scope] = None
            if over:
                scope.cancel()
            try:
                yield scope
            finally:
                self.entered.pop(scope, None)
                if beside is not None:
                    beside.entered.pop(scope, None)

    def cancel(self) -> None:
        """Cancel all that are open."""
        for scope in tuple(self.entered):
            scope.cancel()

    def move(self, deadline: float) -> None:
        """Give this deadline to all that are open."""
        for scope in self.entered:
            scope.deadline = deadline
