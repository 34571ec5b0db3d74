"""One consumer as a member of its group: what it knows about itself there, and how it enters and leaves (M1, M2).

- `Member` is shared by the coordinator, which changes it, and the heartbeat emitter, which keeps it alive.
- `Admission` sets a document with the member in it, or without it, by compare-and-set. It also makes a group or a topic again that the
  server has lost (M8, E5).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from redisaq import events
from redisaq.brokers.steps.coordination import Beat, Commit, Heartbeat, Wait, make_groups
from redisaq.brokers.steps.topics import MakeTopic, TopicState
from redisaq.consuming.context import Surroundings
from redisaq.consuming.lease import Lease
from redisaq.core import history, membership
from redisaq.core.deltas import apply_delta, delta_of
from redisaq.core.membership import EMPTY, UNKNOWN, Document, is_crowd, is_member, next_forgotten
from redisaq.core.server_clock import ServerClock
from redisaq.core.waiting import ASK_EVERY, Newcomer, Room
from redisaq.environment import Environment
from redisaq.identity import label_of, profile_of

SPREAD, LONGEST_SPREAD = 0.0002, 1.0
"""Seconds for each member of a crowd over which its members spread their looks, and the most of them."""

FORMER_KEPT = 16
"""How many of its earlier incarnations a member remembers: what an older one still holds is foreign, and only waited for longer (M7)."""


@dataclass
class Member:
    """One consumer's place in its group.

    Attributes:
        name: the static name that the user chose, None for none (M1).
        ttl: seconds that a lease lasts.
        environment: clocks and random numbers.
        lease: the current incarnation's; it has no time until it has joined.
        joined: the current incarnation is a member.
        version: the version of the newest document seen (M3).
        document: the newest one seen; kept when the group is lost (M8).
        partitions: how many the topic has, 0 while it does not exist.
        topic: its state, as last seen; None before. That of a topic which has grown less than this counts as forgotten.
        forgotten: the last answer says that the topic has fewer partitions than `topic`: it is to grow again (G9).
        next_look: when to look next, by the local clock and as of the last answer: another member expires, the group's freeze ends (M7,
            M8), or an entry of `unable` is forgotten.
        topic_missing: the topic did not exist at the last look.
        retention: the topic's producers ask for `retention="acked"`, as far as heartbeats have reported.
        on_retention: called when that is first reported.
        former: earlier incarnations under which nothing runs any more, the newest FORMER_KEPT; leases read them live.
        server_clock: what the answers have shown of the server's clock; each incarnation continues with it.
    """

    name: str | None
    ttl: float
    environment: Environment
    lease: Lease = field(init=False)
    joined: bool = False
    version: str = ""
    document: Document | None = None
    partitions: int = 0
    topic: TopicState | None = None
    forgotten: bool = False
    next_look: float = math.inf
    topic_missing: bool = False
    retention: bool = False
    on_retention: Callable[[], None] = lambda: None
    former: deque[str] = field(default_factory=lambda: deque[str](maxlen=FORMER_KEPT))
    server_clock: ServerClock = field(default_factory=ServerClock)

    def __post_init__(self) -> None:
        """Begin as a new incarnation (M1)."""
        self.renew_incarnation()

    def renew_incarnation(self) -> None:
        """Become a new incarnation: whatever the last one held is lost (M5)."""
        if self.joined:
            self.lease.end()
        self.joined = False
        self.version = ""
        self.lease = Lease(self.environment.new_id(), self.ttl, self.environment, self.former, self.server_clock)

    def newest(self, beat: Beat) -> Document | None:
        """Return the document that an answer shows; None if there is none, or if it cannot be computed from its deltas (M10)."""
        if beat.document is not None:
            return beat.document
        document = self.document if beat.version == self.version or beat.deltas else None
        for delta in beat.deltas:
            document = None if document is None else apply_delta(document, delta)
        return document

    def observe(self, beat: Beat) -> None:
        """Take from an answer when to look next, and whether the topic is trimmed."""
        document = beat.document or self.document
        forgotten = None if document is None else next_forgotten(document)
        times = [time for time in (beat.next_expiry, beat.frozen_until, forgotten) if time is not None and time > beat.now]
        left = (min(times) - beat.now) / 1e6 if times else math.inf
        self.next_look = self.environment.clock() + left + self.spread()
        if beat.topic is not None and beat.topic.acked and not self.retention:
            self.retention = True
            self.on_retention()

    def spread(self) -> float:
        """Return the seconds to wait before this member looks at what all members look at: chance spreads a crowd (M12)."""
        longest = self.longest_spread()
        return self.environment.random.random() * longest if longest else 0.0

    def longest_spread(self) -> float:
        """Return the seconds within which all members look; 0 if they are no crowd."""
        if self.document is None or not is_crowd(self.document):
            return 0.0
        return min(len(self.document.members) * SPREAD, LONGEST_SPREAD)

    def news(self, beat: Beat, *, paused: bool) -> bool:
        """True if the answer contains something that the coordinator must act on."""
        grown = beat.topic is None or beat.topic.partitions != self.partitions or self._growing(beat.topic)
        listed = self.document is not None and any(is_member(self.document, one) for one in beat.expired)
        droppable = listed and beat.now >= beat.frozen_until
        # An answer may be the first to show the end of a freeze (M8), or of an entry in `unable`; `observe` then sets no time to look.
        thawed = self.document is not None and beat.now >= beat.frozen_until and UNKNOWN in self.document.lease.values()
        forgotten = None if self.document is None else next_forgotten(self.document)
        overdue = thawed or (forgotten is not None and beat.now >= forgotten)
        return beat.version != self.version or droppable or overdue or grown or beat.paused != paused

    def _growing(self, state: TopicState) -> bool:
        known = self.topic
        return known is not None and (known.history, known.pending) != (state.history, state.pending)


Joining = Literal["joined", "waits", "refused", "no topic"]
"""What came of an attempt to join. `refused`: another member changed the group first, or this incarnation has ended; try again."""


class Admission:
    """Enters the group and leaves it.

    Attributes:
        pause: None, unless the member waits to be let in with others (M11). Then these are the seconds after which it asks again if the
            document does not change before; 0 if nothing but setbacks delays it.
    """

    def __init__(self, surroundings: Surroundings, member: Member, ready: Callable[[Collection[int]], None]) -> None:
        """Begin outside the group.

        Args:
            surroundings: the consumer's.
            member: the member.
            ready: called if there is nothing to assign yet.
        """
        self._around = surroundings
        self._member = member
        self._ready = ready
        self.pause: float | None = None
        self._claimed: frozenset[int] = frozenset()
        self._claimed_until = 0.0
        self._lost: Document | None = None  # the last document that was found lost
        self._maybe_in = False  # the group may have it without its knowing: it was let in, or its own commit was not answered

    def claim(self, partitions: Collection[int], until: float) -> None:
        """Let the next join claim partitions that this process ran when it saw, before its deadline, that the document was lost (M8).

        Until then, by the local clock, no other member can own them.
        """
        self._claimed, self._claimed_until = frozenset(partitions), until

    def _claims(self) -> frozenset[int]:
        """Return the partitions that only this member may continue with after a loss (M8). It claims them itself, without waiting."""
        return self._claimed if self._around.environment.clock() < self._claimed_until else frozenset()

    async def join(self) -> Joining:
        """Try to become a member (M1, M2)."""
        around, member = self._around, self._member
        incarnation = member.lease.incarnation
        room = Room()
        if self.pause is not None and not self._claims():
            room = await around.broker.do(Wait(around.group, incarnation, self._newcomer()))
            self.pause = room.pause if room.waiting else ASK_EVERY
            if self.pause and not room.member:
                return "waits"
        sent = around.environment.clock()
        beat = await around.broker.do(Heartbeat(around.group, incarnation, member.ttl, ""))
        member.lease.observe(sent, beat)
        if not await self.topic_there(beat):
            return "no topic"
        listed = beat.document is not None and membership.is_member(beat.document, incarnation)
        if listed and not beat.alive:  # M5: it has expired meanwhile
            member.renew_incarnation()
            return "refused"
        if listed:
            member.document, member.version = beat.document, beat.version
            self._is_in(sent)
        elif beat.crowded and not room.waiting and not room.member and not self._claims():
            self.pause = 0.0
            return "waits"
        else:
            entered = await self._enter(beat, room.waiting)
            if entered is None:
                self.pause = 0.0
                return "refused"
            self._is_in(entered)
        return "joined"

    def _is_in(self, since: float) -> None:
        """Record that the member's document lists it, and that its lease counts from then."""
        around, member = self._around, self._member
        self.pause, self._maybe_in = None, False
        member.joined = True
        member.lease.begin(since)
        around.contact.heartbeat = since
        around.bulletin.member = member.lease.incarnation
        around.bulletin.publish(events.MemberJoined)

    def _newcomer(self) -> Newcomer:
        around, member = self._around, self._member
        profile = profile_of(around.settings.client, around.environment, member.ttl)
        return Newcomer(member.lease.incarnation, profile, member.name, tuple(sorted(member.former)))

    async def _enter(self, beat: Beat, waiting: Sequence[Newcomer]) -> float | None:
        """Put the member into the document, and those that wait with it (M11).

        Return when this was sent, or None if another member changed the document first.
        """
        around, member = self._around, self._member
        lost = beat.damaged or (beat.document is None and member.document is not None)
        known = member.document or (EMPTY if beat.damaged else None)
        if lost and self._lost is not member.document:
            self._lost = member.document
            around.tell_group_lost(None)
        document = beat.document or membership.made_again(known, partitions=member.partitions)
        if beat.document is not None and beat.document.partitions < member.partitions:
            # It has grown since the last member left, so nobody has made the group in the new streams (G6).
            newer = range(beat.document.partitions, member.partitions)
            await make_groups(around.broker, around.group, newer, latest=False, younger=True)
        if beat.document is None:
            latest = around.settings.start == "latest" and not lost
            await make_groups(around.broker, around.group, range(member.partitions), latest=latest)  # G6
        former = [one for one in member.former if membership.is_member(document, one)]
        document = membership.join(
            document,
            name=member.name,
            incarnation=member.lease.incarnation,
            partitions=member.partitions,
            former=former,
            held=self._claims(),
        )
        others = [one for one in waiting if one.incarnation != member.lease.incarnation]
        if others:
            document = membership.admit(document, [(one.incarnation, one.name, one.former) for one in others], partitions=member.partitions)
            document = membership.grant(EMPTY if lost else beat.document or EMPTY, document, now=beat.now)
            former += [each for one in others for each in one.former]
        sent, version = around.environment.clock(), around.environment.new_id()
        step = Commit(
            around.group,
            member.lease.incarnation,
            member.ttl,
            known_version=beat.version,
            new_version=version,
            document=document,
            joins=True,
            freeze=lost,
            former=former,
            delta=None if beat.document is None else delta_of(beat.document, document),
            profile=profile_of(around.settings.client, around.environment, member.ttl),
            changes=(
                history.joined(member.lease.incarnation, label_of(around.settings.client, around.environment)),
                *(history.joined(one.incarnation, one.profile.client) for one in others),
            ),
            admitted=others,
        )
        self._maybe_in = True
        done = await around.granting.do(step)
        self._maybe_in = False
        if not done:
            return None
        member.document, member.version = document, version
        return sent

    async def topic_there(self, beat: Beat) -> bool:
        """True if the topic exists; a topic that existed and is lost is made again (E5)."""
        around, member = self._around, self._member
        if beat.topic is None and member.partitions:
            state = await around.broker.do(MakeTopic(around.group.topic, member.partitions, known=member.topic))
            self._topic_is(state)
        elif beat.topic is None:
            if not member.topic_missing:
                member.topic_missing = True
                around.bulletin.publish(events.TopicMissing)
                self._ready(())
            return False
        else:
            self._topic_is(beat.topic)
        member.topic_missing = False
        return True

    def _topic_is(self, state: TopicState) -> None:
        member, around = self._member, self._around
        before = member.topic
        member.forgotten = before is not None and state.partitions < before.partitions
        if member.forgotten:
            around.look_at_growth()
            return
        member.topic = state
        member.partitions = max(member.partitions, state.partitions)
        around.history = state.history
        if before is None or (before.history, before.pending) != (state.history, state.pending):
            around.look_at_growth()

    async def leave(self) -> bool:
        """Leave the group, or stop waiting to be let in; False if another member changed the group first, so that this must be repeated."""
        member = self._member
        if self.pause is not None:
            await self._withdraw()
        if self._maybe_in:
            await self._find_out()
        if not member.joined or not member.lease.alive() or member.document is None:
            return True  # other members will see that it has expired
        with member.lease.scope():
            return await self._take_out(member.document)
        return False  # the lease ran out meanwhile

    async def _withdraw(self) -> None:
        """Stop waiting (M11)."""
        around = self._around
        room = await around.broker.do(Wait(around.group, self._member.lease.incarnation, None))
        self.pause = None
        self._maybe_in = self._maybe_in or room.member

    async def _find_out(self) -> None:
        """Find out whether the group has the member. Unlike `join`, this neither enters the group nor waits to be let in."""
        around, member = self._around, self._member
        sent = around.environment.clock()
        beat = await around.broker.do(Heartbeat(around.group, member.lease.incarnation, member.ttl, ""))
        self._maybe_in = False
        if beat.alive and beat.document is not None and membership.is_member(beat.document, member.lease.incarnation):
            member.lease.observe(sent, beat)
            member.document, member.version = beat.document, beat.version
            self._is_in(sent)

    async def _take_out(self, known: Document) -> bool:
        """Take the member out of the document."""
        around, member = self._around, self._member
        incarnation = member.lease.incarnation
        document = membership.leave(known, incarnation=incarnation)
        if is_crowd(known):
            document = membership.grant(known, document, now=member.lease.server_now())
        return await around.broker.do(
            Commit(
                around.group,
                incarnation,
                member.ttl,
                known_version=member.version,
                new_version=around.environment.new_id(),
                document=document,
                leaves=True,
                delta=delta_of(known, document),
                changes=(history.left(incarnation, label_of(around.settings.client, around.environment)),),
            )
        )
