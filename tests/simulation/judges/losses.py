"""Keeps account of what a failover or a lost slot has taken, so that this, and only this, is no violation.

Input: the server's data before and after. Output: entries whose delivery or settlement is forgotten, which may run again; and acquisitions
that are forgotten while their owner works on. Such an owner may work beside another until its next heartbeat. No rule prevents that
(docs/understand/protocol.md, "What stays open"), so it is reported as known. Invariant: an excuse covers one partition, one token, and at
most one ttl.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from redisaq.brokers.memory.holdings import Holdings
from redisaq.brokers.memory.shelf import Shelf
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import START, EntryId, parse_id
from redisaq.core.membership import EMPTY, Document, decode_document
from redisaq.testing.observing import Place
from redisaq.testing.whereabouts import dead_in, there
from tests.simulation.judges.census import Census
from tests.simulation.judges.histories import Histories

Entry = tuple[Place, EntryId]
"""A group's entry."""

Standing = tuple[str, object]
"""A group's entry: where it is, and how many times it was tried there."""

OUTSTANDING = ("no group", "unread", "pending", "retry")
"""Where an entry is that the group still gets, or settles."""


@dataclass
class Orphan:
    """An acquisition that the server has forgotten, while its owner may work on.

    Attributes:
        token: the owner's.
        until: when its owner must have noticed at the latest.
        reason: in words.
        gone: when it was lost; None if it is excused in any case. Otherwise the whole document was lost, and this is excused only if a
            member that never saw the group makes the new document, and the keys beside the partition's data are lost, too.
        ended: its owner has given up.
    """

    token: int
    until: float
    reason: str
    gone: float | None = None
    ended: bool = False


class Losses:
    """What each loss of data excuses, and until when.

    Attributes:
        ttl: the longest of any member's lease.
        groups: those that members were in.
        times: when data was lost.
    """

    def __init__(
        self, census: Census, histories: Histories, clock: Callable[[], float], told: Callable[[Collection[Entry]], None] = lambda _: None
    ) -> None:
        """Begin without losses.

        The arguments are the other judges that keep account, virtual time, and a function to call with entries of which the server has
        forgotten something.
        """
        self._told = told
        self.ttl = 0.0
        self.groups: dict[GroupName, None] = {}
        self.times: list[float] = []
        self.tokens: dict[Place, int] = {}  # the token that stands
        self._census = census
        self._histories = histories
        self._clock = clock
        self._orphans: dict[Place, list[Orphan]] = {}
        self._unfenced: dict[Place, float] = {}  # when its token was lost
        self._emptied: dict[Place, float] = {}  # when what stood beside its data was lost
        self._made_plainly: dict[GroupName, float] = {}  # when a document was made by who knew of none before
        self._unmade: set[GroupName] = set()

    # -- what is lost ------------------------------------------------------------------------------------------------------------------

    def lost(self, before: Holdings, after: Holdings, reason: str) -> None:
        """Find out what was lost."""
        self.times.append(self._clock())
        forgotten = set[Entry]()
        for topic, partition in {**before.streams, **before.delayed}:
            gone = there(before, topic, partition) - there(after, topic, partition)
            forgotten.update(((group, partition), entry_id) for group in self.groups if group.topic == topic for entry_id in gone)
        for group in self.groups:
            for topic, partition in before.streams:
                if topic == group.topic:
                    left = after.streams.get((topic, partition))
                    gone = there(before, topic, partition) - there(after, topic, partition)
                    self._histories.ends((group, partition), START if left is None else left.last_id, gone)
                    forgotten.update(self._set_back((group, partition), before, after))
            self._find_orphans(group, before, after, reason)
        for place, standing in self.tokens.items():
            lease = after.leases.get(place)
            self.tokens[place] = token = lease.token if lease is not None else 0
            if token != standing:
                self._unfenced[place] = self._clock()
        self._census.begin_again(after)
        self._told(forgotten)

    def _set_back(self, place: Place, before: Holdings, after: Holdings) -> Iterable[Entry]:
        """Allow everything to run again that was delivered, tried or settled, and is not so any more; return it."""
        changed: list[Entry] = []
        entries = self._census.whereabouts.entries.get((place[0].topic, place[1]), {})
        was, stands = standings(before, place, entries), standings(after, place, entries)
        ended = self._census.ended.setdefault(place, {})
        for entry_id in entries:
            standing = stands[entry_id]
            if was[entry_id] == standing:
                continue
            self._histories.set_back(place, entry_id)
            changed.append((place, entry_id))
            if standing[0] in ("unread", "pending", "retry"):
                ended.pop(entry_id, None)
            elif standing[0] == "dead":
                ended[entry_id] = "dead"
        return changed

    # -- acquisitions that are lost ----------------------------------------------------------------------------------------------------

    def _find_orphans(self, group: GroupName, before: Holdings, after: Holdings, reason: str) -> None:
        now = self._clock()
        was, stands = document_in(before, group), document_in(after, group)
        if was is not None and stands is None:
            self._unmade.add(group)
            self._made_plainly.pop(group, None)
        for partition, incarnation in (was or EMPTY).lease.items():
            token = (was or EMPTY).token.get(partition, 0)
            if stands is None or stands.lease.get(partition) != incarnation:
                gone = None if stands is not None else now
                self._orphans.setdefault((group, partition), []).append(Orphan(token, now + self.ttl, reason, gone))
        for place, lease in before.leases.items():
            if place[0] == group and (left := after.leases.get(place)) != lease and (left is None or left.holder != lease.holder):
                self._emptied[place] = now

    def look(self, data: Holdings) -> None:
        """Find out whether a lost document has been made again, and by which member (M8)."""
        for group in list(self._unmade):
            coordination = data.coordination.get(group)
            if coordination is not None and coordination.state is not None:
                self._unmade.discard(group)
                if coordination.state.frozen_until == 0:
                    self._made_plainly[group] = self._clock()

    def given_up(self, place: Place, token: int, since: float) -> bool:
        """An owner, which began at that time, has ended; return whether its token was no longer current.

        If so, its last steps were not stored.
        """
        for orphan in self._orphans.get(place, ()):
            if orphan.token == token:
                orphan.ended = True
        gone = self._unfenced.get(place, -1.0) >= since
        if gone:
            self._histories.set_back_all(place, token)
        return gone

    def excuse(self, place: Place, tokens: Iterable[int] | None = None) -> str:
        """Return why owners under these tokens may work side by side; an empty string if they must not.

        Args:
            place: what they work on.
            tokens: of which one must be an orphan's that has not ended; None: whatever follows from there being an orphan.
        """
        now = self._clock()
        for orphan in self._orphans.get(place, ()):
            if now > orphan.until or (tokens is not None and (orphan.ended or orphan.token not in tokens)):
                continue
            if orphan.gone is None:
                return f"{orphan.reason}, the acquisition under {orphan.token} included"
            if place[0] in self._made_plainly and self._emptied.get(place, -1.0) >= orphan.gone - self.ttl:
                return f"{orphan.reason}, and a member that had never seen the group made it again"
        return ""


def document_in(data: Holdings, group: GroupName) -> Document | None:
    """Return the group's document."""
    coordination = data.coordination.get(group)
    return None if coordination is None or coordination.state is None else decode_document(coordination.state.document)


def standings(data: Holdings, place: Place, entries: Iterable[EntryId]) -> dict[EntryId, Standing]:
    """Return where the group has each of these entries."""
    group, partition = place
    stream = data.streams.get((group.topic, partition))
    cursor = stream.groups.get(group.group) if stream is not None else None
    shelf = data.shelves.get(place) or Shelf()
    retry = {parse_id(entry_id): body for entry_id, (_, body) in shelf.retry.items()}
    dead = dead_in(shelf)
    found: dict[EntryId, Standing] = {}
    for entry_id in entries:
        if entry_id in retry:
            found[entry_id] = ("retry", retry[entry_id])
        elif entry_id in dead:
            found[entry_id] = ("dead", None)
        elif stream is None or cursor is None:
            found[entry_id] = ("no group", None)
        elif entry_id in cursor.pending:
            found[entry_id] = ("pending", cursor.pending[entry_id])
        elif entry_id > cursor.last_delivered:
            found[entry_id] = ("unread", None)
        else:
            found[entry_id] = ("settled", None)
    return found
