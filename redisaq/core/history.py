"""What happened in a group: who joined, left or was taken for dead, and what administrators did.

A change is stored as bytes in a capped stream beside the group's document, in the same step that makes it if possible. No member acts on
it: it tells people who did what. Members of older versions write none. One that cannot be read is shown as such.

What an administrator does in several steps is noted before the first of them, and that note is replaced at the end. So what remains of one
that was interrupted is a note that something began: see BEGUN.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from redisaq.core.membership import Document
from redisaq.core.records import UNREADABLE

KEPT = 1000
"""Changes that a group keeps, the latest ones, and perhaps some more: trimming is approximate."""

MOST_RANGES = 64
"""Ranges of partitions that a change names."""


MOST_TAKERS, MOST_TAKEN = 16, 8
"""Members that a change names as those who take partitions over, and ranges of partitions of each."""

BEGUN = {
    "sought": "seek begun",
    "redriven": "redrive begun",
    "purged": "purge begun",
    "retried now": "retry begun",
    "cancelled": "cancellation begun",
    "cancelled while delayed": "cancellation of a delayed message begun",
    "grown": "growth begun",
    "deleted": "deletion begun",
    "topic deleted": "deletion of the topic begun",
}
"""What is noted before a change is made, by what it is called when it is done. No history outlives a deletion, so that has no end."""

UNFINISHED = frozenset(BEGUN.values())


class Taker(msgspec.Struct, frozen=True):
    """A member that takes over partitions of another one.

    Attributes:
        member: its incarnation.
        name: its name.
        partitions: ranges of partitions, first and last.
    """

    member: str
    name: str
    partitions: tuple[tuple[int, int], ...]


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened.

    Attributes:
        what: "joined", "left", "taken for dead", "paused", "resumed", or a key or value of BEGUN; other versions may have more.
        member: the incarnation of the member that it is about; "" if it is about none.
        name: the member's label, or its name; "" if it is about none.
        by: the label of the administrator or member that did it; "" if the member did it to itself.
        partitions: ranges of partitions, first and last, that it is about.
        count: the number of messages or partitions that it is about; None if it has none.
        to: where a seek went; "" for other changes.
        msg_id: the message that it is about; "" if it is not about a single one.
        began: when it began, in milliseconds; 0 if it is one step, or if that was not noted.
        takers: who takes the partitions over, as the change of the document decides that removes the member; MOST_TAKERS at most.
    """

    what: str
    member: str = ""
    name: str = ""
    by: str = ""
    partitions: tuple[tuple[int, int], ...] = ()
    count: int | None = None
    to: str = ""
    msg_id: str = ""
    began: int = 0
    takers: tuple[Taker, ...] = ()


NOT_READ = Change("unreadable")
"""Stands for a change that cannot be read."""

_decoder = msgspec.json.Decoder(Change)


def encode_change(change: Change) -> bytes:
    """Return the change as JSON."""
    return msgspec.json.encode(change)


def read_change(data: bytes) -> Change:
    """Return the change, NOT_READ if it cannot be read."""
    try:
        return _decoder.decode(data)
    except UNREADABLE:
        return NOT_READ


def ranges_of(partitions: Iterable[int], most: int | None = MOST_RANGES) -> tuple[tuple[int, int], ...]:
    """Return numbers of partitions as ranges, so many at most; None: all of them."""
    found: list[tuple[int, int]] = []
    for number in sorted(partitions):
        if found and number == found[-1][1] + 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return tuple(found[:most])


def joined(incarnation: str, name: str) -> Change:
    """Return that a member has joined."""
    return Change("joined", incarnation, name)


def left(incarnation: str, name: str) -> Change:
    """Return that a member has left: it had given back its partitions."""
    return Change("left", incarnation, name)


def dropped(before: Document, after: Document, expired: Sequence[str], by: str) -> tuple[Change, ...]:
    """Return that members were taken for dead by a change between these documents, and who takes their partitions over."""
    names = {one: name for name, entry in before.members.items() for one in (entry.incarnation, *entry.successors)}
    owned = [(one, [number for number, owner in before.lease.items() if owner == one]) for one in expired]
    return tuple(
        Change("taken for dead", one, names.get(one, one), by, ranges_of(numbers), len(numbers), takers=takers_of(after, numbers))
        for one, numbers in owned
    )


def takers_of(document: Document, partitions: Iterable[int]) -> tuple[Taker, ...]:
    """Return the members for whom these partitions are meant, those with the most first."""
    taken: dict[str, list[int]] = {}
    for number in partitions:
        if (name := document.target.get(number)) in document.members:
            taken.setdefault(name, []).append(number)
    most = sorted(taken.items(), key=lambda pair: (-len(pair[1]), pair[1]))[:MOST_TAKERS]
    return tuple(Taker(document.members[name].incarnation, name, ranges_of(numbers, MOST_TAKEN)) for name, numbers in most)


def grown(before: Document, after: Document) -> tuple[Change, ...]:
    """Return that the topic has grown, if the members have seen that between these documents."""
    if not before.partitions or after.partitions <= before.partitions:
        return ()
    return (Change("grown", partitions=((before.partitions, after.partitions - 1),), count=after.partitions),)
