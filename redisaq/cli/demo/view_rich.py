"""The demo as a picture that stands in the terminal and moves: progress, partitions with their owners, consumers, what has happened.

Drawn with the package rich, from the board alone, and from nothing but the loop's own task: rich's refreshing thread is not used.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from redisaq.cli.demo.board import Board, ConsumerRow, Line, PartitionRow, ranges
from redisaq.cli.demo.meter import Meter

COLORS = ("cyan", "magenta", "yellow", "blue", "green", "bright_cyan", "bright_magenta", "bright_yellow", "bright_blue", "bright_green")
"""Of consumers, in turn; red stays free for what has no owner."""

TONES = {"plain": "", "good": "green", "bad": "bold red"}
STATES = {"starting": "dim", "running": "green", "killed": "bold red", "ended": "dim"}

CELL = 26
"""Characters that one partition takes."""

FEWEST_LINES = 4
MOST_ROWS = 8
"""Rows of partitions; where they take more, each is just a square."""


class RichView:
    """A View that draws.

    Args:
        out: a terminal.
    """

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        """Leave the last picture standing, and give the terminal back."""
        self._live.stop()

    def show(self, board: Board, now: float) -> None:
        """See View."""
        self._live.update(picture(board, now, width=self._console.width, height=self._console.height), refresh=True)


def picture(board: Board, now: float, *, width: int, height: int) -> RenderableType:
    """Return the whole picture for a terminal of this size."""
    colors = {name: COLORS[place % len(COLORS)] for place, name in enumerate(board.consumers)}
    columns = max(1, min(len(board.partitions), (width - 2) // CELL))
    rows = -(-len(board.partitions) // columns)
    partitions = cells(board, colors, now, rows) if rows <= MOST_ROWS else squares(board, colors)
    # Title, phase, the two bars, the table's head, and the empty lines between.
    taken = 10 + min(rows, MOST_ROWS) + len(board.consumers)
    room = max(FEWEST_LINES, height - taken - 1)
    return Padding(
        Group(
            title(board, now),
            Text(board.phase, "dim italic", no_wrap=True, overflow="ellipsis"),
            "",
            progress(board),
            "",
            partitions,
            "",
            consumers(board, colors),
            "",
            happened(board.lines, room),
        ),
        (0, 1),
    )


def title(board: Board, now: float) -> Table:
    """Return the first line."""
    line = Table.grid(expand=True)
    line.add_column(no_wrap=True)
    line.add_column(justify="right", no_wrap=True)
    line.add_row(Text.assemble(("redisaq demo", "bold"), ("  on ", "dim"), board.title), Text(f"{now:.1f} s", "bold"))
    return line


def progress(board: Board) -> Table:
    """Return the two bars."""
    tally = board.tally
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, min_width=8)
    bars: tuple[tuple[str, int, Meter, str], ...] = (
        ("produced", tally.produced, board.produced, "blue"),
        ("processed", tally.processed, board.processed, "green"),
    )
    for name, done, meter, color in bars:
        bar = ProgressBar(total=max(1, tally.expected), completed=done, complete_style=color, finished_style=f"bold {color}")
        table.add_row(name, bar, f"{done:,} of {tally.expected:,}", rate(meter))
    return table


def cells(board: Board, colors: dict[str, str], now: float, rows: int) -> Table:
    """Return the partitions, each with its owner and its rate, column by column."""
    columns = [board.partitions[first : first + rows] for first in range(0, len(board.partitions), rows)]
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in columns:
        table.add_column(width=CELL - 2, no_wrap=True)
    for row in range(rows):
        table.add_row(*(cell(column[row], colors, now, board) if row < len(column) else "" for column in columns))
    return table


def cell(row: PartitionRow, colors: dict[str, str], now: float, board: Board) -> Text:
    """Return one partition."""
    number = (f"{row.number:>3} ", "dim")
    if board.over:
        return Text.assemble(number, f"{row.processed:,} processed")
    if row.owner is None:
        waits = ("□ no owner", "dim") if board.takeover is None else (f"□ no owner {now - row.since:4.1f} s", "bold red")
        return Text.assemble(number, waits)
    return Text.assemble(number, (f"■ {row.owner:<11}", colors[row.owner]), (f"{row.meter.rate:>5.0f}/s", "dim"))


def squares(board: Board, colors: dict[str, str]) -> Text:
    """Return many partitions as one square each, in the color of the owner."""
    return Text(" ").join(
        Text("□", "dim" if board.over else "bold red") if row.owner is None else Text("■", colors[row.owner]) for row in board.partitions
    )


def consumers(board: Board, colors: dict[str, str]) -> Table:
    """Return the consumers' table."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    table.add_column("consumer", no_wrap=True)
    table.add_column("pid", justify="right")
    table.add_column("state")
    table.add_column("partitions", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("in hand", justify="right")
    table.add_column("processed", justify="right")
    table.add_column("rate", justify="right", min_width=8)
    for row in board.consumers.values():
        table.add_row(*consumer(row, colors[row.name]))
    return table


def consumer(row: ConsumerRow, color: str) -> tuple[Text, ...]:
    """Return one consumer's row."""
    alive = row.state in ("starting", "running")
    name_style = Style.parse(color) if alive else Style(dim=True, strike=True)
    return (
        Text(f"■ {row.name}" if alive else f"  {row.name}", name_style),
        Text(str(row.pid or ""), "dim"),
        Text(row.state, STATES[row.state]),
        Text(ranges(row.partitions), color),
        Text(str(row.in_hand) if alive else ""),
        Text(f"{row.processed:,}"),
        Text(rate(row.meter) if alive else ""),
    )


def rate(meter: Meter) -> str:
    """Return a rate."""
    return f"{meter.rate:,.0f}/s"


def happened(lines: list[Line], room: int) -> Group:
    """Return the last lines of what has happened."""
    shown = [Text.assemble((f"{line.at:6.2f} s  ", "dim"), (line.text, TONES[line.tone])) for line in lines[-room:]]
    for line in shown:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*shown)
