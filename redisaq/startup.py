"""Keep an interrupt quiet while `python -m redisaq.cli` imports the package; redisaq_command does the same for `redisaq`.

The package imports this module first. For every other program it does nothing.
"""

from __future__ import annotations

import signal
import sys

if sys.argv[:1] == ["-m"] and any(word == "redisaq.cli" or word.startswith("redisaq.cli.") for word in sys.orig_argv):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
