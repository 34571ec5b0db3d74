"""The Sampler: one task that looks at the server while a page or a terminal watches, and hands out snapshots.

Input: what people have on their screens, and Admin's reports. Output: snapshots. It looks at what is on a screen every 2 s, at the rest
every 20 s, and at nothing if nobody watches. Looking takes at most half a percent of the server's time: partitions are read in pages of
100, with pauses, so that other clients do not wait for them. If there are more partitions than fit into 2 s, those that were read longest
ago come first, and every number says how old it may be.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

import anyio
from anyio.abc import TaskStatus

from redisaq.admin import Admin
from redisaq.environment import Environment, current_environment, time_limit
from redisaq.errors import ConnectionFailed, ServerError, SettingsError, TopicMissingError, UnknownFormatError
from redisaq.watching.accumulator import Accumulator
from redisaq.watching.snapshot import Screen, ServerView, Snapshot

OVERVIEW = Screen("overview")

OFTEN, SELDOM = 2.0, 20.0
"""Seconds between two looks at what is on a screen, and at the rest."""

LINGER = 30.0
"""Seconds for which a sampler continues after the last one has stopped watching: people come back."""

PAGE = 100
"""Partitions of one look: the server spends about 1.5 ms on it."""

HISTORY = 50
"""Changes of a group's history that are read."""

BUDGET = 360.0
"""Partitions that may be looked at in one second: half a percent of the server's time, at about 14 µs each."""

REPORTS = 10
"""Members' reports of what is in handlers that take as long as one look."""

PATIENCE = 3.0
"""Seconds that one answer may take. After that the server is away."""

SET_BACK = 60.0
"""Seconds: a server whose time is earlier than what was seen of it by more has had its clock set back. Without a new beginning, every
report would count as old until that time has come again. Nodes of a cluster may differ by less."""

_UNREADABLE = (SettingsError, ServerError, UnknownFormatError)
"""Errors of one topic or group: it has a name that redisaq never gave, a key that redisaq did not write, or a later format."""

R = TypeVar("R")


class Watching:
    """What one page or terminal has on its screen. Use it as a context manager, and iterate over it for snapshots.

    The newest snapshot wins: a slow reader skips snapshots, and never makes them queue up. The first one comes at once if there is one.
    """

    def __init__(self, sampler: Sampler, screen: Screen) -> None:
        self._sampler = sampler
        self._screen = screen
        self._given = 0

    @property
    def screen(self) -> Screen:
        """What is on the screen."""
        return self._screen

    def look_at(self, screen: Screen) -> None:
        """Watch something else from now on."""
        self._screen = screen
        self._sampler.hurry()

    def __enter__(self) -> Self:
        """Start to watch."""
        self._sampler.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Stop."""
        self._sampler.remove(self)

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Snapshot:
        """Wait for a snapshot that is newer than the last one that this returned."""
        snapshot = await self._sampler.after(self._given)
        self._given = snapshot.number
        return snapshot


class Sampler:
    """Looks at the topics of one namespace and accumulates what it sees. One process needs one, regardless of how many people look.

    At most 500 groups have curves, those that were seen first; the others have numbers only.
    """

    def __init__(self, admin: Admin, *, always: bool = False) -> None:
        """Create a sampler. It does nothing until `run`.

        Args:
            admin: an Admin, which the caller opens and closes.
            always: continue to look, every 20 s, while nobody watches. Otherwise it stops 30 s after the last one has stopped watching.
        """
        self._admin = admin
        self._always = always
        self._accumulator = Accumulator()
        self._latest = Snapshot(0, 0.0, ServerView("", ""))
        self._watching: list[Watching] = []
        self._changed, self._hurry = anyio.Event(), anyio.Event()
        self._turns: dict[tuple[str, str], float] = {}  # when each topic and group last had its turn
        self._histories: dict[tuple[str, str], float] = {}  # when each group's history was last read
        self._start(current_environment())

    def _start(self, environment: Environment) -> None:
        """Use this environment's clocks. Until the server has reported its time, the wall clock replaces it."""
        self._environment = environment
        self._turns.clear()
        self._histories.clear()
        self._left = environment.monotonic() - LINGER  # when the last one stopped watching
        self._server_looked = self._schedules_looked = environment.monotonic() - SELDOM
        self._offset = environment.wall_clock() - environment.monotonic()

    # -- for those who watch -------------------------------------------------------------------------------------------------------

    @property
    def latest(self) -> Snapshot:
        """The latest snapshot. Before the first look it is empty, and its server is "connecting"."""
        return self._latest

    def now(self) -> float:
        """Return the time by the server's clock, in seconds since 1970."""
        return self._offset + self._environment.monotonic()

    def watch(self, screen: Screen = OVERVIEW) -> Watching:
        """Return a context manager that says what somebody looks at. Groups that are watched are looked at more often.

        Args:
            screen: what is on the screen: the overview, a topic, a group or a partition.
        """
        return Watching(self, screen)

    async def after(self, number: int) -> Snapshot:
        """Wait for a snapshot with a greater number than this one."""
        while self._latest.number <= number:
            await self._changed.wait()
        return self._latest

    def add(self, watching: Watching) -> None:
        """Record that one more page or terminal watches."""
        self._watching.append(watching)
        self.hurry()

    def remove(self, watching: Watching) -> None:
        """Record that a page or terminal has stopped watching."""
        self._watching.remove(watching)
        self._left = self._environment.monotonic()

    def hurry(self) -> None:
        """Look again now, and not only when it is time."""
        self._hurry.set()

    # -- looking -------------------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Look at the server until cancelled. It never fails because the server is away: then snapshots say so.

        `started` is reported at once. Cancelling leaves nothing behind; a sampler may run again.
        """
        self._start(current_environment())
        task_status.started()
        while True:
            await self._until_wanted()
            self._hurry = anyio.Event()  # what was asked for until now, this round does
            began = self._environment.monotonic()
            try:
                await self._round()
                self._accumulator.server_answered(self.now())
            except (ConnectionFailed, ServerError) as error:
                self._accumulator.server_failed(str(error), self.now())
            self._publish()
            pause = (OFTEN if self._watching else SELDOM) - (self._environment.monotonic() - began)
            with anyio.move_on_after(max(0.0, pause)):
                await self._hurry.wait()

    async def _until_wanted(self) -> None:
        while not (self._always or self._watching or self._environment.monotonic() < self._left + LINGER):
            await self._hurry.wait()
            self._hurry = anyio.Event()

    def _publish(self) -> None:
        self._latest = self._accumulator.snapshot(self.now())
        self._changed.set()
        self._changed = anyio.Event()

    async def _round(self) -> None:
        """Look at everything that is due."""
        if self._environment.monotonic() >= self._server_looked + SELDOM:
            await self._look_at_server()
        seen = self._accumulator
        seen.saw_topics(await _within(self._admin.topics()), self.now())
        left, began = BUDGET * OFTEN, self._environment.monotonic()
        if began >= self._schedules_looked + SELDOM:
            self._schedules_looked = began
            seen.saw_schedules(await _within(self._admin.schedules()), self.now())
        for topic, group in self._turns.keys() - seen.groups() - {(topic, "") for topic in seen.topics()}:
            del self._turns[topic, group]
            self._histories.pop((topic, group), None)
        left -= await self._look_at_topics(left, began)
        due = [one for one in seen.groups() if self._is_due(*one, began)]
        # The smaller groups first: what they leave of their part is for those that need more.
        due.sort(key=lambda one: (seen.partitions(one[0]), one))
        for place, (topic, group) in enumerate(due):
            try:
                left -= await self._look_at_group(topic, group, max(1.0, left / (len(due) - place)))
                seen.readable(topic, group)
            except TopicMissingError:
                seen.missing_group(topic, group)
                del self._turns[topic, group]
            except _UNREADABLE as error:
                seen.unreadable(topic, group, str(error), self.now())

    async def _look_at_topics(self, most: float, began: float) -> int:
        """Look at the topics that are due. Return how many looks that took."""
        seen, looks = self._accumulator, 0
        for topic in seen.topics():
            if self._is_due(topic, "", began):
                try:
                    looks += await self._look_at_topic(topic, most - looks)
                    seen.readable(topic)
                except TopicMissingError:
                    continue  # the next list of topics is without it
                except _UNREADABLE as error:
                    seen.unreadable(topic, "", str(error), self.now())  # it keeps its numbers, which say how old they are
        return looks

    def _is_due(self, topic: str, group: str, began: float) -> bool:
        """Tell whether a group (or, with "", a topic) is due in the round that began then; if so, it has its turn."""
        often = any(_shows(one.screen, topic, group) for one in self._watching)
        last = self._turns.get((topic, group), -math.inf)
        # A round does not begin to the millisecond: what is due soon is due now.
        if began < last + (OFTEN if often else SELDOM) - OFTEN / 4:
            return False
        self._turns[topic, group] = began
        return True

    async def _look_at_server(self) -> None:
        facts = await _within(self._admin.server())
        self._offset = facts.now.timestamp() - self._environment.monotonic()
        self._server_looked = self._environment.monotonic()
        if facts.now.timestamp() < self._latest.at - SET_BACK:
            self._accumulator = Accumulator(after=self._latest.number)
            self._turns.clear()
            self._histories.clear()
        self._accumulator.saw_server(facts)

    async def _look_at_topic(self, topic: str, left: float) -> int:
        """Look at a topic: at one partition, for the names of its groups, or at all if it has none. Return how many looks that took."""
        seen = self._accumulator
        info = await _within(self._admin.topic(topic, partitions=(0,)))
        seen.saw_topic(info, self.now())
        if info.groups:
            return 1
        stale = seen.stalest(topic)[: int(left)]
        for page in _pages(stale):
            info = await _within(self._admin.topic(topic, partitions=page))
            seen.saw_topic(info, self.now())
            await anyio.sleep(len(page) / BUDGET)
        return 1 + len(stale)

    async def _look_at_group(self, topic: str, group: str, most: float) -> int:
        """Look at a group: at so many of its partitions, then at its members. Return how many looks that took."""
        seen = self._accumulator
        stale = seen.stalest(topic, group)[: int(most)]
        for page in _pages(stale):
            seen.saw_partitions(topic, group, await _within(self._admin.partitions(topic, group, page)))
            await anyio.sleep(len(page) / BUDGET)
        # One partition whole: with what nobody has a screen for, at least it tells whether the group is there.
        shown = {one.screen.partition for one in self._watching if _shows(one.screen, topic, group) and one.screen.partition is not None}
        known = sorted(number for number in shown if number < seen.partitions(topic)) or [0]
        watched = any(_shows(one.screen, topic, group) for one in self._watching)
        info = await _within(self._admin.group(topic, group, partitions=known, running=watched))
        looks = len(stale) + len(known) + (len(info.members) // REPORTS if watched else 0)
        inside = any(_shows_inside(one.screen, topic, group) for one in self._watching)
        unread = self._environment.monotonic() >= self._histories.get((topic, group), -math.inf) + SELDOM
        if inside or unread or info.paused != seen.is_paused(topic, group):
            self._histories[topic, group] = self._environment.monotonic()
            seen.saw_history(topic, group, await _within(self._admin.history(topic, group, count=HISTORY)))
            looks += 1
        seen.saw_group(info)
        if dead := seen.unexplained_dead(topic, group):
            seen.saw_dead(topic, group, await _within(self._admin.dead_summaries(topic, group, partitions=dead, count=1)))
            looks += len(dead)
        return looks


def _shows(screen: Screen, topic: str, group: str) -> bool:
    """Tell whether a screen shows something of a group; group "": of a topic."""
    if screen.view == "overview" or not screen.topic:
        return True
    return screen.topic == topic and (not group or not screen.group or screen.group == group)


def _shows_inside(screen: Screen, topic: str, group: str) -> bool:
    """Tell whether a screen shows the inside of a group."""
    return (screen.topic, screen.group) == (topic, group)


def _pages(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), PAGE):
        yield numbers[start : start + PAGE]


async def _within(asking: Awaitable[R]) -> R:
    """Wait for an answer, at most PATIENCE."""
    with time_limit(PATIENCE):
        return await asking
