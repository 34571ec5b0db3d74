"""What a view of the demo is, and which one a terminal gets."""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import AbstractContextManager
from typing import Protocol, TextIO

from redisaq.cli.demo.board import Board

HINT = 'pip install "redisaq[cli]"'


class View(AbstractContextManager["View"], Protocol):
    """Shows a board. A context manager: leaving it gives the terminal back."""

    def show(self, board: Board, now: float) -> None:
        """Show the board as it stands at `now`; called some times a second."""
        ...


def choose_view(out: TextIO, *, plain: bool) -> View:
    """Return the live view for a terminal, plain lines for anything else, or where the package rich is missing."""
    from redisaq.cli.demo.view_plain import PlainView  # noqa: PLC0415 -- a view imports what shows it, and only that

    if plain or not out.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return PlainView(out)
    if importlib.util.find_spec("rich") is None:
        print(f"redisaq demo: the live view needs the package rich: {HINT}; here are plain lines.", file=sys.stderr)
        return PlainView(out)
    from redisaq.cli.demo.view_rich import RichView  # noqa: PLC0415

    return RichView(out)
