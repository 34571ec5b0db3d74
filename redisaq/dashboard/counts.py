"""Counts all dead letters of a group by kind, however many there are, for the page that looks at the newest only.

A count is a job: every page shows how far it is. What it has found is kept until letters are redriven or purged here, or for a while.
"""

from __future__ import annotations

from typing import Literal

import anyio

from redisaq.admin import Admin, DeadKinds
from redisaq.dashboard.jobs import Jobs, RefusedError
from redisaq.environment import current_environment
from redisaq.errors import RedisaqError
from redisaq.watching import words

KEPT = 300.0
"""Seconds for which a count is shown."""

MOST = 20
"""Groups whose counts are kept."""


class Count:
    """Counts the dead letters of one group.

    Attributes:
        number: its number among the jobs.
        state: whether it runs, or how it ended.
        ended: when it ended, by the monotonic clock.
        found: what it has counted so far.
        made: what `Jobs.made` was when it began.
    """

    def __init__(self, number: int, name: tuple[str, str], made: int) -> None:
        """Begin with nothing counted.

        Args:
            number: its number.
            name: topic and group.
            made: how often letters were redriven or purged before.
        """
        self.number = number
        self.state: Literal["running", "done", "stopped", "failed"] = "running"
        self.ended = 0.0
        self.found = DeadKinds((), 0, 0, complete=False)
        self.made = made
        self._name = name
        self._why = ""
        self._scope = anyio.CancelScope()

    def as_json(self) -> dict[str, object]:
        """Return its state."""
        counted, total = self.found.counted, max(self.found.total, self.found.counted)
        text = f"{words.group_name(*self._name)}: counted {words.count(counted)} of {words.many(total, 'dead letter')}"
        if self.state in ("stopped", "failed"):
            text += f", then {self.state}{': ' + self._why if self._why else ''}"
        return {"job": self.number, "done": counted, "total": total, "state": self.state, "text": text}

    def stop(self) -> None:
        """Let it end."""
        self._scope.cancel()

    async def run(self, admin: Admin, jobs: Jobs) -> None:
        """Count. It raises nothing: what goes wrong is in `as_json`."""
        try:
            with self._scope:
                async for found in admin.dead_kinds(*self._name):
                    self.found = found
                    jobs.report()
                self.state = "done"
        except RedisaqError as error:
            self.state, self._why = "failed", str(error)
        if self.state == "running":
            self.state = "stopped"
        self.ended = current_environment().monotonic()
        jobs.report()


class Counts:
    """The counts of all groups."""

    def __init__(self, admin: Admin, jobs: Jobs) -> None:
        """Begin without any."""
        self._admin = admin
        self._jobs = jobs
        self._known: dict[tuple[str, str], Count] = {}

    def start(self, name: tuple[str, str], made: int) -> None:
        """Count a group's letters, unless that is being done, or has just been.

        Args:
            name: topic and group.
            made: how often letters were redriven or purged: a count from before is worth nothing.
        """
        known, tasks = self._known.get(name), self._jobs.tasks
        if tasks is None or (known is not None and known.state == "running") or self.of(name, made) is not None:
            return
        try:
            count = self._jobs.add(lambda number: Count(number, name, made))
        except RefusedError:
            return  # the page offers it again
        self._known.pop(name, None)
        self._known[name] = count
        while len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        tasks.start_soon(count.run, self._admin, self._jobs)

    def of(self, name: tuple[str, str], made: int) -> DeadKinds | None:
        """Return what was counted; None if there is nothing that is still true."""
        known = self._known.get(name)
        if known is None or known.state != "done" or known.made != made or current_environment().monotonic() - known.ended > KEPT:
            return None
        return known.found
