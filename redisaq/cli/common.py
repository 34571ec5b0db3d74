"""Code that the commands share: locates the server, prints answers, and asks for confirmation.

Answers of the public API are printed as tables for people, or as JSON. Text from users is printed without control characters, so that a
payload cannot move the cursor. Answers go to standard output, and everything else goes to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import anyio
import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from redisaq.admin import Admin
from redisaq.producer import Producer

T = TypeVar("T")

NO, USAGE, SERVER, INTERRUPTED = 1, 2, 3, 130
"""Exit statuses: the answer is no, the arguments are invalid, the server could not do it, and, as in shells, an interrupt."""

Dash = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""An argument that may be `-`, for standard input or output."""

Most = Annotated[int, Parameter(validator=Number(gte=0))]
"""The most answers to show; 0: all."""

Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative="")]
DryRun = Annotated[bool, Parameter(name="--dry-run", negative="")]


ROWS = 1000
"""Rows of one table of `show_list`: a longer list is printed as several, so that it needs no more memory."""

NUMBERS = ("partition", "deliveries", "attempts")
"""Columns of such tables that hold numbers."""

WIDE = 10_000
"""Columns if the output is not a terminal, so that lines for other programs are not wrapped."""


class Refused(Exception):
    """Raised by a command that ends without having done anything. Its text says why."""

    def __init__(self, reason: str, status: int = NO) -> None:
        super().__init__(reason)
        self.status = status


@Parameter(name="*")
@dataclass(frozen=True)
class Place:
    """The location of the server, and the format of answers.

    Attributes:
        url: the server's URL; default: REDISAQ_URL, otherwise redis://localhost:6379/0.
        namespace: the namespace of the keys.
        json: print JSON.
    """

    url: Annotated[str | None, Parameter(env_var=())] = None
    namespace: str = "redisaq"
    json: Annotated[bool, Parameter(negative="")] = False

    def admin(self, timeout: float = 30.0) -> Admin:
        """Return an Admin for this server, whose calls may take so many seconds."""
        return Admin(self.url, namespace=self.namespace, timeout=timeout)

    def producer(self, topic: str, **options: Any) -> Producer:
        """Return a Producer for a topic on this server."""
        return Producer(topic, self.url, namespace=self.namespace, **options)

    def show(self, answer: object, text: Callable[[], Iterable[str | Table]]) -> None:
        """Print an answer as one JSON document or as text."""
        if self.json:
            print(as_json(answer))
            return
        console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
        for part in text():
            console.print(part, markup=False)

    def show_each(self, answer: object, line: str) -> None:
        """Print one of many answers, as a line of JSON or of text."""
        print(as_json(answer) if self.json else line, flush=True)

    def done(self, text: str, **answer: Any) -> None:
        """Print the result of a change."""
        print(as_json(answer) if self.json else text)


def as_json(answer: object) -> str:
    """Return an answer as one line of JSON."""
    return msgspec.json.encode(answer, enc_hook=_mapping).decode()


def _mapping(value: Any) -> dict[Any, Any]:  # noqa: ANN401 -- any value that msgspec does not support
    """Convert a read-only mapping to a dict, which msgspec supports."""
    if isinstance(value, MappingProxyType):
        return value.copy()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] -- its types are unknown
    raise NotImplementedError


def plain(text: str) -> str:
    """Escape control characters, so that the text cannot move the cursor or set colours."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def short(text: str, most: int = 100) -> str:
    """Return a text without control characters, and without its end if it is long."""
    line = plain(text)
    return line if len(line) <= most else line[: most - 1] + "…"


def moment(time: datetime | None) -> str:
    """Return a time as text, "-" if there is none."""
    return "-" if time is None else f"{time:%Y-%m-%d %H:%M:%S}"


def table(*heads: str, rows: Iterable[Sequence[object]], right: Iterable[str] = ()) -> Table:
    """Return a table. Columns named in `right` hold numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    numbers = set(right)
    for head in heads:
        made.add_column(head, justify="right" if head in numbers else "left", no_wrap=head in numbers)
    for row in rows:
        made.add_row(*(Text(plain(str(cell))) for cell in row))
    return made


def show_list(
    place: Place,
    look: Callable[[Admin], AsyncIterator[T]],
    limit: int,
    row: Callable[[T], Sequence[object]],
    *,
    heads: Sequence[str],
    form: Callable[[T], object],
    nothing: str,
    total: Callable[[Admin], Awaitable[int]] | None = None,
) -> int:
    """Print a list while it is read: as lines of JSON, or as tables of ROWS rows. Return the exit status.

    Args:
        place: the server.
        look: returns what is to be printed.
        limit: the most of it; 0: all.
        row: makes a row of a table of one of them.
        heads: the table's columns.
        form: makes what is printed as JSON of one of them.
        nothing: what to print if there is none.
        total: returns how many there are, if that can be said without reading them.
    """

    async def main() -> None:
        rows: list[Sequence[object]] = []
        count, more = 0, ""

        def flush() -> None:
            if rows:
                made = table(*heads, rows=rows, right=NUMBERS)
                rows.clear()
                place.show(None, lambda: [made])

        async with place.admin() as admin, _closing(look(admin)) as found:
            async for one in found:
                if limit and count == limit:
                    left = "" if total is None or place.json else f"{await total(admin) - count} "
                    more = f"… and {left}more: use --limit 0 for all"
                    break
                count += 1
                if place.json:
                    print(as_json(form(one)), flush=True)
                    continue
                rows.append(row(one))
                if len(rows) == ROWS:
                    flush()
        flush()
        if not place.json and (more or not count):
            print(more or nothing)

    run(main)
    return 0


@asynccontextmanager
async def _closing(found: AsyncIterator[T]) -> AsyncGenerator[AsyncIterator[T]]:
    try:
        yield found
    finally:
        if isinstance(found, AsyncGenerator):
            await found.aclose()


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run a command in an event loop of its own."""
    return anyio.run(main)


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation.

    Raises:
        Refused: the answer is no, or standard input is not a terminal, so the command cannot ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(f"{question} Use --yes: without a terminal, you cannot confirm this.", USAGE)
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Refused("Nothing was changed.")


@contextmanager
def progress(what: str, total: int) -> Generator[Callable[[int], None]]:
    """Show progress on standard error, if that is a terminal. Yield a function to call with the number of newly finished items."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.update(task, advance=more)
