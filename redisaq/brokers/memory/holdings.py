"""The data of a memory store: what a server writes to its disk, and what its replicas copy.

Plain data, and how to copy it. What a server has only while it runs, such as connections and waiting reads, is not here.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, fields

from redisaq.brokers.memory.members import Coordination
from redisaq.brokers.memory.shelf import Shelf
from redisaq.brokers.memory.streams import Stream
from redisaq.brokers.steps.leases import Installed
from redisaq.brokers.steps.topics import HeldUp, TopicState
from redisaq.brokers.terms import GroupName, ReaderMark
from redisaq.core.entry_ids import EntryId, format_id

Place = tuple[str, int]
"""A topic and one of its partitions."""


@dataclass
class Lease:
    """Who may touch a partition's pending entries.

    Attributes:
        token: the current token, 0 before the first.
        holder: the incarnation that installed it, "" once released.
        readers: connections that may still deliver entries, oldest first.
        lost: how many entries trimming took from the group, as far as members have noticed.
        moves: how often a Seek moved the group, while there was a token.
        moved: the lowest position to which it moved the group since a token was last installed, and the last entry delivered before (S5).
        opened: for which growth the group has opened the partition (G4).
    """

    token: int = 0
    holder: str = ""
    readers: list[ReaderMark] = field(default_factory=list[ReaderMark])
    lost: int = 0
    moves: int = 0
    moved: tuple[EntryId, EntryId] | None = None
    opened: int = 0

    def install(self, token: int, incarnation: str, *, foreign: bool) -> Installed:
        """Install the token if rule T2 allows it, and return what is current then."""
        holder = self.holder
        again = token == self.token and incarnation == holder
        free = foreign or holder in ("", incarnation)
        if not again and not (token > self.token and free):
            moved = None if self.moved is None else (format_id(self.moved[0]), format_id(self.moved[1]))
            return Installed(done=False, token=self.token, holder=holder, moved=moved, opened=self.opened)
        self.token = token
        self.moved = None
        self.holder = incarnation
        # The predecessor's readers stay listed until they are fenced: a repeated install must return them again.
        return Installed(done=True, token=token, holder=holder, readers=tuple(self.readers), opened=self.opened)

    def spend(self, position: EntryId, delivered: EntryId, now: int) -> None:
        """Let no settlement under the current token pass any more: the group was moved to a position (S5)."""
        lowest, highest = self.moved or (position, delivered)
        self.token = max(self.token + 1, now)  # M6
        self.moved = min(position, lowest), max(delivered, highest)
        self.moves += 1

    def release(self) -> None:
        """Clear holder and readers, keep the token (M8)."""
        self.holder = ""
        self.readers.clear()


@dataclass
class Naming:
    """What is kept beside a partition's stream once its topic has grown (G2).

    Attributes:
        number: the number in the stream's name.
        cuts: number -> the stream's last id when it got that name.
        seals: number -> the history in the seal under the name with that number.
        swept: up to which growth the delayed messages belong here (G8).
    """

    number: int = 0
    cuts: dict[int, EntryId] = field(default_factory=dict[int, EntryId])
    seals: dict[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    swept: int = 0


@dataclass(eq=False, repr=False, kw_only=True)
class Holdings:
    """The data of one store.

    Attributes:
        idle: topic -> seconds without a member after which a group pins nothing, as producers declared.
        held_up: topic -> the producer that last had to wait for room.
        alone: group -> since when it has had no member; set when this is first asked about a group that never had a known one.
        delayed: place -> message id -> when it is due, and its encoded fields.
        schedules: topic -> cron job -> what is kept of it.
        names: place -> what growing has left beside the stream.
        adopted: place -> the delayed messages that came from other partitions: from which, and their ids (G8).
    """

    topic_names: set[str] = field(default_factory=set[str])
    topics: dict[str, TopicState] = field(default_factory=dict[str, TopicState])
    streams: dict[Place, Stream] = field(default_factory=dict[Place, Stream])
    leases: dict[tuple[GroupName, int], Lease] = field(default_factory=dict[tuple[GroupName, int], Lease])
    shelves: dict[tuple[GroupName, int], Shelf] = field(default_factory=dict[tuple[GroupName, int], Shelf])
    delayed: dict[Place, dict[bytes, tuple[int, bytes]]] = field(default_factory=dict[Place, dict[bytes, tuple[int, bytes]]])
    coordination: dict[GroupName, Coordination] = field(default_factory=dict[GroupName, Coordination])
    marks: dict[tuple[str, int, str], tuple[bytes, int]] = field(default_factory=dict[tuple[str, int, str], tuple[bytes, int]])
    idle: dict[str, float] = field(default_factory=dict[str, float])
    held_up: dict[str, HeldUp] = field(default_factory=dict[str, HeldUp])
    alone: dict[GroupName, int] = field(default_factory=dict[GroupName, int])
    schedules: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    names: dict[Place, Naming] = field(default_factory=dict[Place, Naming])
    adopted: dict[Place, set[tuple[int, bytes]]] = field(default_factory=dict[Place, set[tuple[int, bytes]]])

    def seen(self) -> Holdings:
        """Return a view of the data: it keeps what is removed here later, but what is changed in place changes in both."""
        return Holdings(**{one.name: getattr(self, one.name).copy() for one in fields(Holdings)})

    def copied(self) -> Holdings:
        """Return a copy that shares nothing."""
        return Holdings(**{one.name: deepcopy(getattr(self, one.name)) for one in fields(Holdings)})

    def hold(self, other: Holdings) -> None:
        """Hold the other's data from now on."""
        for one in fields(Holdings):
            setattr(self, one.name, getattr(other, one.name))

    def hold_part(self, other: Holdings, of: Callable[[str, int | None], bool]) -> None:
        """Hold the other's data in some slots from now on; `of` says which, by topic and partition, None for what coordinates a topic."""
        for one in fields(Holdings):
            if one.name != "topic_names":
                mine: dict[Key, object] = getattr(self, one.name)
                theirs: dict[Key, object] = getattr(other, one.name)
                kept = {key: value for key, value in mine.items() if not of(*_slot_of(key))}
                setattr(self, one.name, kept | {key: value for key, value in theirs.items() if of(*_slot_of(key))})
        self.topic_names = {
            name for name in self.topic_names | other.topic_names if name in (other if of(name, None) else self).topic_names
        }

    def forget_topic(self, topic: str) -> None:
        """Lose the topic's partition count. Its streams stay, and its name, which a server keeps elsewhere."""
        self.topics.pop(topic, None)
        self.idle.pop(topic, None)
        self.held_up.pop(topic, None)

    def forget_group(self, group: GroupName) -> None:
        """Lose the group's members and document. Its partitions' tokens and pending entries stay (M8)."""
        self.coordination.pop(group, None)

    def forget_coordination(self, topic: str) -> None:
        """Lose one slot: the topic's partition count and schedules, and each group's members and document."""
        self.forget_topic(topic)
        self.schedules.pop(topic, None)
        for group in [group for group in {**self.coordination, **self.alone} if group.topic == topic]:
            self.forget_group(group)
            self.alone.pop(group, None)

    def forget_partition(self, topic: str, partition: int) -> None:
        """Lose one slot: the partition's stream, every group in it, and their tokens, retries and dead letters."""
        for group, number in {**self.leases, **self.shelves}:
            if group.topic == topic and number == partition:
                self.leases.pop((group, number), None)
                self.shelves.pop((group, number), None)
        for mark in [mark for mark in self.marks if mark[:2] == (topic, partition)]:
            del self.marks[mark]
        self.delayed.pop((topic, partition), None)
        self.names.pop((topic, partition), None)
        self.adopted.pop((topic, partition), None)
        self.streams.pop((topic, partition), None)


Key = str | GroupName | tuple[str, int] | tuple[str, int, str] | tuple[GroupName, int]


def _slot_of(key: Key) -> tuple[str, int | None]:
    """Return the slot of what is held under a key."""
    if isinstance(key, str):
        return key, None
    if isinstance(key, GroupName):
        return key.topic, None
    of = key[0]
    return of if isinstance(of, str) else of.topic, key[1]
