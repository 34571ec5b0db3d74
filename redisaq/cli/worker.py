"""`redisaq worker`: runs an App in child processes until SIGTERM or Ctrl-C."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from redisaq.worker.parent import run_worker
from redisaq.worker.reports import Backend, LogFormat
from redisaq.worker.settings import WorkerSettings, address_of


def worker(
    app: str,
    /,
    *,
    backend: Backend = "asyncio",
    processes: int = 1,
    health: str | None = None,
    backlog: float | None = None,
    log: LogFormat | None = None,
    reload: Annotated[bool, Parameter(negative="")] = False,
    url: Annotated[str | None, Parameter(env_var=())] = None,
) -> int:
    """Run an App in one or more processes, and keep them running.

    A process that dies is started again; five deaths in a minute end the worker.

    SIGTERM or Ctrl-C drains: running handlers finish, nothing new begins. A second one stops at once.

    Args:
        app: where the App is, as MODULE:NAME, such as shop.jobs:app. Modules are also looked for in the current directory.
        backend: the event loop of every process.
        processes: how many processes handle messages.
        health: answer /live, /ready, /metrics and /status at HOST:PORT; without a host, on loopback alone.
        backlog: measure the backlog of the App's groups every so many seconds, for /metrics.
        log: write log lines as text or as one JSON object a line; default: text, unless the program sets up logging itself.
        reload: start again when a Python file below the current directory changes; for development, with one process.
        url: the server's URL; default: the App's own.
    """
    return run_worker(
        WorkerSettings(
            app=app,
            backend=backend,
            processes=processes,
            health=None if health is None else address_of(health),
            backlog=backlog,
            log=log,
            reload=reload,
            url=url,
        )
    )
