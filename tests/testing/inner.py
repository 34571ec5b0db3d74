"""Runs pytest inside of a test, with redisaq's plugin and the other plugins that a user may have.

Input: the text of a test file, options. Output: what became of the tests in it. Invariant: warnings are errors there, too, and marks are
strict.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import textwrap

import pytest

SETTINGS = """
[pytest]
addopts = --strict-markers --strict-config -ra
filterwarnings = error
"""


def installed() -> bool:
    """Return whether redisaq's plugin is loaded by its entry point: not so where an older state of the project is installed."""
    return any(point.value == "redisaq_pytest" for point in importlib.metadata.entry_points(group="pytest11"))


def run_inner(pytester: pytest.Pytester, text: str, *options: str, settings: str = "", process: bool = False) -> pytest.RunResult:
    """Run a test file.

    Args:
        pytester: pytest's own fixture.
        text: of the file.
        options: of the command.
        settings: more lines of pytest.ini.
        process: in a process of its own.
    """
    scope = "asyncio_default_fixture_loop_scope = function\n"  # else it warns
    pytester.makeini(SETTINGS + (scope if importlib.util.find_spec("pytest_asyncio") else "") + settings)
    pytester.makepyfile(test_inner=textwrap.dedent(text))
    plugin = () if installed() else ("-p", "redisaq_pytest")
    run = pytester.runpytest_subprocess if process else pytester.runpytest_inprocess
    return run(*plugin, "-p", "no:cacheprovider", *options)
