"""Keeps an interrupt quiet while `python -m redisaq.cli` imports the package: see redisaq_command, which is the same for `redisaq`.

The package imports it first. For every other program it does nothing.
"""

from __future__ import annotations

import signal
import sys

if sys.argv[:1] == ["-m"] and any(word == "redisaq.cli" or word.startswith("redisaq.cli.") for word in sys.orig_argv):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
