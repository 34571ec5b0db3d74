"""Steps that make enqueueing effectively once (E), delayed, and deduplicated. Appending itself is no step; see Broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from redisaq.brokers.steps import Broker, PartitionStep

__all__ = ["AppendOnce", "Delay", "Delayed", "Find", "Found", "ReadAnchor", "ReadBacklog", "delay"]

MOST_DELAYED = 1000
"""Messages of one Delay: a server does nothing else meanwhile."""


class Found(msgspec.Struct, frozen=True):
    """What a look at a stream's tail showed.

    Attributes:
        present: for each message asked for, its entry id, or b"" for one that is among the delayed, or None if it is in neither.
        complete: the tail reaches back to the anchor: what is not present was never appended. Otherwise trimming took the evidence (E2).
        last: the last id that the stream ever had, b"0-0" if it is not there (C5).
    """

    present: tuple[bytes | None, ...]
    complete: bool
    last: bytes


class Delayed(msgspec.Struct, frozen=True):
    """A message to be appended later: `due` in microseconds of the server's time since 1970."""

    partition: int
    msg_id: bytes
    due: int
    fields: Sequence[bytes]


class ReadAnchor(PartitionStep[bytes | None], frozen=True):
    """Return the last entry id that the stream ever had (b"0-0" if it never had any), None where the stream is missing (E2)."""

    name: ClassVar[str] = "anchors"


class Find(PartitionStep[Found], frozen=True):
    """Look for messages among the delayed and in the stream's entries after the anchor (E2, E7).

    Attributes:
        anchor: an entry id.
        msg_ids: of the messages.
    """

    anchor: bytes
    msg_ids: Sequence[bytes]


class Delay(PartitionStep[bool], frozen=True):
    """Keep messages until they are due, each once by its id; ring if one is due before what was there.

    False, and nothing kept, where the partition's stream is missing (E5). Messages due at the same microsecond are moved in the order of
    their ids' bytes: where another order matters, give each a later time.

    Attributes:
        messages: MOST_DELAYED at most, all of this partition.
    """

    messages: Sequence[Delayed]


class AppendOnce(PartitionStep[bytes | None], frozen=True):
    """Append unless the same `dedup_id` was used in this partition within `window` seconds. Safe to repeat.

    Answers the message id that stands: the one in `fields` if it is new (also when this very step is repeated: E7), else the first one's.
    None if the partition's stream is missing (E5).

    Attributes:
        fields: of the entry; the message id is the second.
        dedup_id: the caller's own. Whoever uses the same one must come to the same partition.
        window: seconds for which the mark stays.
        due: server time in microseconds until which it is delayed; None: append it now.
        maxlen: as for `append`.
        approximate: as for `append`.
    """

    fields: Sequence[bytes]
    dedup_id: str
    window: float
    due: int | None
    maxlen: int | None
    approximate: bool


class ReadBacklog(PartitionStep[int], frozen=True):
    """Return how many entries the partition holds that its slowest group has not been given; all of them if it has no group.

    Attributes:
        enough: a number above this need not be exact: a server that must count stops there.
    """

    name: ClassVar[str] = "backlog"

    enough: int = 1 << 31


async def delay(broker: Broker, topic: str, messages: Sequence[Delayed]) -> list[bool]:
    """Keep messages of any partitions until they are due; return for each whether it is kept now. See Delay."""
    of_partition: dict[int, list[int]] = {}
    for place, message in enumerate(messages):
        of_partition.setdefault(message.partition, []).append(place)
    portions = [
        (partition, places[start : start + MOST_DELAYED])
        for partition, places in of_partition.items()
        for start in range(0, len(places), MOST_DELAYED)
    ]
    answers = await broker.do_each([Delay(topic, partition, [messages[place] for place in places]) for partition, places in portions])
    kept = [False] * len(messages)
    for (_, places), answer in zip(portions, answers, strict=True):
        for place in places:
            kept[place] = answer
    return kept
