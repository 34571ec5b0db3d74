"""What the commands have in common: where the server is, how answers are printed, and how a person is asked.

In: options, and answers of the public API. Out: tables for people, or JSON. What always holds: what users have sent is printed without its
control characters, so that a payload cannot move the cursor; answers go to standard output, and everything else to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import anyio
import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from redisaq.admin import Admin
from redisaq.producer import Producer

T = TypeVar("T")

NO, USAGE, SERVER, INTERRUPTED = 1, 2, 3, 130
"""Exit statuses: the answer is no, the words cannot be understood, the server could not do it, and after an interrupt as shells have it."""

Dash = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""A word that may be `-`, for standard input or output."""

Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative="")]
DryRun = Annotated[bool, Parameter(name="--dry-run", negative="")]


WIDE = 10_000
"""Columns of what is no terminal: a line that another program reads is not broken."""


class Refused(Exception):
    """A command ends without having done anything; its text says why."""

    def __init__(self, reason: str, status: int = NO) -> None:
        super().__init__(reason)
        self.status = status


@Parameter(name="*")
@dataclass(frozen=True)
class Place:
    """Where the server is, and how to answer.

    Attributes:
        url: of the server; without it REDISAQ_URL counts, or else redis://localhost:6379/0.
        namespace: of the keys.
        json: print JSON.
    """

    url: Annotated[str | None, Parameter(env_var=())] = None
    namespace: str = "redisaq"
    json: Annotated[bool, Parameter(negative="")] = False

    def admin(self) -> Admin:
        """Return an Admin for it."""
        return Admin(self.url, namespace=self.namespace)

    def producer(self, topic: str, **options: Any) -> Producer:
        """Return a Producer for a topic there."""
        return Producer(topic, self.url, namespace=self.namespace, **options)

    def show(self, answer: object, text: Callable[[], Iterable[str | Table]]) -> None:
        """Print an answer: as one JSON document, or as text."""
        if self.json:
            print(as_json(answer))
            return
        console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
        for part in text():
            console.print(part, markup=False)

    def show_each(self, answer: object, line: str) -> None:
        """Print one answer of many: a JSON object on a line, or a line of text."""
        print(as_json(answer) if self.json else line, flush=True)

    def done(self, text: str, **answer: Any) -> None:
        """Say what was done."""
        print(as_json(answer) if self.json else text)


def as_json(answer: object) -> str:
    """Return an answer as one line of JSON."""
    return msgspec.json.encode(answer, enc_hook=_mapping).decode()


def _mapping(value: Any) -> dict[Any, Any]:  # noqa: ANN401 -- whatever msgspec does not know
    """Return a read-only mapping as one that msgspec knows."""
    if isinstance(value, MappingProxyType):
        return value.copy()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] -- of whatever
    raise NotImplementedError


def plain(text: str) -> str:
    """Return text that moves no cursor and sets no colour: control characters become escapes."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def table(*heads: str, rows: Iterable[Sequence[object]], right: Iterable[str] = ()) -> Table:
    """Return a table; columns named in `right` are numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    numbers = set(right)
    for head in heads:
        made.add_column(head, justify="right" if head in numbers else "left", no_wrap=head in numbers)
    for row in rows:
        made.add_row(*(Text(plain(str(cell))) for cell in row))
    return made


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run a command in an event loop of its own."""
    return anyio.run(main)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed.

    Raises:
        Refused: the answer is no; or nobody can be asked, since standard input is no terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(f"{question} Say --yes, since nobody can be asked here.", USAGE)
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Refused("Nothing was changed.")


@contextmanager
def progress(what: str, total: int) -> Generator[Callable[[int], None]]:
    """Show how far something is, on standard error if that is a terminal; give what is called with how many more are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.update(task, advance=more)
