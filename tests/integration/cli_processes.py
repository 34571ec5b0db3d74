"""Runs the command `redisaq` in a directory of its own, and sees what of it is still there."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

LIMIT = 120.0
"""Seconds that anything may take on a busy machine."""


@contextlib.contextmanager
def own_place(*, leaves: str = "") -> Iterator[Path]:
    """Give a directory for everything temporary, short enough for a socket's address.

    At the end, no process may be left in it, and no file except the one that `leaves` names.
    """
    directory = Path(tempfile.mkdtemp(prefix="cli-"))
    try:
        yield directory
        limit = time.monotonic() + LIMIT
        while left := [*running_in(directory), *({file.name for file in directory.iterdir()} - {leaves})]:
            assert time.monotonic() < limit, f"left behind: {left}"
            time.sleep(0.01)  # a process that starts another and ends just then shows in no list of processes, but what it removes does
    finally:
        for pid in running_in(directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(directory, ignore_errors=True)


def running_in(directory: Path) -> list[int]:
    """Return the processes whose current directory is this one or lies in it: what `started` runs, servers and their keepers."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(directory):
                found.append(int(process.name))
    return found


def working_in(directory: Path) -> list[int]:
    """Return them without those that are about to end: a keeper removes its directory, for which commands wait, a moment before it ends."""
    found: list[int] = []
    for pid in running_in(directory):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()  # nothing if its memory has gone already
            if words and b"keeper.py" not in words:
                found.append(pid)
    return found


@contextlib.contextmanager
def started(place: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run `redisaq` with these words in the directory; kill it at the end, if it has not ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "redisaq.cli", *words],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(place)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
