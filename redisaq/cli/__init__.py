"""The command line: a thin shell over what the package offers."""

from __future__ import annotations

from redisaq.cli.command_line import main

__all__ = ["main"]
