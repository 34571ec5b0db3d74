"""Where in the product something stands, named so that it is found again after it has moved to another file.

Input: the files of the package. Output: for each line the name of the function, method or class around it ("Owned.renew"; a script's name,
"settle.lua"), and the statement that it belongs to. Invariant: no place is named by its module or its line number.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

Span = tuple[int, int]
"""First and last line, counted from 1."""

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Source:
    """A file of the product.

    Attributes:
        name: relative to the tree, with slashes.
        text: what it holds.
    """

    name: str
    text: str

    @property
    def lua(self) -> bool:
        """Whether it is a script."""
        return self.name.endswith(".lua")

    @cached_property
    def lines(self) -> list[str]:
        """Its lines, without their ends."""
        return self.text.split("\n")

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree of Python."""
        return ast.parse(self.text)

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for line in self.lines:
            starts.append(starts[-1] + len(line) + 1)
        return starts

    def offset(self, line: int, column: int) -> int:
        """Return where in the text this is; columns count bytes, as those of `ast` do."""
        before = self.lines[line - 1].encode()[:column].decode()
        return self._starts[line - 1] + len(before)

    def line_at(self, offset: int) -> int:
        """Return the line of a place in the text."""
        return self.text.count("\n", 0, offset) + 1

    @cached_property
    def places(self) -> dict[str, list[Span]]:
        """The lines of each definition, decorators too; of several with one name, as overloads are, all of them."""
        if self.lua:
            return {Path(self.name).name: [(1, len(self.lines))]}
        found: dict[str, list[Span]] = {}
        for name, node in definitions(self.tree):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found.setdefault(name, []).append((first, node.end_lineno or node.lineno))
        return found

    @cached_property
    def bodies(self) -> frozenset[str]:
        """Where lines run as the file is imported: "" and the names of classes."""
        return frozenset(["", *(name for name, node in definitions(self.tree) if isinstance(node, ast.ClassDef))])

    @cached_property
    def _around(self) -> list[str]:
        around = [""] * (len(self.lines) + 1)
        for name, spans in self.places.items():  # outer ones first
            for first, last in spans:
                around[first : last + 1] = [name] * (last + 1 - first)
        return around

    def place_of(self, line: int) -> str:
        """Return the innermost definition around a line, "" for what stands in none."""
        return self._around[line]

    def statement_of(self, line: int) -> Span:
        """Return the lines of the simple statement, or of the head of the compound one, around a line."""
        if self.lua:
            return line, line
        best = line, line
        for node in ast.walk(self.tree):
            if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno):
                body = getattr(node, "body", None)
                last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
                if line <= last and node.lineno >= best[0] - (0 if best != (line, line) else node.lineno):
                    best = node.lineno, last
        return best


def definitions(node: ast.AST, outer: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Give each definition with its name, outer ones first."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, DEFINITIONS):
            name = f"{outer}.{child.name}" if outer else child.name
            yield name, child
            yield from definitions(child, name)
        else:
            yield from definitions(child, outer)


def product(root: Path) -> list[Source]:
    """Return the package's Python files and scripts."""
    files = sorted(file for suffix in ("py", "lua") for file in (root / "redisaq").rglob(f"*.{suffix}"))
    return [Source(file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")) for file in files]
