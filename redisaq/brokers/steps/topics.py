"""Steps about topics: how many partitions each has (G1), and what its producers ask for."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from redisaq.brokers.steps import Broker, Step, TopicStep
from redisaq.errors import UnknownFormatError

__all__ = [
    "FORMAT",
    "GrowTopic",
    "HeldUp",
    "MakeTopic",
    "NoteHeldUp",
    "ReadTopic",
    "ReadTopics",
    "Terms",
    "TopicState",
    "check_format",
    "make_or_grow",
]

FORMAT = 1
"""The latest layout of entries and keys that this version knows; a topic's meta has its own."""


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
        held_up: the producer that last had to wait for room; None if none has. Only ReadTopic returns it.
    """

    generation: int
    partitions: int
    acked: bool = False
    send_timeout: float = 0.0
    format: int = FORMAT
    held_up: HeldUp | None = None


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
    """

    partitions: int
    terms: Terms | None = None


class GrowTopic(TopicStep[TopicState], frozen=True):
    """Raise the partition count by compare-and-set on the generation (G1); a smaller count changes nothing.

    Makes the streams, and the topic if it does not exist. Rings the topic's doorbell.
    """

    partitions: int


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


async def make_or_grow(broker: Broker, topic: str, partitions: int, *, terms: Terms | None = None) -> TopicState:
    """Make the topic with this many partitions, or grow it to them; a topic that has more keeps them.

    Args:
        broker: the broker to ask.
        topic: its name.
        partitions: the least that it is to have.
        terms: what a producer asks of the topic (E3).

    Returns:
        The topic's state afterwards.
    """
    state = await broker.do(MakeTopic(topic, partitions, terms=terms))
    return await broker.do(GrowTopic(topic, partitions)) if state.partitions < partitions else state
