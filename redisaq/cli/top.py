"""`redisaq top`: a live view of all groups, or of one, in a terminal.

One frame is one snapshot of the sampler, which the page shows, too. Keys change what is shown, and nothing else. Without a terminal, or
with `--once`, it prints one frame and ends.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Annotated

import anyio
from cyclopts import Parameter
from rich.console import Console
from rich.live import Live

from redisaq.cli.choosing import Choice, pressed
from redisaq.cli.common import SERVER, Place, as_json, run
from redisaq.cli.frames import frame
from redisaq.watching import Sampler, ServerView, Snapshot, Watching

HERE = Place()

LOOKS = 2
"""Snapshots after which a single frame is printed: a rate needs two looks."""

ENDLESS = 1_000_000
"""Lines of an output that is no terminal."""


def top(
    topic: str | None = None, group: str | None = None, /, *, once: Annotated[bool, Parameter(negative="")] = False, place: Place = HERE
) -> int:
    """Show what needs attention and all groups, live.

    Choose a group with the arrow keys and open it with Enter; `?` shows the keys, and `q` quits.

    If the output is not a terminal, one frame is printed, as with --once.

    Args:
        topic: show the groups of this topic only; `esc` shows all.
        group: open this group of it.
        once: print one frame and end.
        place: the server. With --json one snapshot is printed.
    """
    choice = Choice(topic=topic or "") if group is None else Choice(open=(topic or "", group), row=(topic or "", group))
    live = not once and not place.json and sys.stdin.isatty() and sys.stdout.isatty()
    return run(lambda: _live(place, choice) if live else _once(place, choice))


async def _once(place: Place, choice: Choice) -> int:
    snapshot = Snapshot(0, 0.0, ServerView("", place.namespace))
    async with place.admin() as admin, anyio.create_task_group() as tasks:
        sampler = Sampler(admin)
        tasks.start_soon(sampler.run)
        with sampler.watch(choice.screen) as watching:
            for _ in range(LOOKS):
                snapshot = await anext(watching)
        tasks.cancel_scope.cancel()
    if place.json:
        print(as_json(snapshot))
    else:
        console = Console(highlight=False)
        console.print(frame(snapshot, choice, console.width, ENDLESS))
    return SERVER if snapshot.server.state == "away" else 0


class _View:
    """What the terminal shows: the latest snapshot, unless it is frozen, as it was chosen."""

    def __init__(self, choice: Choice, console: Console, live: Live, snapshot: Snapshot) -> None:
        self.choice = choice
        self.snapshot = snapshot
        self.status = 0
        self._console = console
        self._live = live

    def draw(self) -> None:
        """Draw one frame."""
        width, height = self._console.size
        self._live.update(frame(self.snapshot, self.choice, width, height), refresh=True)

    async def follow(self, watching: Watching) -> None:
        """Draw every snapshot."""
        async for snapshot in watching:
            if not self.choice.frozen:
                self.snapshot = snapshot
                self.draw()

    async def obey(self, watching: Watching) -> None:
        """Do what keys say, until one says to quit."""
        from redisaq.cli.terminal import keys  # noqa: PLC0415 -- Windows has no termios

        async for key in keys():
            before, self.choice = self.choice, pressed(self.choice, key, self.snapshot)
            if self.choice.done:
                return
            if self.choice.screen != before.screen:
                watching.look_at(self.choice.screen)
            self.draw()

    async def catch_signals(self, quit_now: Callable[[], None]) -> None:
        """Quit on SIGINT and SIGTERM, and draw again when the terminal has another size."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGWINCH) as signals:
            async for number in signals:
                if number == signal.SIGWINCH:
                    self.draw()
                    continue
                self.status = 128 + number
                quit_now()
                return


async def _live(place: Place, choice: Choice) -> int:
    from redisaq.cli.terminal import cbreak  # noqa: PLC0415 -- as above

    console, status = Console(highlight=False), 0
    async with place.admin() as admin, anyio.create_task_group() as tasks:
        sampler = Sampler(admin)
        tasks.start_soon(sampler.run)
        with cbreak(), Live(console=console, screen=True, auto_refresh=False) as live, sampler.watch(choice.screen) as watching:
            view = _View(choice, console, live, sampler.latest)
            view.draw()
            async with anyio.create_task_group() as own:
                own.start_soon(view.catch_signals, own.cancel_scope.cancel)
                own.start_soon(view.follow, watching)
                await view.obey(watching)
                own.cancel_scope.cancel()
            status = view.status
        tasks.cancel_scope.cancel()
    return status
