"""Ids of stream entries, as numbers.

In come ids as a server writes them; out go pairs of numbers, which order as the server orders the ids, and ids again. What always holds:
an empty id stands for the place before every entry.
"""

from __future__ import annotations

EntryId = tuple[int, int]
"""Milliseconds and a sequence number, as Redis orders ids."""

START: EntryId = (0, 0)
"""Before every entry: no entry has this id."""

LAST = (1 << 64) - 1
"""The greatest number in an id."""


def parse_id(text: bytes) -> EntryId:
    """Return the two numbers of an id; those of START if it is empty."""
    if not text:
        return START
    milliseconds, _, sequence = text.partition(b"-")
    return int(milliseconds), int(sequence or 0)


def format_id(entry_id: EntryId) -> bytes:
    """Return the id as Redis writes it."""
    return b"%d-%d" % entry_id


def before(entry_id: EntryId) -> EntryId:
    """Return the greatest id below this one: reading after it gives the entry itself; the lowest one stays."""
    milliseconds, sequence = entry_id
    if sequence:
        return milliseconds, sequence - 1
    return (milliseconds - 1, LAST) if milliseconds else START
