"""The name of every key and channel, in one place.

Input: a namespace and the names of topics, groups and partitions, already validated. Output: their keys as bytes. Invariant: all keys of
one partition share one hash tag, and all keys of a topic's and its groups' coordination share another. So each atomic step stays in one
slot, and a topic spreads over a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from redisaq.brokers.steps.topics import cuts_of
from redisaq.brokers.terms import GroupName
from redisaq.core.records import whole


@dataclass(frozen=True, slots=True)
class GroupKeys:
    """The keys of a group's coordination, all in the slot of the topic's `meta`.

    Attributes:
        members: sorted set: incarnation -> when its time runs out, in the server's milliseconds.
        state: hash: version, doc, run_id, born and frozen_until (milliseconds); also `paused`, while the group is paused,
            and for each member `member:` and its incarnation: when it joined (milliseconds), and what it says about itself;
            `watched`, while somebody watches the group: until when (milliseconds).
        history: stream of what happened in the group, capped.
        deltas: hash of the document's latest changes: version -> the next version, and what changed; it expires.
        room: hash of those that wait to join: incarnation -> when it came and last asked (milliseconds), and what it says about itself;
            under "": whose turn it is to let them in. It expires.
        freed: hash of what members of a crowd have given back: incarnation -> when (milliseconds), and partitions with tokens;
            under "": whose turn it is to change the document for all of them. It expires.
        meta: the topic's hash, which a heartbeat also reads.
        doorbell: sharded channel, rung when the document changes.
        topic_doorbell: sharded channel, rung when the topic is made or grows.
    """

    members: bytes
    state: bytes
    history: bytes
    deltas: bytes
    room: bytes
    freed: bytes
    meta: bytes
    doorbell: bytes
    topic_doorbell: bytes


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """The keys of one group's share of one partition.

    Attributes:
        stream: the partition's entries.
        lease: hash: token, holder, redriven (the due time of the last message that was redriven, or made due), again (how many messages
            were redriven), lost (how many entries trimming took), moves (how often a seek moved the group, or a cancel took a retry away),
            moved_over (what seeks have moved since the last install), open (for which growth the group has opened the partition, G4), and a
            field for each registered reader.
        retry: sorted set, by due time, of messages that failed.
        retry_bodies: hash of the bodies of `retry`.
        dead: stream of dead letters.
        delayed: sorted set, by due time, of messages that are not in the stream yet, for all groups.
        delayed_bodies: hash of the bodies of `delayed`.
        cuts: hash of the cuts: number -> the stream's last id at that moment; and `swept`, see SetSwept.
    """

    stream: bytes
    lease: bytes
    retry: bytes
    retry_bodies: bytes
    dead: bytes
    delayed: bytes
    delayed_bodies: bytes
    cuts: bytes


_TYPES = (
    (re.compile(rb".*\}:(meta|schedules|cuts|adopted|g:.+:(state|deltas|room|freed|lease|retry:body)|delayed:body)", re.DOTALL), b"hash"),
    (re.compile(rb".*\}:(g:.+:(members|retry)|delayed)", re.DOTALL), b"zset"),
    (re.compile(rb".*\}:(\d+|g:.+:(dead|history))", re.DOTALL), b"stream"),
    (re.compile(rb".*\}:(once|g:.+:running):.*", re.DOTALL), b"string"),
)


def type_of(key: bytes) -> bytes:
    """Return the type that a key must have, as the server calls it."""
    return next((kind for pattern, kind in _TYPES if pattern.fullmatch(key)), b"set")


def encode_history(history: Iterable[int]) -> bytes:
    """Return a topic's history as it is stored: the partitions of each generation, with commas."""
    return b",".join(b"%d" % count for count in history)


def decode_history(text: bytes | None) -> tuple[int, ...] | None:
    """Return a stored history, an empty one for None; None if this is none."""
    if text is None:
        return ()
    counts = tuple(whole(word) or 0 for word in text.split(b","))
    return counts if len(counts) > 1 and all(one < other for one, other in pairwise((0, *counts))) else None


KEPT = 2000
"""Partitions of a group whose keys are kept, 650 bytes each: who looks at more of them makes the keys again, which takes 5 µs."""


class Keys:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.topics = f"{namespace}:topics".encode()
        self._groups: dict[GroupName, GroupKeys] = {}
        self._partitions: dict[GroupName, dict[int, PartitionKeys]] = {}
        self._histories: dict[str, tuple[int, ...]] = {}
        self._questions = 0
        self._answered: dict[str, int] = {}  # topic -> the latest question whose answer is remembered

    def ask(self) -> int:
        """Return the number of a question about a topic that is asked now."""
        self._questions += 1
        return self._questions

    def learn(self, topic: str, history: tuple[int, ...], question: int) -> None:
        """Remember how a topic has grown, since its streams' names follow from that. The answer to the latest question counts (G2).

        Two tasks may take up their answers in the other order than the server gave them.

        Args:
            topic: the topic.
            history: what the server answered.
            question: the number that `ask` gave it when it was asked.
        """
        if question < self._answered.get(topic, 0):
            return
        self._answered[topic] = question
        if self._histories.get(topic, ()) != history:
            self._histories[topic] = history
            for group in [group for group in self._partitions if group.topic == topic]:
                del self._partitions[group]

    def history(self, topic: str) -> bytes:
        """Return what is remembered of how a topic has grown, as scripts and the topic's meta have it."""
        return encode_history(self._histories.get(topic, ()))

    def _topic_tag(self, topic: str) -> str:
        return f"{{{self.namespace}:{topic}}}"

    def _partition_tag(self, topic: str, partition: int) -> str:
        return f"{{{self.namespace}:{topic}:{partition}}}"

    def meta(self, topic: str) -> bytes:
        """Return the topic's hash: generation, partitions, format."""
        return f"{self._topic_tag(topic)}:meta".encode()

    def schedules(self, topic: str) -> bytes:
        """Return the hash of what is kept of the cron jobs whose ticks are in the topic."""
        return f"{self._topic_tag(topic)}:schedules".encode()

    def topic_doorbell(self, topic: str) -> bytes:
        """Return the channel rung when the topic is made or grows: the tag alone, in the slot of its groups' channels."""
        return self._topic_tag(topic).encode()

    def group(self, group: GroupName) -> GroupKeys:
        """Return the keys of the group's coordination."""
        keys = self._groups.get(group)
        if keys is None:
            prefix = f"{self._topic_tag(group.topic)}:g:{group.group}"
            keys = self._groups[group] = GroupKeys(
                members=f"{prefix}:members".encode(),
                state=f"{prefix}:state".encode(),
                history=f"{prefix}:history".encode(),
                deltas=f"{prefix}:deltas".encode(),
                room=f"{prefix}:room".encode(),
                freed=f"{prefix}:freed".encode(),
                meta=self.meta(group.topic),
                doorbell=prefix.encode(),
                topic_doorbell=self.topic_doorbell(group.topic),
            )
        return keys

    def running(self, group: GroupName, incarnation: str) -> bytes:
        """Return the text that says what a member has in handlers; it expires."""
        return f"{self._topic_tag(group.topic)}:g:{group.group}:running:{incarnation}".encode()

    def stream(self, topic: str, partition: int, cuts: int | None = None) -> bytes:
        """Return a partition's stream: under the name after so many cuts, or under the present name as far as it is known (G2)."""
        return f"{self._partition_tag(topic, partition)}:{self.number(topic) if cuts is None else cuts}".encode()

    def number(self, topic: str) -> int:
        """Return the number in the names of a topic's streams, as far as it is known: how often they were cut."""
        return cuts_of(self._histories.get(topic, ()))

    def names(self, topic: str, partition: int, history: tuple[int, ...] | None = None) -> list[bytes]:
        """Return what a script needs that may make or rename a stream, apart from the stream itself: the cuts, and its older names.

        Nothing, if the topic has never grown.
        """
        number = self.number(topic) if history is None else cuts_of(history)
        older = [self.stream(topic, partition, cuts) for cuts in reversed(range(number))]
        return [self.cuts(topic, partition), *older] if older else []

    def cuts(self, topic: str, partition: int) -> bytes:
        """Return the hash of the partition's cuts."""
        return f"{self._partition_tag(topic, partition)}:cuts".encode()

    def adopted(self, topic: str, partition: int) -> bytes:
        """Return the hash of marks of the delayed messages that came from other partitions (G8)."""
        return f"{self._partition_tag(topic, partition)}:adopted".encode()

    def partition_doorbell(self, topic: str, partition: int) -> bytes:
        """Return the channel that a delayed message rings."""
        return self._partition_tag(topic, partition).encode()

    def delayed(self, topic: str, partition: int) -> bytes:
        """Return the sorted set, by due time, of messages that are not in the stream yet."""
        return f"{self._partition_tag(topic, partition)}:delayed".encode()

    def delayed_bodies(self, topic: str, partition: int) -> bytes:
        """Return the hash of the bodies of `delayed`."""
        return f"{self._partition_tag(topic, partition)}:delayed:body".encode()

    def once(self, topic: str, partition: int, dedup_id: str) -> bytes:
        """Return the mark that a caller's own id leaves; it holds the message id and expires."""
        return f"{self._partition_tag(topic, partition)}:once:{dedup_id}".encode()

    def topic_pattern(self, topic: str) -> str:
        """Return a pattern for SCAN that every key of the topic matches, and some keys of other topics; `is_of_topic` excludes those."""
        return re.sub(r"([\\*?\[\]^])", r"\\\1", f"{{{self.namespace}:{topic}") + "[:}]*"

    def is_of_topic(self, key: bytes, topic: str) -> bool:
        """Tell whether a key is one of the topic's, except its `meta`.

        A topic "orders:1" has the tag of partition 1 of "orders"; then the last word of the name decides.
        """
        tag, _, name = key.decode("utf-8", "replace").partition("}:")
        if tag == self._topic_tag(topic)[:-1]:
            return re.fullmatch(r"schedules|g:.+:(members|state|history|deltas|room|freed|running:.+)", name, re.DOTALL) is not None
        before, _, number = tag.rpartition(":")
        if before != self._topic_tag(topic)[:-1] or not number.isascii() or not number.isdigit():
            return False
        return re.fullmatch(r"\d+|cuts|adopted|delayed(:body)?|once:.*|g:.+:(lease|retry|retry:body|dead)", name, re.DOTALL) is not None

    def of_partition(self, group: GroupName, partition: int) -> PartitionKeys:
        """Return the keys of the group's share of the partition."""
        partitions = self._partitions.get(group)
        if partitions is None:
            partitions = self._partitions[group] = {}
        keys = partitions.get(partition)
        if keys is None:
            if len(partitions) >= KEPT:
                partitions.clear()
            prefix = f"{self._partition_tag(group.topic, partition)}:g:{group.group}"
            keys = partitions[partition] = PartitionKeys(
                stream=self.stream(group.topic, partition),
                lease=f"{prefix}:lease".encode(),
                retry=f"{prefix}:retry".encode(),
                retry_bodies=f"{prefix}:retry:body".encode(),
                dead=f"{prefix}:dead".encode(),
                delayed=self.delayed(group.topic, partition),
                delayed_bodies=self.delayed_bodies(group.topic, partition),
                cuts=self.cuts(group.topic, partition),
            )
        return keys
