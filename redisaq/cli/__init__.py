"""The command line: a thin shell over what the package offers."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `redisaq` and return the exit status: see `redisaq.cli.command_line`. Without the extra `cli` it says so, with 2."""
    try:
        from redisaq.cli.command_line import main as run  # noqa: PLC0415 -- what it needs may be missing
    except ModuleNotFoundError as error:
        if error.name not in ("cyclopts", "rich"):
            raise
        print(f'redisaq: the command line needs the package {error.name}: pip install "redisaq[cli]"', file=sys.stderr)
        return 2
    return run(arguments)
