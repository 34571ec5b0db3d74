"""Shrink the faults of a failing simulation to the few that cause the failure.

Input: a scenario and its failing report. Output: a report that fails in the same way under few, simple faults. The returned report comes
from a run that really failed. The same scenario and report give the same answer, unless time runs out. Nothing outlives the call, however
it ends.

Each attempt is a complete simulation, judged only by its own report. A fault is addressed by the count of its process's operations: leaving
one out changes what its process does next, so that later faults may hit other operations, or none. This costs attempts, and never makes an
answer wrong.
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
from redisaq.testing.pace import Limits
from redisaq.testing.record import ObserverType
from redisaq.testing.report import Report
from redisaq.testing.searching import complexity, search, search_again
from redisaq.testing.simulation import Simulation, simulate
from redisaq.testing.timeline_story import printable

R = TypeVar("R")

MOST_RUNS = 200

STEPS_PER_LINE = 40
"""How many steps an attempt may take for each line of the first report's trace: ten times as many as usual. An attempt that loops forever
would use up the time."""

FEW_STEPS = 20_000

ROUNDED = 0.0006
"""Seconds by which a violation's time may be wrong."""

FEW = 3
RESTARTS = 2
"""If more than FEW faults are left in the end, the search starts again this many times, by another way."""


@dataclass(frozen=True)
class Shrunk:
    """The result of `shrink`.

    Attributes:
        report: the report of the run under the faults found; it fails in the same way as the first.
        violation: the violation in that report that shows this.
        before: how many faults the first report had.
        runs: how many simulations the search took.
        finished: True if no single fault can be left out or made simpler; False if runs or time ran out before that was known.
    """

    report: Report
    violation: str
    before: int
    runs: int
    finished: bool

    @property
    def faults(self) -> list[Fault]:
        """The faults found, in order of time; pass them to `simulate`. Empty if the scenario fails without any."""
        return self.report.faults

    def text(self) -> str:
        """Return the result for people: one line for each fault."""
        report, number = self.report, len(self.faults)
        under = f"seed {report.seed} on {report.backend}"
        head = f"of {self.before} faults {number} {'is' if number == 1 else 'are'} enough under {under}"
        if not number:
            head = f"no fault is needed: it fails by itself under {under}"
        unfinished = "" if self.finished else ", not finished: fewer may be enough"
        lines = tell_faults(self.faults, report.trace)
        return "\n".join([f"{head} ({self.runs} runs{unfinished})", *lines, f">>> {printable(self.violation)}"])


class NotReproduced(RedisaqError):
    """The faults of a failing report did not reproduce its failure.

    The scenario depends on something besides its seed: a module's variable, an object of a fixture that an earlier run has changed,
    `random`, `time`, or the order of a set. Or the scenario, redisaq or Python has changed since, or the report ran under other `limits`.
    Run `simulate` twice with the same arguments and compare the traces: the first line that differs shows the cause.

    Attributes:
        report: the report of the run that should have failed.
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

    `shrink` leaves out faults, first many at once at random, then by delta debugging until no single one can be left out. Then it makes
    amounts rounder. An exception that the scenario raises is a failure like any other; `simulate(..., raises=False)` returns the report of
    one.

    "The same way" means a violation of the same kind as the report's first one: the same sentence, whatever messages, members, partitions,
    times and numbers it names. An exception must have the same type and come from the same line. Therefore shrinking does not slip to
    another bug.

    Args:
        scenario: the scenario that failed.
        report: the report of its failure.
        same: returns whether a report fails in the same way; None: as described above.
        max_runs: the largest number of simulations to run.
        within: seconds of real time after which no further simulation is started; None: no limit.
        limits: the limits that `simulate` got. None: those of Limits, and an attempt that takes many times as long as the report's run is
            given up.
        progress: called after each simulation with the number of simulations run and the number of faults left.
        observers: the observers that `simulate` got.

    Returns:
        The best result found, and whether the search was finished.

    Raises:
        SettingsError: the report has no violation, `same` returns False for the report itself, or a bound is not above 0.
        NotReproduced: the report's own faults did not reproduce the failure.
    """
    if report.ok:
        raise SettingsError("the report has no violation: there is nothing to shrink")
    if max_runs < 1 or (within is not None and not within > 0):
        raise SettingsError(f"max_runs and within must be above 0, not {max_runs!r} and {within!r}")
    way = Way(report, same)
    if not way.sentences(report):
        raise SettingsError("`same` rejects the report itself")
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
    """Run the attempts that a search proposes, and return the search's result; None if no attempt is left before the search ends."""
    try:
        proposal = next(proposals)
        while more():
            proposal = proposals.send(attempts.make(proposal))
    except StopIteration as end:
        return (end.value,)
    return None


class Way:
    """The way in which a report fails.

    Attributes:
        wanted: the failure that is to happen again, for people.
    """

    def __init__(self, report: Report, same: Callable[[Report], bool] | None) -> None:
        """Learn the way from a report, and from the function that decides in place of its first violation, if any."""
        self._same = same
        self._names = names_of(report)
        self.wanted = "as `same` says" if same is not None else kind_of(report.violations[0], self._names)

    def sentences(self, report: Report) -> list[str]:
        """Return the violations that show that a report fails in this way; empty if it does not."""
        if self._same is not None:
            return report.violations if self._same(report) else []
        return [violation for violation in report.violations if kind_of(violation, self._names) == self.wanted]

    def time(self, report: Report) -> float:
        """Return the time by which a report had certainly failed in this way; infinity if it is unknown."""
        sentences = self.sentences(report)
        times = [time_of(one) for one in (sentences if self._same is not None else sentences[:1])]
        return max((math.inf if time is None else time + ROUNDED for time in times), default=math.inf)


class Attempts:
    """Run the scenario under lists of faults.

    Attributes:
        runs: how many runs there were.
        last: the report of the last run.
        failing: the report of the last run that failed in the same way.
        best: among the reports that failed in the same way, the one with the fewest and simplest faults.
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
        """Prepare the attempts: the scenario to run, the failure to reproduce, the callback for progress, and the observers."""
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
        """Run the first attempt under the report's own faults, and return whether it failed in the same way.

        It also sets how many steps later attempts may take: roughly as many as it needed itself, unless the report has exceeded the limits.
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
        """Run one attempt. Return the faults that happened if it failed in the same way, else None."""
        self.runs += 1
        self.last = simulate(self._scenario, self._seed, self._backend, faults, self._limits, raises=False, observers=self._observers)
        alike = self._way.sentences(self.last) and not (self._capped and _exceeded(self.last))
        if alike:
            self.failing = self.last
            if complexity(self.last.faults) <= complexity(self.best.faults):
                self.best = self.last
        if self._progress is not None:
            self._progress(self.runs, len(self.best.faults))
        played = {_address(fault) for fault in self.last.faults}
        return [fault for fault in faults if _address(fault) in played] if alike else None


def _exceeded(report: Report) -> bool:
    return any(EXCEEDED in violation for violation in report.violations)


def _address(fault: Fault) -> tuple[str, int, str, float]:
    return fault.who, fault.number, fault.kind, fault.amount
