"""RedisBroker: the Broker protocol on a real server, each method one round trip where it can be.

In come core types; out go core types. The steps themselves stand in the modules beside this one, and their atomic cores in lua/. What
always holds: every method but `append` may be repeated after a broken connection, and the reply of one call never reaches another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence

from redisaq.brokers.administration import GroupView, PartitionView, StreamView
from redisaq.brokers.base import Acks, Beat, Doorbell, GroupName, Installed, Page, Reader, ReaderMark, Remaining, Settled, TopicState
from redisaq.brokers.delivery import Due, Resolution, Resolved
from redisaq.brokers.graveyard import DeadLetterEntry
from redisaq.brokers.producing import Delayed, Found
from redisaq.brokers.redis.administration import Administration
from redisaq.brokers.redis.appender import Appender
from redisaq.brokers.redis.commands import checked
from redisaq.brokers.redis.coordination import Coordination
from redisaq.brokers.redis.dead_letters import DeadLetters
from redisaq.brokers.redis.delays import Delays
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.leases import Leases
from redisaq.brokers.redis.pending import Pending
from redisaq.brokers.redis.producing import Producing
from redisaq.brokers.redis.retention import Retention
from redisaq.brokers.redis.retries import Retries
from redisaq.brokers.redis.topics import Topics
from redisaq.brokers.retention import Keeping, Sighting, Terms, Trimmed
from redisaq.core.membership import Document
from redisaq.environment import Environment, current_environment
from redisaq.errors import ServerError
from redisaq.link import Link


class RedisBroker:
    """A Broker over a link; see Broker for what each method means.

    Args:
        link: the way to the server; the broker opens and closes it.
        namespace: what the names of all keys begin with.
        environment: gives the document's versions; the context's own if None.
    """

    def __init__(self, link: Link, namespace: str, environment: Environment | None = None) -> None:
        keys = Keys(namespace)
        self._link = link
        self._environment = environment
        self._keys = keys
        self._topics = Topics(link, keys)
        self._appender = Appender(link, keys)
        self._coordination = Coordination(link, keys)
        self._leases = Leases(link, keys)
        self._pending = Pending(link, keys)
        self._retries = Retries(link, keys)
        self._delays = Delays(link, keys)
        self._dead_letters = DeadLetters(link, keys)
        self._producing = Producing(link, keys)
        self._administration = Administration(link, keys)
        self._retention = Retention(link, keys)

    @property
    def run_id(self) -> str:
        """Of the server that the shared connection was last made to."""
        return self._link.run_id

    async def connect(self) -> None:
        """Reach the server."""
        await self._link.connect()

    async def close(self) -> None:
        """Close every connection."""
        await self._link.close()

    # -- topics ---------------------------------------------------------------------------------------------------------------

    async def topics(self) -> Sequence[str]:
        """Return the names of all topics, sorted."""
        return await self._topics.names()

    async def topic(self, topic: str) -> TopicState | None:
        """Return the topic's state."""
        return await self._topics.state(topic)

    async def make_topic(self, topic: str, partitions: int, *, terms: Terms | None = None) -> TopicState:
        """Make the topic and its missing streams (E5); keep what a producer asks (E3)."""
        return await self._topics.make(topic, partitions, terms)

    async def grow_topic(self, topic: str, partitions: int) -> TopicState:
        """Raise the partition count (G1); a topic that does not exist is made."""
        return await self._topics.grow(topic, partitions)

    async def append(
        self, topic: str, entries: Sequence[tuple[int, Sequence[bytes]]], *, maxlen: int | None, approximate: bool
    ) -> list[bytes | None]:
        """Append in order; not safe to repeat."""
        return await self._appender.append(topic, entries, maxlen=maxlen, approximate=approximate)

    async def anchors(self, topic: str, partitions: Sequence[int]) -> list[bytes | None]:
        """Return each stream's last id ever (E2)."""
        return await self._producing.anchors(topic, partitions)

    async def find(self, topic: str, partition: int, anchor: bytes, msg_ids: Sequence[bytes]) -> Found:
        """Look for messages among the delayed and after the anchor (E2, E7)."""
        return await self._producing.find(topic, partition, anchor, msg_ids)

    async def kill(self, marks: Sequence[ReaderMark]) -> bool:
        """Kill these connections (E1)."""
        return await self._producing.kill(marks)

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
        """Append unless the same id was used within the window (E7)."""
        return await self._producing.append_once(
            topic, partition, fields, dedup_id=dedup_id, window=window, due=due, maxlen=maxlen, approximate=approximate
        )

    async def backlog(self, topic: str, partitions: Sequence[int], *, enough: int = 1 << 31) -> list[int]:
        """Return how many entries wait for the slowest group."""
        return await self._producing.backlog(topic, partitions, enough)

    # -- what is kept -----------------------------------------------------------------------------------------------------------

    async def keeping(self, groups: Sequence[GroupName]) -> Keeping:
        """Return what holds for the topic, and which of these groups have no member."""
        return await self._retention.keeping(groups)

    async def trim(self, topic: str, partition: int, keeping: Keeping, groups: Sequence[str]) -> Trimmed:
        """Trim what every group has done with (E3)."""
        return await self._retention.trim(topic, partition, keeping, groups)

    async def sight(self, group: GroupName, partition: int, token: int, *, since: Sighting | None, read: int) -> Sighting:
        """Count what trimming took before it was read."""
        return await self._retention.sight(group, partition, token, since=since, read=read)

    # -- the group's document (M) ---------------------------------------------------------------------------------------------

    async def make_groups(self, group: GroupName, partitions: Sequence[int], *, latest: bool, younger: bool = False) -> None:
        """Make the group on these partitions' streams (G6)."""
        await self._pending.make_groups(group, partitions, latest=latest, younger=younger)

    async def heartbeat(self, group: GroupName, incarnation: str, ttl: float, known_version: str) -> Beat:
        """Extend the incarnation's time if it lives (M5, M7)."""
        return await self._coordination.heartbeat(group, incarnation, ttl, known_version)

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
        """Replace the document under its version (M2, M3); refused, too, if the server changed since (M7)."""
        new_version = (self._environment or current_environment()).new_id()
        done = await self._coordination.commit(
            group,
            incarnation,
            ttl,
            known_version=known_version,
            new_version=new_version,
            document=document,
            joins=joins,
            leaves=leaves,
            freeze=freeze,
            expired=expired,
        )
        return new_version if done else None

    async def listen(self, group: GroupName) -> Doorbell:
        """Return a doorbell for the group and its topic."""
        keys = self._keys.group(group)
        return await self._listened(self._link.listen(keys.doorbell.decode(), keys.topic_doorbell.decode()))

    # -- taking a partition (T) -------------------------------------------------------------------------------------------------

    async def install(self, group: GroupName, partition: int, token: int, incarnation: str, *, foreign: bool) -> Installed:
        """Put the token beside the partition's data (T2)."""
        return await self._leases.install(group, partition, token, incarnation, foreign=foreign)

    async def fence(self, group: GroupName, partition: int, token: int, readers: Sequence[ReaderMark]) -> bool:
        """Kill these readers' connections (T3)."""
        return await self._leases.fence(group, partition, token, readers)

    async def open_reader(self, group: GroupName, partition: int, token: int, incarnation: str) -> Reader:
        """Open a reading connection under the token (T3); LeaseLostError also if the incarnation no longer holds it."""
        return await self._leases.open_reader(group, partition, token, incarnation)

    async def claim(self, group: GroupName, partition: int, token: int, *, after: bytes, count: int) -> Page:
        """Return a page of pending entries (T5)."""
        return await self._pending.claim(group, partition, token, after=after, count=count)

    async def set_deliveries(
        self, group: GroupName, partition: int, token: int, counts: Mapping[bytes, int], *, raising: bool = False
    ) -> bool:
        """Set the delivery counts of pending entries (T5)."""
        return await self._pending.set_deliveries(group, partition, token, counts, raising=raising)

    async def settle(self, group: GroupName, acks: Sequence[Acks]) -> list[Settled]:
        """Acknowledge under each partition's token (S1)."""
        return await self._pending.settle(group, acks)

    async def release(self, group: GroupName, partition: int, token: int) -> bool:
        """Clear holder and readers, keep the token (M8)."""
        return await self._leases.release(group, partition, token)

    async def remake_group(self, group: GroupName, partition: int, last_id: bytes, *, start: bytes | None = None) -> None:
        """Make a lost group again (T6)."""
        await self._pending.remake_group(group, partition, last_id, start or last_id)

    async def remaining(self, group: GroupName, partitions: Sequence[int]) -> list[Remaining]:
        """Return what is left, per partition."""
        return await self._pending.remaining(group, partitions)

    # -- what did not simply succeed (S) ----------------------------------------------------------------------------------------

    async def resolve(
        self, group: GroupName, partition: int, token: int, resolutions: Sequence[Resolution], *, dead_maxlen: int | None
    ) -> Resolved:
        """Settle some messages in one fenced step (S1)."""
        return await self._retries.resolve(group, partition, token, resolutions, dead_maxlen=dead_maxlen)

    async def start_retry(self, group: GroupName, partition: int, token: int, *, entry_id: bytes, life: int, attempt: int) -> bool:
        """Note that a handler begins on a message of `retry`."""
        return await self._retries.start_retry(group, partition, token, entry_id=entry_id, life=life, attempt=attempt)

    async def due(self, group: GroupName, partition: int, token: int, *, count: int, dead_maxlen: int | None = None) -> Due:
        """Move due delayed messages into the stream, return due retries."""
        return await self._retries.due(group, partition, token, count=count, dead_maxlen=dead_maxlen)

    async def listen_partition(self, topic: str, partition: int) -> Doorbell:
        """Return the partition's doorbell; all of this broker share one connection."""
        return await self._listened(self._link.listen(self._keys.partition_doorbell(topic, partition).decode()))

    async def _listened(self, listening: Awaitable[Doorbell]) -> Doorbell:
        try:
            return await listening
        except ServerError as error:
            checked(error, self._link)
            raise

    async def delay(self, topic: str, messages: Sequence[Delayed]) -> list[bool]:
        """Keep messages until they are due."""
        return await self._delays.delay(topic, messages)

    # -- dead letters -----------------------------------------------------------------------------------------------------------

    async def dead_page(self, group: GroupName, partition: int, *, after: bytes, count: int) -> list[DeadLetterEntry]:
        """Return a page of dead letters."""
        return await self._dead_letters.page(group, partition, after=after, count=count)

    async def redrive(self, group: GroupName, partition: int, ids: Sequence[bytes] | None, *, count: int) -> int:
        """Let dead letters be tried again."""
        return await self._dead_letters.redrive(group, partition, ids, count=count)

    async def purge(self, group: GroupName, partition: int, ids: Sequence[bytes] | None) -> int:
        """Drop dead letters."""
        return await self._dead_letters.purge(group, partition, ids)

    # -- looking after ------------------------------------------------------------------------------------------------------------

    async def view_streams(self, topic: str, partitions: Sequence[int]) -> list[StreamView]:
        """Return how each partition stands."""
        return await self._administration.view_streams(topic, partitions)

    async def view_group(self, group: GroupName) -> GroupView:
        """Return how the group's coordination stands."""
        return await self._administration.view_group(group)

    async def view_partitions(self, group: GroupName, partitions: Sequence[int]) -> list[PartitionView]:
        """Return how the group stands in each partition."""
        return await self._administration.view_partitions(group, partitions)

    async def set_paused(self, group: GroupName, *, paused: bool) -> None:
        """Pause the group, or let it go on."""
        await self._administration.set_paused(group, paused=paused)

    async def seek(self, group: GroupName, partition: int, position: bytes) -> None:
        """Deliver what stands after the position next."""
        await self._administration.seek(group, partition, position)

    async def disband(self, group: GroupName, *, force: bool) -> tuple[str, ...]:
        """Drop members, document and pause; return the live members."""
        return await self._administration.disband(group, force=force)

    async def drop_group(self, group: GroupName, partitions: Sequence[int]) -> None:
        """Take the group out of each partition."""
        await self._administration.drop_group(group, partitions)

    async def drop_topic(self, topic: str) -> None:
        """Drop the topic whole."""
        await self._administration.drop_topic(topic)
