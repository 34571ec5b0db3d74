"""Long changes: many dead letters that are redriven or purged, in pages, at the rate that was asked for.

A job can be watched and stopped, and ends with the application. However it ends, it says so in a sentence, and the group's history has one
line about it. A careful redrive stops if too many of its first letters die again: then their cause is still there.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Literal, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

from redisaq.admin import Admin, DeadMessage, DeadSummary
from redisaq.environment import current_environment
from redisaq.error_groups import leaves_of
from redisaq.errors import RedisaqError
from redisaq.watching import words

PAGE = 100
"""Letters that a job treats at a time."""

RUNNING = 4
"""Jobs at once."""

REMEMBERED = 50
"""Finished jobs that are remembered."""

RECENT = 10.0
"""Seconds for which the end of a job is shown to browsers that connect."""

FIRST = 20
"""Letters whose fate a careful redrive watches."""

ENOUGH = 5
"""If so many of them die again, it stops."""

WATCHED = 30.0
"""Seconds for which it watches them."""

LOOKS = 0.5
"""Seconds between two looks at them."""

WAITS = 5.0
"""Seconds for which a careful redrive without a rate waits after the first letters."""

T = TypeVar("T", bound="Task")

Verb = Literal["redrive", "purge"]
Letters = Sequence[DeadMessage | DeadSummary]

logger = logging.getLogger(__name__)


class RefusedError(Exception):
    """Raised where a request cannot be done as it is. Its text says why."""


class Task(Protocol):
    """What takes long, and is shown on every page while it runs."""

    number: int
    state: Literal["running", "done", "stopped", "failed"]
    ended: float

    def as_json(self) -> dict[str, object]:
        """Return its state."""
        ...

    def stop(self) -> None:
        """Let it end."""
        ...


class Job:
    """Many dead letters that are being redriven or purged.

    Attributes:
        number: its number.
        done: how many letters were treated.
        again: how many of the first ones have died again.
        state: whether it runs, or how it ended.
        ended: when it ended, by the monotonic clock.
    """

    def __init__(
        self, number: int, verb: Verb, name: tuple[str, str], found: list[DeadSummary] | None, *, total: int, rate: float, careful: bool
    ) -> None:
        """Begin with nothing done.

        Args:
            number: its number.
            verb: the change, such as "redrive".
            name: topic and group.
            found: the letters, the oldest first; None: all of the group.
            total: how many they are.
            rate: letters per second; 0: as fast as possible.
            careful: stop if ENOUGH of the first letters die again.
        """
        self.number = number
        self.verb: Verb = verb
        self.name = name
        self.rate = rate
        self.total = total
        self.done = self.again = 0
        self.state: Literal["running", "done", "stopped", "failed"] = "running"
        self.ended = 0.0
        self._found = found
        self._careful = careful and verb == "redrive" and total > FIRST
        self._first: list[DeadMessage | DeadSummary] = []
        self._why = ""
        self._scope = anyio.CancelScope()

    @property
    def text(self) -> str:
        """What it has done, as a sentence."""
        past = {"redrive": "Redriven", "purge": "Purged"}[self.verb]
        text = f"{words.group_name(*self.name)}: {past.lower()} {words.count(self.done)} of {words.count(self.total)}"
        if self.again and self.state == "running":
            text += f", {words.count(self.again)} of the first {FIRST} died again"
        if self.state in ("stopped", "failed"):
            text += f", then {self.state}{': ' + self._why if self._why else ''}"
        return text

    def as_json(self) -> dict[str, object]:
        """Return its state."""
        return {"job": self.number, "done": self.done, "total": self.total, "state": self.state, "text": self.text}

    def stop(self) -> None:
        """Let it end once it has treated the page that it is at."""
        self._scope.cancel()

    async def run(self, admin: Admin, jobs: Jobs) -> None:
        """Treat the letters. It raises nothing: what goes wrong is in `text`."""
        try:
            with self._scope:
                treating = admin.redriving if self.verb == "redrive" else admin.purging
                async with treating(*self.name) as treat, aclosing(self._pages(admin)) as pages, anyio.create_task_group() as tasks:
                    if self._careful:
                        tasks.start_soon(self._watch, admin, jobs)
                    async for page in pages:
                        try:
                            with anyio.CancelScope(shield=True):  # it takes no longer than the Admin's timeout, and is counted
                                self.done += await treat(page)
                        finally:
                            jobs.made += 1
                        jobs.report()
                        await self._pause(page)
                    tasks.cancel_scope.cancel()
                    self.state = "done"
        except* RedisaqError as errors:
            self.state, self._why = "failed", _text_of(errors)
        except* Exception as errors:
            self.state, self._why = "failed", _text_of(errors)
            logger.exception("a job of the dashboard failed")
        if self.state == "running":
            self.state = "stopped"
        self.ended = current_environment().monotonic()
        jobs.report()

    async def _pause(self, page: Letters) -> None:
        """Keep the rate. After the first letters of a careful job, wait for what becomes of them."""
        first = self._careful and len(self._first) < FIRST
        if first:
            self._first += page
        if self.rate:
            await anyio.sleep(len(page) / self.rate)
        elif first and len(self._first) >= FIRST:
            await anyio.sleep(WAITS)

    async def _watch(self, admin: Admin, jobs: Jobs) -> None:
        """Look for the first letters among the dead ones, for a while; end the job if too many are there."""
        until: float | None = None
        clock = current_environment().monotonic
        while until is None or clock() < until:
            await anyio.sleep(LOOKS)
            if until is None and len(self._first) >= FIRST:
                until = clock() + WATCHED
            lives = {(one.partition, one.entry_id): one.life for one in self._first}
            partitions = sorted({partition for partition, _ in lives})
            newest = await admin.dead_summaries(*self.name, partitions=partitions, count=FIRST) if partitions else []
            again = [one for one in newest if one.life > lives.get((one.partition, one.entry_id), one.life)]
            if len(again) > self.again:
                self.again = len(again)
                jobs.report()
            if self.again >= ENOUGH:
                failure = f" of {again[0].error_type}" if again[0].error_type else ""
                self._why = f"{self.again} of the first {len(self._first)} died again, the newest{failure}"
                self._scope.cancel()

    async def _pages(self, admin: Admin) -> AsyncGenerator[Letters]:
        """Yield the letters in pages, the oldest of a partition first; not more than there were: one that dies again is left alone."""
        size = PAGE if not self.rate else max(1, min(PAGE, int(self.rate)))
        if self._found is not None:
            start = 0
            while start < len(self._found):
                end = start + (min(size, FIRST) if self._careful and start < FIRST else size)
                yield self._found[start:end]
                start = end
            return
        left = {one.partition: one.dead for one in (await admin.group(*self.name)).partitions}
        page: list[DeadMessage] = []
        seen = 0
        async for letter in admin.dead_letters(*self.name):
            if left.get(letter.partition, 0) > 0:
                left[letter.partition] -= 1
                page.append(letter)
            if len(page) == (min(size, FIRST) if self._careful and seen < FIRST else size):
                seen += len(page)
                yield page
                page = []
        if page:
            yield page


def _text_of(errors: BaseExceptionGroup[Exception]) -> str:
    """Return the text of the first error: of one of ours its own, of another one its class, too."""
    error = next(leaves_of(errors))
    return str(error) if isinstance(error, RedisaqError) else f"{type(error).__name__}: {error}"


class Jobs:
    """All jobs of the page.

    Attributes:
        tasks: runs the jobs, while the application does.
        made: how often letters were redriven or purged: what was known of them before is not true any more. It never falls.
    """

    def __init__(self, admin: Admin) -> None:
        """Begin without jobs.

        Args:
            admin: makes the changes.
        """
        self._admin = admin
        self.made = 0
        self._jobs: dict[int, Task] = {}
        self._number = 0
        self._changed = anyio.Event()
        self.tasks: TaskGroup | None = None

    def start(self, verb: Verb, name: tuple[str, str], found: list[DeadSummary] | None, *, total: int, rate: float, careful: bool) -> Job:
        """Start a job; see `Job` for the arguments.

        Raises:
            RefusedError: too many run already.
        """
        if self.tasks is None:
            raise RefusedError("the application has not been started")
        job = self.add(lambda number: Job(number, verb, name, found, total=total, rate=rate, careful=careful))
        self.tasks.start_soon(job.run, self._admin, self)
        return job

    def add(self, make: Callable[[int], T]) -> T:
        """Make a job, which somebody else runs, with its number.

        Raises:
            RefusedError: too many run already.
        """
        if len(self.running()) >= RUNNING:
            raise RefusedError(f"{RUNNING} jobs run already: wait until one has ended, or stop one")
        self._number += 1
        self._jobs[self._number] = job = make(self._number)
        while len(self._jobs) > REMEMBERED and (over := next((one for one in self._jobs.values() if one.state != "running"), None)):
            del self._jobs[over.number]
        self.report()
        return job

    def get(self, number: int) -> Task | None:
        """Return a job; None if there is none of this number (any more)."""
        return self._jobs.get(number)

    def running(self) -> Mapping[int, Task]:
        """Return the jobs that run, by their numbers."""
        return {number: job for number, job in self._jobs.items() if job.state == "running"}

    def recent(self) -> Mapping[int, Task]:
        """Return the jobs that run, and those that have ended within RECENT: a browser may have missed it."""
        since = current_environment().monotonic() - RECENT
        return {number: job for number, job in self._jobs.items() if job.state == "running" or job.ended > since}

    def report(self) -> None:
        """Wake the tasks that wait for a change of a job."""
        self._changed.set()
        self._changed = anyio.Event()

    @property
    def changed(self) -> anyio.Event:
        """What is set when a job changes next."""
        return self._changed
