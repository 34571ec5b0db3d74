"""Run one embedded server for as long as it has users, in a process that is started by file name and imports nothing of redisaq.

The arguments are the server's directory, the program, `keep` or `remove` (what happens to the directory at the end), and the number of an
inherited file that holds the lock `server.lock`. The keeper runs a Valkey that answers on `valkey.sock` in the directory and logs to
`valkey.log`. Invariants:

- One keeper per directory, and one server: `server.lock` is held as long as either of them lives. A keeper that is killed leaves a server
  that still answers for a moment; a second one must not read the append-only file meanwhile.
- Each user holds a shared lock on `users.lock`; the kernel drops it when the user dies, however it dies. When no user is left, the keeper
  gets the exclusive lock, stops the server, and holds the lock until that is done. So no user joins a server that is stopping.
- A server that dies while there are users is started again, with the content of its append-only file. A server that dies at once, again and
  again, is given up.
- On Linux the kernel ends the server (SIGTERM) if the keeper itself is killed.
- The server hands each change to the operating system before it answers, so a killed one loses nothing; once a second the keeper has it
  written to the disk. (With `appendfsync everysec` the server does that by itself. But while a slow disk keeps it waiting, it answers
  before it writes: if it is killed then, it loses confirmed changes.)
- A server on a full disk accepts no more changes, but it has confirmed the change that met the full disk, and holds it in memory. So it is
  not stopped before it could write what it has confirmed, or for UNWRITTEN_SECONDS; meanwhile users may join it again.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType

CHECK_SECONDS = 0.1
"""Seconds between two checks whether there are users left."""

SYNC_SECONDS = 1.0
"""Seconds between two writes of changes to the disk: a power failure may lose this much."""

STOP_SECONDS = 10.0
"""Seconds that a server may take to write its data before it is killed."""

UNWRITTEN_SECONDS = 600.0
"""Seconds that a server which cannot write confirmed changes is kept without users, so that you can make room on the disk."""

ANSWER_SECONDS = 1.0
"""Seconds that the server may take to say whether it could write."""

QUICK_SECONDS = 1.0
QUICK_LIMIT = 3
"""A server that lived for less than QUICK_SECONDS, this many times in a row, is given up."""

OPTIONS = (
    *("--port", "0"),
    *("--unixsocket", "valkey.sock"),  # relative, so that the directory's name may be longer than a socket's address
    *("--unixsocketperm", "700"),
    *("--appendonly", "yes"),
    *("--appendfsync", "no"),
    *("--save", ""),
    *("--dir", "."),
    *("--logfile", "valkey.log"),
    *("--daemonize", "no"),
)

PR_SET_PDEATHSIG = 1


def with_its_parent() -> Callable[[], None] | None:
    """Return a function that makes a new process end with its parent; None if the system cannot do that."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the call above
            os._exit(1)

    return prepare


class Keeper:
    """Starts the server and stops it when it has no users. Its current directory is the server's.

    Attributes:
        unused: the server has no users any more, and cannot get any while this process lives.
    """

    def __init__(self, program: str, lock: int, *, keeps: bool = True) -> None:
        """Make a keeper; the server is not started yet.

        Args:
            program: the server's program.
            lock: the file that holds the lock of `server.lock`.
            keeps: True if the directory stays at the end.
        """
        self._program = program
        self._lock = lock
        self._keeps = keeps
        self._unwritten_since: float | None = None  # without users
        self._prepare = with_its_parent()
        self._users = os.open("users.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._told_to_stop = False
        self._next_sync = 0.0
        self._synced: dict[str, tuple[int, int]] = {}  # file -> its size and time when it was last written to the disk
        self.unused = False
        signal.signal(signal.SIGTERM, self._stop_soon)

    def run(self) -> None:
        """Keep the server until it has no users."""
        quick = 0
        while quick < QUICK_LIMIT and not self._done():
            started = time.monotonic()
            server = self._start()
            while server.poll() is None and not self._done():
                if time.monotonic() >= self._next_sync:
                    self._next_sync = time.monotonic() + SYNC_SECONDS
                    self.sync()
                time.sleep(CHECK_SECONDS)
            if server.returncode is None:
                self._stop(server)
                return
            quick = quick + 1 if time.monotonic() - started < QUICK_SECONDS else 0

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 -- the program of the installed package
            [self._program, *OPTIONS],
            stdin=subprocess.DEVNULL,
            preexec_fn=self._prepare,  # noqa: PLW1509 -- this process has one thread
            pass_fds=(self._lock,),
        )

    def sync(self) -> None:
        """Write the server's appends since the last call to the disk. A failure of the disk goes to the log."""
        try:
            for file in os.scandir("appendonlydir"):
                found = file.stat()
                changed = found.st_size, found.st_mtime_ns
                if self._synced.get(file.name) != changed:
                    descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
                    self._synced[file.name] = changed
        except FileNotFoundError:
            pass  # the server has not started, or has just replaced a file, which it has synced itself
        except OSError as error:
            sys.stderr.write(f"what was appended could not be written to the disk: {error}\n")

    def _stop(self, server: subprocess.Popen[bytes]) -> None:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

    def _done(self) -> bool:
        if not self.unused:
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # a user holds it shared
            else:
                self.unused = True
        if not (self.unused or self._told_to_stop):
            self._unwritten_since = None
            return False
        if not self._must_wait():
            return True
        if self.unused:  # users may join meanwhile
            fcntl.flock(self._users, fcntl.LOCK_UN)
            self.unused = False
        return False

    def _must_wait(self) -> bool:
        """Return True if the server holds confirmed changes that it could not write, and may still be able to write them."""
        if not self._keeps or (unwritten := self.unwritten()) is None:
            return False
        now = time.monotonic()
        if self._unwritten_since is None:
            self._unwritten_since = now
            sys.stderr.write(f"{unwritten} bytes of confirmed changes are not written; the server stays until they are\n")
        if now - self._unwritten_since < UNWRITTEN_SECONDS:
            return True
        sys.stderr.write(f"{unwritten} bytes of confirmed changes could not be written for {UNWRITTEN_SECONDS:.0f} s, and are lost\n")
        return False

    def unwritten(self) -> int | None:
        """Return how many bytes the server has confirmed and could not write; None if it has written all, or does not answer."""
        facts = b""
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.settimeout(ANSWER_SECONDS)
                server.connect("valkey.sock")
                server.sendall(b"INFO persistence\r\n")
                while b"aof_last_write_status:" not in facts or b"\r\n\r\n" not in facts:
                    data = server.recv(1 << 16)
                    if not data:
                        break
                    facts += data
        except OSError:
            pass  # what has arrived of the answer counts
        found = dict(line.split(b":", 1) for line in facts.split(b"\r\n") if b":" in line)
        return None if found.get(b"aof_last_write_status", b"ok") == b"ok" else int(found.get(b"aof_buffer_length", b"0"))

    def _stop_soon(self, _number: int, _frame: FrameType | None) -> None:
        self._told_to_stop = True


def main(directory: str, program: str, afterwards: str, lock: str) -> None:
    """Detach from the process that started this one, then keep the server.

    Args:
        directory: the server's; it exists.
        program: valkey-server's path.
        afterwards: "remove" to delete the directory when the server has no users any more; "keep" not to.
        lock: the number of the inherited file that holds `server.lock`.
    """
    if os.fork():
        os._exit(0)  # the starter waits for this process, and has no child to care for from then on
    os.umask(0o077)
    os.chdir(directory)
    keeper = Keeper(program, int(lock), keeps=afterwards == "keep")
    keeper.run()
    if afterwards == "remove" and keeper.unused:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
