"""Runs commands: scripts by their hash, and raises the errors among the replies.

Input: commands, several at once for several partitions' steps. Output: their replies in order. Invariants: a server that does not know a
script (new, restarted, another node) gets its text, also in the middle of a pipeline, and nothing else is sent twice. What a server cannot
do just now counts as a failed connection, which callers try again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from redisaq.brokers.redis.keys import decode_history, type_of
from redisaq.brokers.redis.scripts import SCRIPTS, Argument, Command
from redisaq.errors import ConnectionFailed, DamagedKeyError, ServerError
from redisaq.link import LOGGED_OUT, Carrier

Reply = Any
"""What the server answered, as hiredis parses it under RESP3; an error is a ServerError."""


ELSEWHERE = LOGGED_OUT | {"ASK", "MOVED", "READONLY"}
"""Codes of errors that a new connection mends: to the server that has the key now, or to the successor of a replica.

If our log-in is no longer accepted, the new connection shows whether we may log in.
"""

PASSING = ELSEWHERE | {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "TRYAGAIN"}
"""Codes of errors that pass: a long script is running, a disk is full, a slot moves, a failover is under way, a password is being changed.

The server executed nothing (C1).
"""


async def run_all(carrier: Carrier, commands: Sequence[Command]) -> list[Reply]:
    """Run the commands in one round trip and return their replies, errors among them. Scripts run as the module's docstring says."""
    return await run_unknown(carrier, commands, await carrier.call(*commands))


async def run_unknown(carrier: Carrier, commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
    """Run again, with their text, the scripts that the server did not know; return all replies.

    None of those had run, but the others of the pipeline had. So a script may run after one that was requested later: commands of one
    pipeline must not depend on each other.
    """
    unknown = [place for place, reply in enumerate(replies) if isinstance(reply, ServerError) and reply.code == "NOSCRIPT"]
    if unknown:
        again = await carrier.call(*(_with_text(commands[place]) for place in unknown))
        for place, reply in zip(unknown, again, strict=True):
            replies[place] = reply
    return replies


async def run(carrier: Carrier, command: Command) -> Reply:
    """Run one command and return its reply.

    Raises:
        ServerError: the server answered with an error.
    """
    (reply,) = await run_all(carrier, (command,))
    return await checked_of(command, reply, carrier)


async def run_each(carrier: Carrier, commands: Sequence[Command]) -> list[Reply]:
    """Run the commands in one round trip and return their replies.

    Raises:
        ServerError: the server answered one of them with an error; the others have been executed.
    """
    replies = await run_all(carrier, commands)
    return [await checked_of(command, reply, carrier) for command, reply in zip(commands, replies, strict=True)]


async def heard(command: Command, reply: Reply, carrier: Carrier, hears: tuple[str, ...]) -> Reply:
    """Return the reply to a command that the server answered with an error; if it did not know a script, the reply to the script's text.

    An error that begins with one of `hears` is returned as a reply; any other is raised.
    """
    (reply,) = await run_unknown(carrier, (command,), [reply])
    if isinstance(reply, ServerError) and reply.text.startswith(hears):
        return reply
    return await checked_of(command, reply, carrier)


async def checked_of(command: Command, reply: Reply, carrier: Carrier) -> Reply:
    """Return the reply, or raise it as `checked` does; DamagedKeyError if a key of the command has the wrong type."""
    if isinstance(reply, ServerError) and reply.code == "WRONGTYPE":
        raise await _of_wrong_type(command, reply, carrier)
    return checked(reply, carrier)


async def _of_wrong_type(command: Command, error: ServerError, carrier: Carrier) -> ServerError:
    """Return an error that names the key, which the server's error does not; the same error if no key has a wrong type any more."""
    keys = keys_of(command)
    types = await carrier.call(*((b"TYPE", key) for key in keys))
    for key, found in zip(keys, types, strict=True):
        wanted = type_of(key)
        if isinstance(found, bytes) and found not in (wanted, b"none"):
            return wrong_type(key, error, found)
    if any(isinstance(found, ServerError) and found.forbidden for found in types):
        return _of_unknown_key(keys, error)
    return error


def _of_unknown_key(keys: Sequence[bytes], error: ServerError) -> DamagedKeyError:
    """Return the error where the access rules do not let us find out which key has the wrong type."""
    if len(keys) == 1:
        return wrong_type(keys[0], error)
    reason = f"or one of {b', '.join(keys[1:]).decode('utf-8', 'backslashreplace')} is of the wrong type: permit TYPE to learn which one"
    damaged = DamagedKeyError(keys[0], reason, code="WRONGTYPE")
    damaged.__cause__ = error
    return damaged


def wrong_type(
    key: bytes, error: ServerError, found: bytes | None = None, *, appended: Sequence[bytes | None] | None = None
) -> DamagedKeyError:
    """Return the error that names a key of the wrong type."""
    is_a = "is of the wrong type" if found is None else f"is a {found.decode()}"
    wanted = type_of(key).decode()
    damaged = DamagedKeyError(key, f"{is_a}, and should be a {wanted}: delete or rename it", code="WRONGTYPE", appended=appended)
    damaged.__cause__ = error
    return damaged


async def is_sealed(caller: Carrier, stream: bytes) -> bool:
    """Return whether a seal is under this name of a stream: then nothing is ever appended under it again (G2).

    True if the server cannot be asked now: the next step that uses it finds out.
    """
    try:
        (text,) = await caller.call((b"GET", stream))
    except ConnectionFailed:
        return True
    if isinstance(text, ServerError):
        return text.code in PASSING
    return bool(decode_history(text))


def keys_of(command: Command) -> list[bytes]:
    """Return the keys among a command's words."""
    name, *rest = command
    words: Sequence[Argument] = rest
    if name in (b"EVALSHA", b"EVAL"):
        words = words[2 : 2 + int(words[1])]
    else:  # all others have one key, the first word that looks like one
        words = [word for word in words[:2] if isinstance(word, bytes) and b":" in word][:1]
    return [word for word in words if isinstance(word, bytes)]


def yes(reply: Reply) -> bool:
    """Return whether a script answered 1; 0 is no."""
    return bool(reply == 1)


def checked(reply: Reply, carrier: Carrier) -> Reply:
    """Return the reply, or raise it if it is an error; ConnectionFailed if it is one that passes."""
    if isinstance(reply, ServerError):
        raise not_now(reply, carrier) if reply.code in PASSING else reply
    return reply


def not_now(error: ServerError, carrier: Carrier) -> ConnectionFailed:
    """Return the exception for an error that passes."""
    reason = f"the server cannot do this now ({error.text})"
    if error.code in LOGGED_OUT:
        reason = f"the server wants a log-in again ({error.text}): check user name and password in the URL"
    if error.code == "MOVED" and not carrier.url.startswith(("redis+cluster", "rediss+cluster")):  # whom the log-in may not tell it
        reason += "; if this is a cluster, begin the URL with redis+cluster:// (rediss+cluster:// for TLS)"
    if error.code in ELSEWHERE:
        carrier.give_up(error.text)
    failed = ConnectionFailed(carrier.url, reason)
    failed.of_node = error.redirect
    failed.__cause__ = error
    return failed


def _with_text(command: Command) -> Command:
    _, sha, *rest = command
    return (b"EVAL", SCRIPTS[sha].text, *rest)


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, rounded up, so that no lease ends, and nothing is trimmed, too early."""
    return math.ceil(seconds * 1000)
