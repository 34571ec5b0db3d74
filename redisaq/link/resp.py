"""The one door to hiredis: commands to bytes, bytes to replies (RESP3).

In: commands, and what arrived. Out: packed bytes, and replies as Python values: texts are bytes, maps are dicts, a server's error is a
ServerError *instance* that stands where the reply would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, cast

import hiredis

from redisaq.errors import ServerError, ServerFull

Command: TypeAlias = Sequence[str | bytes | int | float]
"""A command's name and arguments: a tuple."""

NOTHING = object()
"""What a parser returns while no whole reply is there (None and False are replies in RESP3)."""

PARSE_ERRORS = (hiredis.HiredisError, TypeError, MemoryError)
"""What a parser raises: no RESP, a map with keys that Python cannot hash, or an announced size that there is no memory for."""

PushNotification = hiredis.PushNotification
"""The type of messages that answer no command."""


class Parser(Protocol):
    """What this package uses of hiredis.Reader; hiredis' own stub knows no buffers but bytes."""

    def feed(self, data: bytes | bytearray, start: int, count: int, /) -> None:
        """Take `count` bytes of `data` from `start` on; they are copied."""
        ...

    def gets(self) -> object:
        """Return the next reply, or NOTHING."""
        ...


pack_command = cast("Callable[[Command], bytes]", hiredis.pack_command)
"""Pack one command, which must be a tuple; TypeError if a part is neither text, bytes nor a number."""


def pack(commands: Sequence[Command]) -> bytes:
    """Return the commands as the server reads them.

    Raises:
        TypeError: a part is neither text, bytes nor a number.
    """
    return b"".join([pack_command(command if isinstance(command, tuple) else tuple(command)) for command in commands])


def make_parser(keep: int) -> Parser:
    """Return a parser that keeps up to `keep` bytes of its buffer for the next reply."""
    parser = hiredis.Reader(replyError=_server_error, notEnoughData=NOTHING)
    parser.setmaxbuf(keep)
    return cast("Parser", parser)


def _server_error(text: str) -> ServerError:
    return (ServerFull if text.startswith("OOM ") else ServerError)(text)


def push_kind(item: object) -> object:
    """Return the kind of a pushed message, None for a reply."""
    return cast("list[object]", item)[0] if type(item) is PushNotification and item else None
