"""The command line."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `redisaq`.

    Args:
        arguments: the words after the command's name; None: those of this process.

    Returns:
        The process's exit status.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if list(words) in (["--version"], ["-V"]):
        print(f"redisaq {importlib.metadata.version('redisaq')}")
        return 0
    if list(words) in ([], ["--help"], ["-h"]):
        print("usage: redisaq [--help | --version]\n\nThere are no further commands yet.")
        return 0
    print(f"redisaq: unknown: {' '.join(words)} (see redisaq --help)", file=sys.stderr)
    return 2
