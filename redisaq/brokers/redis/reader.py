"""A partition's reader: group reads on a connection of their own (T3).

Invariant: whatever the server delivered to this connection is returned by `read` or `take_leftover`, or the connection is broken and the
next call says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Any, cast

from redisaq.brokers.redis.commands import checked, wrong_type
from redisaq.brokers.terms import ReaderMark
from redisaq.core.records import Entry
from redisaq.errors import ConnectionFailed, DamagedKeyError, GroupGoneError, ServerError
from redisaq.link import ReadingConnection

OWNER = b"owner"
"""The one consumer in every group: pending entries belong to the partition, and the token decides who may touch them."""


class RedisReader:
    """A Reader on a connection of its own."""

    def __init__(
        self,
        connection: ReadingConnection,
        mark: ReaderMark,
        stream: Callable[[], bytes],
        settle: Callable[[], Awaitable[object]],
        group: str,
    ) -> None:
        """Take over a connection.

        Args:
            connection: to read with.
            mark: under which it is registered.
            stream: returns the stream's present name.
            settle: completes a growth, and finds out the present names.
            group: to read for.
        """
        self._connection = connection
        self._stream = stream
        self._settle = settle
        self._mark = mark
        self._group = group
        self._begin = (b"XREADGROUP", b"GROUP", group.encode(), OWNER, b"COUNT")
        self._asked = b""  # the name under which the last read was sent
        self._leftover: list[Entry] = []

    async def read(self, count: int, block: float) -> Sequence[Entry]:
        """Return new entries; see Reader."""
        connection = self._connection
        if connection.leftover is not None:
            self._leftover += self._take()  # of an earlier read: the caller has not taken it yet
        stream = self._asked
        try:
            entries = self._entries(await connection.reply_ahead()) if connection.ahead else []
            if not entries:
                # BLOCK 0 waits forever, so a short wait must not round down to 0.
                waiting = (b"BLOCK", max(1, int(block * 1000))) if block > 0 else ()
                self._asked = stream = self._stream()
                entries = self._entries(await connection.read((*self._begin, count, *waiting, b"STREAMS", stream, b">"), block))
        except DamagedKeyError:
            await self._settle()  # nothing was delivered: the stream was cut, and has another name now (G2)
            if self._stream() == stream:
                raise
            return []
        return entries

    def ask_ahead(self, count: int) -> None:
        """Ask for more now; see Reader."""
        if not self._connection.ahead:
            self._asked = self._stream()
            self._connection.send_ahead((*self._begin, count, b"STREAMS", self._asked, b">"))

    async def finish(self) -> None:
        """Wait for the answer to `ask_ahead`; see Reader."""
        await self._connection.finish()

    def take_leftover(self) -> Sequence[Entry]:
        """Return, once, what a cancelled read still brought."""
        leftover, self._leftover = self._leftover + self._take(), []
        return leftover

    @property
    def mark(self) -> ReaderMark:
        """The mark under which this reader is registered."""
        return self._mark

    @property
    def settled(self) -> bool:
        """True if every read has its answer."""
        return self._connection.settled

    async def close(self) -> None:
        """Close the connection; the registration stays."""
        await self._connection.close()

    def _take(self) -> list[Entry]:
        try:
            return self._entries(self._connection.take_leftover())
        except (ConnectionFailed, GroupGoneError, ServerError):
            return []  # a refused read delivers nothing, and the next one is refused, too

    def _entries(self, reply: object) -> list[Entry]:
        if reply is None:
            return []
        if isinstance(reply, ServerError):
            if reply.code == "UNBLOCKED":  # by CLIENT UNBLOCK, or (Redis 7.0) because the stream is gone, which the next read reports
                return []
            if reply.code == "NOGROUP":
                raise GroupGoneError(f"the group {self._group} or its stream is gone") from reply
            if reply.code == "WRONGTYPE":
                raise wrong_type(self._asked, reply)
            checked(reply, self._connection)
        streams = cast("dict[bytes, list[list[Any]]]", reply)
        return cast("list[Entry]", list(map(tuple, chain.from_iterable(streams.values()))))  # no step of Python's for each entry
