"""The Sampler: one task that looks at the server while somebody watches, and hands out snapshots.

It is not complete yet: `run` waits until it is cancelled, `latest` is an empty snapshot whose server is "connecting", and an iterator over
snapshots waits.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskStatus

from redisaq.admin import Admin
from redisaq.watching.snapshot import Screen, ServerView, Snapshot

OVERVIEW = Screen("overview")


class Watching:
    """What one page or terminal has on its screen. Use it as a context manager, and iterate over it for snapshots.

    The newest snapshot wins: a slow reader skips snapshots, and never makes them queue up. The first one comes at once if there is one.
    """

    def __init__(self, sampler: Sampler, screen: Screen) -> None:
        self._sampler = sampler
        self._screen = screen
        self._given = 0

    def look_at(self, screen: Screen) -> None:
        """Watch something else from now on."""
        self._screen = screen

    def __enter__(self) -> Self:
        """Start to watch."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Stop."""

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Snapshot:
        """Wait for a snapshot that is newer than the last one that this returned."""
        await anyio.sleep_forever()
        raise AssertionError  # never reached


class Sampler:
    """Looks at the topics of one namespace and accumulates what it sees. One process needs one, regardless of how many people look."""

    def __init__(self, admin: Admin, *, always: bool = False) -> None:
        """Create a sampler. It does nothing until `run`.

        Args:
            admin: an Admin, which the caller opens and closes.
            always: continue to look, every 20 s, while nobody watches. Otherwise it stops 30 s after the last one has stopped watching.
        """
        self._admin = admin
        self._always = always

    @property
    def latest(self) -> Snapshot:
        """The latest snapshot. Before the first look it is empty, with the number 0."""
        return Snapshot(0, 0.0, ServerView("", ""))

    def watch(self, screen: Screen = OVERVIEW) -> Watching:
        """Return a context manager that says what somebody looks at. Groups that are watched are looked at more often.

        Args:
            screen: what is on the screen: the overview, a topic, a group or a partition.
        """
        return Watching(self, screen)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Look at the server until cancelled. It never fails because the server is away: then snapshots say so.

        `started` is reported at once. Cancelling leaves nothing behind; a sampler may run again.
        """
        task_status.started()
        await anyio.sleep_forever()
