"""Ids of stream entries as numbers, and positions in a stream.

Ids become pairs of numbers, which sort as the server sorts the ids. An empty id is the position before every entry. A position that you
give as an id or a time is such that the entry with that id, or the first one from that time on, is delivered first.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from redisaq.describing import shown
from redisaq.errors import SettingsError

EntryId = tuple[int, int]
"""Milliseconds and a sequence number, as Redis orders ids."""

START: EntryId = (0, 0)
"""The position before every entry: no entry has this id."""

LAST = (1 << 64) - 1
"""The greatest number in an id."""


def parse_id(text: bytes) -> EntryId:
    """Return the two numbers of an id; those of START if it is empty."""
    milliseconds, _, sequence = text.partition(b"-")
    return (int(milliseconds), int(sequence)) if sequence else (int(milliseconds or 0), 0)


def format_id(entry_id: EntryId) -> bytes:
    """Return the id as Redis writes it."""
    return b"%d-%d" % entry_id


def before(entry_id: EntryId) -> EntryId:
    """Return the greatest id below this one, so that reading after it returns the entry itself; the lowest id stays."""
    milliseconds, sequence = entry_id
    if sequence:
        return milliseconds, sequence - 1
    return (milliseconds - 1, LAST) if milliseconds else START


def before_entry(entry_id: str) -> bytes:
    """Return the greatest id below an entry's; the lowest id stays.

    Args:
        entry_id: "1700000000000-0", or the milliseconds alone.

    Raises:
        SettingsError: it is not an id.
    """
    match = re.fullmatch(r"(\d{1,20})(?:-(\d{1,20}))?", entry_id, re.ASCII) if isinstance(entry_id, str) else None  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without types
    if match is None or int(match[1]) > LAST or int(match[2] or 0) > LAST:
        raise SettingsError(f"an entry id looks like 1700000000000-0, not {shown(entry_id)}")
    return format_id(before((int(match[1]), int(match[2] or 0))))


def before_time(moment: datetime) -> bytes:
    """Return the greatest id below those of entries that were appended at this time or later.

    Raises:
        SettingsError: the datetime is naive, so it means another time on each machine.
    """
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise SettingsError(f"a datetime must be aware (have a time zone), {shown(moment)} is not")
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    microseconds = (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds
    return format_id(before((max(0, -(-microseconds // 1000)), 0)))
