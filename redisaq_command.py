"""The entry point of the `redisaq` command.

It is outside of the package so that an interrupt is quiet from the first moment on: importing the package takes a fifth of a second, during
which Ctrl-C would print a traceback of the import. Until the command line takes over there is nothing to clean up, so the signal may simply
end the process.
"""

from __future__ import annotations

import signal


def main() -> int:
    """Run the command `redisaq`; return the process's exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from redisaq.cli import main as run  # noqa: PLC0415 -- that is what takes so long

    return run()
