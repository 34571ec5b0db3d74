"""The demo as plain lines: at most two a second about how it stands, and one for each thing that happens."""

from __future__ import annotations

from types import TracebackType
from typing import Self, TextIO

from redisaq.cli.demo.board import Board, ConsumerRow, ranges

BETWEEN = 0.5
"""Seconds between two lines about how it stands."""


class PlainView:
    """A View that writes lines.

    Args:
        out: where to.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._told = 0
        self._next = 0.0
        self._last = ""
        self._begun = False

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        """Do nothing: lines need no end."""

    def show(self, board: Board, now: float) -> None:
        """See View."""
        if not self._begun:
            self._begun = True
            print(f"redisaq demo: {board.title}", file=self._out)
        for line in board.lines[self._told :]:
            print(f"{line.at:6.2f} s  * {line.text}", file=self._out)
        self._told = len(board.lines)
        if now >= self._next and not board.over:
            self._next = now + BETWEEN
            if (text := standing(board)) != self._last:
                self._last = text
                print(f"{now:6.2f} s  {text}", file=self._out)
        self._out.flush()


def standing(board: Board) -> str:
    """Return how it stands, in one line."""
    tally = board.tally
    shares = ", ".join(share(row) for row in board.consumers.values())
    return f"produced {tally.produced}/{tally.expected}, processed {tally.processed} ({board.processed.rate:.0f}/s); {shares}"


def share(row: ConsumerRow) -> str:
    """Return what one consumer has."""
    if row.state != "running":
        return f"{row.name} {row.state}"
    return f"{row.name} [{ranges(row.partitions)}] {row.meter.rate:.0f}/s"
