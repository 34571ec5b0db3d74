"""What happened in a group, as sentences for the page, `redisaq top` and `redisaq history`; and what has begun and not ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import msgspec
from msgspec.structs import replace

from redisaq.admin_views import HistoryEntry
from redisaq.core.history import BEGUN
from redisaq.watching.words import count, many, ranges

MOST_NAMED = 1000
"""Partitions of one range that a change of the history is shown with."""

_ENDS = {begun: end for end, begun in BEGUN.items()}


def named(entry: HistoryEntry) -> tuple[int, ...]:
    """Return the partitions of a change, MOST_NAMED of each range."""
    return covered(entry.partitions)


class Span(msgspec.Struct, frozen=True):
    """How long a member was there that has gone.

    Attributes:
        member: its incarnation.
        name: its name.
        since: when it joined; None if that is not known.
        until: when it went.
        went: how.
    """

    member: str
    name: str
    since: float | None
    until: float
    went: Literal["left", "taken for dead"]


def spans_of(history: Iterable[HistoryEntry]) -> list[Span]:
    """Return the members that have gone, as far as the history says, the latest first. The latest change is first."""
    found: dict[str, Span] = {}
    for entry in history:
        match entry.what:
            case "left" | "taken for dead" as went:
                found.setdefault(entry.member, Span(entry.member, entry.name, None, entry.at.timestamp(), went))
            case "joined" if entry.member in found:
                found[entry.member] = replace(found[entry.member], since=entry.at.timestamp())
            case _:
                pass
    return list(found.values())


def unfinished(history: Sequence[HistoryEntry]) -> HistoryEntry | None:
    """Return the first change that has begun and not ended, without those of whose sort one has ended since. The latest is first."""
    found: HistoryEntry | None = None
    ended: set[str] = set()
    for entry in history:
        if entry.unfinished and _ENDS[entry.what] not in ended:
            found = entry
        ended.add(entry.what)
    return found


def covered(ranges: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """Return the partitions of ranges, MOST_NAMED of each."""
    return tuple(number for first, last in ranges for number in range(first, min(last, first + MOST_NAMED) + 1))


def sentence_of(entry: HistoryEntry, partitions: Sequence[int], places: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a change as a sentence, such as "host-2:7 was taken for dead: partition 3 lost its owner, and host-1:5 takes it over".

    Args:
        entry: the change.
        partitions: its partitions.
        places: the processes of members, by incarnation. Others are named as the change names them.
    """
    by = f" by {entry.by}" if entry.by else ""
    number = entry.count or 0
    match entry.what:
        case "joined" | "left":
            text = f"{entry.name} {entry.what}"
        case "taken for dead":
            which = f"partition{'s' if number > 1 else ''} {ranges(partitions)} lost {'their' if number > 1 else 'its'} owner"
            taken = [f"{places.get(one.member, one.name)} takes over {ranges(covered(one.partitions))}" for one in entry.takers]
            text = f"{entry.name} was taken for dead{by}" + (f": {'; '.join([which, *taken])}" if number else "")
        case "unreadable":
            text = "a change that this version of redisaq cannot read"
        case "grown":
            text = f"grown to {many(number, 'partition')}{by}"
        case "cancelled" | "cancelled while delayed" if entry.msg_id:
            text = f"{'retry of message' if entry.what == 'cancelled' else 'delayed message'} {entry.msg_id} cancelled{by}"
        case _ if entry.unfinished:
            to = f" to {many(number, 'partition')}" if entry.what == BEGUN["grown"] else f" to {entry.to}" if entry.to else ""
            of = f" of message {entry.msg_id}" if entry.msg_id else ""
            text = f"{entry.what}{to}{of}{by}, no end noted"
        case "sought":
            where = f"to {entry.to}" if entry.to else "to given entries"
            text = f"moved {where}{by}: {many(number, 'partition')}"
        case "redriven" | "purged":
            text = f"{many(number, 'dead letter')} {entry.what}{by}"
        case _:
            text = f"{entry.what}{by}" + (f": {count(number)}" if number else "")
    return text
