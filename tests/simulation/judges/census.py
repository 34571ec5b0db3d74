"""Knows where every message is, and checks each step that moves one.

Input: the memory store after each operation, and which messages were settled. Output: a sentence for each forbidden move. Invariants: for
each group, a message is in exactly one of delayed, unread, pending, retry, dead, done. It moves from one to the next only as the protocol
allows. It leaves pending or retry for good only by being settled (S1, S3).

It checks only the partitions that the last step changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from redisaq.brokers.memory.holdings import Holdings
from redisaq.brokers.memory.shelf import Shelf
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.memory.streams import GroupCursor, Stream
from redisaq.brokers.steps.growing import FROM_ELSEWHERE
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import START, EntryId, parse_id
from redisaq.core.records import decode_dead
from redisaq.testing.observing import Place, show
from redisaq.testing.whereabouts import Whereabouts

_NOTHING = Shelf()


@dataclass
class Share:
    """What one group holds of one partition, at the last look.

    Attributes:
        place: the group and the partition.
        print: this or `last_delivered` changes whenever a message has moved.
        last_delivered: nothing at or below it is new to the group. pending, retry, dead: entries.
        letters: how many dead letters were ever written.
    """

    place: Place
    print: tuple[object, ...] = ()
    last_delivered: EntryId = START
    pending: frozenset[EntryId] = frozenset()
    retry: frozenset[EntryId] = frozenset()
    dead: frozenset[EntryId] = frozenset()
    letters: int = 0


@dataclass
class Census:
    """Compares the store before and after each step.

    Attributes:
        violation: called with each forbidden move.
        whereabouts: entry -> its message.
        ended: by group and partition: entry -> "done", "dead" or "passed over".
        redriven: called with an entry whose next life began.
        purged: dead letters that were dropped, or for which there was no room.
    """

    violation: Callable[[str], None]
    redriven: Callable[[Place, EntryId], None]
    whereabouts: Whereabouts
    ended: dict[Place, dict[EntryId, str]] = field(default_factory=dict[Place, dict[EntryId, str]])
    purged: set[tuple[Place, EntryId]] = field(default_factory=set[tuple[Place, EntryId]])
    _delayed: dict[tuple[str, int], frozenset[bytes]] = field(default_factory=dict[tuple[str, int], frozenset[bytes]])
    _counts: dict[str, int] = field(default_factory=dict[str, int])
    _held: dict[tuple[str, int], dict[str, Share]] = field(default_factory=dict[tuple[str, int], dict[str, Share]])

    def begin_again(self, data: Holdings) -> None:
        """The server has lost data: do not compare what it has now with what it had."""
        self._delayed = {place: frozenset(delayed) for place, delayed in data.delayed.items()}
        self._counts.clear()
        self._held.clear()
        for (topic, partition), stream in data.streams.items():
            for name, cursor in stream.groups.items():
                place = (GroupName(topic, name), partition)
                self._hold(place, self._share(cursor, data.shelves.get(place, _NOTHING), place))

    def look(self, store: MemoryStore) -> None:
        """Find what the last step has moved."""
        for topic, state in store.topics.items():
            if state.partitions < self._counts.get(topic, 0):
                self.violation(f"topic {topic} has fewer partitions than before: {state.partitions}")
            self._counts[topic] = state.partitions
        shelves = store.shelves
        for where, stream in store.streams.items():
            shares = self._held.get(where)
            if shares is None:
                shares = self._held[where] = {}
            for name, cursor in stream.groups.items():
                held = shares.get(name)
                if held is None:
                    held = shares[name] = Share((GroupName(where[0], name), where[1]), last_delivered=cursor.last_delivered)
                shelf = shelves.get(held.place, _NOTHING)
                dead = shelf.dead
                if held.last_delivered != cursor.last_delivered or held.print != (
                    len(cursor.pending),
                    len(shelf.retry),
                    dead.last_id,
                    dead.removed,
                ):
                    self._look_group(held, stream, cursor, shelf)
        for place, delayed in store.delayed.items():
            if len(delayed) != len(self._delayed.get(place, ())) or delayed:
                self._look_delayed(place, delayed, store)

    def sought(self, place: Place, before: EntryId, after: EntryId, store: MemoryStore) -> None:
        """An admin has moved the group's position: entries after it are only unread, and entries that were skipped have ended."""
        ended = self.ended.setdefault(place, {})
        for entry_id in self._between(place, before, after):
            ended.setdefault(entry_id, "passed over")
        group, partition = place
        stream, shelf = store.streams[group.topic, partition], store.shelves.get(place, _NOTHING)
        cursor = stream.groups[group.group]
        if cursor.last_delivered != after:
            self.violation(f"the position of {group.group} in {group.topic}/{partition} is {cursor.last_delivered}, not {after}")
        for kind, ids in (("pending", cursor.pending), ("to be tried again", map(parse_id, shelf.retry))):
            for entry_id in sorted(ids):
                if entry_id > after and stream.fields(entry_id) is not None:
                    self.violation(f"{show(place, entry_id)} is delivered again, and {kind} as well")
        self._hold(place, self._share(cursor, shelf, place))

    def _look_delayed(self, place: tuple[str, int], delayed: Iterable[bytes], store: MemoryStore) -> None:
        topic, number = place
        # G8: what has been adopted elsewhere is on its way, and is still here for a moment.
        adopted = {msg_id for (name, _), marks in store.adopted.items() if name == topic for origin, msg_id in marks if origin == number}
        before, now = self._delayed.get(place, frozenset[bytes]()), frozenset(delayed)
        self._delayed[place] = now
        for msg_id in now:
            if msg_id not in adopted and (where := self.whereabouts.place_of(msg_id.decode())) is not None:
                self.violation(f"message {msg_id.decode()} is delayed, and in its stream: {where}")
        for msg_id in sorted(before - now):
            moved = msg_id in adopted and any(msg_id in rows for (name, _), rows in store.delayed.items() if name == topic)
            if not moved and self.whereabouts.place_of(msg_id.decode()) is None:
                self.violation(f"message {msg_id.decode()} is no longer delayed, and in no stream")

    def _look_group(self, held: Share, stream: Stream, cursor: GroupCursor, shelf: Shelf) -> None:
        now = self._share(cursor, shelf, held.place)
        self._hold(held.place, now)
        if cursor.last_delivered >= held.last_delivered:
            self._compare(held.place, held, now, stream)

    def _hold(self, place: Place, share: Share) -> None:
        self._held.setdefault((place[0].topic, place[1]), {})[place[0].group] = share

    def _share(self, cursor: GroupCursor, shelf: Shelf, place: Place) -> Share:
        pending, retry = frozenset(cursor.pending), frozenset(map(parse_id, shelf.retry))
        letters = [parse_id(decode_dead(words).entry_id) for _, words in shelf.dead.after(START, len(shelf.dead))]
        seen = (len(cursor.pending), len(shelf.retry), shelf.dead.last_id, shelf.dead.removed)
        share = Share(place, seen, cursor.last_delivered, pending, retry, frozenset(letters), shelf.dead.added)
        for entry_id, times in sorted(Counter([*pending, *retry, *letters]).items()):
            if times > 1:
                kinds = [kind for kind, ids in (("pending", pending), ("retry", retry), ("dead", share.dead)) if entry_id in ids]
                self.violation(f"{show(place, entry_id)} is {times} times among {', '.join(kinds)}")
        return share

    def _compare(self, place: Place, before: Share, now: Share, stream: Stream) -> None:
        """Check what one step did to one group's share of one partition."""
        ended = self.ended.setdefault(place, {})
        fresh = self._between(place, before.last_delivered, now.last_delivered)
        for entry_id in sorted(now.dead - before.dead):
            ended[entry_id] = "dead"
        self.purged |= {(place, entry_id) for entry_id in before.dead - now.dead - now.retry}
        for entry_id in sorted(now.retry & before.dead):
            ended.pop(entry_id, None)
            self.redriven(place, entry_id)
        held_before, held = before.pending | before.retry | before.dead, now.pending | now.retry | now.dead
        for entry_id in sorted(held - held_before - fresh):
            partition, sequence = divmod(entry_id[1], FROM_ELSEWHERE)
            origin = (place[0], partition - 1), (entry_id[0], sequence)
            if entry_id in now.retry and partition and self.ended.get(origin[0], {}).get(origin[1]) == "dead":
                continue  # G8: a dead letter of another partition was redriven to here
            self.violation(f"{show(place, entry_id)} came back, though it had been {ended.get(entry_id, 'gone')}")
        for entry_id in sorted((now.pending & (before.retry | before.dead)) | (now.retry & now.pending)):
            self.violation(f"{show(place, entry_id)} is pending again")
        left = (before.pending | before.retry | fresh) - held
        died = {entry_id for entry_id in left if ended.get(entry_id) == "dead"}
        if now.letters - before.letters == len(now.dead - before.dead) + len(died):  # written, and dropped for later ones of this step
            self.purged |= {(place, entry_id) for entry_id in died}
        for entry_id in sorted(left):
            if entry_id not in ended and stream.fields(entry_id) is not None:
                self.violation(f"{show(place, entry_id)} is nowhere, and nobody settled it")

    def _between(self, place: Place, after: EntryId, until: EntryId) -> frozenset[EntryId]:
        if after == until:
            return frozenset()
        entries = self.whereabouts.entries.get((place[0].topic, place[1]), {})
        return frozenset(entry_id for entry_id in entries if after < entry_id <= until)
