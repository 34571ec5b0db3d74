"""The project's own source, for the tests that police it: which files there are, and what each module is called."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "redisaq"


def python_files(*folders: str) -> list[Path]:
    """Return every Python file below these folders of the project that exist."""
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def name_of(file: Path) -> str:
    """Return the file's name as one reads it: relative, with slashes."""
    return file.relative_to(ROOT).as_posix()


def module_of(file: Path) -> str:
    """Return the dotted name of a module of the project."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(file: Path) -> ast.Module:
    """Return the file's syntax tree."""
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


@cache
def imported(file: Path) -> Sequence[str]:
    """Return every dotted name that the file imports, wherever in it: `from a import b` gives a and a.b."""
    names: list[str] = []
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names
