"""Small changes of the product's own logic, made by rule: the smallest edits after which it means something else.

Input: a file of the product. Output: every mutant of it, each one edit of its text: a comparison turned or moved by one, a constant
changed, a call left out, a branch taken the other way round, an `await` left out (Python only). Scripts are read by their tokens, without
comments and strings; the rest by its syntax tree. Not changed: docstrings, annotations, imports, and what only a type checker reads.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.mutants.places import Source

MANY = 100
"""A number from here on is a limit, or a unit: one more of them would change nothing that anybody is promised."""

OPERATORS = ("comparison", "constant", "call", "branch", "await")


@dataclass(frozen=True)
class Mutant:
    """One edit of one file.

    Attributes:
        source: the file as it is.
        start: where in its text the edit begins.
        end: where it ends.
        new: what stands there instead.
        operator: who made it: one of OPERATORS, or "written".
        name: of one written by hand.
        breaks: of one written by hand: what goes wrong.
    """

    source: Source
    start: int
    end: int
    new: str
    operator: str
    name: str = ""
    breaks: str = ""

    @property
    def text(self) -> str:
        """The file with the edit."""
        return self.source.text[: self.start] + self.new + self.source.text[self.end :]

    @property
    def span(self) -> tuple[int, int]:
        """The lines of the statements that the edit touches."""
        first, last = self.source.line_at(self.start), self.source.line_at(max(self.start, self.end - 1))
        return self.source.statement_of(first)[0], self.source.statement_of(last)[1]

    @property
    def place(self) -> str:
        """The definition around it."""
        return self.source.place_of(self.source.line_at(self.start))

    @property
    def diff(self) -> str:
        """The lines that it takes and those that it puts there."""
        lines = difflib.unified_diff(self.source.text.splitlines(), self.text.splitlines(), lineterm="", n=0)
        return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))

    @property
    def title(self) -> str:
        """One line for a report."""
        line = self.source.line_at(self.start)
        return f"{self.name or self.operator} {self.source.name}:{line} {self.place}".rstrip()


def mutants_of(source: Source) -> Iterator[Mutant]:
    """Give every mutant of a file that the operators make, in the order of the text."""
    made = of_script(source) if source.lua else of_python(source)
    yield from sorted(made, key=lambda mutant: (mutant.start, mutant.end, mutant.operator))


# -------------------------------------------------------------------------------------------------------------- Python

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}


def of_python(source: Source) -> Iterator[Mutant]:
    """Give the mutants of a Python file."""
    for node in walk(source.tree):
        if isinstance(node, ast.Compare):
            yield from comparisons(source, node)
        elif isinstance(node, ast.Constant):
            yield from constants(source, node)
        elif isinstance(node, ast.Expr):
            yield from calls(source, node)
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            yield from branches(source, node.test)
        elif isinstance(node, ast.Await):
            start, _ = extent(source, node)
            word = re.compile(r"await\s*").match(source.text, start)
            assert word is not None
            yield Mutant(source, start, word.end(), "", "await")


UNCHANGED = {"annotation", "decorator_list", "keywords of ClassDef", "returns", "type_params"}
"""Parts of a node that hold no logic: types, and what kind of class or function it is."""


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Give each node but for those parts, type variables, and what stands under `if TYPE_CHECKING`.

    Nor `strict` of a zip: it asserts what holds anyway.
    """
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"TypeVar", "ParamSpec"}:
        return
    yield node
    for name, value in ast.iter_fields(node):
        if {name, f"{name} of {type(node).__name__}"} & UNCHANGED:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from walk(child)


def extent(source: Source, node: ast.expr | ast.stmt) -> tuple[int, int]:
    """Return where in the text a node stands, from its first character to behind its last."""
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return source.offset(node.lineno, node.col_offset), source.offset(node.end_lineno, node.end_col_offset)


def comparisons(source: Source, node: ast.Compare) -> Iterator[Mutant]:
    """Let a bound belong to the other side, or turn the comparison round."""
    left = node.left
    for operator, right in zip(node.ops, node.comparators, strict=True):
        sign, new = COMPARISONS[type(operator)]
        begin = extent(source, left)[1]
        pattern = rf"(?<!\w){sign}(?!\w)" if sign[0].isalpha() else re.escape(sign)
        found = re.search(pattern, source.text[begin : extent(source, right)[0]])
        assert found is not None
        yield Mutant(source, begin + found.start(), begin + found.end(), new, "comparison")
        left = right


def constants(source: Source, node: ast.Constant) -> Iterator[Mutant]:
    """Turn a truth value round, count one more, wait ten times as long, allow ten times as many."""
    if isinstance(node.value, bool):
        new = str(not node.value)
    elif isinstance(node.value, int):
        new = counted(node.value)
    elif isinstance(node.value, float) and node.value not in (0.0, float("inf")):
        new = repr(node.value * 10)
    else:
        return
    yield Mutant(source, *extent(source, node), new, "constant")


def counted(number: int) -> str:
    """Return another number."""
    return str(10 * number if number >= MANY else number + 1)


def calls(source: Source, node: ast.Expr) -> Iterator[Mutant]:
    """Leave out a call of which no result is used."""
    value = node.value.value if isinstance(node.value, ast.Await) else node.value
    if isinstance(value, ast.Call):
        yield Mutant(source, *extent(source, node), "pass", "call")


def branches(source: Source, test: ast.expr) -> Iterator[Mutant]:
    """Take a branch when the other one is due; not where turning its only comparison round, or its constant, does the same."""
    turned = isinstance(test, ast.Compare) and len(test.ops) == 1 and not isinstance(test.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)
    if turned or isinstance(test, ast.Constant):
        return
    start, end = extent(source, test)
    yield Mutant(source, start, end, f"not ({source.text[start:end]})", "branch")


# ----------------------------------------------------------------------------------------------------------------- Lua

LUA_TOKENS = re.compile(
    r"""(?P<skip>--[^\n]*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*") | (?P<name>[A-Za-z_]\w*) | (?P<number>\d+(?:\.\d+)?(?:e\d+)?)
    | (?P<sign>==|~=|<=|>=|<|>)""",
    re.VERBOSE,
)
LUA_COMPARISONS = {"==": "~=", "~=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">"}
LUA_CALL = re.compile(r"^[ \t]*(redis\.p?call\(.*\))(?=[ \t]*(?:--[^\n]*)?$)", re.MULTILINE)
LUA_BRANCH = re.compile(r"\b(?:if|elseif|while)\s+(.+?)\s+(?:then|do)\b")


def of_script(source: Source) -> Iterator[Mutant]:
    """Give the mutants of a script."""
    code = list(LUA_TOKENS.finditer(source.text))
    for token in code:
        new = ""
        operator = "constant"
        if token.lastgroup == "sign":
            new, operator = LUA_COMPARISONS[token.group()], "comparison"
        elif token.lastgroup == "number":
            new = counted(int(token.group())) if token.group().isdigit() else f"10 * {token.group()}"
        elif token.group() in {"true", "false"}:
            new = "false" if token.group() == "true" else "true"
        if new:
            yield Mutant(source, token.start(), token.end(), new, operator)
    skipped = [token.span() for token in code if token.lastgroup == "skip"]
    for found in LUA_CALL.finditer(source.text):
        if balanced(found[1]):
            yield Mutant(source, found.start(1), found.end(1), "do end", "call")
    for found in LUA_BRANCH.finditer(source.text):
        turned = re.fullmatch(r"[^<>]*(==|~=)[^<>=~]*", found[1]) and not re.search(r"\b(and|or|not)\b", found[1])
        if not turned and not any(start <= found.start() < end for start, end in skipped):
            yield Mutant(source, found.start(1), found.end(1), f"not ({found[1]})", "branch")


def balanced(text: str) -> bool:
    """Return whether each bracket that is closed was opened here: it is one call, and not the ends of two."""
    depth = 0
    for sign in re.sub(r"'[^']*'", "", text):
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if depth < 0:
            return False
    return depth == 0
