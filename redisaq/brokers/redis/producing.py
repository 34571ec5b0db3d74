"""What makes enqueueing effectively once on a real server: anchors, a look at the tail, killing one's own connections, marks.

In come topics and message ids; out go facts. What always holds: each method may be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from redisaq.brokers.base import ReaderMark
from redisaq.brokers.producing import Found
from redisaq.brokers.redis.commands import checked, checked_of, run, run_each
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.scripts import APPEND_ONCE, BACKLOG, FIND, Command
from redisaq.core.records import encode_delayed
from redisaq.errors import ServerError
from redisaq.link import Link


class Producing:
    """The steps of ProducingBroker; see there."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def anchors(self, topic: str, partitions: Sequence[int]) -> list[bytes | None]:
        """Return each stream's last id ever (E2)."""
        commands = [(b"XINFO", b"STREAM", self._keys.stream(topic, partition)) for partition in partitions]
        return [await self._last_id(*pair) for pair in zip(commands, await self._link.call(*commands), strict=True)]

    async def find(self, topic: str, partition: int, anchor: bytes, msg_ids: Sequence[bytes]) -> Found:
        """Look for messages (E2, E7)."""
        complete, found, last = await run(
            self._link, FIND(self._keys.stream(topic, partition), self._keys.delayed(topic, partition), anchor, *msg_ids)
        )
        return Found(tuple(found), complete == 1, last)

    async def kill(self, marks: Sequence[ReaderMark]) -> bool:
        """Kill connections of this server's run (E1)."""
        await self._link.connect()  # after a break: only a greeting tells the server's run
        commands = [
            (b"CLIENT", b"KILL", b"ID", mark.client_id, *((b"ADDR", mark.address) if mark.address else ()))
            for mark in marks
            if mark.run_id == self._link.run_id
        ]
        if not commands:
            return True
        for reply in await self._link.call(*commands):
            if isinstance(reply, ServerError) and reply.forbidden:
                return False
            checked(reply, self._link)
        return True

    async def append_once(
        self,
        topic: str,
        partition: int,
        fields: Sequence[bytes],
        *,
        dedup_id: str,
        window: float,
        due: int | None,
        maxlen: int | None,
        approximate: bool,
    ) -> bytes | None:
        """Append under a mark (E7)."""
        operator = b"" if maxlen is None else b"~" if approximate else b"="
        milliseconds = max(1, round(window * 1000))
        mark, stream = self._keys.once(topic, partition, dedup_id), self._keys.stream(topic, partition)
        command = APPEND_ONCE(
            mark,
            stream,
            self._keys.delayed(topic, partition),
            self._keys.delayed_bodies(topic, partition),
            fields[1],
            milliseconds,
            operator,
            maxlen or 0,
            due or b"",
            self._keys.partition_doorbell(topic, partition),
            encode_delayed(fields) if due else b"",
            *fields,
        )
        return cast("bytes | None", await run(self._link, command))

    async def backlog(self, topic: str, partitions: Sequence[int], enough: int) -> list[int]:
        """Return how much waits."""
        return cast("list[int]", await run_each(self._link, [BACKLOG(self._keys.stream(topic, p), enough) for p in partitions]))

    async def _last_id(self, command: Command, reply: object) -> bytes | None:
        if isinstance(reply, ServerError) and "no such key" in reply.text:
            return None
        return cast("dict[bytes, bytes]", await checked_of(command, reply, self._link))[b"last-generated-id"]
