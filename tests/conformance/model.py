"""One world as the model-based test sees it: operations by names that mean the same in every world, answers without what may differ.

Input: operations with symbolic arguments (the third entry of partition 1, the latest version). Output: answers to compare. In them, entry
ids are places in the order of appending, versions are places in the order of committing, and times are distances in ttls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from redisaq.brokers.growth import make_or_grow
from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import Heartbeat, make_groups
from redisaq.brokers.steps.leases import Claim, Fence, Install, PendingEntry, Release, RemakeGroup, SetDeliveries
from redisaq.brokers.steps.settling import Acknowledge, ReadRemaining
from redisaq.brokers.steps.topics import MakeTopic, ReadTopic, ReadTopics, TopicState
from redisaq.brokers.terms import GroupName, Reader
from redisaq.core.membership import Document
from redisaq.core.records import Entry
from redisaq.errors import ConnectionFailed, GroupGoneError, LeaseLostError, ServerError
from tests.conformance.steps import SECOND, commit_document
from tests.conformance.worlds import World

TTL = 10_000.0
UNKNOWN_ID = b"1-1"


def _timeless(state: TopicState | None) -> TopicState | None:
    """Leave out when it grew, and who was held up when: each side has a clock of its own."""
    return state and msgspec.structs.replace(state, grown=bool(state.grown), held_up=None)


class Side:
    """A world, two brokers in it, and the meaning of the names here."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._brokers: Sequence[Broker] = (world.broker(), world.broker())
        self._ids: dict[tuple[str, int], list[bytes]] = {}
        self._versions: dict[str, int] = {"": -1}
        self._readers: list[Reader] = []

    async def close(self) -> None:
        """Close the brokers."""
        for broker in self._brokers:
            await broker.close()

    async def do(self, name: str, broker: int, arguments: Mapping[str, Any]) -> object:
        """Carry out one operation; return its answer, or what it raised."""
        try:
            return await getattr(self, name)(self._brokers[broker], **arguments)
        except (ConnectionFailed, GroupGoneError, LeaseLostError) as error:
            return type(error).__name__
        except ServerError as error:
            return f"server error {error.code}"

    # -- names ----------------------------------------------------------------------------------------------------------------

    def _id(self, topic: str, partition: int, place: int | None) -> bytes:
        """Return the id of the entry appended at this place; None stands for no id at all."""
        if place is None:
            return b""
        ids = self._ids.get((topic, partition), [])
        return ids[place] if place < len(ids) else UNKNOWN_ID

    def _place(self, topic: str, partition: int, entry_id: bytes | None) -> int | None:
        return None if entry_id is None else self._ids[topic, partition].index(entry_id)

    def _version(self, age: int | None) -> str:
        """Return the version committed `age` commits ago; None stands for none."""
        versions = list(self._versions)
        return "" if age is None else versions[max(0, len(versions) - 1 - age)]

    def _entries(self, topic: str, partition: int, entries: Sequence[Entry]) -> list[object]:
        return [(self._place(topic, partition, entry_id), list(fields or ())) for entry_id, fields in entries]

    # -- topics and streams -----------------------------------------------------------------------------------------------------

    async def topic(self, broker: Broker, *, topic: str) -> object:
        return _timeless(await broker.do(ReadTopic(topic))), await broker.do(ReadTopics())

    async def make_topic(self, broker: Broker, *, topic: str, partitions: int) -> object:
        return _timeless(await broker.do(MakeTopic(topic, partitions)))

    async def grow_topic(self, broker: Broker, *, topic: str, partitions: int) -> object:
        grown = await make_or_grow(broker, topic, partitions)
        for one in self._brokers:  # a client that has not heard of it finds seals, and no way on once the topic is lost
            await one.do(ReadTopic(topic))
        return _timeless(grown)

    async def append(self, broker: Broker, *, topic: str, partitions: list[int], fields: list[bytes], maxlen: int | None) -> object:
        entries = [(partition, fields) for partition in partitions]
        found = await broker.append(topic, entries, maxlen=maxlen, approximate=False)
        for partition, entry_id in zip(partitions, found, strict=True):
            if entry_id is not None:
                self._ids.setdefault((topic, partition), []).append(entry_id)
        return [entry_id is None for entry_id in found]

    # -- the group --------------------------------------------------------------------------------------------------------------

    async def make_groups(self, broker: Broker, *, group: GroupName, partitions: list[int], latest: bool) -> None:
        await make_groups(broker, group, partitions, latest=latest)

    async def remake_group(self, broker: Broker, *, group: GroupName, partition: int, last: int | None, start: int | None) -> None:
        last_id, start_id = (self._id(group.topic, partition, place) for place in (last, start))
        await broker.do(RemakeGroup(group, partition, last_id, start=start_id or None))

    async def heartbeat(self, broker: Broker, *, group: GroupName, incarnation: str, ttl: int, known: int | None) -> object:
        beat = await broker.do(Heartbeat(group, incarnation, TTL * ttl, self._version(known)))

        def ahead(time: int | None) -> int | None:
            return None if not time else round((time - beat.now) / SECOND / TTL)

        times = (ahead(beat.next_expiry), ahead(beat.frozen_until))
        return beat.alive, self._versions[beat.version], beat.document, beat.expired, _timeless(beat.topic), bool(beat.born), times

    async def commit(
        self, broker: Broker, *, group: GroupName, incarnation: str, ttl: int, known: int | None, epoch: int, changes: Mapping[str, Any]
    ) -> object:
        document = Document(epoch=epoch, lease={epoch: incarnation})
        version = await commit_document(
            broker, group, incarnation, TTL * ttl, known_version=self._version(known), document=document, **changes
        )
        if version is not None:
            self._versions[version] = len(self._versions)
        return version is not None

    # -- partitions -------------------------------------------------------------------------------------------------------------

    async def install(self, broker: Broker, *, group: GroupName, partition: int, token: int, incarnation: str, foreign: bool) -> object:
        installed = await broker.do(Install(group, partition, token, incarnation, foreign=foreign))
        marks = [reader.mark for reader in self._readers]
        return installed.done, installed.token, installed.holder, sorted(marks.index(mark) for mark in installed.readers)

    async def release(self, broker: Broker, *, group: GroupName, partition: int, token: int) -> object:
        return await broker.do(Release(group, partition, token))

    async def fence(self, broker: Broker, *, group: GroupName, partition: int, token: int, readers: list[int]) -> object:
        marks = [reader.mark for place, reader in enumerate(self._readers) if place in readers]
        return await broker.do(Fence(group, partition, token, marks))

    async def open_reader(self, broker: Broker, *, group: GroupName, partition: int, token: int, incarnation: str) -> object:
        reader = await broker.open_reader(group, partition, token, incarnation)
        self._readers.append(_Placed(reader, group.topic, partition))
        return len(self._readers)

    async def read(self, _: Broker, *, reader: int, count: int) -> object:
        if not self._readers:
            return None
        placed = self._readers[reader % len(self._readers)]
        assert isinstance(placed, _Placed)
        return self._entries(placed.topic, placed.partition, await placed.read(count, 0))

    async def close_reader(self, _: Broker, *, reader: int) -> None:
        if self._readers:
            await self._readers[reader % len(self._readers)].close()

    async def claim(self, broker: Broker, *, group: GroupName, partition: int, token: int, after: int | None, count: int) -> object:
        page = await broker.do(Claim(group, partition, token, after=self._id(group.topic, partition, after), count=count))
        return (
            [self._pending(group.topic, partition, entry) for entry in page.entries],
            [self._place(group.topic, partition, entry_id) for entry_id in page.trimmed],
            self._place(group.topic, partition, page.last),
        )

    def _pending(self, topic: str, partition: int, entry: PendingEntry) -> object:
        return self._place(topic, partition, entry.entry_id), list(entry.fields), entry.deliveries

    async def set_deliveries(self, broker: Broker, *, group: GroupName, partition: int, token: int, counts: Mapping[int, int]) -> object:
        named = {self._id(group.topic, partition, place): count for place, count in counts.items()}
        return await broker.do(SetDeliveries(group, partition, token, named))

    async def settle(self, broker: Broker, *, group: GroupName, acks: list[tuple[int, int, list[int]]]) -> object:
        steps = [
            Acknowledge(group, partition, token, [self._id(group.topic, partition, place) for place in places])
            for partition, token, places in acks
        ]
        return await broker.do_each(steps)

    async def remaining(self, broker: Broker, *, group: GroupName, partitions: list[int]) -> object:
        return await broker.do_each([ReadRemaining(group, number) for number in partitions])

    # -- what happens to servers --------------------------------------------------------------------------------------------------

    async def expire(self, broker: Broker, *, group: GroupName, incarnation: str) -> None:
        del broker
        self._world.expire(group, incarnation)

    async def change_server(self, broker: Broker, *, group: GroupName) -> None:
        if (await broker.do(Heartbeat(group, "nobody", TTL, ""))).version:
            self._world.change_server(group)

    async def lose(self, _: Broker, *, what: str, group: GroupName, partition: int) -> None:
        match what:
            case "group":
                self._world.forget_group(group)
            case "topic":
                self._world.forget_topic(group.topic)
            case "partition":
                self._world.forget_partition(group.topic, partition)
            case "cursor":
                self._world.forget_cursor(group, partition)
            case _:
                self._world.flush()

    async def delete(self, broker: Broker, *, topic: str, partition: int, places: list[int], maxlen: int) -> object:
        del broker
        self._world.delete(topic, partition, [self._id(topic, partition, place) for place in places])
        self._world.trim(topic, partition, maxlen)
        return self._world.length(topic, partition)


class _Placed:
    """A reader that knows what it reads."""

    def __init__(self, reader: Reader, topic: str, partition: int) -> None:
        self._reader = reader
        self.topic = topic
        self.partition = partition
        self.mark = reader.mark

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)
