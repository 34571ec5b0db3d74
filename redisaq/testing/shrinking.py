"""Shrinks the faults of a failing simulation to the few that bring the failure about.

In: a scenario and its failing report. Out: a report that fails in the same way under few, simple faults. Always: what is returned was run
and seen to fail; the same scenario and report give the same answer, unless time was too short; nothing outlives the call, however it ends.

Each attempt is a whole simulation of its own, judged by nothing but its own report. A fault is addressed by the count of its process's
operations: leaving one out changes what its process does next, so that the faults behind it may then befall other operations, or none.
That costs attempts, and makes no answer wrong.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

from redisaq.environment import current_environment
from redisaq.errors import RedisaqError, SettingsError
from redisaq.testing.fault_words import tell_faults
from redisaq.testing.faults import Fault
from redisaq.testing.kinds import EXCEEDED, kind_of, names_of, time_of
from redisaq.testing.minimising import Search, once
from redisaq.testing.observing import ObserverType
from redisaq.testing.pace import Limits
from redisaq.testing.report import Report
from redisaq.testing.searching import complexity, search, search_again
from redisaq.testing.simulation import Simulation, simulate
from redisaq.testing.timeline_story import printable

R = TypeVar("R")

MOST_RUNS = 200

STEPS_PER_LINE = 40
"""An attempt may take so many steps for each line of the first report's trace, which is ten times as many as are usual: one that goes round
for ever would use up the time."""

FEW_STEPS = 20_000

ROUNDED = 0.0006
"""Seconds by which a violation's time may be wrong."""

FEW = 3
RESTARTS = 2
"""If more than so few are left in the end, the search begins anew so often, by another way."""


@dataclass(frozen=True)
class Shrunk:
    """What `shrink` found.

    Attributes:
        report: of the run under the faults found; it fails in the same way as the first.
        violation: the sentence in it that says so.
        before: how many faults the first report had.
        runs: how many simulations that took.
        finished: no single fault can be left out, nor made simpler; False: runs or time came to an end before that was known.
    """

    report: Report
    violation: str
    before: int
    runs: int
    finished: bool

    @property
    def faults(self) -> list[Fault]:
        """The faults found, in order of time; `simulate` takes them. Empty if the scenario fails without any."""
        return self.report.faults

    def text(self) -> str:
        """Return what was found, for people: a line for each fault."""
        report, number = self.report, len(self.faults)
        under = f"seed {report.seed} on {report.backend}"
        head = f"of {self.before} faults {number} {'is' if number == 1 else 'are'} enough under {under}"
        if not number:
            head = f"no fault is needed: it fails by itself under {under}"
        unfinished = "" if self.finished else ", not finished: fewer may be enough"
        lines = tell_faults(self.faults, report.trace)
        return "\n".join([f"{head} ({self.runs} runs{unfinished})", *lines, f">>> {printable(self.violation)}"])


class NotReproduced(RedisaqError):
    """The faults of a failing report did not bring its failure again.

    The scenario depends on something besides its seed: a module's variable, a fixture's object that an earlier run has changed, `random`,
    `time`, an order of a set. Or it, redisaq or Python has changed since, or the report ran under other `limits`. Run `simulate` twice with
    the same arguments and compare the traces: the first line that differs tells what it is.

    Attributes:
        report: of the run that should have failed.
    """

    def __init__(self, wanted: str, report: Report) -> None:
        self.report = report
        what = f"it failed otherwise: {report.violations[0]}" if report.violations else "it did not fail"
        again = f"seed {report.seed} on {report.backend} was to fail again ({wanted}), but {what}"
        super().__init__(f"{again}. Does the scenario depend on more than its seed?")


def shrink(
    scenario: Callable[[Simulation], Awaitable[None]],
    report: Report,
    *,
    same: Callable[[Report], bool] | None = None,
    max_runs: int = MOST_RUNS,
    within: float | None = None,
    limits: Limits | None = None,
    progress: Callable[[int, int], object] | None = None,
    observers: Sequence[ObserverType] = (),
) -> Shrunk:
    """Find few and simple faults under which a scenario fails in the same way as in a report.

    Faults are left out, many at once by chance, then by delta debugging until no single one can be; then amounts are made rounder.
    An exception that the scenario raises is a failure like any other; `simulate(..., raises=False)` gives the report of one.

    "The same way" is a violation of the same kind as the report's first one: the same sentence, whatever messages, members, partitions,
    times and numbers it names; of an exception, the same type from the same line. So shrinking does not slip to another bug.

    Args:
        scenario: the one that failed.
        report: of its failure.
        same: says whether a report fails in the same way; None: as said above.
        max_runs: how many simulations to run at most.
        within: seconds of real time after which no other one is begun; None: no limit.
        limits: as `simulate` got them; None: those of Limits, and an attempt that takes many times as long as the report's is given up.
        progress: called after each simulation with how many were run, and how many faults are left.
        observers: as `simulate` got them.

    Returns:
        The best that was found, and whether it is known to be the end.

    Raises:
        SettingsError: the report has no violation, or `same` says no to it; a bound is not above 0.
        NotReproduced: the report's own faults did not bring the failure again.
    """
    if report.ok:
        raise SettingsError("the report has no violation: there is nothing to shrink")
    if max_runs < 1 or (within is not None and not within > 0):
        raise SettingsError(f"max_runs and within must be above 0, not {max_runs!r} and {within!r}")
    way = Way(report, same)
    if not way.sentences(report):
        raise SettingsError("`same` says no to the report itself")
    attempts = Attempts(scenario, report, way, limits, progress, observers=observers)
    clock = current_environment().wall_clock
    until = math.inf if within is None else clock() + within
    if not attempts.reproduce(report):
        raise NotReproduced(way.wanted, attempts.last)

    def more() -> bool:
        return attempts.runs < max_runs and clock() < until

    def failed() -> float:
        return way.time(attempts.failing)

    random, asked = Random(len(report.faults)), set[frozenset[Fault]]()  # noqa: S311 -- the same each time
    ended = _drive(once(search(attempts.best.faults, failed, random), asked), attempts, more)
    finished, begin = ended is not None, ended[0] if ended is not None else []
    for _ in range(RESTARTS):
        best = attempts.best
        if begin and len(best.faults) > FEW:
            again = once(search_again(begin, failed, random, len(best.faults)), asked)
            finished = _drive(again, attempts, more) is not None or attempts.best is best
    return Shrunk(attempts.best, way.sentences(attempts.best)[0], len(report.faults), attempts.runs, finished)


def _drive(proposals: Search[Fault, R], attempts: Attempts, more: Callable[[], bool]) -> tuple[R] | None:
    """Make the attempts that a search proposes; return what it returned, None if there may be no more attempts before it does."""
    try:
        proposal = next(proposals)
        while more():
            proposal = proposals.send(attempts.make(proposal))
    except StopIteration as end:
        return (end.value,)
    return None


class Way:
    """In which way a report fails.

    Attributes:
        wanted: what is to happen again, for people.
    """

    def __init__(self, report: Report, same: Callable[[Report], bool] | None) -> None:
        """Take the report, and what decides in place of its first violation."""
        self._same = same
        self._names = names_of(report)
        self.wanted = "as `same` says" if same is not None else kind_of(report.violations[0], self._names)

    def sentences(self, report: Report) -> list[str]:
        """Return the violations that show that a report fails in this way; none if it does not."""
        if self._same is not None:
            return report.violations if self._same(report) else []
        return [violation for violation in report.violations if kind_of(violation, self._names) == self.wanted]

    def time(self, report: Report) -> float:
        """Return the time by which a report had certainly failed in this way; infinite if nobody knows."""
        sentences = self.sentences(report)
        times = [time_of(one) for one in (sentences if self._same is not None else sentences[:1])]
        return max((math.inf if time is None else time + ROUNDED for time in times), default=math.inf)


class Attempts:
    """Runs the scenario under lists of faults.

    Attributes:
        runs: how many there were.
        last: the report of the last one.
        failing: that of the last one which failed in the same way.
        best: that of the one of these with the fewest and simplest faults.
    """

    def __init__(
        self,
        scenario: Callable[[Simulation], Awaitable[None]],
        report: Report,
        way: Way,
        limits: Limits | None,
        progress: Callable[[int, int], object] | None,
        *,
        observers: Sequence[ObserverType],
    ) -> None:
        """Take what is run, what it is to do, who is told, and who watches."""
        self.runs = 0
        self.last = self.failing = self.best = report
        self._scenario = scenario
        self._seed = report.seed
        self._backend: Literal["trio", "asyncio"] = "trio" if report.backend == "trio" else "asyncio"
        self._way = way
        self._limits: Limits | None = limits
        self._capped = False
        self._progress = progress
        self._observers = observers

    def reproduce(self, report: Report) -> bool:
        """Make the first one, under the report's own faults; return whether it failed in the same way.

        It tells how many steps attempts may take: no more than it needs itself, roughly, unless the report has exceeded the limits.
        """
        given, per_line = self._limits, STEPS_PER_LINE
        while given is None and not _exceeded(report) and (steps := max(FEW_STEPS, per_line * len(report.trace))) < Limits.steps:
            self._limits, self._capped = Limits(min(steps, Limits.steps_at_once), steps), True
            if self.make(report.faults) is not None:
                return True
            if not _exceeded(self.last):
                return False
            per_line *= 10
        self._limits, self._capped = given, False
        return self.make(report.faults) is not None

    def make(self, faults: Sequence[Fault]) -> list[Fault] | None:
        """Make one; return those of the faults that befell if it failed in the same way, else None."""
        self.runs += 1
        self.last = simulate(self._scenario, self._seed, self._backend, faults, self._limits, raises=False, observers=self._observers)
        alike = self._way.sentences(self.last) and not (self._capped and _exceeded(self.last))
        if alike:
            self.failing = self.last
            if complexity(self.last.faults) <= complexity(self.best.faults):
                self.best = self.last
        if self._progress is not None:
            self._progress(self.runs, len(self.best.faults))
        befell = {_address(fault) for fault in self.last.faults}
        return [fault for fault in faults if _address(fault) in befell] if alike else None


def _exceeded(report: Report) -> bool:
    return any(EXCEEDED in violation for violation in report.violations)


def _address(fault: Fault) -> tuple[str, int, str, float]:
    return fault.who, fault.number, fault.kind, fault.amount
