"""What the pytest plugin adds to a simulation's failure: the few faults that bring it about, in words and as a file.

In: the failed calls of `simulate` that a test made, and what the test failed with. Out: text. Always: one failure, and a whole run of
pytest, take no more than so many seconds longer; what a scenario prints meanwhile is not shown a second time; whatever goes wrong here is
told, and the failure remains what it was.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from redisaq.environment import current_environment
from redisaq.testing.overheard import Call, Failed
from redisaq.testing.report import Report
from redisaq.testing.shrinking import NotReproduced, shrink
from redisaq.testing.simulation import simulate

ALTOGETHER = 3
"""A run of pytest may take this many times the seconds of one failure: if everything fails, the first few are enough to look at."""

Save: TypeAlias = Callable[[Report, str], Path]


@dataclass
class Budget:
    """How long shrinking may take.

    Attributes:
        each: seconds for a failure; 0: nothing is shrunk.
        left: seconds for all of them.
    """

    each: float
    left: float

    @contextlib.contextmanager
    def spend(self) -> Generator[float]:
        """Yield how many seconds there are now, and take off what the block has used."""
        clock = current_environment().wall_clock
        began = clock()
        try:
            yield min(self.each, self.left)
        finally:
            self.left -= clock() - began


def budget(each: float) -> Budget:
    """Return that of a run of pytest."""
    return Budget(each, ALTOGETHER * each)


def explain(error: BaseException, failed: Failed, budget: Budget, *, save: Save, command: str) -> str:
    """Return what is to be said about the faults of a failed test's simulation; nothing if it has none.

    Args:
        error: what the test failed with.
        failed: what its simulations came to.
        budget: how long it may take.
        save: writes a report to a file whose name ends so; returns where it is.
        command: runs the test under the faults of a file, whose name is to follow; "" if the test takes its faults from nowhere else.
    """
    call = _blamed(error, failed)
    if call is None or not call.faults:
        return ""
    with budget.spend() as seconds:
        if seconds <= 0:
            return "" if budget.each <= 0 else "its faults were not shrunk: other failures have used up the time (see --redisaq-shrink)"
        try:
            with _quiet():
                return _shrunk(call, seconds, save, command)
        except NotReproduced as failure:
            return f"its faults could not be shrunk: {failure}"
        except Exception as failure:  # noqa: BLE001 -- the test's own failure is what matters
            return f"its faults could not be shrunk: {type(failure).__name__}: {failure}"


def _blamed(error: BaseException, failed: Failed) -> Call | None:
    """Return the call that the test failed with: what it raised, or whose report a function of the traceback holds."""
    held: set[int] = set()
    step = error.__traceback__
    while step is not None:
        held |= {id(value) for value in step.tb_frame.f_locals.values() if isinstance(value, Report)}
        step = step.tb_next
    return next((call for call in failed.calls if call.error is error or (call.report is not None and id(call.report) in held)), None)


def _shrunk(call: Call, seconds: float, save: Save, command: str) -> str:
    report = call.report
    if report is None:
        report = simulate(call.scenario, call.seed, call.backend, call.faults, call.limits, raises=False)
    if not report.faults:
        return ""
    if report.ok:
        return "its faults could not be shrunk: run once more, it did not fail. Does the scenario depend on more than its seed?"
    found = shrink(call.scenario, report, within=seconds, limits=call.limits, observers=call.observers)
    text = found.text()
    if not found.faults:
        return text
    try:
        picture, file = save(found.report, "-few.svg"), save(found.report, "-few.json")
    except OSError as error:
        return f"{text}\nthey could not be written to a file: {error}"
    again = f"{command}{file}" if command else f'simulate(scenario, {call.seed}, "{call.backend}", load_faults("{file}"))'
    return f"{text}\nas a picture: {picture}\nwith these faults alone: {again}"


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Let nothing be printed or logged: the scenario has shown all of that when it ran as a test."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
