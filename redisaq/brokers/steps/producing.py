"""Steps that make enqueueing effectively once (E), delayed, and deduplicated. Appending itself is not a step; see Broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from redisaq.brokers.steps import Broker, PartitionStep

__all__ = [
    "IN_ORDER",
    "SEALED",
    "AppendOnce",
    "Confirm",
    "Delay",
    "Delayed",
    "Find",
    "Found",
    "ReadAnchor",
    "ReadBacklog",
    "ReadMark",
    "delay",
]

MOST_DELAYED = 1000
"""The most messages that one Delay may hold: a server does nothing else meanwhile."""


SEALED = b""
"""The answer to an AppendOnce whose place is cut: no message has this id."""


class Found(msgspec.Struct, frozen=True):
    """What a look at a stream's tail, or at a piece of it, found.

    Attributes:
        present: for each message asked for, its entry id, or b"" if it is delayed, or None if it is neither in the stream nor delayed.
        complete: the tail reaches back to the anchor, so a message that is not present was never appended. If False, trimming has removed
            the evidence (E2).
        last: the last id that the stream ever had, b"0-0" if the stream is missing (C5).
        rest: the entry after which the tail goes on: look again from there; None if this was all of it.
    """

    present: tuple[bytes | None, ...]
    complete: bool
    last: bytes
    rest: bytes | None = None

    def followed_by(self, more: Found) -> Found:
        """Return what both found: this, and the look at what came after it."""
        present = tuple(one if one is not None else other for one, other in zip(self.present, more.present, strict=True))
        return Found(present, self.complete and more.complete, more.last, more.rest)


class Delayed(msgspec.Struct, frozen=True):
    """A message to append later; `due` is the server's time in microseconds since 1970."""

    partition: int
    msg_id: bytes
    due: int
    fields: Sequence[bytes]


class ReadAnchor(PartitionStep[bytes | None], frozen=True):
    """Return the last entry id that the stream ever had (b"0-0" if it never had any), None if the stream is missing (E2)."""

    name: ClassVar[str] = "anchors"


class Find(PartitionStep[Found], frozen=True):
    """Look for messages among the delayed ones and in the stream's entries after the anchor (E2, E7).

    Attributes:
        anchor: an entry id.
        msg_ids: the messages' ids.
        most: entries to look at, since the server does nothing else meanwhile. Where the run of a server is another one, the tail is the
            whole stream.
    """

    anchor: bytes
    msg_ids: Sequence[bytes]
    most: int = 10_000


class Delay(PartitionStep[bool], frozen=True):
    """Keep messages until they are due, each once by its id. Rings the partition's doorbell if one is due before all others.

    Answers False, and keeps nothing, if the partition's stream is missing (E5), or was cut since (E6). Messages due at the same microsecond
    move in the order of their ids' bytes; where another order matters, give each a later time.

    Attributes:
        messages: at most MOST_DELAYED, all of this partition.
        cuts: of the topic when the messages were placed.
    """

    messages: Sequence[Delayed]
    cuts: int = 0


class AppendOnce(PartitionStep[bytes | None], frozen=True):
    """Append unless the same `dedup_id` was used in this partition within `window` seconds. Safe to repeat.

    Answers the id of the message that the mark names: the id in `fields` if the message is new (also if you repeat this very step: E7),
    else the first message's. None if the partition's stream is missing (E5); SEALED if it was cut since the message was placed (E6). Then
    no earlier try of this step can arrive.

    Attributes:
        fields: the entry's fields; the message id is the second.
        dedup_id: the caller's own id. Every use of it must come to the same partition.
        window: seconds for which the mark stays.
        due: the server's time, in microseconds, until which to delay the message; None to append it now.
        maxlen: as for `append`.
        approximate: as for `append`.
        cuts: of the topic when the message was placed.
    """

    fields: Sequence[bytes]
    dedup_id: str
    window: float
    due: int | None
    maxlen: int | None
    approximate: bool
    cuts: int = 0


class ReadMark(PartitionStep[bytes | None], frozen=True):
    """Return the id of the message with which this `dedup_id` was used here within its window; None if it was not.

    Attributes:
        dedup_id: the caller's own id.
    """

    dedup_id: str


class Confirm(PartitionStep[None], frozen=True):
    """Ring the partition's doorbell.

    Before that it writes what changes nothing: a broker that waits for replicas waits for it, and so for all that was written before it
    (C7).
    """


class ReadBacklog(PartitionStep[int], frozen=True):
    """Return how many of the partition's entries have not been delivered to its slowest group; all of them if it has no group.

    Attributes:
        enough: a number above this need not be exact: a server that must count stops there.
        fits: if the partition has no more entries than this in all, that number is answer enough: nothing has to be counted.
    """

    name: ClassVar[str] = "backlog"

    enough: int = 1 << 31
    fits: int = 0


IN_ORDER = (Delay, AppendOnce)
"""Steps that place a producer's messages: none passes what an earlier one may lack (E4)."""


async def delay(broker: Broker, topic: str, messages: Sequence[Delayed], *, cuts: int = 0) -> list[bool]:
    """Keep messages of any partitions until they are due; return for each whether it is kept now. See Delay."""
    of_partition: dict[int, list[int]] = {}
    for place, message in enumerate(messages):
        of_partition.setdefault(message.partition, []).append(place)
    portions = [
        (partition, places[start : start + MOST_DELAYED])
        for partition, places in of_partition.items()
        for start in range(0, len(places), MOST_DELAYED)
    ]
    answers = await broker.do_each([Delay(topic, partition, [messages[place] for place in places], cuts) for partition, places in portions])
    kept = {place: answer for (_, places), answer in zip(portions, answers, strict=True) for place in places}
    return [kept[place] for place in range(len(messages))]
