"""Every pytest run of everybody who has redisaq installed loads the plugin: that must cost next to nothing."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from tests.testing.inner import run_inner
from tests.unit.source import ROOT

pytest_plugins = ["pytester"]

BROUGHT = """
import sys
import pytest
before = set(sys.modules)
import redisaq_pytest
print(sorted(set(sys.modules) - before))
"""


def test_it_imports_nothing_that_pytest_has_not() -> None:
    result = subprocess.run([sys.executable, "-c", BROUGHT], check=False, capture_output=True, text=True, cwd=ROOT)
    assert (result.stderr, result.stdout) == ("", "['redisaq_pytest']\n")


def test_a_run_without_our_fixtures_imports_nothing_of_the_package(pytester: pytest.Pytester) -> None:
    text = """
        import sys

        def test_it():
            assert [name for name in sys.modules if name.split(".")[0] == "redisaq"] == []

        def test_fails():
            assert False
    """
    run_inner(pytester, text, process=True).assert_outcomes(passed=1, failed=1)


def test_the_entry_point_and_the_wheel_name_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {"redisaq": "redisaq_pytest"}
    assert "redisaq_pytest.py" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
