"""What one partition's stream is, in plain data: its entries, and where each group stands in them.

In come entry ids (as two numbers), fields and counts; out go entries. Nothing here waits, knows a clock or checks a token: the
store does that around it. What always holds: ids grow along a stream and never repeat, even after its entries were trimmed; an
entry is delivered to a group as new at most once; trimming and deleting move no group.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

EntryId = tuple[int, int]
"""Milliseconds and a sequence number, as Redis orders ids."""

START: EntryId = (0, 0)
"""Before every entry: no entry has this id."""


def parse_id(text: bytes) -> EntryId:
    """Return the two numbers of an id; those of START if it is empty."""
    if not text:
        return START
    milliseconds, _, sequence = text.partition(b"-")
    return int(milliseconds), int(sequence or 0)


def format_id(entry_id: EntryId) -> bytes:
    """Return the id as Redis writes it."""
    return b"%d-%d" % entry_id


@dataclass
class GroupCursor:
    """How far one group has come in one stream.

    Attributes:
        last_delivered: nothing at or below it is new to the group.
        pending: delivered and not acknowledged -> how often it was delivered; in id order, since entries are delivered in it.
    """

    last_delivered: EntryId
    pending: dict[EntryId, int] = field(default_factory=dict[EntryId, int])


@dataclass
class Stream:
    """A partition's entries, oldest first.

    Attributes:
        last_id: the highest id that was ever given, whether or not its entry is still there.
        groups: name of a group -> where it stands.
        removed: how many entries were trimmed or deleted.
    """

    last_id: EntryId = START
    groups: dict[str, GroupCursor] = field(default_factory=dict[str, GroupCursor])
    removed: int = 0
    _ids: list[EntryId] = field(default_factory=list[EntryId])
    _fields: dict[EntryId, tuple[bytes, ...]] = field(default_factory=dict[EntryId, tuple[bytes, ...]])

    def __len__(self) -> int:
        """Return how many entries are there."""
        return len(self._ids)

    def append(self, fields: Sequence[bytes], milliseconds: int, maxlen: int | None = None) -> EntryId:
        """Add an entry and return its id: the time, or where the clock stands still or went back, the last id's successor."""
        last_milliseconds, last_sequence = self.last_id
        entry_id = (milliseconds, 0) if milliseconds > last_milliseconds else (last_milliseconds, last_sequence + 1)
        self.last_id = entry_id
        self._ids.append(entry_id)
        self._fields[entry_id] = tuple(fields)
        if maxlen is not None:
            self.trim(maxlen)
        return entry_id

    def trim(self, maxlen: int) -> None:
        """Drop the oldest entries until `maxlen` are left."""
        surplus = len(self._ids) - maxlen
        if surplus > 0:
            self.removed += surplus
            for entry_id in self._ids[:surplus]:
                del self._fields[entry_id]
            del self._ids[:surplus]

    def delete(self, entry_ids: Iterable[EntryId]) -> None:
        """Drop these entries, where they are there."""
        for entry_id in entry_ids:
            if self._fields.pop(entry_id, None) is not None:
                self.removed += 1
                del self._ids[bisect_left(self._ids, entry_id)]

    def fields(self, entry_id: EntryId) -> tuple[bytes, ...] | None:
        """Return an entry's fields and values, None if it is not there."""
        return self._fields.get(entry_id)

    def after(self, entry_id: EntryId, count: int) -> list[tuple[EntryId, tuple[bytes, ...]]]:
        """Return up to `count` entries above an id."""
        first = bisect_right(self._ids, entry_id)
        return [(found, self._fields[found]) for found in self._ids[first : first + count]]

    def make_group(self, group: str, start: EntryId) -> None:
        """Make the group after `start`; one that exists stays where it is."""
        self.groups.setdefault(group, GroupCursor(start))

    @property
    def first_id(self) -> EntryId | None:
        """The lowest id that is there."""
        return self._ids[0] if self._ids else None

    def has_unread(self, cursor: GroupCursor) -> bool:
        """Tell whether an entry is there that was never delivered to the group."""
        return bool(self._ids) and self._ids[-1] > cursor.last_delivered

    def deliver(self, cursor: GroupCursor, count: int) -> list[tuple[bytes, tuple[bytes, ...]]]:
        """Return up to `count` new entries; from now on they are pending, delivered once."""
        entries = self.after(cursor.last_delivered, count)
        if entries:
            cursor.pending.update((entry_id, 1) for entry_id, _ in entries)
            cursor.last_delivered = entries[-1][0]
        return [(format_id(entry_id), fields) for entry_id, fields in entries]
