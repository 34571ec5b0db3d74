"""The Broker that needs no server: each method is one synchronous step at a store in this process.

In come the calls of the Broker protocol; out go the store's answers. Brokers of one name and namespace on one event loop meet in
one store; another event loop sees nothing of it. What always holds: a step is whole or not done at all, and every call lets other
tasks run and can be cancelled before its step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from anyio.lowlevel import checkpoint

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
from redisaq.brokers.memory import administration, delivery, producing, retention
from redisaq.brokers.memory.clients import Channel, ReadingClient, Subscription
from redisaq.brokers.memory.reader import MemoryDoorbell, MemoryReader
from redisaq.brokers.memory.store import MemoryStore, open_store
from redisaq.brokers.producing import Delayed, Found
from redisaq.brokers.retention import Keeping, Sighting, Terms, Trimmed
from redisaq.core.membership import Document
from redisaq.environment import Environment, current_environment
from redisaq.errors import ConnectionFailed

T = TypeVar("T")


@dataclass(eq=False)
class _Session:
    """From connect to close: what this broker has open at its store."""

    store: MemoryStore
    open: bool = True
    clients: list[ReadingClient] = field(default_factory=list[ReadingClient])
    subscriptions: list[Subscription] = field(default_factory=list[Subscription])

    def keep(self, client: ReadingClient) -> None:
        """Close it with the broker; at once if a call that came late has opened it after that."""
        self.clients.append(client)
        if not self.open:
            self.close()

    def doorbell(self, *channels: Channel) -> Doorbell:
        """Return a doorbell that is closed with the broker, as above."""
        subscription = self.store.subscribe(*channels)
        self.subscriptions.append(subscription)
        if not self.open:
            self.close()
        return MemoryDoorbell(self.store, subscription)

    def close(self) -> None:
        """Close what is open."""
        self.open = False
        for client in self.clients:
            self.store.disconnect(client, "the broker was closed")
        for subscription in self.subscriptions:
            self.store.unsubscribe(subscription, "the broker was closed")


class MemoryBroker:
    """A Broker in this process, for tests and simulations.

    Args:
        name: brokers of the same name and namespace, on the same event loop, share what they hold.
        namespace: as of any broker.
        environment: gives versions, and the store its time; default: that of the context in which the broker is first used.
    """

    def __init__(self, name: str, namespace: str, environment: Environment | None = None) -> None:
        self._name = name
        self._namespace = namespace
        self._environment = environment
        self._session: _Session | None = None

    @property
    def store(self) -> MemoryStore:
        """What the running event loop holds under this name: a test may do to it what happens to servers."""
        return open_store(self._name, self._namespace, self._environment or current_environment())

    @property
    def run_id(self) -> str:
        """Of the store; "" before it was first used."""
        return "" if self._session is None else self._session.store.run_id

    async def connect(self) -> None:
        """Open the store; it is always there."""
        await self._operate("connect", lambda _: None)

    async def close(self) -> None:
        """Let go of the store, which stays; calls, reads and doorbells under way raise ConnectionFailed. The next call opens it anew."""
        if self._session is not None:
            self._session.close()
            self._session = None
        await checkpoint()

    async def _operate(self, name: str, step: Callable[[MemoryStore], T]) -> T:  # noqa: ARG002 -- for whoever overrides it
        """Carry out one operation: every call of the broker passes here, and its readers' reads.

        A fault plan overrides this one method: it may wait, raise before the step or after it, or carry the step out later than it
        raises.
        """
        session = self._enter()
        run_id = session.store.run_id
        await checkpoint()
        if not session.open:
            raise ConnectionFailed(session.store.url, "the broker was closed")
        if session.store.run_id != run_id:
            raise ConnectionFailed(session.store.url, "the server restarted", maybe_executed=True)
        return step(session.store)

    def _enter(self) -> _Session:
        store = self.store
        # Another store is another event loop: nothing that was open in the old one can be waited for here.
        if self._session is None or self._session.store is not store:
            self._session = _Session(store)
        return self._session

    # -- topics ---------------------------------------------------------------------------------------------------------------

    async def topics(self) -> Sequence[str]:
        """Return the names of all topics, sorted."""
        return await self._operate("topics", lambda store: sorted(store.topic_names))

    async def topic(self, topic: str) -> TopicState | None:
        """Return the topic's state."""
        return await self._operate("topic", lambda store: store.topics.get(topic))

    async def make_topic(self, topic: str, partitions: int, *, terms: Terms | None = None) -> TopicState:
        """Make the topic and its missing streams (E5); keep what a producer asks (E3)."""

        def step(store: MemoryStore) -> TopicState:
            made = store.make_topic(topic, partitions)
            return made if terms is None else retention.declare(store, topic, made, terms)

        return await self._operate("make_topic", step)

    async def grow_topic(self, topic: str, partitions: int) -> TopicState:
        """Raise the partition count; a topic that does not exist is made."""
        return await self._operate("grow_topic", lambda store: store.grow_topic(topic, partitions))

    async def append(
        self, topic: str, entries: Sequence[tuple[int, Sequence[bytes]]], *, maxlen: int | None, approximate: bool
    ) -> list[bytes | None]:
        """Append in order; `approximate` trims exactly, too."""
        del approximate
        return await self._operate("append", lambda store: store.append(topic, entries, maxlen))

    async def anchors(self, topic: str, partitions: Sequence[int]) -> list[bytes | None]:
        """Return each stream's last id ever (E2)."""
        return await self._operate("anchors", lambda store: [producing.anchor(store, topic, partition) for partition in partitions])

    async def find(self, topic: str, partition: int, anchor: bytes, msg_ids: Sequence[bytes]) -> Found:
        """Look for messages after the anchor (E2)."""
        return await self._operate("find", lambda store: producing.find(store, topic, partition, anchor, msg_ids))

    async def kill(self, marks: Sequence[ReaderMark]) -> bool:
        """Kill reading connections: a call of another kind that broke has run, or never will (E1)."""
        return await self._operate("kill", lambda store: store.kill(marks))

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
        del approximate

        def step(store: MemoryStore) -> bytes | None:
            return producing.append_once(store, topic, partition, fields, dedup_id=dedup_id, window=window, due=due, maxlen=maxlen)

        return await self._operate("append_once", step)

    async def backlog(self, topic: str, partitions: Sequence[int], *, enough: int = 1 << 31) -> list[int]:
        """Return how many entries wait for the slowest group."""
        del enough
        return await self._operate("backlog", lambda store: [producing.backlog(store, topic, partition) for partition in partitions])

    # -- what is kept -----------------------------------------------------------------------------------------------------------

    async def keeping(self, groups: Sequence[GroupName]) -> Keeping:
        """Return what holds for the topic, and which of these groups have no member."""
        return await self._operate("keeping", lambda store: retention.keeping(store, groups))

    async def trim(self, topic: str, partition: int, keeping: Keeping, groups: Sequence[str]) -> Trimmed:
        """Trim what every group has done with (E3)."""
        return await self._operate("trim", lambda store: retention.trim(store, topic, partition, keeping, groups))

    async def sight(self, group: GroupName, partition: int, token: int, *, since: Sighting | None, read: int) -> Sighting:
        """Count what trimming took before it was read."""
        del since, read
        return await self._operate("sight", lambda store: retention.sight(store, group, partition, token))

    # -- the group's document (M) ---------------------------------------------------------------------------------------------

    async def make_groups(self, group: GroupName, partitions: Sequence[int], *, latest: bool, younger: bool = False) -> None:
        """Make the group on these partitions' streams (G6)."""

        def step(store: MemoryStore) -> None:
            for partition in partitions:
                store.make_group(group, partition, latest=latest, younger=younger)

        await self._operate("make_groups", step)

    async def heartbeat(self, group: GroupName, incarnation: str, ttl: float, known_version: str) -> Beat:
        """Extend the incarnation's time if it lives; see Broker."""

        def step(store: MemoryStore) -> Beat:
            return store.members(group).heartbeat(
                incarnation,
                _microseconds(ttl),
                known_version,
                now=store.now(),
                run_id=store.run_id,
                topic=store.topics.get(group.topic),
            )

        return await self._operate("heartbeat", step)

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
        """Replace the document under its version; see Broker."""
        new_version = (self._environment or current_environment()).new_id()

        def step(store: MemoryStore) -> str | None:
            done = store.members(group).commit(
                incarnation,
                _microseconds(ttl),
                document,
                known_version=known_version,
                new_version=new_version,
                joins=joins,
                leaves=leaves,
                freeze=freeze,
                expired=expired,
                now=store.now(),
                run_id=store.run_id,
            )
            if not done:
                return None
            store.ring(group)
            return new_version

        return await self._operate("commit", step)

    async def listen(self, group: GroupName) -> Doorbell:
        """Return a doorbell for the group and its topic."""
        session = self._enter()
        return await self._operate("listen", lambda _: session.doorbell(group, group.topic))

    # -- taking a partition (T) -------------------------------------------------------------------------------------------------

    async def install(self, group: GroupName, partition: int, token: int, incarnation: str, *, foreign: bool) -> Installed:
        """Put the token beside the partition's data (T2)."""
        return await self._operate("install", lambda store: store.install(group, partition, token, incarnation, foreign=foreign))

    async def fence(self, group: GroupName, partition: int, token: int, readers: Sequence[ReaderMark]) -> bool:
        """Kill these readers' connections (T3)."""
        return await self._operate("fence", lambda store: store.fence(group, partition, token, readers))

    async def open_reader(self, group: GroupName, partition: int, token: int, incarnation: str) -> Reader:
        """Open a reading connection under the token (T3)."""
        session = self._enter()

        def step(store: MemoryStore) -> Reader:
            client = store.open_client(group, partition, token, incarnation)
            session.keep(client)
            return MemoryReader(store, client, self._operate)

        return await self._operate("open_reader", step)

    async def claim(self, group: GroupName, partition: int, token: int, *, after: bytes, count: int) -> Page:
        """Return a page of pending entries (T5)."""
        return await self._operate("claim", lambda store: store.claim(group, partition, token, after=after, count=count))

    async def set_deliveries(
        self, group: GroupName, partition: int, token: int, counts: Mapping[bytes, int], *, raising: bool = False
    ) -> bool:
        """Set the delivery counts of pending entries (T5)."""
        return await self._operate("set_deliveries", lambda store: store.set_deliveries(group, partition, token, counts, raising=raising))

    async def settle(self, group: GroupName, acks: Sequence[Acks]) -> list[Settled]:
        """Acknowledge under each partition's token (S1)."""
        return await self._operate("settle", lambda store: [store.settle(group, one) for one in acks])

    async def release(self, group: GroupName, partition: int, token: int) -> bool:
        """Clear holder and readers, keep the token (M8)."""
        return await self._operate("release", lambda store: store.release(group, partition, token))

    async def remake_group(self, group: GroupName, partition: int, last_id: bytes, *, start: bytes | None = None) -> None:
        """Make a lost group again (T6)."""
        await self._operate("remake_group", lambda store: store.remake_group(group, partition, last_id, start or last_id))

    async def remaining(self, group: GroupName, partitions: Sequence[int]) -> list[Remaining]:
        """Return what is left, per partition."""
        return await self._operate("remaining", lambda store: [store.remaining(group, partition) for partition in partitions])

    # -- what did not simply succeed (S) ----------------------------------------------------------------------------------------

    async def resolve(
        self, group: GroupName, partition: int, token: int, resolutions: Sequence[Resolution], *, dead_maxlen: int | None
    ) -> Resolved:
        """Settle some messages in one fenced step (S1)."""
        return await self._operate(
            "resolve", lambda store: delivery.resolve(store, group, partition, token, resolutions, dead_maxlen=dead_maxlen)
        )

    async def start_retry(self, group: GroupName, partition: int, token: int, *, entry_id: bytes, life: int, attempt: int) -> bool:
        """Note that a handler begins on a message of `retry`."""

        def step(store: MemoryStore) -> bool:
            return delivery.start_retry(store, group, partition, token, entry_id=entry_id, life=life, attempt=attempt)

        return await self._operate("start_retry", step)

    async def due(self, group: GroupName, partition: int, token: int, *, count: int, dead_maxlen: int | None = None) -> Due:
        """Move due delayed messages into the stream, return due retries."""
        return await self._operate("due", lambda store: delivery.due(store, group, partition, token, count=count, dead_maxlen=dead_maxlen))

    async def listen_partition(self, topic: str, partition: int) -> Doorbell:
        """Return the partition's doorbell."""
        session = self._enter()
        return await self._operate("listen_partition", lambda _: session.doorbell((topic, partition)))

    async def delay(self, topic: str, messages: Sequence[Delayed]) -> list[bool]:
        """Keep messages until they are due."""
        return await self._operate("delay", lambda store: delivery.delay(store, topic, messages))

    # -- dead letters -----------------------------------------------------------------------------------------------------------

    async def dead_page(self, group: GroupName, partition: int, *, after: bytes, count: int) -> list[DeadLetterEntry]:
        """Return a page of dead letters."""
        return await self._operate("dead_page", lambda store: store.shelf(group, partition).dead_page(after, count))

    async def redrive(self, group: GroupName, partition: int, ids: Sequence[bytes] | None, *, count: int) -> int:
        """Let dead letters be tried again."""
        return await self._operate("redrive", lambda store: delivery.redrive(store, group, partition, ids, count))

    async def purge(self, group: GroupName, partition: int, ids: Sequence[bytes] | None) -> int:
        """Drop dead letters."""
        return await self._operate("purge", lambda store: store.shelf(group, partition).purge(ids))

    # -- looking after ------------------------------------------------------------------------------------------------------------

    async def view_streams(self, topic: str, partitions: Sequence[int]) -> list[StreamView]:
        """Return how each partition stands."""
        return await self._operate("view_streams", lambda store: administration.view_streams(store, topic, partitions))

    async def view_group(self, group: GroupName) -> GroupView:
        """Return how the group's coordination stands."""
        return await self._operate("view_group", lambda store: administration.view_group(store, group))

    async def view_partitions(self, group: GroupName, partitions: Sequence[int]) -> list[PartitionView]:
        """Return how the group stands in each partition."""
        return await self._operate("view_partitions", lambda store: administration.view_partitions(store, group, partitions))

    async def set_paused(self, group: GroupName, *, paused: bool) -> None:
        """Pause the group, or let it go on."""
        await self._operate("set_paused", lambda store: administration.set_paused(store, group, paused=paused))

    async def seek(self, group: GroupName, partition: int, position: bytes) -> None:
        """Deliver what stands after the position next."""
        await self._operate("seek", lambda store: administration.seek(store, group, partition, position))

    async def disband(self, group: GroupName, *, force: bool) -> tuple[str, ...]:
        """Drop members, document and pause; return the live members."""
        return await self._operate("disband", lambda store: administration.disband(store, group, force=force))

    async def drop_group(self, group: GroupName, partitions: Sequence[int]) -> None:
        """Take the group out of each partition."""
        await self._operate("drop_group", lambda store: administration.drop_group(store, group, partitions))

    async def drop_topic(self, topic: str) -> None:
        """Drop the topic whole."""
        await self._operate("drop_topic", lambda store: administration.drop_topic(store, topic))


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
