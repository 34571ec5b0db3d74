"""A partition's reader: group reads on a connection of their own (T3).

In come counts and times to wait; out go entries never delivered before. What always holds: whatever the server delivered to this
connection is returned by `read` or by `take_leftover`, or the connection is broken and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from redisaq.brokers.redis.commands import checked, wrong_type
from redisaq.brokers.terms import RawEntry, ReaderMark
from redisaq.errors import ConnectionFailed, GroupGoneError, ServerError
from redisaq.link import ReadingConnection

OWNER = b"owner"
"""The one consumer of every group: what is pending belongs to the partition, and who may touch it is decided by the token."""


class RedisReader:
    """A Reader; see there."""

    def __init__(self, connection: ReadingConnection, mark: ReaderMark, stream: bytes, group: str) -> None:
        self._connection = connection
        self._mark = mark
        self._group = group
        self._begin = (b"XREADGROUP", b"GROUP", group.encode(), OWNER, b"COUNT")
        self._end = (b"STREAMS", stream, b">")
        self._leftover: list[RawEntry] = []

    async def read(self, count: int, block: float) -> Sequence[RawEntry]:
        """Return new entries; see Reader."""
        connection = self._connection
        if connection.leftover is not None:
            self._leftover += self._take()  # of a read before the last: the caller has not asked for it yet
        entries = self._entries(await connection.reply_ahead()) if connection.ahead else []
        if not entries:
            # BLOCK 0 waits for ever: a wait that rounds to nothing must not become that.
            waiting = (b"BLOCK", max(1, int(block * 1000))) if block > 0 else ()
            entries = self._entries(await connection.read((*self._begin, count, *waiting, *self._end), block))
        return entries

    def ask_ahead(self, count: int) -> None:
        """Ask for more at once; see Reader."""
        if not self._connection.ahead:
            self._connection.send_ahead((*self._begin, count, *self._end))

    async def finish(self) -> None:
        """Wait for what was read ahead; see Reader."""
        await self._connection.finish()

    def take_leftover(self) -> Sequence[RawEntry]:
        """Return, once, what a cancelled read brought after all."""
        leftover, self._leftover = self._leftover + self._take(), []
        return leftover

    @property
    def mark(self) -> ReaderMark:
        """What was registered for this reader."""
        return self._mark

    @property
    def settled(self) -> bool:
        """True if no read is without its answer."""
        return self._connection.settled

    async def close(self) -> None:
        """Close the connection; the registration stays."""
        await self._connection.close()

    def _take(self) -> list[RawEntry]:
        try:
            return self._entries(self._connection.take_leftover())
        except (ConnectionFailed, GroupGoneError, ServerError):
            return []  # a refused read delivers nothing, and the next one is refused as well

    def _entries(self, reply: object) -> list[RawEntry]:
        if reply is None:
            return []
        if isinstance(reply, ServerError):
            if reply.code == "UNBLOCKED":  # by CLIENT UNBLOCK, or (Redis 7.0) since the stream went away: the next read tells
                return []
            if reply.code == "NOGROUP":
                raise GroupGoneError(f"the group {self._group} or its stream is gone") from reply
            if reply.code == "WRONGTYPE":
                raise wrong_type(self._end[1], reply)
            checked(reply, self._connection)
        streams = cast("dict[bytes, list[list[Any]]]", reply)
        return [(entry_id, fields) for entries in streams.values() for entry_id, fields in entries]
