"""How the broker runs commands: scripts by hash, and their errors raised.

In come commands, several at once where a step is made of several partitions' steps; out come their replies in order. What always
holds: a server that does not know a script (new, restarted, another node) is given its text, also in the middle of a pipeline,
and nothing else is sent twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from redisaq.brokers.redis.scripts import ALL, Command
from redisaq.errors import ServerError

Reply = Any
"""What the server answered, as hiredis parses it under RESP3; an error stands as a ServerError."""


class Caller(Protocol):
    """What carries commands: the shared link, or a reading connection."""

    async def call(self, *commands: Command) -> list[Reply]:
        """Return the replies in order."""
        ...


async def run_all(caller: Caller, commands: Sequence[Command]) -> list[Reply]:
    """Run the commands in one round trip and return their replies, errors among them; see the module about scripts."""
    return await run_unknown(caller, commands, await caller.call(*commands))


async def run_unknown(caller: Caller, commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
    """Run again, with their text, the scripts that the server did not know; return all replies.

    None of those had run. The others of the pipeline had, so a script may run after one that was asked for later: commands of
    one pipeline must not depend on each other.
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
    return checked(reply)


async def run_each(caller: Caller, commands: Sequence[Command]) -> list[Reply]:
    """Run the commands in one round trip and return their replies.

    Raises:
        ServerError: the server answered one of them with an error; the others have been carried out.
    """
    return [checked(reply) for reply in await run_all(caller, commands)]


def checked(reply: Reply) -> Reply:
    """Return the reply, or raise it if it is an error."""
    if isinstance(reply, ServerError):
        raise reply
    return reply


def _with_text(command: Command) -> Command:
    _, sha, *rest = command
    text = next(script.text for script in ALL if script.words[1] == sha)
    return (b"EVAL", text, *rest)


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, never less than was asked for: no lease ends, and nothing is trimmed, before its time."""
    return math.ceil(seconds * 1000)
