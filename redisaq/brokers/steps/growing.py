"""Steps with which a topic grows, and with which its new partitions wait for the older ones (G).

`redisaq.brokers.growth` puts them in order. To grow, every stream of the topic is *cut*: it gets a new name, a *seal* stays under the old
one, and the last id of that moment, the *cut*, is kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from redisaq.brokers.steps import PartitionStep, ShareStep, TopicStep
from redisaq.brokers.steps.topics import TopicState
from redisaq.core.records import Body

__all__ = ["Adopt", "Announce", "CloseBarrier", "NameStream", "OpenBarrier", "Passed", "Publish", "ReadBarrier", "ReadPassed", "ReadSeal"]
__all__ += ["DropAdopted", "DropTakenIn", "Replicate", "ReplicateRun", "SetSwept", "TakeIn"]


class Announce(TopicStep[TopicState | None], frozen=True):
    """Note that the topic is going to have this many partitions (G1), unless it has grown since or somebody has noted another number.

    Answers the state afterwards; None if the topic does not exist.

    Attributes:
        generation: the generation that the caller saw.
        partitions: how many it is to have.
    """

    generation: int
    partitions: int


class NameStream(PartitionStep[tuple[int, ...]], frozen=True):
    """Let the partition's stream have the name of the last generation of this history: cut it, or make it if it is missing (G2).

    Answers the history in the seal under the name before, which may name another count than the caller's. Nothing happens to a stream that
    has the name, or a later one.

    Attributes:
        history: as of TopicState, up to the growth that is under way.
    """

    history: tuple[int, ...]


class ReadSeal(PartitionStep[tuple[int, ...]], frozen=True):
    """Return the history in the seal under a name of the partition's stream; an empty one if there is no seal.

    Attributes:
        cuts: the number in the name.
    """

    cuts: int


class Replicate(TopicStep[bool], frozen=True):
    """Wait until a replica has the cuts of these partitions, if there is a replica (G7); False if none did in time.

    Attributes:
        partitions: how many partitions were cut, from the first.
        within: seconds.
    """

    partitions: int
    within: float


class Publish(TopicStep[TopicState | None], frozen=True):
    """Let the topic have this history, and one more generation, if it still has the generation that the caller saw (G1).

    Rings the topic's doorbell. Answers the state afterwards; None if the topic does not exist.

    Attributes:
        generation: the generation that the caller saw.
        history: up to the new count.
    """

    generation: int
    history: tuple[int, ...]


class Passed(msgspec.Struct, frozen=True):
    """Whether a group has worked off a partition up to a cut (G5).

    Attributes:
        done: it has.
        waiting: how many messages it has not worked off, as far as they were counted.
        oldest: the id of the oldest of them; b"" if none was seen.
    """

    done: bool
    waiting: int = 0
    oldest: bytes = b""


class ReadPassed(ShareStep[Passed], frozen=True):
    """Tell whether the group has worked off the partition up to the cut of a growth, or to the next cut if that one was lost (G5).

    A group that is not there has worked off nothing. If the stream has no cut that late although its name says so, its last id becomes one.

    Attributes:
        growth: the number of the growth.
        most: count up to this many messages that are waiting; 0: only find out whether there is one.
        known: the `oldest` of an earlier answer about the same growth: if it is still to be tried again, the server looks no further.
    """

    growth: int
    most: int = 0
    known: bytes = b""


class ReadBarrier(ShareStep[int], frozen=True):
    """Return for which growth the group has opened the partition, 0 if for none."""


class OpenBarrier(ShareStep[bool], frozen=True):
    """Note under the token that the group reads the partition, which came by this growth (G4); False if another token is current."""

    token: int
    growth: int


class CloseBarrier(ShareStep[None], frozen=True):
    """Forget that the group has opened the partition: before a seek, after which it has to wait again (G4)."""


class Adopt(PartitionStep[str | None], frozen=True):
    """Keep delayed messages of another partition here, each once (G8). Rings the partition's doorbell.

    Answers the run of the server that has them now; None, and nothing is kept, if the stream was cut since: their keys may belong
    elsewhere.

    Attributes:
        origin: the partition that they come from.
        rows: for each message its id, its due time as a score, and its body.
        cuts: the number of the topic's cuts when their place was chosen.
    """

    origin: int
    rows: Sequence[tuple[bytes, bytes, bytes]]
    cuts: int


FROM_ELSEWHERE = 1 << 40
"""The sequence from which on an id is that of a message which was redriven from another partition: it is no entry of this stream."""


class TakeIn(ShareStep[str | None], frozen=True):
    """Give dead letters of another partition a new life here, each once, due now, in this order (G8). Rings the partition's doorbell.

    Answers the run of the server that has them now, or had them; None, and nothing is kept, if the stream was cut since.

    Attributes:
        origin: the partition that they come from.
        letters: for each its id among the dead letters there, and its new body, with an id of FROM_ELSEWHERE or above, which no entry here
            has.
        cuts: the number of the topic's cuts when their place was chosen.
    """

    origin: int
    letters: Sequence[tuple[bytes, Body]]
    cuts: int


class DropAdopted(PartitionStep[int | None], frozen=True):
    """Drop delayed messages that another partition has adopted; return how many were there (G8).

    None, and nothing is dropped, if another run of a server answers: it may have forgotten that it adopted them.

    Attributes:
        ids: their ids.
        run: of the server that adopted them; "": any.
    """

    ids: Sequence[bytes]
    run: str


class DropTakenIn(ShareStep[int | None], frozen=True):
    """Drop dead letters that another partition has taken in; return how many were there (G8). See DropAdopted.

    Attributes:
        ids: ids of dead letters.
        run: of the server that took them in; "": any.
    """

    ids: Sequence[bytes]
    run: str


class ReplicateRun(PartitionStep[bool | None], frozen=True):
    """Wait until a replica has what was written to the partition before, if its server has a replica (G8).

    False if none did in time; None if another run of a server than `run` answers. Where access rules forbid WAIT, nothing is waited for.

    Attributes:
        run: of the server.
        within: seconds.
    """

    run: str
    within: float


class SetSwept(PartitionStep[bool], frozen=True):
    """Note up to which growth the partition's delayed messages belong to it (G8).

    False, and nothing is noted, if another run of a server answers: it may have forgotten what was dropped.

    Attributes:
        growth: the number of the growth.
        run: of the partition's server when they began to be looked through.
    """

    growth: int
    run: str
