"""The command line: a thin shell over the public API."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `redisaq` and return its exit status: see `redisaq.cli.command_line`. Without the extra `cli`, say so and return 2."""
    try:
        from redisaq.cli.command_line import main as run  # noqa: PLC0415 -- its dependencies may be missing
    except ModuleNotFoundError as error:
        if error.name not in ("cyclopts", "rich"):
            raise
        print(f'redisaq: the command line needs the package {error.name}: pip install "redisaq[cli]"', file=sys.stderr)
        return 2
    return run(arguments)
