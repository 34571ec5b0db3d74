"""Copies of the tree, and processes that run in them: the checkout itself is never changed.

Input: the checkout. Output: a copy a worker, in a temporary folder, in which a file may be changed and is put back. Invariant: when `run`
returns, nothing that it started is left, in whatever session or process group it went on: each process inherits a mark in its environment.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = "REDISAQ_MUTANTS_MARK"


def files_of(root: Path) -> list[str]:
    """Return the files that git knows or would take up, and that are there."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    return [name for name in names if name and (root / name).is_file()]


@dataclass
class Copy:
    """A copy of the tree.

    Attributes:
        root: its folder.
    """

    root: Path
    _changes: int = field(default=0, init=False)

    def python(self, *words: str, env: Mapping[str, str], limit: float, output: Path) -> int | None:
        """Run Python in the copy and return its exit status; None if it took longer than `limit` seconds and was killed."""
        mark = secrets.token_hex(8)
        environment = {**os.environ, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "", MARK: mark, **env}
        with output.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                return process.wait(limit)
            except subprocess.TimeoutExpired:
                return None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kill_marked(mark)

    @contextlib.contextmanager
    def changed(self, name: str, text: str) -> Iterator[None]:
        """Let a file of the copy hold another text meanwhile."""
        file = self.root / name
        before = file.read_bytes()
        try:
            self._write(file, text.encode())
            yield
        finally:
            self._write(file, before)

    def _write(self, file: Path, data: bytes) -> None:
        """Write under a time of its own: byte code is taken for current by the second and the size of its source."""
        file.write_bytes(data)
        self._changes += 1
        then = int(time.time()) - 1_000_000 + self._changes
        os.utime(file, (then, then))


def kill_marked(mark: str) -> int:
    """Kill every process that carries the mark, where the system shows environments (Linux), until there is none; return how many."""
    wanted = f"{MARK}={mark}".encode()
    killed: set[int] = set()
    found = True
    while found:
        found = False
        for entry in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if wanted in entry.read_bytes().split(b"\0"):
                    os.kill(int(entry.parent.name), signal.SIGKILL)
                    killed.add(int(entry.parent.name))
                    found = True
    return len(killed)


@contextlib.contextmanager
def copy_of(root: Path = ROOT) -> Iterator[Copy]:
    """Make a copy, and remove it in the end."""
    with tempfile.TemporaryDirectory(prefix="rq-mutants-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / "tree"
        for name in files_of(root):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name)
        yield Copy(copy)
