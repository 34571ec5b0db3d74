"""Kills what its parent leaves behind: run as a process of its own by tests/servers.py.

Input: lines on standard input: `kill PID`, `spare PID`, `remove DIRECTORY`. Output: at the end of the input, which is when the parent
closed it or died, every process named and not spared is killed and every directory removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys


def main() -> None:
    """Read until the input ends, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    processes: set[int] = set()
    directories: list[str] = []
    for line in sys.stdin:
        word, value = line.rstrip("\n").split(" ", 1)
        if word == "kill":
            processes.add(int(value))
        elif word == "spare":
            processes.discard(int(value))
        else:
            directories.append(value)
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


main()
