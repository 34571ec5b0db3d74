"""Runs commands: scripts by their hash, and raises the errors among the replies.

Input: commands, several at once for several partitions' steps. Output: their replies in order. Invariants: a server that does not know a
script (new, restarted, another node) gets its text, also in the middle of a pipeline, and nothing else is sent twice. What a server cannot
do just now counts as a failed connection, which callers try again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from redisaq.brokers.redis.keys import type_of
from redisaq.brokers.redis.scripts import SCRIPTS, Argument, Command
from redisaq.errors import ConnectionFailed, DamagedKeyError, ServerError
from redisaq.link import CLUSTER, LOGGED_OUT

Reply = Any
"""What the server answered, as hiredis parses it under RESP3; an error is a ServerError."""


PASSING = LOGGED_OUT | {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "READONLY", "TRYAGAIN"}
"""Codes of errors that pass: a long script is running, a disk is full, a failover is under way, a password is being changed.

The server executed nothing.
"""


class Caller(Protocol):
    """What carries commands: the shared link, or a reading connection."""

    @property
    def url(self) -> str:
        """The server's URL, for errors, without a password."""
        ...

    def give_up(self, reason: str) -> None:
        """Break the connection: the next command uses a new one, or raises because there cannot be one."""
        ...

    async def call(self, *commands: Command) -> list[Reply]:
        """Return the replies in order."""
        ...


async def run_all(caller: Caller, commands: Sequence[Command]) -> list[Reply]:
    """Run the commands in one round trip and return their replies, errors among them. Scripts run as the module's docstring says."""
    return await run_unknown(caller, commands, await caller.call(*commands))


async def run_unknown(caller: Caller, commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
    """Run again, with their text, the scripts that the server did not know; return all replies.

    None of those had run, but the others of the pipeline had. So a script may run after one that was requested later: commands of one
    pipeline must not depend on each other.
    """
    unknown = [place for place, reply in enumerate(replies) if isinstance(reply, ServerError) and reply.code == "NOSCRIPT"]
    if unknown:
        again = await caller.call(*(_with_text(commands[place]) for place in unknown))
        for place, reply in zip(unknown, again, strict=True):
            replies[place] = reply
    return replies


async def run(caller: Caller, command: Command) -> Reply:
    """Run one command and return its reply.

    Raises:
        ServerError: the server answered with an error.
    """
    (reply,) = await run_all(caller, (command,))
    return await checked_of(command, reply, caller)


async def run_each(caller: Caller, commands: Sequence[Command]) -> list[Reply]:
    """Run the commands in one round trip and return their replies.

    Raises:
        ServerError: the server answered one of them with an error; the others have been executed.
    """
    replies = await run_all(caller, commands)
    return [await checked_of(command, reply, caller) for command, reply in zip(commands, replies, strict=True)]


async def heard(command: Command, reply: Reply, caller: Caller, hears: tuple[str, ...]) -> Reply:
    """Return the reply to a command that the server answered with an error; if it did not know a script, the reply to the script's text.

    An error that begins with one of `hears` is returned as a reply; any other is raised.
    """
    (reply,) = await run_unknown(caller, (command,), [reply])
    if isinstance(reply, ServerError) and reply.text.startswith(hears):
        return reply
    return await checked_of(command, reply, caller)


async def checked_of(command: Command, reply: Reply, caller: Caller) -> Reply:
    """Return the reply, or raise it as `checked` does; DamagedKeyError if a key of the command has the wrong type."""
    if isinstance(reply, ServerError) and reply.code == "WRONGTYPE":
        raise await _of_wrong_type(command, reply, caller)
    return checked(reply, caller)


async def _of_wrong_type(command: Command, error: ServerError, caller: Caller) -> ServerError:
    """Return an error that names the key, which the server's error does not."""
    keys = keys_of(command)
    for key, found in zip(keys, await caller.call(*((b"TYPE", key) for key in keys)), strict=True):
        wanted = type_of(key)
        if isinstance(found, bytes) and found not in (wanted, b"none"):
            return wrong_type(key, error, found)
    return error


def wrong_type(
    key: bytes, error: ServerError, found: bytes | None = None, *, appended: Sequence[bytes | None] | None = None
) -> DamagedKeyError:
    """Return the error that names a key of the wrong type."""
    is_a = "is of the wrong type" if found is None else f"is a {found.decode()}"
    wanted = type_of(key).decode()
    damaged = DamagedKeyError(key, f"{is_a}, and should be a {wanted}: delete or rename it", code="WRONGTYPE", appended=appended)
    damaged.__cause__ = error
    return damaged


def keys_of(command: Command) -> list[bytes]:
    """Return the keys among a command's words."""
    name, *rest = command
    words: Sequence[Argument] = rest
    if name in (b"EVALSHA", b"EVAL"):
        words = words[2 : 2 + int(words[1])]
    else:  # all others have one key, the first word that looks like one
        words = [word for word in words[:2] if isinstance(word, bytes) and b":" in word][:1]
    return [word for word in words if isinstance(word, bytes)]


def checked(reply: Reply, caller: Caller) -> Reply:
    """Return the reply, or raise it if it is an error; ConnectionFailed if it is one that passes."""
    if isinstance(reply, ServerError):
        if reply.code in {"MOVED", "ASK"}:
            raise ConnectionFailed(caller.url, CLUSTER, permanent=True) from reply
        raise not_now(reply, caller) if reply.code in PASSING else reply
    return reply


def not_now(error: ServerError, caller: Caller) -> ConnectionFailed:
    """Return the exception for an error that passes."""
    reason = f"the server cannot do this now ({error.text})"
    if error.code in LOGGED_OUT:
        reason = f"the server wants a log-in again ({error.text}): check user name and password in the URL"
    if error.code == "READONLY" or error.code in LOGGED_OUT:
        # A replica, or a server that no longer accepts our log-in: a new connection finds its successor, or shows whether we may log in.
        caller.give_up(error.text)
    failed = ConnectionFailed(caller.url, reason)
    failed.__cause__ = error
    return failed


def _with_text(command: Command) -> Command:
    _, sha, *rest = command
    return (b"EVAL", SCRIPTS[sha].text, *rest)


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, rounded up, so that no lease ends, and nothing is trimmed, too early."""
    return math.ceil(seconds * 1000)
