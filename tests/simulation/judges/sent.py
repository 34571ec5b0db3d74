"""Judges the order of what producers append: nothing of a call comes into a stream behind what a later call of its task has put there (E4).

A scenario names its tasks: a payload says "by" whom it is, and counts with "n" the messages of this task for the "key". Each task calls one
thing after another. Whatever became of a call, by its end nothing of it is still to come. So the numbers of a key only grow along its
stream. A failover takes numbers away from the end, and what was not acknowledged comes again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from redisaq.brokers.memory.holdings import Holdings, Place
from redisaq.core.entry_ids import START, EntryId, format_id
from redisaq.testing.record import Observer, Record

Lane = tuple[Place, str, str]


class Sent(Observer):
    """Compares the numbers of each task along each stream."""

    def __init__(self, record: Record) -> None:
        """Begin with empty streams."""
        super().__init__(record)
        self._seen: dict[Place, EntryId] = {}
        self._last: dict[Lane, list[tuple[EntryId, int]]] = {}

    def stepped(self, who: str, operation: str) -> None:
        """Look at what was appended."""
        store = self.record.store
        for place, stream in store.streams.items() if store is not None else ():
            seen = self._seen.get(place, START)
            if stream.last_id == seen:
                continue
            self._seen[place] = stream.last_id
            for entry_id, fields in stream.after(seen, len(stream)):
                payload = msgspec.json.decode(fields[3])
                if "n" in payload:
                    self._look(who, place, entry_id, payload)

    def _look(self, who: str, place: Place, entry_id: EntryId, payload: dict[str, Any]) -> None:
        by, key, number = payload["by"], payload["key"], payload["n"]
        earlier = self._last.setdefault((place, by, key), [])
        if earlier and number <= earlier[-1][1]:
            where = f"{place[0]}/{place[1]} {format_id(entry_id).decode()}"
            self.record.violation(f"{who} put number {number} of {by} for {key} into {where}, behind number {earlier[-1][1]}")
        else:
            earlier.append((entry_id, number))

    def lost(self, before: Holdings, after: Holdings, reason: str) -> None:
        """Forget what the server has lost."""
        del before, reason
        for place in list(self._seen):
            stream = after.streams.get(place)
            self._seen[place] = end = START if stream is None else stream.last_id
            for (where, _, _), earlier in self._last.items():
                if where == place:
                    earlier[:] = [one for one in earlier if one[0] <= end]
