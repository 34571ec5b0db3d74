"""No file holds more than 300 lines of code: one that grows has found a second job."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

from tests.unit.source import name_of, python_files

LIMIT = 300
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}


def lines_of_code(text: str) -> int:
    """Return how many lines hold code: comments, blank lines and docstrings (of attributes, too) are none."""
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            code.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(code)


def test_what_counts() -> None:
    assert lines_of_code("") == 0
    assert lines_of_code('"""A module.\n\nWith a docstring.\n"""\n\n# and a comment\n') == 0
    assert lines_of_code("a = 1  # with a comment\n\n\nb = (\n    2,\n)\n") == 4
    assert (
        lines_of_code('class A:\n    """Doc."""\n\n    x: int = 1\n    """Of x."""\n\n    def f(self) -> str:\n        """Doc."""\n') == 3
    )
    assert lines_of_code('text = """\nnot a docstring\n"""\n') == 3


@pytest.mark.parametrize("file", python_files("redisaq", "tests", "examples"), ids=name_of)
def test_a_file_holds_one_job(file: Path) -> None:
    lines = lines_of_code(file.read_text(encoding="utf-8"))
    assert lines <= LIMIT
