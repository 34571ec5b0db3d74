"""Lets `python -m redisaq.cli` be the command `redisaq`."""

from __future__ import annotations

import sys

from redisaq.cli import main

if __name__ == "__main__":
    sys.exit(main())
