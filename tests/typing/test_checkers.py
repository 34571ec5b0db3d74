"""What mypy and basedpyright say about code that uses the API: neither more nor less than tests/typing/cases says they do.

A case's expected types stand there as `assert_type(expression, Type)`, expected errors as `# type: ignore[code]` for mypy and as
`# pyright: ignore[rule]` for pyright: both are set to report a comment that ignores nothing. So a case holds if its file is clean. That
this can fail is shown in the same run, by a file of expectations that are all wrong. Each checker runs once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.source import ROOT

CASES = Path(__file__).with_name("cases")
FILES = sorted(path.name for path in CASES.glob("*.py"))

WRONG = """
from __future__ import annotations
from typing import Any, assert_type
from redisaq import Consumer, Message, Producer

async def take(message: Message[str]) -> None: ...

async def main() -> None:
    assert_type(Consumer("orders"), Consumer[str])  # wrong
    assert_type(Consumer("orders", payload_type=str), Consumer[Any])  # wrong
    Consumer("orders", batchsize=3)  # wrong
    Consumer("orders", batch_size=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # wrong
    await Consumer("orders", payload_type=int).process(take)  # wrong
    await Consumer("orders", payload_type=str).process(take)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # wrong
    assert_type(await Producer("orders").enqueue(1), bytes)  # wrong
"""
WRONG_LINES = {number for number, line in enumerate(WRONG.splitlines(), 1) if line.endswith("# wrong")}

PYRIGHT = {
    "typeCheckingMode": "strict",
    "pythonVersion": "3.11",
    "enableTypeIgnoreComments": False,
    "reportUnnecessaryTypeIgnoreComment": "error",
    "executionEnvironments": [{"root": str(ROOT)}],
}


@dataclass(frozen=True)
class Finding:
    """One error that a checker found."""

    file: str
    line: int
    text: str


def mypy(directory: Path, wrong: Path) -> list[Finding]:
    """Return what mypy says about the cases and the wrong file, with the project's settings."""
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(directory / "cache"), "--output", "json", str(CASES), str(wrong)]
    result = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout + result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return [Finding(Path(one["file"]).name, one["line"], one["message"]) for one in found if one["severity"] == "error"]


def basedpyright(directory: Path, wrong: Path) -> list[Finding]:
    """Return what pyright says about the cases and the wrong file, in its strict mode."""
    settings = directory / "pyrightconfig.json"
    settings.write_text(json.dumps(PYRIGHT | {"include": [str(CASES), str(wrong)]}))
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--outputjson", "--project", str(settings)]
    result = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert report["summary"]["filesAnalyzed"] == len(FILES) + 1
    return [Finding(Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["message"]) for one in report["generalDiagnostics"]]


@pytest.fixture(scope="module", params=[mypy, basedpyright], ids=["mypy", "basedpyright"])
def findings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    """Everything that one checker found."""
    directory = tmp_path_factory.mktemp("checker")
    wrong = directory / "wrong_expectations.py"
    wrong.write_text(WRONG)
    checker: Callable[[Path, Path], list[Finding]] = request.param
    return checker(directory, wrong)


@pytest.mark.parametrize("file", FILES)
def test_the_cases_hold(findings: list[Finding], file: str) -> None:
    assert [finding for finding in findings if finding.file == file] == []


def test_wrong_expectations_are_found(findings: list[Finding]) -> None:
    assert {finding.line for finding in findings if finding.file == "wrong_expectations.py"} == WRONG_LINES


def test_nothing_else_is_found(findings: list[Finding]) -> None:
    assert [finding for finding in findings if finding.file not in {*FILES, "wrong_expectations.py"}] == []
