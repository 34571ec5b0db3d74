"""Taking and giving back a partition: the token, its holder, and the readers registered beside it (T2, T3, M8).

In come tokens; out goes whether they stand. What always holds: a token never falls and is kept when its holder lets go, and a
registered reader leaves the list only once it cannot read any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.brokers.base import GroupName, Installed, ReaderMark
from redisaq.brokers.redis.commands import checked, run, run_all
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.reader import RedisReader
from redisaq.brokers.redis.scripts import INSTALL, REGISTER, RELEASE, UNREGISTER, Command
from redisaq.core.records import whole
from redisaq.errors import LeaseLostError, ServerError
from redisaq.link import Link


class Leases:
    """The steps of the Broker about a partition's lease."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def install(self, group: GroupName, partition: int, token: int, incarnation: str, *, foreign: bool) -> Installed:
        """Put the token beside the partition's data (T2); see Broker."""
        command = INSTALL(self._keys.of_partition(group, partition).lease, token, incarnation, int(foreign))
        done, standing, holder, readers = await run(self._link, command)
        marks = [_mark(field, address) for field, address in zip(readers[::2], readers[1::2], strict=True)]
        return Installed(
            done=done == 1,
            token=whole(standing) or 0,
            holder=holder.decode("utf-8", "backslashreplace"),
            readers=tuple(sorted((mark for mark in marks if mark is not None), key=lambda mark: (mark.run_id, mark.client_id))),
        )

    async def fence(self, group: GroupName, partition: int, token: int, readers: Sequence[ReaderMark]) -> bool:
        """Kill these readers' connections, then take them off the list (T3); see Broker."""
        if not readers:
            return True
        # Which run of the server answers is known only once connected. A mark of another run is not killed: the server that knew that
        # connection is gone, and this one gives its id to somebody else.
        await self._link.connect()
        kills: list[Command] = [
            (b"CLIENT", b"KILL", b"ID", mark.client_id, *((b"ADDR", mark.address) if mark.address else ()))
            for mark in readers
            if mark.run_id == self._link.run_id
        ]
        if kills:
            # Counted, never an error, where the connection is gone already.
            for reply in await run_all(self._link, kills):
                if isinstance(reply, ServerError) and reply.forbidden:
                    return False  # T4; they stay on the list, since they may still read
                checked(reply, self._link)
        await run(self._link, UNREGISTER(self._keys.of_partition(group, partition).lease, token, *map(_field, readers)))
        return True

    async def open_reader(self, group: GroupName, partition: int, token: int, incarnation: str) -> RedisReader:
        """Open a reading connection and register it under the token before its first read (T3); see Broker."""
        keys = self._keys.of_partition(group, partition)
        connection = await self._link.open_reading()
        try:
            mark = ReaderMark(connection.client_id, connection.client_address, connection.run_id)
            # Over the connection itself: so it is registered with the server that it reads from, whatever the shared one is at now.
            registered = await run(connection, REGISTER(keys.lease, token, incarnation, _field(mark), mark.address))
        except BaseException:
            connection.abort()
            raise
        if not registered:
            connection.abort()
            raise LeaseLostError(f"another token stands beside partition {partition} of {group.topic} for {group.group}")
        return RedisReader(connection, mark, keys.stream, group.group)

    async def release(self, group: GroupName, partition: int, token: int) -> bool:
        """Clear holder and readers, keep the token (M8); see Broker."""
        return bool(await run(self._link, RELEASE(self._keys.of_partition(group, partition).lease, token)))


def _field(mark: ReaderMark) -> str:
    return f"reader:{mark.client_id}:{mark.run_id}"


def _mark(field: bytes, address: bytes) -> ReaderMark | None:
    """Return a registered reader; None for what no reader has registered, which a release clears with the rest."""
    _, _, words = field.partition(b":")
    client_id, _, run_id = words.partition(b":")
    number = whole(client_id)
    if not number or not run_id.isalnum() or not address.isascii():
        return None
    return ReaderMark(number, address.decode(), run_id.decode())
