"""Runs the command `redisaq` for `python -m redisaq.cli`."""

from __future__ import annotations

import sys

from redisaq.cli import main

if __name__ == "__main__":
    sys.exit(main())
