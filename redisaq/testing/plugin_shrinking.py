"""Add to a simulation's failure in pytest the few faults that cause it, in words and as a file.

Input: the failed calls of `simulate` that a test made, and the test's error. Output: text. Neither one failure nor a whole run of pytest
takes longer than its budget of seconds allows. The scenario's output is not shown a second time. An error here is reported, and leaves the
failure as it was.
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
"""The budget of a run of pytest, as a multiple of the budget of one failure: if everything fails, the first few are enough."""

Save: TypeAlias = Callable[[Report, str], Path]


@dataclass
class Budget:
    """How long shrinking may take.

    Attributes:
        each: seconds for one failure; 0: nothing is shrunk.
        left: seconds left for all failures.
    """

    each: float
    left: float

    @contextlib.contextmanager
    def spend(self) -> Generator[float]:
        """Yield how many seconds are available now, and subtract what the block has used."""
        clock = current_environment().wall_clock
        began = clock()
        try:
            yield min(self.each, self.left)
        finally:
            self.left -= clock() - began


def budget(each: float) -> Budget:
    """Return the budget of a run of pytest."""
    return Budget(each, ALTOGETHER * each)


def explain(error: BaseException, failed: Failed, budget: Budget, *, save: Save, command: str) -> str:
    """Return a text about the faults of a failed test's simulation; empty if there is none.

    Args:
        error: the error of the test.
        failed: the failed simulations of the test.
        budget: how long shrinking may take.
        save: writes a report to a file with the given suffix, and returns its path.
        command: the command that runs the test under the faults of a file, whose name follows; "" if the test takes its faults from nowhere
            else.
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
    """Return the call that made the test fail: it raised the error, or a function of the traceback holds its report."""
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
    """Suppress output and logging: the scenario has already shown it when it ran as a test."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
