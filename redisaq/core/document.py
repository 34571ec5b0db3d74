"""The group's document: who is in the group, who should own which partition, who does own it.

It is changed only by compare-and-set on a random version (M3); the functions that compute the next one are in
`membership`. Nobody but `membership` and `assignment` builds one.
"""

from __future__ import annotations

import msgspec

from redisaq.core.records import MOST_NUMBER, MOST_PARTITIONS, UNREADABLE


class MemberEntry(msgspec.Struct, frozen=True):
    """One name in the group (M1, M2).

    Attributes:
        incarnation: the running start that holds the name now.
        successors: later starts under the same name, oldest first, waiting for the name.
    """

    incarnation: str
    successors: tuple[str, ...] = ()


class Document(msgspec.Struct, frozen=True):
    """What the group agrees on.

    Attributes:
        epoch: grows by one with every change.
        members: member name -> who holds it. A consumer without a name of its own uses its incarnation as its name.
        partitions: how many partitions the target was computed for.
        target: partition -> member name that should own it.
        lease: partition -> incarnation that does own it; absent while nobody does.
        token: partition -> the last fencing token given; never dropped on release (M6).
        unable: partition -> incarnations that owned it and could not read it, each with the server's time at which it said so. Members of
            an older version pass over this and drop it with their next change.
    """

    epoch: int = 0
    members: dict[str, MemberEntry] = {}
    partitions: int = 0
    target: dict[int, str] = {}
    lease: dict[int, str] = {}
    token: dict[int, int] = {}
    unable: dict[int, dict[str, int]] = {}


EMPTY = Document()
_decoder = msgspec.msgpack.Decoder(Document)
_encoder = msgspec.msgpack.Encoder()


def encode(document: Document) -> bytes:
    """Return the document as msgpack."""
    return _encoder.encode(document)


def decode(data: bytes) -> Document:
    """Return the document that `encode` wrote; ValueError, or one of UNREADABLE, for anything else."""
    document = _decoder.decode(data)
    numbers = (*document.target, *document.lease, *document.token, *document.unable)
    if not 0 <= document.partitions <= MOST_PARTITIONS or not all(0 <= number < MOST_PARTITIONS for number in numbers):
        raise ValueError("there are no such partitions")
    said = (at for entries in document.unable.values() for at in entries.values())
    if not all(0 <= value < MOST_NUMBER for value in (document.epoch, *document.token.values(), *said)):
        raise ValueError("a token, a time or the epoch is out of its bounds")
    if any(holder and partition not in document.token for partition, holder in document.lease.items()):
        raise ValueError("a lease has no token")
    if not all(number < document.partitions for number in document.target):
        raise ValueError("the target is of other partitions")
    return document


def read(data: bytes | None) -> Document | None:
    """Return the document, None where there is none or it cannot be read."""
    try:
        return None if data is None else decode(data)
    except UNREADABLE:
        return None
