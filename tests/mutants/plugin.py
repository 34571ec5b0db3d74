"""A pytest plugin, loaded with `-p tests.mutants.plugin`: notes which test covers what, or runs the chosen tests in the chosen order.

Input: the environment variable REDISAQ_MUTANTS, which names a file (see Orders). Output: a log of the tests, one line of JSON each, written
as they begin and end, so that it is whole even if the process is killed. While it records, each test is a context of coverage.py, in this
process and in those that the test starts: they find its name in REDISAQ_MUTANTS_TEST.

It stays out of the way of xdist: workers record contexts, the process that began the run writes the log.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Generator
from pathlib import Path

import coverage
import msgspec
import pytest

from tests.matrix import LOOPS

ORDERS = "REDISAQ_MUTANTS"
CONTEXT = "REDISAQ_MUTANTS_TEST"


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        log: where to write of each test.
        tests: ids of the tests to run, in this order; None records, on one event loop for each test.
    """

    log: str
    tests: list[str] | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the log: a test that begins, at a time of the monotonic clock, or that has ended.

    Attributes:
        test: its id.
        began: when it began; None where it has ended.
        seconds: how long it took, with its fixtures.
        passed: whether it did, and was not skipped.
        failed: whether a part of it did.
    """

    test: str
    began: float | None = None
    seconds: float = 0.0
    passed: bool = False
    failed: bool = False


def context_of(test: str) -> str:
    """Return a test's name as a context: short, and without what coverage.py gives a meaning."""
    return hashlib.sha256(test.encode()).hexdigest()[:16]


def on_one_loop(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the tests without those that differ from an earlier one by the event loop alone."""
    seen: set[object] = set()
    kept: list[pytest.Item] = []
    for item in items:
        params: dict[str, object] = dict(item.callspec.params) if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        key = item.nodeid.partition("[")[0], tuple((name, id(value)) for name, value in params.items() if name not in LOOPS)
        if key not in seen or not params:
            seen.add(key)
            kept.append(item)
    return kept


class Plugin:
    """The hooks."""

    def __init__(self, orders: Orders, *, writes: bool) -> None:
        self._orders = orders
        self._writes = writes
        self._seconds: dict[str, float] = {}
        self._outcomes: dict[str, set[str]] = {}

    def _write(self, line: Line) -> None:
        if self._writes:
            with Path(self._orders.log).open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep what is to run, in its order."""
        if self._orders.tests is None:
            kept = on_one_loop(items)
        else:
            found = {item.nodeid: item for item in items}
            kept = [found[test] for test in self._orders.tests if test in found]
        chosen = set(kept)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = kept

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Say that it begins; let what it runs be known as its own."""
        self._write(Line(test=item.nodeid, began=time.monotonic()))
        measured = coverage.Coverage.current() if self._orders.tests is None else None
        if measured is None:
            return (yield)
        os.environ[CONTEXT] = context_of(item.nodeid)
        measured.switch_context(os.environ[CONTEXT])
        try:
            return (yield)
        finally:
            measured.switch_context("")
            del os.environ[CONTEXT]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up a test's three phases."""
        test = report.nodeid
        self._seconds[test] = self._seconds.get(test, 0.0) + report.duration
        self._outcomes.setdefault(test, set()).add(report.outcome)
        if report.when == "teardown":
            outcomes = self._outcomes.pop(test)
            self._write(Line(test=test, seconds=self._seconds.pop(test), passed=outcomes == {"passed"}, failed="failed" in outcomes))


def pytest_configure(config: pytest.Config) -> None:
    """Begin, if there are orders."""
    if ORDERS in os.environ:
        orders = msgspec.json.decode(Path(os.environ[ORDERS]).read_bytes(), type=Orders)
        config.pluginmanager.register(Plugin(orders, writes=not hasattr(config, "workerinput")), "mutants")
