"""How a member enters and leaves its group (M1, M2).

In: the member, as the coordinator keeps it. Out: a document with the member in it, or without it, set by compare-and-set. A group or a
topic that the server has lost is made again here (M8, E5).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from redisaq import events
from redisaq.brokers.base import Beat
from redisaq.consuming.context import Surroundings
from redisaq.consuming.member import Member
from redisaq.core import membership
from redisaq.core.document import EMPTY, Document


class Admission:
    """See the module.

    Attributes:
        safe: partitions that this process ran when it saw, before its deadline, that the group's document was lost: nobody else can own
            them (M8) …
        safe_until: … until then, by the local clock.
    """

    def __init__(self, surroundings: Surroundings, member: Member, *, latest: bool, ready: Callable[[Collection[int]], None]) -> None:
        """Take the member, where a new group begins, and who is told that there is nothing to be assigned yet."""
        self._around = surroundings
        self._member = member
        self._latest = latest
        self._ready = ready
        self.safe: frozenset[int] = frozenset()
        self.safe_until = 0.0
        self._lost: Document | None = None  # the last one that was found to be lost

    async def join(self) -> bool:
        """Try to become a member (M1, M2); False if the topic does not exist yet.

        `member.joined` tells whether it is one now. If not, and the topic exists, somebody else changed the group first: try again.
        """
        around, member = self._around, self._member
        incarnation = member.lease.incarnation
        sent = around.environment.clock()
        beat = await around.broker.heartbeat(around.group, incarnation, member.ttl, "")
        if not await self.topic_there(beat):
            return False
        listed = beat.document is not None and membership.is_member(beat.document, incarnation)
        if listed and not beat.alive:  # M5: it has expired meanwhile
            member.renew_incarnation()
            return True
        if not listed:  # else it joined before, and the answer was lost
            entered = await self._enter(beat)
            if entered is None:
                return True
            sent = entered
        member.joined = True
        member.lease.begin(sent, beat)
        around.contact.heartbeat = sent
        around.bulletin.member = incarnation
        self._tell(events.MemberJoined)
        return True

    async def _enter(self, beat: Beat) -> float | None:
        """Put the member into the document; return when this was sent, None if somebody else changed that first."""
        around, member = self._around, self._member
        lost = beat.damaged or (beat.document is None and member.document is not None)
        known = member.document or (EMPTY if beat.damaged else None)
        if lost and self._lost is not member.document:
            self._lost = member.document
            around.tell_group_lost(None)
        document = beat.document or membership.made_again(known, partitions=member.partitions)
        if beat.document is None:
            await around.broker.make_groups(around.group, range(member.partitions), latest=self._latest and not lost)  # G6
        document = membership.join(
            document,
            name=member.name,
            incarnation=member.lease.incarnation,
            partitions=member.partitions,
            former=member.former,
            held=self.safe if around.environment.clock() < self.safe_until else (),
        )
        sent = around.environment.clock()
        version = await around.broker.commit(
            around.group, member.lease.incarnation, member.ttl, known_version=beat.version, document=document, joins=True, freeze=lost
        )
        return None if version is None else sent

    async def topic_there(self, beat: Beat) -> bool:
        """True if the topic exists; one that was there and is lost is made again (E5)."""
        around, member = self._around, self._member
        if beat.topic is None and member.partitions:
            state = await around.broker.make_topic(around.group.topic, member.partitions)
            member.partitions = max(member.partitions, state.partitions)
        elif beat.topic is None:
            if not member.topic_missing:
                member.topic_missing = True
                self._tell(events.TopicMissing)
                self._ready(())
            return False
        else:
            member.partitions = max(member.partitions, beat.topic.partitions)
        member.topic_missing = False
        return True

    async def leave(self) -> bool:
        """Leave the group; False if that has to be tried again."""
        around, member = self._around, self._member
        if not member.joined or not member.lease.alive() or member.document is None:
            return True  # others will see it expired
        document = membership.leave(member.document, incarnation=member.lease.incarnation)
        version = await around.broker.commit(
            around.group, member.lease.incarnation, member.ttl, known_version=member.version, document=document, leaves=True
        )
        return version is not None

    def _tell(self, kind: type[events.Event]) -> None:
        bulletin = self._around.bulletin
        bulletin.tell(kind(topic=bulletin.topic, group=bulletin.group, member=bulletin.member))
