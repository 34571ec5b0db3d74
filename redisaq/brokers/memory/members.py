"""A group's coordination: the members' expiries and the document, with the two steps that change them (M2 to M9).

Invariants: a document is only replaced under its own version, a member whose time has run out never lives again, and nothing held is
dropped while the group is frozen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from redisaq.brokers.memory.streams import Stream
from redisaq.brokers.steps.coordination import Beat, Commit, GiveBack, Heartbeat, Wait
from redisaq.brokers.steps.topics import TopicState
from redisaq.core.deltas import KEPT as KEPT_DELTAS, Delta, encode_delta, read_delta
from redisaq.core.history import KEPT, Change, encode_change
from redisaq.core.membership import encode_document, read_document
from redisaq.core.profile import Presence
from redisaq.core.records import microseconds
from redisaq.core.running import Report
from redisaq.core.waiting import (
    ASK_EVERY,
    BURST,
    FREED_LASTS,
    GATHER_TURN,
    STAYS,
    TURN,
    Freed,
    Newcomer,
    Room,
    burst_of,
    encode_newcomer,
    read_newcomers,
)

ROOM_LASTS = 5_000_000
"""Microseconds after which a waiting room in which nobody asks is gone."""


@dataclass
class GroupState:
    """The document and the fields beside it.

    Attributes:
        version: random, so that a document that was lost and made again is never mistaken for an older one (M3).
        document: encoded, so that members in one process do not share mutable data.
        run_id: the server that wrote or last confirmed the expiries (M7).
        born: when this state was made (M8).
        frozen_until: until then nothing held may be dropped (M7, M8).
        changed: when the document was last replaced: a member that left was there until then.
        deltas: its latest changes, oldest first: version -> the next version, and the delta, encoded.
    """

    version: str
    document: bytes
    run_id: str
    born: int
    frozen_until: int
    changed: int
    deltas: dict[str, tuple[str, bytes]] = field(default_factory=dict[str, tuple[str, bytes]])

    def since(self, version: str) -> tuple[Delta | None, ...]:
        """Return the deltas from a version to the present one, oldest first; none if they are not all there (M10)."""
        found: list[Delta | None] = []
        while version != self.version:
            if version not in self.deltas or len(found) == KEPT_DELTAS:
                return ()
            version, delta = self.deltas[version]
            found.append(read_delta(delta))
        return tuple(found)

    def replace(self, step: Commit, document: bytes, now: int, frozen_until: int) -> None:
        """Put another document in this one's place, and keep what changed (M10)."""
        self.version, self.document, self.changed = step.new_version, document, now
        self.frozen_until = max(self.frozen_until, frozen_until)
        if delta := encode_delta(step.delta, document):
            if len(self.deltas) == KEPT_DELTAS:
                del self.deltas[next(iter(self.deltas))]
            self.deltas[step.known_version] = self.version, delta


@dataclass
class WaitingRoom:
    """Those that wait to join (M11).

    Attributes:
        waiting: incarnation -> when it came, when it last asked, and what it says about itself.
        holder: the one whose turn it is to let them in …
        until: … until then.
    """

    waiting: dict[str, tuple[int, int, bytes]] = field(default_factory=dict[str, tuple[int, int, bytes]])
    holder: str = ""
    until: int = 0

    def leave(self, incarnation: str) -> None:
        """Let one stop waiting, and pass its turn on."""
        self.waiting.pop(incarnation, None)
        if self.holder == incarnation:
            self.holder, self.until = "", 0

    def ask(self, newcomer: Newcomer, now: int) -> tuple[tuple[int, Newcomer], ...]:
        """Let one wait; return those that wait, each with when it came, if it has the turn."""
        incarnation = newcomer.incarnation
        came = min(now, self.waiting.get(incarnation, (now,))[0])
        self.waiting[incarnation] = came, now, encode_newcomer(newcomer)
        if self.holder != incarnation and now < self.until <= now + microseconds(TURN):
            return ()
        self.holder, self.until = incarnation, now + microseconds(TURN)
        self.waiting = {one: kept for one, kept in self.waiting.items() if kept[1] + microseconds(STAYS) > now}
        rows = sorted((came, one, said) for one, (came, _, said) in self.waiting.items())
        return tuple((came, read) for came, _, said in rows for read in read_newcomers([said]))


@dataclass
class Returns:
    """What members of a crowd have given back (M13).

    Attributes:
        given: incarnation -> when, and which partitions under which tokens.
        holder: whose turn it is to change the document for all of them …
        began: … and since when.
    """

    given: dict[str, tuple[int, dict[int, int]]] = field(default_factory=dict[str, tuple[int, dict[int, int]]])
    holder: str = ""
    began: int = 0

    def give_back(self, step: GiveBack, now: int) -> Freed:
        """Note what nobody works on any more, and return what all have given back, if it is the caller's turn."""
        gather = microseconds(step.gather)
        self.given[step.incarnation] = now, dict(step.leases)
        if not self.holder or not self.began <= now < self.began + microseconds(GATHER_TURN) + gather:
            self.holder, self.began = step.incarnation, now
        if self.holder != step.incarnation:
            return Freed(ASK_EVERY)
        if now - self.began < gather:
            return Freed((gather - (now - self.began)) / 1e6)
        self.holder = ""
        self.given = {one: kept for one, kept in self.given.items() if kept[0] <= now < kept[0] + microseconds(FREED_LASTS)}
        return Freed(0.0, frozenset((p, one, token) for one, (_, leases) in self.given.items() for p, token in leases.items()))


@dataclass
class Coordination:
    """A group's members (incarnation -> expiry), its state (None where there is none), and whether an admin has paused it.

    `presences` holds what the members say about themselves; `reports`, until when and what they tell of their handlers while somebody
    watches the group, which is until `watched_until`. `room` holds those that wait to join, and `burst` how many have joined
    shortly after each other, and when the last of them did. `freed` holds what members of a crowd have given back.
    """

    members: dict[str, int] = field(default_factory=dict[str, int])
    presences: dict[str, Presence] = field(default_factory=dict[str, Presence])
    state: GroupState | None = None
    paused: bool = False
    paused_at: int = 0
    history: Stream = field(default_factory=Stream)
    watched_until: int = 0
    reports: dict[str, tuple[int, Report]] = field(default_factory=dict[str, tuple[int, Report]])
    room: WaitingRoom = field(default_factory=WaitingRoom)
    burst: tuple[int, int] = 0, 0
    freed: Returns = field(default_factory=Returns)

    def heartbeat(self, step: Heartbeat, *, now: int, run_id: str, topic: TopicState | None) -> Beat:
        """Extend the incarnation's time if it is alive, and return the state of the group."""
        incarnation, extension, known_version = step.incarnation, microseconds(step.ttl), step.known_version
        state = self.state
        if state is not None and state.run_id != run_id:  # M7: this server may have missed the last heartbeats
            state.run_id = run_id
            state.frozen_until = max(state.frozen_until, now + extension)
            # A member with a shorter ttl shortens no other member's time.
            self.members = {member: max(expiry, now + extension) for member, expiry in self.members.items()}
        alive = self._lives(incarnation, now)
        if alive:
            self.members[incarnation] = now + extension
        others = {member: expiry for member, expiry in self.members.items() if member != incarnation}
        answer = Beat(
            alive=alive,
            now=now,
            expired=tuple(sorted(member for member, expiry in others.items() if expiry <= now)),
            next_expiry=min((expiry for expiry in others.values() if expiry > now), default=None),
            topic=topic,
            paused=self.paused,
            crowded=not alive and self._crowded(now),
        )
        if state is None:
            return answer
        deltas = state.since(known_version)
        document = read_document(state.document) if state.version != known_version and not deltas else None
        return Beat(
            alive=answer.alive,
            now=answer.now,
            version=state.version,
            document=document,
            deltas=() if None in deltas else tuple(one for one in deltas if one is not None),
            expired=answer.expired,
            next_expiry=answer.next_expiry,
            topic=answer.topic,
            born=state.born,
            frozen_until=state.frozen_until,
            paused=self.paused,
            watched=now < self.watched_until,
            crowded=answer.crowded,
            damaged=document is None and state.version != known_version and not deltas,
        )

    def commit(self, step: Commit, *, now: int, run_id: str) -> bool:
        """Replace the document under its version, and the members with it (M2); False, and nothing changed, if refused."""
        if self._refuses(step, now, run_id):
            return False
        incarnation, extension, state = step.incarnation, microseconds(step.ttl), self.state
        encoded = encode_document(step.document)
        frozen_until = now + extension if step.freeze else 0
        if state is None:
            self.state = GroupState(step.new_version, encoded, run_id, born=now, frozen_until=frozen_until, changed=now)
        else:
            state.replace(step, encoded, now, frozen_until)
        if step.joins and step.profile is not None:
            self.presences[incarnation] = Presence(now, step.profile)
        self._remove(*step.former, *step.expired)
        if step.joins:
            self.members[incarnation] = now + extension
        if step.leaves:
            self._remove(incarnation)
        if step.joins:
            self._admit(step, now)
        self.note(step.changes, now)
        return True

    def _refuses(self, step: Commit, now: int, run_id: str) -> bool:
        state, waiting = self.state, self.room.waiting
        return (
            step.known_version != (state.version if state is not None else "")
            # M7: the caller knows another server's state; it must ask again
            or (state is not None and state.run_id != run_id)
            or not (step.joins or self._lives(step.incarnation, now))  # M5
            # M5: check the expiries again. A member that is not in the set cannot beat any more, so it counts as expired.
            or any(self._lives(member, now) for member in step.expired)
            or (bool(step.expired) and state is not None and state.frozen_until > now)  # M7
            or any(one.incarnation not in waiting for one in step.admitted)  # M11
        )

    def wait(self, step: Wait, now: int) -> Room:
        """Let one wait that wants to join (M11)."""
        if step.newcomer is None or step.incarnation in self.members:
            self.room.leave(step.incarnation)
            return Room(step.incarnation in self.members, burst=self._burst(now))
        rows = self.room.ask(step.newcomer, now)
        ages = [max(0, now - came) / 1e6 for came, _ in rows] or [0.0]
        return Room(waiting=tuple(newcomer for _, newcomer in rows), newest=min(ages), oldest=max(ages), burst=self._burst(now))

    def _burst(self, now: int) -> int:
        joined, last = self.burst
        return burst_of(joined, (now - last) / 1e6)

    def _crowded(self, now: int) -> bool:
        """Return whether others wait to join, or newcomers should."""
        return bool(self._burst(now)) or any(asked + ROOM_LASTS > now for _, asked, _ in self.room.waiting.values())

    def _admit(self, step: Commit, now: int) -> None:
        """Make members of those that are let in (M11)."""
        self.room.leave(step.incarnation)
        for one in step.admitted:
            self.members[one.incarnation] = now + microseconds(one.profile.ttl)
            self.presences[one.incarnation] = Presence(now, one.profile)
            self.room.leave(one.incarnation)
        joined, last = self.burst
        self.burst = (joined if now - last < microseconds(BURST) else 0) + 1 + len(step.admitted), now

    def note(self, changes: Iterable[Change], now: int) -> None:
        """Add changes to the history."""
        for change in changes:
            self.history.append((b"c", encode_change(change)), now // 1000, KEPT)

    def tell(self, incarnation: str, report: Report, *, now: int, until: int) -> None:
        """Keep what a member tells of its handlers until then, and drop what is too old."""
        self.reports = {one: kept for one, kept in self.reports.items() if kept[0] > now}
        self.reports[incarnation] = until, report

    def told(self, incarnation: str, now: int) -> Report | None:
        """Return what a member has reported of its handlers; None if that is too old."""
        kept = self.reports.get(incarnation)
        return kept[1] if kept is not None and kept[0] > now else None

    def _remove(self, *incarnations: str) -> None:
        for incarnation in incarnations:
            self.members.pop(incarnation, None)
            self.presences.pop(incarnation, None)

    def _lives(self, incarnation: str, now: int) -> bool:
        expiry = self.members.get(incarnation)
        return expiry is not None and expiry > now
