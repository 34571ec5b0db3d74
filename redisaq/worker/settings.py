"""What a worker is asked to do, checked before anything starts."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from redisaq.errors import SettingsError
from redisaq.settings import check_choice, check_count, check_seconds
from redisaq.worker.reports import Backend, LogFormat


@dataclass(frozen=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return it as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_of(text: str) -> Address:
    """Return the address that HOST:PORT means; without a host, loopback.

    Raises:
        SettingsError: it is none.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16) or (":" in host and not (host[0] == "[" and host[-1] == "]")):
        raise SettingsError(f"an address is HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080, not {text!r}")
    return Address(host.strip("[]") or "127.0.0.1", int(port))


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker is asked to do.

    Attributes:
        app: where the App is, as MODULE:NAME.
        backend: the event loop of every process.
        processes: how many children.
        health: where to answer probes; None: nowhere.
        log: the format of log lines; None: text, unless the program sets up logging itself.
        reload: start the child again when a Python file below the current directory changes. For development: one process, which has at
            most a second to drain.
        url: the server's URL; None: the App's own.
        backlog: seconds between two measurements of the groups' backlogs, for /metrics; None: they are not measured.
        stalled_after: seconds without a report after which a child's event loop counts as stalled.
        pulse: seconds between two reports of a child.
    """

    app: str
    backend: Backend = "asyncio"
    processes: int = 1
    health: Address | None = None
    log: LogFormat | None = None
    reload: bool = False
    url: str | None = None
    backlog: float | None = None
    stalled_after: float = 10.0
    pulse: float = 1.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SettingsError: one cannot work, or needs a package that is not installed.
        """
        check_choice("backend", self.backend, ("asyncio", "uvloop", "trio"))
        check_count("processes", self.processes, most=1024)
        if self.reload and self.processes > 1:
            raise SettingsError(f"--reload is for one process, and --processes asks for {self.processes}")
        if self.backlog is not None:
            check_seconds("backlog", self.backlog)
            if self.health is None:
                raise SettingsError("--backlog is for /metrics, and without --health nobody can ask for it")
        if self.backend != "asyncio":
            check_installed(self.backend, f"--backend {self.backend}", self.backend)
        if self.reload:
            check_installed("watchfiles", "--reload", "worker")


def check_installed(package: str, option: str, extra: str) -> None:
    """Raise SettingsError unless a package is installed that an option needs."""
    if importlib.util.find_spec(package) is None:
        raise SettingsError(f'{option} needs the package {package}: pip install "redisaq[{extra}]"')
