"""What the layers above know of the servers: one surface over one server, a cluster, or a server behind sentinels.

Commands are routed by the key that `key_of` finds. A call over several servers ends when all its parts have ended. If one of them broke,
the whole call is uncertain, and its error names every connection that may still carry a part (C2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from redisaq.link.reading import ReadingConnection
from redisaq.link.resp import Command, pack_command
from redisaq.link.shared import Identity

T = TypeVar("T")

_KEY_PLACES = {b"EVALSHA": 3, b"EVAL": 3, b"XINFO": 2}


def key_of(command: Command) -> bytes:
    """Return the key by which a command is routed. A script's keys all lie in one slot, so the first one decides."""
    name = command[0]
    key = command[_KEY_PLACES.get(name, 1) if isinstance(name, bytes) else 1]
    return key if isinstance(key, bytes) else str(key).encode()


class Carrier(Protocol):
    """What carries commands to one server: a link, or a reading connection."""

    @property
    def url(self) -> str:
        """The server's URL, for errors, without a password."""
        ...

    def give_up(self, reason: str) -> None:
        """Break the connection: the next command uses a new one, or raises because there cannot be one."""
        ...

    async def call(self, *commands: Command) -> list[Any]:
        """Return the replies in order."""
        ...


class Listening(Protocol):
    """What `listen` returns: see Bell."""

    async def wait(self) -> None:
        """Return when something was published since the last call, or may have been missed."""
        ...

    async def close(self) -> None:
        """Stop listening."""
        ...


class Caller(Carrier, Protocol):
    """The way to all servers that keep a namespace.

    Attributes:
        run_id: changes when another run of a server, or another server, may answer for a key.
    """

    run_id: str

    async def connect(self) -> None:
        """Connect, once; further calls do nothing."""
        ...

    async def close(self) -> None:
        """Close every connection; see Link."""
        ...

    async def call(self, *commands: Command) -> list[Any]:
        """Run commands, each where its key is, and return the replies in order; an error of a server is a ServerError among them."""
        ...

    def call_keyed(self, packed: Sequence[bytes], of: Sequence[T], key: Callable[[T], bytes]) -> Awaitable[list[Any]]:
        """Run packed commands, in order at each server; command n is routed by `key(of[n])`.

        They place messages: none of them passes what an earlier call may lack (E4). If one would, the call raises ConnectionFailed, and
        nothing was sent.
        """
        ...

    async def kill(self, connections: Sequence[Identity], key: bytes | None = None) -> list[Any]:
        """Kill those of these connections that can still reach their streams (C4); return the replies.

        Args:
            connections: each is killed only where the run of the server that knew it still runs.
            key: all that they may reach; None: anything.
        """
        ...

    async def watched(self) -> Mapping[str, str] | None:
        """Return what a sentinel says of the server (SENTINEL MASTER), as far as it says it; None if no sentinel was asked for it."""
        ...

    async def nodes(self) -> Sequence[Caller]:
        """Return the way to each server that keeps keys, for what is about servers; in a cluster each knows its own slots only."""
        ...

    async def open_reading(self, key: bytes) -> ReadingConnection:
        """Make a separate connection to where the key is, for commands that block. One attempt; the caller closes it."""
        ...

    async def listen(self, *channels: str) -> Listening:
        """Listen to sharded channels, all in one slot. One attempt; the caller closes what is returned."""
        ...


class InOrder:
    """A Carrier of commands that place messages: it sends them as `call_keyed` does."""

    def __init__(self, caller: Caller) -> None:
        """Send over `caller`."""
        self._caller = caller

    @property
    def url(self) -> str:
        """The servers' URL, for errors, without a password."""
        return self._caller.url

    def give_up(self, reason: str) -> None:
        """Break the connection; see Carrier."""
        self._caller.give_up(reason)

    async def call(self, *commands: Command) -> list[Any]:
        """Return the replies in order."""
        return await self._caller.call_keyed([pack_command(command) for command in commands], commands, key_of)
