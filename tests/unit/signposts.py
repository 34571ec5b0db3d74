"""The places that CONTRIBUTING.md points to: `name` (`file:line`).

`python -m tests.unit.signposts` updates the lines after code has moved within its file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.unit.source import ROOT, tree_of

PAGE = ROOT / "CONTRIBUTING.md"
POST = re.compile(r"`(?P<name>[\w.]+)`(?P<space>\s+)\(`(?P<file>[\w./]+):(?P<line>\d+)`\)")


class Signpost(NamedTuple):
    """A definition that the page names, and where it says that it is."""

    name: str
    file: str
    line: int

    def actual(self) -> int | None:
        """Return the line at which the file defines the name, None if it does not."""
        path = ROOT / self.file
        return line_of(path, self.name) if path.is_file() else None


def signposts(text: str) -> Iterator[Signpost]:
    """Give every place that a page points to."""
    for match in POST.finditer(text):
        yield Signpost(match["name"], match["file"], int(match["line"]))


def line_of(path: Path, name: str) -> int | None:
    """Return the line of a definition: of a function, a class, a method ("Lease.alive") or a constant; in other files, of the word."""
    if path.suffix != ".py":
        lines = path.read_text(encoding="utf-8").splitlines()
        return next((number for number, line in enumerate(lines, 1) if re.search(rf"\b{re.escape(name)}\b", line)), None)
    body: list[ast.stmt] = tree_of(path).body
    found: ast.stmt | None = None
    for part in name.split("."):
        found = next((node for node in body if part in names_of(node)), None)
        if found is None:
            return None
        body = found.body if isinstance(found, ast.ClassDef) else []
    return None if found is None else found.lineno


def names_of(node: ast.stmt) -> set[str]:
    """Return what a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def renewed(text: str) -> str:
    """Return a page with the lines as they are now; a definition that is gone stays as it is."""

    def renew(match: re.Match[str]) -> str:
        post = Signpost(match["name"], match["file"], int(match["line"]))
        line = post.actual() or post.line
        return f"`{post.name}`{match['space']}(`{post.file}:{line}`)"

    return POST.sub(renew, text)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
