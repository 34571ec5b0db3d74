"""Steps about topics: how many partitions each has (G1), and what its producers ask for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from redisaq.brokers.steps import Step, TopicStep
from redisaq.errors import UnknownFormatError

__all__ = [
    "FORMAT",
    "HeldUp",
    "MakeTopic",
    "NoteHeldUp",
    "ReadTopic",
    "ReadTopics",
    "Terms",
    "TopicState",
    "birth",
    "check_format",
    "cuts_of",
]

FORMAT = 2
"""The latest layout of entries and keys that this version knows; a topic's meta has its own."""

PLAIN, RENAMED = 1, 2
"""The formats: the streams have the names that they were made with; the topic has grown, and its streams were renamed (G2)."""


class HeldUp(msgspec.Struct, frozen=True):
    """A producer had to wait, because a partition held as many waiting entries as its `max_backlog` allows.

    Attributes:
        at: when it last said so, by the server's clock.
        partition: the partition.
        max_backlog: how many entries it allows.
    """

    at: int
    partition: int
    max_backlog: int


class TopicState(msgspec.Struct, frozen=True):
    """How many partitions a topic has, and in which generation (G1).

    Attributes:
        generation: how many times it has grown.
        partitions: how many it has.
        acked: a producer asked for `retention="acked"`.
        send_timeout: the largest of its producers' time limits, in seconds; 0 if none has declared one (E3).
        format: the layout of its keys and entries.
        history: how many partitions it had from the beginning and after each growth by renaming; empty before the first.
        pending: how many it is going to have, while it grows.
        grown: when it last grew, in the server's milliseconds; 0 before the first growth.
        held_up: the producer that last had to wait for room; None if none has. Only ReadTopic returns it.
    """

    generation: int
    partitions: int
    acked: bool = False
    send_timeout: float = 0.0
    format: int = PLAIN
    history: tuple[int, ...] = ()
    pending: int | None = None
    grown: int = 0
    held_up: HeldUp | None = None

    @property
    def cuts(self) -> int:
        """How often its streams were cut, and thereby renamed: the number in their names (G2)."""
        return cuts_of(self.history)

    @property
    def counts(self) -> tuple[int, ...]:
        """The history, with at least the partitions that it has."""
        return self.history or (self.partitions,)


def cuts_of(history: Sequence[int]) -> int:
    """Return how often the streams of a topic with this history were cut."""
    return len(history) - 1 if history else 0


def birth(history: Sequence[int], partition: int) -> int:
    """Return by which growth a partition came: 0 if it was there from the beginning; one more than there were if it is not there yet."""
    return bisect_right(history, partition) if history else 0


class Terms(msgspec.Struct, frozen=True):
    """What a producer asks of its topic; times in seconds.

    Attributes:
        send_timeout: how long one of its calls may take (E3).
        acked: trim entries that every group has settled.
        idle: a group that has had no member for this long pins nothing.
    """

    send_timeout: float
    acked: bool = False
    idle: float = 0.0


class ReadTopics(Step[list[str]], frozen=True):
    """Return the names of all topics of the namespace, sorted."""

    name: ClassVar[str] = "topics"


class ReadTopic(TopicStep[TopicState | None], frozen=True):
    """Return the topic's state, None if it does not exist."""

    name: ClassVar[str] = "topic"


class MakeTopic(TopicStep[TopicState], frozen=True):
    """Make the topic with its empty streams if it does not exist (E5); return its state.

    Makes missing streams again. Rings the topic's doorbell.

    Attributes:
        partitions: how many it has if it does not exist.
        terms: what a producer asks. The topic's meta keeps it even if the topic exists: the largest of all producers' times, and `acked`
            once any producer asks for it (E3).
        known: what the caller knew of the topic before it was lost. It is made again with that generation and history, so that no name is
            used twice (G2).
    """

    partitions: int
    terms: Terms | None = None
    known: TopicState | None = None


class NoteHeldUp(TopicStep[None], frozen=True):
    """Note that a producer waits for room in a partition; nothing is noted about a topic that does not exist.

    Attributes:
        partition: the partition.
        max_backlog: how many waiting entries the producer allows there.
    """

    partition: int
    max_backlog: int


def check_format(topic: str, layout: int) -> None:
    """Refuse a topic whose format is not known here, before anything of it is used.

    Raises:
        UnknownFormatError: a later version of redisaq wrote it.
    """
    if layout > FORMAT:
        raise UnknownFormatError(topic, layout, FORMAT)
