"""Pack commands and parse replies (RESP3). This is the only module that uses hiredis.

Replies are Python values: texts are bytes, maps are dicts. An error of the server is a ServerError *instance* in the place of the reply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, cast

import hiredis

from redisaq.errors import ServerError, ServerFull

Command: TypeAlias = Sequence[str | bytes | int | float]
"""A command's name and arguments: a tuple."""

NOTHING = object()
"""What a parser returns until a whole reply has arrived (None and False are replies in RESP3)."""

PARSE_ERRORS = (hiredis.HiredisError, TypeError, MemoryError)
"""What a parser raises: the data is not RESP, a map has keys that Python cannot hash, or memory is short for an announced size."""

PushNotification = hiredis.PushNotification
"""The type of messages that are not the reply to a command."""


class Parser(Protocol):
    """The part of hiredis.Reader that this package uses; the stub of hiredis accepts no buffers but bytes."""

    def feed(self, data: bytes | bytearray, start: int, count: int, /) -> None:
        """Copy `count` bytes of `data`, from `start` on, into the parser."""
        ...

    def gets(self) -> object:
        """Return the next reply, or NOTHING."""
        ...


pack_command = cast("Callable[[Command], bytes]", hiredis.pack_command)
"""Pack one command, which must be a tuple; TypeError if a part is neither text, bytes nor a number."""


def pack(commands: Sequence[Command]) -> bytes:
    """Return the commands in the server's wire format.

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
    """Return the kind of a pushed message, or None for a reply."""
    return cast("list[object]", item)[0] if type(item) is PushNotification and item else None
