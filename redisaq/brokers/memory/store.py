"""The memory broker's server: one object for each name, namespace and event loop, shared by the brokers of that name.

Its steps are synchronous, each of them done before the next begins. It also does what a server does by itself: it serves waiting reads in
the order in which they came, and rings doorbells. `restart`, `flush` and the like do to it what happens to servers; tests and simulations
call them.

Invariants: time never goes back, entry ids never repeat, and a token that is not current changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

from anyio.lowlevel import RunVar

from redisaq.brokers.memory.clients import Channel, ReadingClient, Subscription, WaitingRead
from redisaq.brokers.memory.holdings import Holdings, Lease, Naming, Place
from redisaq.brokers.memory.members import Coordination
from redisaq.brokers.memory.shelf import Shelf
from redisaq.brokers.memory.streams import GroupCursor, Stream
from redisaq.brokers.steps.settling import Remaining
from redisaq.brokers.steps.topics import TopicState, cuts_of
from redisaq.brokers.terms import GroupName, ReaderMark, lease_lost
from redisaq.core.entry_ids import START, format_id, parse_id
from redisaq.core.records import Entry
from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed, GroupGoneError, ServerFull

OUT_OF_MEMORY = "OOM command not allowed when used memory > 'maxmemory'."
MARKS = 1000
"""Marks of deduplication from which on expired ones are dropped."""


@dataclass(eq=False, repr=False)
class MemoryStore(Holdings):
    """The server behind `memory://name`. Reach it as `MemoryBroker.store`.

    Attributes:
        url: for errors.
        environment: that of the first broker that opened the store; gives the server's time and id.
        permits_killing: False simulates a server whose access rules forbid CLIENT KILL (T4).
        full: True simulates a server at its memory limit: it refuses to append and to delay, and nothing else (S2).
        run_id: a new one after each `restart`.
    """

    url: str
    environment: Environment
    permits_killing: bool = True
    full: bool = False
    run_id: str = ""
    _clients: dict[int, ReadingClient] = field(default_factory=dict[int, ReadingClient])
    _waiting: dict[Place, list[WaitingRead]] = field(default_factory=dict[Place, list[WaitingRead]])
    _subscriptions: list[Subscription] = field(default_factory=list[Subscription])
    _marks_allowed: int = MARKS  # how many there may be before expired ones are dropped
    _last_client_id: int = 0
    _last_now: int = 0

    def __post_init__(self) -> None:
        """Start under a new run_id."""
        self.run_id = self.environment.new_id()

    def now(self) -> int:
        """Return the server's time in microseconds since 1970. It may pause, and never goes back."""
        self._last_now = max(self._last_now, round(self.environment.wall_clock() * 1_000_000))
        return self._last_now

    def now_at(self, place: Place) -> int:
        """Return the time by which a partition's entries get their ids."""
        del place
        return self.now()

    def run_of(self, place: Place) -> str:
        """Return the run of the server that keeps a partition."""
        del place
        return self.run_id

    @property
    def blocked_reads(self) -> int:
        """How many reads wait for an entry."""
        return sum(map(len, self._waiting.values()))

    @property
    def connections(self) -> int:
        """How many connections of readers and doorbells are open."""
        return len(self._clients) + len(self._subscriptions)

    # -- what happens to servers ------------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """Come back with all data under another run_id; every connection breaks, and client ids begin again."""
        self.run_id = self.environment.new_id()
        for client in list(self._clients.values()):
            self.disconnect(client, "the server restarted")
        self._last_client_id = 0
        for subscription in self._subscriptions:
            subscription.ring()

    def fail_over(self, replica: Holdings) -> None:
        """Restart with a replica's data: what the replica does not have is lost."""
        self.restart()
        self.hold(replica)

    def flush(self) -> None:
        """Lose all data, as FLUSHALL does; connections stay."""
        for one in fields(Holdings):
            if one.name != "streams":
                getattr(self, one.name).clear()
        for topic, partition in list(self.streams):
            self.forget_stream(topic, partition)

    def forget_partition(self, topic: str, partition: int) -> None:
        """Lose one slot, and refuse the reads that wait there; see Holdings."""
        there = (topic, partition) in self.streams
        super().forget_partition(topic, partition)
        if there:
            self._refuse_waiting((topic, partition), "the stream is gone")

    def forget_cursor(self, group: GroupName, partition: int) -> None:
        """Lose the group in one stream, as XGROUP DESTROY does (T6); the token stays."""
        stream = self.streams.get((group.topic, partition))
        if stream is not None and stream.groups.pop(group.group, None) is not None:
            self._refuse_waiting((group.topic, partition), "the group is gone", group)

    def trim(self, topic: str, partition: int, maxlen: int) -> None:
        """Drop the oldest entries until `maxlen` are left."""
        self.streams.get((topic, partition), Stream()).trim(maxlen)

    def delete(self, topic: str, partition: int, entry_ids: Iterable[bytes]) -> None:
        """Drop these entries."""
        self.streams.get((topic, partition), Stream()).delete(parse_id(entry_id) for entry_id in entry_ids)

    def forget_stream(self, topic: str, partition: int) -> None:
        """Lose a stream with every group in it; the keys beside it stay."""
        if self.streams.pop((topic, partition), None) is not None:
            self._refuse_waiting((topic, partition), "the stream is gone")

    # -- topics and their streams -----------------------------------------------------------------------------------------------

    def make_topic(self, topic: str, state: TopicState) -> TopicState:
        """Make the topic, with this state if it is missing, and its missing streams (E5)."""
        self.topic_names.add(topic)
        state = self.topics.setdefault(topic, state)
        for partition in range(state.partitions):
            self.make_stream(topic, partition)
        self.ring(topic)
        return state

    def make_stream(self, topic: str, partition: int, history: tuple[int, ...] | None = None) -> Stream:
        """Return the stream; make it, empty, if it is missing; cut it if it has an older name (G2).

        Args:
            topic: the topic.
            partition: the partition.
            history: up to which growth it is to be cut; None: up to the topic's last one.
        """
        if history is None:
            history = self.topics[topic].history if topic in self.topics else ()
        place, stream = (topic, partition), self.streams.get((topic, partition))
        newest = cuts_of(history)
        naming = self.naming(place)
        if newest > naming.number or (stream is None and newest):
            since = naming.number if stream is not None else 0
            for number in range(since + 1, newest + 1):
                if stream is not None:
                    naming.cuts[number] = stream.last_id
                else:
                    naming.cuts.setdefault(number, START)
                naming.seals[number - 1] = history[: number + 1]
            naming.number = max(naming.number, newest)
            self.names[place] = naming
        if stream is None:
            stream = self.streams[place] = Stream()
        return stream

    def naming(self, place: Place) -> Naming:
        """Return what growing has left beside a stream; if that is nothing, an empty one that the store does not keep."""
        return self.names.get(place) or Naming()

    def number(self, place: Place) -> int:
        """Return the number in the stream's name (G2)."""
        naming = self.names.get(place)
        return 0 if naming is None else naming.number

    def append(self, topic: str, entries: Sequence[tuple[int, Sequence[bytes]]], maxlen: int | None, cuts: int = 0) -> list[bytes | None]:
        """Append in order, and serve waiting reads; None where the stream is missing, or has another name than after `cuts` (G2)."""
        if self.full and entries:
            raise ServerFull(OUT_OF_MEMORY, appended=[None] * len(entries))
        grown = self.names  # where nothing has grown, each message costs no look at it
        return [
            self.append_one((topic, partition), fields, maxlen) if (self.number((topic, partition)) if grown else 0) == cuts else None
            for partition, fields in entries
        ]

    def append_one(self, place: Place, fields: Sequence[bytes], maxlen: int | None) -> bytes | None:
        """Append to one stream, and serve waiting reads; None if the stream is missing."""
        stream = self.streams.get(place)
        if stream is None:
            return None
        entry_id = stream.append(fields, self.now_at(place) // 1000, maxlen)
        self._serve(place, stream)
        return format_id(entry_id)

    def keep_mark(self, mark: tuple[str, int, str], msg_id: bytes, until: int) -> None:
        """Keep a mark of deduplication; drop those that have expired, all at once, when there are twice as many as after the last time."""
        self.marks[mark] = msg_id, until
        if len(self.marks) > self._marks_allowed:
            now = self.now()
            for expired in [one for one, (_, end) in self.marks.items() if end <= now]:
                del self.marks[expired]
            self._marks_allowed = max(MARKS, 2 * len(self.marks))

    def delay(self, place: Place, messages: Iterable[tuple[bytes, int, bytes]]) -> None:
        """Keep messages (id, due time, body) until they are due, those that are not kept yet; ring if one is due before all others."""
        kept = self.delayed.setdefault(place, {})
        new: dict[bytes, tuple[int, bytes]] = {}
        for msg_id, due, body in messages:
            if msg_id not in kept:
                new.setdefault(msg_id, (due, body))
        first = min((due for due, _ in new.values()), default=None)
        rings = first is not None and all(due > first for due, _ in kept.values())  # mostly, the look ends at the first one
        kept.update(new)
        if rings:
            self.ring(place)

    # -- the group ----------------------------------------------------------------------------------------------------------------

    def members(self, group: GroupName) -> Coordination:
        """Return the group's coordination, an empty one if the group is unknown."""
        return self.coordination.setdefault(group, Coordination())

    def lease(self, group: GroupName, partition: int) -> Lease:
        """Return the partition's lease; if there is none, an empty one that the store does not keep."""
        return self.leases.get((group, partition)) or Lease()

    def shelf(self, group: GroupName, partition: int) -> Shelf:
        """Return the group's retries and dead letters of the partition."""
        return self.shelves.setdefault((group, partition), Shelf())

    # -- what was delivered -------------------------------------------------------------------------------------------------------

    def remaining(self, group: GroupName, partition: int) -> Remaining:
        """Return what is left for the group: the whole stream, if the group is missing."""
        stream = self.streams.get((group.topic, partition), Stream())
        cursor = stream.groups.get(group.group, GroupCursor(START))
        return Remaining(
            unread=stream.has_unread(cursor),
            pending=len(cursor.pending),
            retry=len(self.shelf(group, partition).retry),
            delayed=len(self.delayed.get((group.topic, partition), ())),
        )

    def cursor(self, group: GroupName, partition: int) -> GroupCursor | None:
        """Return the group's position in the stream, None if the group is missing."""
        stream = self.streams.get((group.topic, partition))
        return stream.groups.get(group.group) if stream is not None else None

    # -- reading connections ------------------------------------------------------------------------------------------------------

    def open_client(self, group: GroupName, partition: int, token: int, incarnation: str) -> ReadingClient:
        """Register a reading connection under the token and its holder (T3)."""
        lease = self.lease(group, partition)
        if (lease.token, lease.holder) != (token, incarnation):
            raise lease_lost(group, partition)
        self._last_client_id += 1
        number = self._last_client_id
        client = ReadingClient(group, partition, ReaderMark(number, f"memory:{number}", self.run_id))
        self._clients[number] = client
        lease.readers.append(client.mark)
        return client

    def read(self, client: ReadingClient, count: int, block: float) -> Sequence[Entry] | WaitingRead:
        """Deliver new entries. If there are none and `block` is above 0, return a waiting read. Reading needs no token (T3)."""
        if client.broken:
            raise ConnectionFailed(self.url, client.broken)
        cursor = self.cursor(client.group, client.partition)
        if cursor is None:
            raise GroupGoneError(f"the group {client.group.group} is not in partition {client.partition} of {client.group.topic}")
        cursor.read_at = self.now()
        place = (client.group.topic, client.partition)
        entries = self.streams[place].deliver(cursor, count, self.now())
        if entries or block <= 0:
            return entries
        waiting = WaitingRead(client, count, self.now() + round(block * 1_000_000))
        self._waiting.setdefault(place, []).append(waiting)
        return waiting

    def stop_waiting(self, waiting: WaitingRead) -> None:
        """Withdraw a read, as CLIENT UNBLOCK does; an answer that it already has stays."""
        place = (waiting.client.group.topic, waiting.client.partition)
        self._waiting[place] = [other for other in self._waiting.get(place, ()) if other is not waiting]

    def kill(self, marks: Sequence[ReaderMark]) -> bool:
        """Kill these connections; False if that is not permitted (T4)."""
        return self._kill([mark for mark in marks if mark.run_id == self.run_id])  # the connections of an earlier run are gone

    def _kill(self, marks: Sequence[ReaderMark]) -> bool:
        if marks and not self.permits_killing:
            return False
        for mark in marks:
            client = self._clients.get(mark.client_id)
            if client is not None and client.mark == mark:  # a restarted server gives the same ids to others
                self.disconnect(client, "the connection was killed")
        return True

    def disconnect(self, client: ReadingClient, reason: str) -> None:
        """Break a connection: its read fails, and nothing more is delivered over it."""
        client.broken = client.broken or reason
        if self._clients.get(client.mark.client_id) is client:  # a restarted server gives the same ids to others
            del self._clients[client.mark.client_id]
        self._refuse_waiting((client.group.topic, client.partition), reason, client=client)

    def _serve(self, place: Place, stream: Stream) -> None:
        now = self.now()
        for waiting in list(self._waiting.get(place, ())):
            cursor = stream.groups.get(waiting.client.group.group)
            if cursor is not None and waiting.until > now and (entries := stream.deliver(cursor, waiting.count, now)):
                self.stop_waiting(waiting)
                waiting.answer(entries)

    def _refuse_waiting(self, place: Place, reason: str, group: GroupName | None = None, client: ReadingClient | None = None) -> None:
        for waiting in list(self._waiting.get(place, ())):
            if group not in (None, waiting.client.group) or client not in (None, waiting.client):
                continue
            self.stop_waiting(waiting)
            waiting.refuse(ConnectionFailed(self.url, reason, maybe_executed=True) if client else GroupGoneError(reason))

    # -- doorbells ----------------------------------------------------------------------------------------------------------------

    def subscribe(self, *channels: Channel) -> Subscription:
        """Open a doorbell's subscription."""
        subscription = Subscription(frozenset(channels))
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription, reason: str) -> None:
        """Cut a doorbell's subscription."""
        subscription.cut(reason)
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def ring(self, channel: Channel) -> None:
        """Ring every doorbell that listens to this channel."""
        for subscription in self._subscriptions:
            if channel in subscription.channels:
                subscription.ring()


_stores: RunVar[dict[tuple[str, str], MemoryStore]] = RunVar("redisaq_memory_stores")


def open_store(name: str, namespace: str, environment: Environment) -> MemoryStore:
    """Return the running event loop's store of this name and namespace. The first call makes it, with `environment`."""
    stores = _stores.get(None)
    if stores is None:
        stores = dict[tuple[str, str], MemoryStore]()
        _stores.set(stores)
    store = stores.get((name, namespace))
    if store is None:
        store = stores[name, namespace] = MemoryStore(f"memory://{name}", environment)
    return store
