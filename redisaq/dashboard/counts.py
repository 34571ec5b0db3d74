"""Counts all dead letters of a group by kind, however many there are, for the page that looks at the newest only.

A count is a job: every page shows how far it is. What it has found is kept until letters are redriven or purged here, or for a while. One
group is counted at a time, so that those who may only read cannot use up the jobs of those who may change.
"""

from __future__ import annotations

import logging
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

logger = logging.getLogger(__name__)


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
        except Exception as error:
            self.state, self._why = "failed", f"{type(error).__name__}: {error}"
            logger.exception("a count of the dashboard failed")
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

    def latest(self, name: tuple[str, str]) -> int:
        """Return the number of a group's latest count; 0 if there was none."""
        known = self._known.get(name)
        return 0 if known is None else known.number

    @property
    def running(self) -> bool:
        """Whether a group is being counted."""
        return any(one.state == "running" for one in self._known.values())

    def start(self, name: tuple[str, str], after: str, made: int) -> None:
        """Count a group's letters, unless that has just been done, or a count is under way.

        Args:
            name: topic and group.
            after: the number of the group's latest count, as the one who asks knows it. If that is an older one, nothing is started, so
                that a page that is shown again does not start again what somebody has stopped.
            made: how often letters were redriven or purged: a count from before is worth nothing.
        """
        tasks = self._jobs.tasks
        if tasks is None or after != str(self.latest(name)) or self.running or self.of(name, made) is not None:
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
