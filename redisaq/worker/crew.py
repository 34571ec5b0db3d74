"""The parent's knowledge of its children, and what follows from it: whether they are alive, and whether they are ready.

Nothing here waits or has a clock: times are seconds of the parent's event loop, given by the caller.

A child is *live* if its event loop turns. Its reports say so: they come from a timer of that loop, and depend on neither handlers nor the
server. A child that is being started (or started again) counts as live, so that a probe does not kill the parent for it.

A child is *ready* if it serves, and each of its consumers is connected and has joined, or waits for its topic.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from redisaq.worker.reports import ConsumerView, Pulse
from redisaq.worker.totals import Totals

State = Literal["starting", "serving", "draining", "waiting", "ended"]


class ChildStatus(msgspec.Struct, frozen=True):
    """One child, for /status.

    Attributes:
        child: its number.
        pid: its process; None while it has none.
        state: "starting", "serving", "draining", "waiting" (until it is started again) or "ended".
        live: its event loop turns, or it is being started.
        ready: it serves, and each consumer has joined or waits for its topic.
        since: seconds in this process.
        last_report: seconds since its last report; None before the first.
        starts: how often it was started.
        last_end: how its last process ended; "" if none has.
        consumers: its consumers, by its last report.
    """

    child: int
    pid: int | None
    state: State
    live: bool
    ready: bool
    since: float
    last_report: float | None
    starts: int
    last_end: str
    consumers: list[ConsumerView]


class CrewStatus(msgspec.Struct, frozen=True):
    """All children, for /status.

    Attributes:
        app: where the App is.
        backend: the event loop.
        pid: the parent's process.
        version: of redisaq.
        live: every child is.
        ready: every child is, and the worker is not draining.
        draining: it was asked to end.
        deaths: how many children ended although nobody had asked them to.
        attention: what needs attention in the App's namespace, as sentences, if the worker measures backlogs.
        children: each of them.
    """

    app: str
    backend: str
    pid: int
    version: str
    live: bool
    ready: bool
    draining: bool
    deaths: int
    attention: list[str]
    children: list[ChildStatus]


class Child:
    """One child, as its parent knows it.

    Attributes:
        number: from 1.
        pid: its process; None while it has none.
        starts: how often it was started.
        last_end: how its last process ended.
    """

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.pid: int | None = None
        self.starts = 0
        self.last_end = ""
        self._since = now
        self._state: State = "starting"
        self._pulse: Pulse | None = None
        self._reported = now

    @property
    def came_up(self) -> bool:
        """Whether this process has reported that it serves."""
        return self._pulse is not None and self._pulse.state != "starting"

    @property
    def attention(self) -> list[str]:
        """What needs attention, as it knows."""
        return [] if self._pulse is None else self._pulse.attention

    def start(self, pid: int, now: float) -> None:
        """It has a process."""
        self.pid, self._since, self._state, self._pulse = pid, now, "starting", None
        self.starts += 1

    def report(self, pulse: Pulse, now: float) -> None:
        """It sent a report."""
        self._pulse, self._reported, self._state = pulse, now, pulse.state

    def end(self, how: str, now: float, *, again: bool) -> None:
        """Its process has ended, and it waits to be started again, or does not."""
        self.pid, self._since, self._pulse, self.last_end = None, now, None, how
        self._state = "waiting" if again else "ended"

    def complaint(self, now: float, stalled_after: float) -> str:
        """Return why it is not live; "" if it is."""
        silent = now - self._reported
        if self._pulse is None or silent <= stalled_after:
            return ""
        return f"child {self.number} (pid {self.pid}): its event loop has not turned for {silent:.0f} s"

    def hindrance(self, now: float, stalled_after: float) -> str:
        """Return why it is not ready; "" if it is."""
        if complaint := self.complaint(now, stalled_after):
            return complaint
        if self._pulse is not None and self._pulse.ready:
            return ""
        if self._state == "starting":
            return f"child {self.number} (pid {self.pid or 'none yet'}) has been starting for {now - self._since:.0f} s"
        if self._state != "serving":
            return f"child {self.number} is {self._state}"
        away = [f"{one.group} of {one.topic}" for one in self._pulse.consumers if not one.connected] if self._pulse else []
        return f"child {self.number}: " + (f"no connection for {', '.join(away)}" if away else "a consumer has not joined its group")

    def status(self, now: float, stalled_after: float) -> ChildStatus:
        """Return what it looks like."""
        return ChildStatus(
            child=self.number,
            pid=self.pid,
            state=self._state,
            live=not self.complaint(now, stalled_after),
            ready=not self.hindrance(now, stalled_after),
            since=now - self._since,
            last_report=None if self._pulse is None else now - self._reported,
            starts=self.starts,
            last_end=self.last_end,
            consumers=[] if self._pulse is None else self._pulse.consumers,
        )


class Crew:
    """All children.

    Attributes:
        children: each of them.
        draining: the worker was asked to end.
        deaths: how many ended although nobody had asked them to.
        totals: their metrics.
    """

    def __init__(self, size: int, now: float, stalled_after: float) -> None:
        """Begin with children that are about to be started.

        Args:
            size: how many.
            now: the time.
            stalled_after: seconds without a report after which an event loop counts as stalled.
        """
        self.children = [Child(number, now) for number in range(1, size + 1)]
        self.draining = False
        self.deaths = 0
        self.totals = Totals()
        self.stalled_after = stalled_after

    def complaints(self, now: float) -> list[str]:
        """Return why the worker is not live: nothing if it is."""
        return [text for child in self.children if (text := child.complaint(now, self.stalled_after))]

    def hindrances(self, now: float) -> list[str]:
        """Return why the worker is not ready: nothing if it is."""
        own = ["draining"] if self.draining else []
        return own + [text for child in self.children if (text := child.hindrance(now, self.stalled_after))]

    def statuses(self, now: float) -> list[ChildStatus]:
        """Return what each child looks like."""
        return [child.status(now, self.stalled_after) for child in self.children]
