"""Dead letters by kind of failure, and one in full: what the page about them shows.

Only so many letters are looked at, the newest of each partition, and without their payloads: a page says how many of how many. Kinds are
therefore those of the newest letters, unless all were counted (`counts`). Older letters of a kind come in pages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from datetime import datetime
from urllib.parse import quote, unquote

import msgspec
from msgspec.structs import replace

from redisaq.admin import Admin, DeadKinds, DeadMessage, DeadPage, DeadSummary, GroupInfo
from redisaq.core.entry_ids import parse_id
from redisaq.core.failures import is_own, template
from redisaq.core.records import is_id
from redisaq.errors import ServerError, SettingsError, TopicMissingError, UnknownFormatError
from redisaq.watching import GroupView, Snapshot, words

MOST = 1000
"""Letters that one page looks at."""

MOST_PARTITIONS = 100
"""Partitions that one page asks for letters: those with the most."""

FRESH = 300.0
"""Seconds for which a letter is new."""

LOOKED = 2000
"""Older letters that are looked at to find those of a kind, for one page."""

OLDER_PARTITIONS = 1000
"""Partitions that are asked for older letters: those with the most."""

HOURS = 24
"""Hours of the picture of when letters died."""


class Kind(msgspec.Struct, frozen=True):
    """Failures that have type, text and own line in common.

    Attributes:
        id: identifies the kind.
        error_type: the exception's class.
        pieces: its text; at odd places the sort of what differs.
        where: the own line.
        groups: the groups in which it occurs, as "topic › group".
        letters: the letters that were looked at, the newest first.
        fresh: how many of them are new.
        bars: how many of them died in each of the last hours.
        count: how many there are: all, if they were counted; otherwise those that were looked at.
        first: when the first of them died.
        last: when the last of them died.
    """

    id: str
    error_type: str
    pieces: tuple[str, ...]
    where: str
    groups: tuple[str, ...]
    letters: Sequence[DeadSummary]
    fresh: int
    bars: Sequence[int]
    count: int
    first: datetime
    last: datetime


class Kinds(msgspec.Struct, frozen=True):
    """The kinds of the letters that were looked at.

    Attributes:
        kinds: those with new letters first, then the most frequent.
        looked: how many letters were looked at.
        dead: how many there are.
        broken: topic and group of those whose letters cannot be read, with the reasons.
        older: the id of a letter below which some were not looked at; "": of any id; None: all were looked at.
    """

    kinds: Sequence[Kind]
    looked: int
    dead: int
    broken: Mapping[tuple[str, str], str] = {}
    older: str | None = None


def groups_of(snapshot: Snapshot, wanted: tuple[str, str] | None) -> list[GroupView]:
    """Return the groups that have dead letters, those with the most first; only the wanted one if there is one."""
    found = [one for topic in snapshot.topics for one in topic.groups if one.dead and wanted in (None, (one.topic, one.group))]
    return sorted(found, key=lambda one: -one.dead)


async def look(admin: Admin, groups: Sequence[GroupView], now: float) -> Kinds:
    """Look at the newest letters of these groups.

    Args:
        admin: asks the server.
        groups: the groups.
        now: the moment, by the server's clock.
    """
    asked = list(_shares(groups))
    count = max(1, min(1000, MOST // max(1, sum(len(partitions) for _, partitions in asked))))
    letters: list[DeadSummary] = []
    broken: dict[tuple[str, str], str] = {}
    for group, partitions in asked:
        try:
            letters += await admin.dead_summaries(group.topic, group.group, partitions=partitions, count=count)
        except (ServerError, SettingsError, UnknownFormatError) as error:  # those of the other groups are shown
            broken[group.topic, group.group] = str(error)
    by_kind: dict[str, list[DeadSummary]] = defaultdict(list)
    for letter in letters:
        by_kind[letter.kind].append(letter)
    kinds = [kind_of(name, some, now) for name, some in by_kind.items()]
    kinds.sort(key=lambda one: (not one.fresh, -len(one.letters), one.id))
    all_of_them = len(asked) == len(groups) and all(
        one.dead <= count and one.partition in partitions for group, partitions in asked for one in group.partitions if one.dead
    )
    dead = len(letters) if all_of_them and not broken else max(len(letters), sum(one.dead for one in groups))
    older = None if len(letters) >= dead else "" if len(asked) < len(groups) or len(groups) > 1 else _cut(groups[0], letters, count)
    return Kinds(kinds, len(letters), dead, broken, older)


def _cut(group: GroupView, letters: Sequence[DeadSummary], count: int) -> str:
    """Return the id down to which every letter of a group was looked at; "" if some of its partitions were not asked."""
    seen: dict[int, list[str]] = defaultdict(list)
    for one in letters:
        seen[one.partition].append(one.dead_id)
    if any(one.dead and one.partition not in seen for one in group.partitions):
        return ""
    ends = [min(some, key=_order) for some in seen.values() if len(some) >= count]
    return max(ends, key=_order, default="")


def _order(dead_id: str) -> tuple[int, int]:
    return parse_id(dead_id.encode())


async def older(admin: Admin, group: GroupView, kind: str, *, count: int, before: str) -> DeadPage:
    """Return a page of older letters of a kind.

    Args:
        admin: asks the server.
        group: the group.
        kind: the kind.
        count: about how many.
        before: the id below which the page begins; if it is none: begin with the newest.
    """
    most = sorted((one for one in group.partitions if one.dead), key=lambda one: -one.dead)[:OLDER_PARTITIONS]
    numbers = [one.partition for one in most]
    name = group.topic, group.group
    return await admin.dead_page(
        *name, partitions=numbers, count=count, before=before if is_id(before.encode()) else None, kind=kind, limit=LOOKED
    )


def left_out(group: GroupView) -> int:
    """Return how many partitions with dead letters are not asked for older ones."""
    return max(0, sum(one.dead > 0 for one in group.partitions) - OLDER_PARTITIONS)


def counted(found: Kinds, all_of_them: DeadKinds | None, group: tuple[str, str]) -> Kinds:
    """Return the kinds with the numbers of all letters, if they were counted."""
    if all_of_them is None:
        return found
    left = {one.kind: one for one in all_of_them.kinds}
    kinds: list[Kind] = []
    for kind in found.kinds:
        one = left.pop(kind.id, None)
        kinds.append(kind if one is None else replace(kind, count=max(one.count, kind.count), first=min(one.first, kind.first)))
    name = words.group_name(*group)
    kinds += [
        Kind(one.kind, one.error_type, template(one.error), one.where, (name,), (), 0, [0] * HOURS, one.count, one.first, one.last)
        for one in left.values()
    ]
    return replace(found, kinds=sorted(kinds, key=lambda one: (not one.fresh, -one.count, one.id)))


def begin_at(kind: Kind) -> str:
    """Return the id below which a kind's letters begin, of which none was looked at."""
    return f"{int(kind.last.timestamp() * 1000) + 1}-0"


def _shares(groups: Sequence[GroupView]) -> Iterator[tuple[GroupView, list[int]]]:
    """Yield which partitions of which groups are asked: those with the most letters."""
    left = MOST_PARTITIONS
    for group in groups:
        most = sorted((one for one in group.partitions if one.dead), key=lambda one: -one.dead)[:left]
        left -= len(most)
        if most:
            yield group, [one.partition for one in most]


def kind_of(name: str, letters: list[DeadSummary], now: float) -> Kind:
    """Return the kind of this id, of which there are these letters."""
    letters.sort(key=lambda one: one.died_at, reverse=True)
    newest = letters[0]
    bars = [0] * HOURS
    for one in letters:
        hours = int((now - one.died_at.timestamp()) // 3600)
        if 0 <= hours < HOURS:
            bars[HOURS - 1 - hours] += 1
    groups = tuple(sorted({f"{one.topic} › {one.group}" for one in letters}))
    fresh = sum(now - one.died_at.timestamp() < FRESH for one in letters)
    about = name, newest.error_type, template(newest.error), newest.where
    return Kind(*about, groups, letters, fresh, bars, len(letters), letters[-1].died_at, newest.died_at)


# -- names of letters ------------------------------------------------------------------------------------------------------------


def name_of(letter: DeadSummary | DeadMessage) -> str:
    """Return what names a letter in addresses and requests."""
    return "/".join(quote(str(one), safe="") for one in (letter.topic, letter.group, letter.partition, letter.dead_id))


def parts_of(name: str) -> tuple[str, str, int, str] | None:
    """Return topic, group, partition and dead id of a letter's name; None if it is none."""
    parts = [unquote(one) for one in name.split("/")]
    if len(parts) != 4 or not (parts[2].isascii() and parts[2].isdigit() and len(parts[2]) < 6):  # noqa: PLR2004 -- the parts above
        return None
    return parts[0], parts[1], int(parts[2]), parts[3]


def group_of(text: str | None) -> tuple[str, str] | None:
    """Return topic and group of what an address asks for as `g`."""
    parts = [unquote(one) for one in (text or "").split("/")]
    return (parts[0], parts[1]) if len(parts) == 2 else None  # noqa: PLR2004 -- topic and group


async def open_letter(admin: Admin, name: str) -> DeadMessage | None:
    """Return the letter of this name in full; None if there is none."""
    parts = parts_of(name)
    if parts is None:
        return None
    try:
        return await admin.dead_letter(*parts)
    except (SettingsError, TopicMissingError, UnknownFormatError):
        return None


async def of_now(admin: Admin, info: GroupInfo) -> AsyncGenerator[DeadMessage]:
    """Yield a group's dead letters, as many as there were in each partition: those that die meanwhile are left out."""
    left = {one.partition: one.dead for one in info.partitions}
    async for letter in admin.dead_letters(info.topic, info.group):
        if left.get(letter.partition, 0) > 0:
            left[letter.partition] -= 1
            yield letter


# -- what a letter contains --------------------------------------------------------------------------------------------------------


class TracebackLine(msgspec.Struct, frozen=True):
    """A line of a traceback, and whether it is the user's own ("own"), a library's ("lib"), the error itself ("e") or none of them."""

    text: str
    kind: str


def lines_of(traceback: str) -> list[TracebackLine]:
    """Return a traceback's lines."""
    lines: list[TracebackLine] = []
    kind = ""
    for line in traceback.splitlines()[:400]:
        if line.lstrip(" |").startswith('File "'):
            kind = "own" if is_own(line.split('"')[1]) else "lib"
        elif not line.startswith((" ", "|")):
            kind = "" if line.startswith(("Traceback", "The above", "During")) or not line else "e"
        lines.append(TracebackLine(line, kind))
    return lines
