"""Runs the tests that concern a mutant, and says who caught it and in how long.

Input: a mutant, a copy of the tree and what is known of the tests. Output: a Result. Invariant: a test that fails is run again by itself,
and only the second failure counts; what outlasts the time limit was caught by it only if one test hung, else it was merely slow.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.mutants.copies import Copy
from tests.mutants.covering import Covering, choose
from tests.mutants.operators import Mutant
from tests.mutants.places import Source
from tests.mutants.plugin import ORDERS, Line, Orders

HUNG = 10.0
"""A test hangs if it has taken this many seconds, and five times as long as it did when it was noted."""

FEW_FILES = 5
"""Test files whose tests are run before those of all others are collected."""

LEAST = 5.0
"""With fewer seconds than this left, no further tests are chosen: starting a process takes some of them."""

NO_TESTS = 5
"""pytest's exit status where it has found none."""

CAUGHT = frozenset({"caught", "hung", "broken"})


class Result(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What became of a mutant.

    Attributes:
        mutant: its title.
        diff: what it changed.
        breaks: what a mutant written by hand breaks.
        verdict: "caught" by a test; "hung", one that hung; "broken", the tests could not even be collected; "survived"; "slow", the time
            limit was reached, no test failed or hung; "uncovered", no test is known to run it; "flaky", a test failed once and not
            again, and no other failed; "equivalent", known to change nothing.
        by: the test.
        seconds: how long all of it took.
        tests: how many were chosen.
        why: of an equivalent one; of one that was caught before any test, what pytest said last.
    """

    mutant: str
    diff: str
    verdict: str
    breaks: str = ""
    by: str = ""
    seconds: float = 0.0
    tests: int = 0
    why: str = ""


class Run(msgspec.Struct):
    """One process of pytest.

    Attributes:
        status: its exit status; None if it was killed.
        failed: the test that failed, "" if none did.
        current: the test under way at the end, "" if none was.
        lasted: how many seconds that one had taken.
        passed: how many tests did.
        said: the last lines of what it printed.
    """

    status: int | None
    failed: str
    current: str
    lasted: float
    passed: int
    said: str = ""


def run_tests(copy: Copy, tests: Sequence[str], limit: float) -> Run:
    """Run tests in this order, up to the first that fails."""
    existing = collected(copy, tests)
    if not existing:
        return Run(NO_TESTS, "", "", 0.0, 0)
    with tempfile.TemporaryDirectory(prefix="rq-mutant-") as folder:
        log, orders = Path(folder) / "log", Path(folder) / "orders"
        log.touch()
        orders.write_bytes(msgspec.json.encode(Orders(log=str(log), tests=list(tests))))
        words = ["-m", "pytest", "-x", "-q", "-n0", "--tb=short", "-p", "no:cacheprovider", "-p", "tests.mutants.plugin", *existing]
        status = copy.python(*words, env={ORDERS: str(orders)}, limit=limit, output=Path(folder) / "output")
        ended = time.monotonic()
        said = (Path(folder) / "output").read_text(errors="replace")[-400:]
        lines = [msgspec.json.decode(line, type=Line) for line in log.read_bytes().split(b"\n")[:-1]]
    open_tests = {line.test: line.began for line in lines if line.began is not None}
    run = Run(status, "", "", 0.0, 0, said)
    for line in lines:
        if line.began is None:
            open_tests.pop(line.test, None)
            run.passed += line.passed
            if line.failed:
                run.failed = line.test
    for run.current, began in open_tests.items():
        run.lasted = ended - began
    return run


def collected(copy: Copy, tests: Sequence[str]) -> list[str]:
    """Return the test functions that are still there: pytest collects these alone, and refuses what it does not find."""
    texts: dict[str, str] = {}
    found: dict[str, None] = {}
    for test in tests:
        file, _, name = test.partition("[")[0].partition("::")
        if file not in texts:
            texts[file] = (copy.root / file).read_text(encoding="utf-8") if (copy.root / file).exists() else ""
        if f"def {name.rpartition('::')[2]}(" in texts[file]:
            found[f"{file}::{name}"] = None
    return list(found)


def first_few(tests: Sequence[str]) -> int:
    """Return how many of these tests stand in the first few files: most mutants need no more, and collecting takes longer than running."""
    files: set[str] = set()
    for place, test in enumerate(tests):
        files.add(test.partition("::")[0])
        if len(files) > FEW_FILES:
            return place
    return len(tests)


def try_out(mutant: Mutant, copy: Copy, covering: Covering, sources: Sequence[Source], limit: float) -> Result:
    """Run what concerns a mutant, for `limit` seconds at most.

    What tests take was noted under coverage.py, which takes most of that. So time is left when those are done that were chosen for it.
    Then further ones are chosen, by what the first ones have really taken.
    """
    untried = {test: seconds for seconds, test in covering.of(sources, mutant.source, mutant.span)}
    close = covering.closeness(sources, mutant.source, mutant.place)
    result = Result(mutant=mutant.title, diff=mutant.diff, breaks=mutant.breaks, verdict="uncovered")
    began, noted, spent = time.monotonic(), 1.0, 1.0
    with copy.changed(mutant.source.name, mutant.text):
        while (left := limit - (time.monotonic() - began)) > LEAST or not result.tests:
            tests = choose([(seconds, test) for test, seconds in untried.items()], left * max(1.0, noted / spent), close)
            if not result.tests:
                tests = tests[: first_few(tests)]
            if not tests:
                break
            result.tests += len(tests)
            noted += sum(untried[test] for test in tests)
            run = run_tests(copy, tests, max(left, 1.0))
            spent = time.monotonic() - began
            verdict, by = judge(run, untried)
            if verdict == "caught" and run_tests(copy, [by], limit).status == 0:  # a limit of its own: it is the proof
                verdict, by, tests = "flaky", "", tests[: tests.index(by) + 1]
            for test in tests:
                del untried[test]
            if verdict != "uncovered" and not (verdict == "survived" and result.verdict == "flaky"):
                result.verdict, result.by = verdict, by
            if verdict in {"caught", "hung", "broken", "slow"}:
                result.why = run.said if verdict == "broken" else ""
                break
    result.seconds = time.monotonic() - began
    return result


def judge(run: Run, known: dict[str, float]) -> tuple[str, str]:
    """Return what a run says of the mutant, and which test said so."""
    if run.status is None or (run.status < 0 and not run.failed):
        if run.current and run.lasted > max(HUNG, 5 * known.get(run.current, 0.0)):
            return "hung", run.current
        return ("slow", run.current) if run.status is None else ("caught", run.current)
    if run.failed:
        return "caught", run.failed
    if run.status == 0:
        return "survived", ""
    return ("broken", "") if run.status != NO_TESTS else ("uncovered", "")
