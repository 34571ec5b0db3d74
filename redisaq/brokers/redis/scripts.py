"""The Lua scripts: each is one atomic step of the protocol in one slot.

The module that has a step's command declares the step's script. Invariant: a script receives all its keys by name, and computes none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files

Argument = bytes | str | int
Command = tuple[Argument, ...]
"""A command's words."""


FOLDER = files("redisaq.brokers.redis") / "lua"

SCRIPTS: dict[Argument, Script] = {}
"""Every script by its SHA-1, the word that names it in a command. Importing the package `redisaq.brokers.redis` declares all of them."""


@dataclass(frozen=True)
class Script:
    """One file of lua/.

    Its text is read when the module is imported, because at a script's first use the process may have no file descriptor left.

    Attributes:
        name: the file's name.
        keys: how many of its arguments are keys, at least.
        begins_with: files of lua/ to put before it: functions that several scripts use.
        text: the program.
        words: the first words of a command that runs it by hash: servers identify scripts by the SHA-1 of their text.
    """

    name: str
    keys: int
    begins_with: tuple[str, ...] = ()
    text: bytes = field(init=False, repr=False)
    words: tuple[bytes, bytes, bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Read the file and those before it, and enter the script in SCRIPTS."""
        text = b"".join((FOLDER / f"{name}.lua").read_bytes() for name in (*self.begins_with, self.name))
        sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "words", (b"EVALSHA", sha, b"%d" % self.keys))
        SCRIPTS[sha] = self

    def __call__(self, *arguments: Argument) -> Command:
        """Return the command that runs the script by hash, its keys first."""
        return (*self.words, *arguments)

    def over(self, keys: Sequence[bytes], *arguments: Argument) -> Command:
        """Return the command for a script whose number of keys varies."""
        begin, sha, _ = self.words
        return (begin, sha, b"%d" % len(keys), *keys, *arguments)
