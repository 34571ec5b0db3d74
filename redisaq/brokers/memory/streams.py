"""One partition's stream as plain data: its entries, and each group's position in them.

Nothing here waits, knows a clock or checks a token: the store does. Invariants: ids grow along a stream and never repeat, even after
trimming. An entry is delivered to a group as new at most once. Trimming and deleting move no group.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from redisaq.core.entry_ids import START, EntryId, format_id

STALE = 1000
"""Acknowledged entries whose times of delivery are kept: dropping them one by one would cost more."""


@dataclass
class GroupCursor:
    """A group's position in one stream.

    Attributes:
        last_delivered: no entry up to this id is new to the group.
        pending: delivered entries that are not acknowledged -> how many times each was delivered.
        delivered_at: when they were delivered, or their counts last set, in microseconds; perhaps also of some that are acknowledged.
        read_at: when a reader last asked for entries, in microseconds; 0 if none has.
        lost: how many entries trimming took unread since the last look.
        lost_after: all of these had ids above this one.
    """

    last_delivered: EntryId
    pending: dict[EntryId, int] = field(default_factory=dict[EntryId, int])
    delivered_at: dict[EntryId, int] = field(default_factory=dict[EntryId, int])
    read_at: int = 0
    lost: int = 0
    lost_after: EntryId = START

    def lose(self, trimmed: Sequence[EntryId]) -> None:
        """Count the entries that trimming takes unread."""
        unread = len(trimmed) - bisect_right(trimmed, self.last_delivered)
        if unread:
            self.lost_after = self.lost_after if self.lost else self.last_delivered
            self.lost += unread


@dataclass
class Stream:
    """A partition's entries, oldest first.

    Attributes:
        last_id: the highest id ever given, even if its entry is gone.
        groups: a group's name -> its position.
        removed: how many entries were trimmed or deleted.
    """

    last_id: EntryId = START
    groups: dict[str, GroupCursor] = field(default_factory=dict[str, GroupCursor])
    removed: int = 0
    _ids: list[EntryId] = field(default_factory=list[EntryId])
    _fields: dict[EntryId, tuple[bytes, ...]] = field(default_factory=dict[EntryId, tuple[bytes, ...]])

    @property
    def added(self) -> int:
        """How many entries were ever added."""
        return self.removed + len(self._ids)

    def __len__(self) -> int:
        """Return how many entries are there."""
        return len(self._ids)

    def append(self, fields: Sequence[bytes], milliseconds: int, maxlen: int | None = None) -> EntryId:
        """Add an entry and return its id: the time, or the last id's successor if the clock has not advanced."""
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
        self._trim_first(max(0, len(self._ids) - maxlen))

    def trim_below(self, lowest: EntryId) -> int:
        """Drop all entries below an id; return how many there were."""
        surplus = bisect_left(self._ids, lowest)
        self._trim_first(surplus)
        return surplus

    def _trim_first(self, surplus: int) -> None:
        if surplus:
            self.removed += surplus
            trimmed = self._ids[:surplus]
            for entry_id in trimmed:
                del self._fields[entry_id]
            del self._ids[:surplus]
            for cursor in self.groups.values():
                cursor.lose(trimmed)

    def delete(self, entry_ids: Iterable[EntryId]) -> None:
        """Drop these entries, if they are there."""
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

    def count_after(self, entry_id: EntryId) -> int:
        """Return how many entries are above an id."""
        return len(self._ids) - bisect_right(self._ids, entry_id)

    def below(self, entry_id: EntryId | None, count: int) -> list[tuple[EntryId, tuple[bytes, ...]]]:
        """Return up to `count` entries below an id (None: the last ones), the last first."""
        end = len(self._ids) if entry_id is None else bisect_left(self._ids, entry_id)
        return [(found, self._fields[found]) for found in reversed(self._ids[max(0, end - count) : end])]

    def last_up_to(self, entry_id: EntryId) -> EntryId | None:
        """Return the highest id that is there and not above this one."""
        place = bisect_right(self._ids, entry_id)
        return self._ids[place - 1] if place else None

    def make_group(self, group: str, start: EntryId, *, younger: bool = False) -> None:
        """Make the group after `start`; an existing group stays where it is.

        If the stream is `younger` than the group, what was removed from it before counts as the group's loss.
        """
        self.groups.setdefault(group, GroupCursor(start, lost=self.removed if younger else 0))

    @property
    def first_id(self) -> EntryId | None:
        """The lowest id that is there."""
        return self._ids[0] if self._ids else None

    def has_unread(self, cursor: GroupCursor) -> bool:
        """Tell whether an entry is there that was never delivered to the group."""
        return bool(self._ids) and self._ids[-1] > cursor.last_delivered

    def deliver(self, cursor: GroupCursor, count: int, now: int) -> list[tuple[bytes, tuple[bytes, ...]]]:
        """Return up to `count` new entries; from now on (microseconds) they are pending, delivered once."""
        entries = self.after(cursor.last_delivered, count)
        if entries:
            ids = [entry_id for entry_id, _ in entries]
            cursor.pending.update(dict.fromkeys(ids, 1))
            cursor.delivered_at.update(dict.fromkeys(ids, now))
            if len(cursor.delivered_at) > 2 * len(cursor.pending) + STALE:
                cursor.delivered_at = {entry_id: at for entry_id, at in cursor.delivered_at.items() if entry_id in cursor.pending}
            cursor.last_delivered = entries[-1][0]
        return [(format_id(entry_id), fields) for entry_id, fields in entries]
