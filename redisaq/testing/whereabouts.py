"""Track which message is in which entry, and which messages a server that lost data has lost.

Input: the memory store after each operation, and before and after a loss. Output: a sentence for each message that was appended twice, and
the messages that no group can get any more. A message that was lost may be appended once more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from redisaq.brokers.memory.holdings import Holdings
from redisaq.brokers.memory.shelf import Shelf
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import START, EntryId, format_id, parse_id
from redisaq.core.records import decode_dead
from redisaq.testing.observed import Settle


class Whereabouts:
    """Track the messages of one simulation.

    Attributes:
        entries: for each topic and partition, maps entries to message ids.
        of_key: for each topic and key, all entries of that key in the order in which they were appended, each with its partition.
    """

    def __init__(self) -> None:
        """Start with no message."""
        self.entries: dict[tuple[str, int], dict[EntryId, str]] = {}
        self.of_key: dict[tuple[str, bytes], list[tuple[int, EntryId]]] = {}
        self._where: dict[str, str] = {}
        self._gone: set[str] = set()
        self._seen: dict[tuple[str, int], EntryId] = {}
        self._taken: dict[str, tuple[str, int, EntryId] | None] = {}  # where it was; None: it was delayed

    def message(self, topic: str, partition: int, entry_id: str) -> str | None:
        """Return the message that is, or was, in an entry."""
        return self.entries.get((topic, partition), {}).get(parse_id(entry_id.encode()))

    def place_of(self, msg_id: str) -> str | None:
        """Return where a message is, or was before it was trimmed, for people; None if it was never appended, or is lost."""
        return self._where.get(msg_id)

    def appended(self, msg_id: str) -> bool:
        """Return whether the message is, or was, in a stream."""
        return msg_id in self._where or msg_id in self._gone

    def look(self, store: MemoryStore) -> list[str]:
        """Find what the last step has appended, and return what is wrong with it."""
        wrong: list[str] = []
        for place, stream in store.streams.items():
            seen = self._seen.get(place, START)
            if stream.last_id == seen:
                continue
            self._seen[place] = stream.last_id
            for entry_id, fields in stream.after(seen, len(stream)):
                msg_id, where = fields[1].decode(), f"{place[0]}/{place[1]} {format_id(entry_id).decode()}"
                if msg_id in self._where:
                    wrong.append(f"message {msg_id} was appended twice: {self._where[msg_id]} and {where}")
                self._where[msg_id] = where
                self.entries.setdefault(place, {})[entry_id] = msg_id
                key = next((fields[at + 1] for at in range(0, len(fields) - 1, 2) if fields[at] == b"k"), None)
                if key is not None:
                    self.of_key.setdefault((place[0], key), []).append((place[1], entry_id))
        return wrong

    # -- losses ------------------------------------------------------------------------------------------------------------------------

    def lost(self, before: Holdings, after: Holdings) -> None:
        """Note which messages the server has lost."""
        for topic, partition in {**before.streams, **before.delayed}:
            entries = self.entries.get((topic, partition), {})
            gone, delayed = there(before, topic, partition) - there(after, topic, partition), after.delayed.get((topic, partition), {})
            for entry_id in [entry_id for entry_id in entries if entry_id in gone]:
                msg_id = entries.pop(entry_id)
                if self._where.pop(msg_id, None) is not None:
                    self._gone.add(msg_id)
                self._taken[msg_id] = (topic, partition, entry_id)
            for found in before.delayed.get((topic, partition), {}):
                if found not in delayed and found.decode() not in self._where:
                    self._taken.setdefault(found.decode(), None)
        self._seen = {place: stream.last_id for place, stream in after.streams.items()}

    def dropped(self, data: Holdings, groups: Iterable[GroupName], settles: Collection[Settle]) -> list[str]:
        """Return the messages that were lost before every group had finished them, and have not come back."""
        delayed = {msg_id.decode() for held in data.delayed.values() for msg_id in held}
        lost = {msg_id: stood for msg_id, stood in self._taken.items() if msg_id not in self._where and msg_id not in delayed}
        if not lost:
            return []
        done = {
            (one.topic, one.group, one.partition, parse_id(entry_id.encode()))
            for one in settles
            if one.accepted and one.to == "done"
            for entry_id in one.entry_ids
        }
        names = list(groups)

        def had(topic: str, partition: int, entry_id: EntryId) -> bool:
            asked = [group.group for group in names if group.topic == topic]
            return bool(asked) and all((topic, group, partition, entry_id) in done for group in asked)

        return [msg_id for msg_id, stood in lost.items() if stood is None or not had(*stood)]


def there(data: Holdings, topic: str, partition: int) -> set[EntryId]:
    """Return the entries of a partition that the server still has in some form."""
    stream = data.streams.get((topic, partition))
    found = {entry_id for entry_id, _ in stream.after(START, len(stream))} if stream is not None else set[EntryId]()
    for (group, number), shelf in data.shelves.items():
        if group.topic == topic and number == partition:
            found |= {parse_id(entry_id) for entry_id in shelf.retry} | dead_in(shelf)
    return found


def dead_in(shelf: Shelf) -> set[EntryId]:
    """Return the entries among the dead letters."""
    return {parse_id(decode_dead(words).entry_id) for _, words in shelf.dead.after(START, len(shelf.dead))}
