"""Keeps this member in its group, and its partitions as the group's document says. There is no leader: every member runs one of these.

Input: rings (the group's notifications, news from heartbeats), Ended from the partition supervisor, Leave, RaiseToken, Unable. Output:
Acquire, Revoke, Lose to the partition supervisor.

It is a pump: look (a heartbeat that returns the document), compute the next document with `core.membership`, try to set it, read the
member's duties in the current document. If another member was faster, it looks again, and rests when that happens repeatedly. It wakes at
the earliest of a ring, another member's expiry, and its own deadline. Restarted after a broken connection, it looks first, which shows
whether a commit whose answer was lost has succeeded. Its requests end with the lease, and an attempt to join ends after a ttl.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import anyio

from redisaq.actors.actor import Actor
from redisaq.actors.ref import ActorRef
from redisaq.actors.waiting import Reply
from redisaq.brokers.steps.coordination import Beat, Commit, GiveBack, Heartbeat, make_groups
from redisaq.consuming.contact import GROUP, HEARTBEAT, forever, reporting
from redisaq.consuming.context import Surroundings
from redisaq.consuming.member import Admission, Joining, Member
from redisaq.consuming.owner import Ended
from redisaq.consuming.partitions import Acquire, Lose, Order, Revoke
from redisaq.core import history, membership
from redisaq.core.deltas import delta_of
from redisaq.core.membership import Document
from redisaq.core.retry import full_jitter
from redisaq.errors import ActorStopped
from redisaq.identity import label_of

TOPIC_POLL = 1.0  # seconds between two looks for a topic that does not exist
WINDING_LIMIT = 1.0  # seconds for which joining again waits for the handlers of the previous incarnation
LONGEST_PAUSE = 1.0  # seconds that a member rests when others are faster again and again
MANY_HELD = 16  # partitions above which those that drain are given back several together …
GATHERING, LONGEST_GATHERING = 0.001, 0.05  # … the first at once, then those of so many seconds, then of twice as many, and the most
GIVING_BACK = 0.02  # seconds for which a member of a crowd waits for others that give back, and for their looks
RETAKE_PAUSE = 0.2  # seconds before a partition is taken again whose owner failed to take or keep it


class Look:
    """Something may have changed."""


@dataclass(frozen=True)
class Leave:
    """Give everything back (handlers may take `timeout` seconds), then leave the group."""

    timeout: float


@dataclass(frozen=True)
class RaiseToken:
    """Raise the partition's token above `above` in the document (T2).

    The reply is the new token, or None if the partition is no longer leased to this member.
    """

    partition: int
    above: int
    reply: Reply[int | None]


@dataclass(frozen=True)
class Unable:
    """This member owns the partition and has not been able to read it for a ttl."""

    partition: int


class RebalanceCoordinator(Actor[Look | Leave | RaiseToken | Unable | Ended]):
    """Follows the group's document for one member."""

    def __init__(
        self,
        surroundings: Surroundings,
        member: Member,
        partitions: ActorRef[Order],
        *,
        ready: Callable[[Collection[int]], None],
        left: Callable[[], None],
    ) -> None:
        """Begin as not joined.

        Args:
            surroundings: the consumer's.
            member: the member.
            partitions: the supervisor of its partitions' owners.
            ready: called with the first assignment.
            left: called at the end.
        """
        super().__init__(name="rebalance_coordinator", capacity=1 << 17, restart=forever(reset_after=1.0))
        self._around = surroundings
        self._member = member
        self._partitions = partitions
        self._admission = Admission(surroundings, member, ready)
        self._settings = surroundings.settings
        self._ready = ready
        self._left = left
        self._held: dict[int, int] = {}  # partition -> token, of owners that have not ended
        self._revoked: set[int] = set()  # of these, those that drain
        self._released: set[int] = set()  # to be released in the document
        self._given: dict[int, int] = {}  # of these, with their tokens, those that another member may release for this one (M13) …
        self._give_again = math.inf  # … and when to ask again whether it is this member's turn
        self._not_before: dict[int, float] = {}  # when a partition may be taken again
        self._asked: list[RaiseToken] = []
        self._spent: dict[int, int] = {}  # partition -> token of an owner that lost it, which must not be used again (M6)
        self._unable: set[int] = set()  # to be entered in the document
        self._winding: dict[str, set[int]] = {}  # ended incarnation -> partitions whose owners have not ended
        self._winding_until = 0.0
        self._leaving: float | None = None
        self._look_needed = True
        self._gathered = 0  # changes in a row that gave back partitions while others drained
        self._setbacks = 0  # in a row: another member was faster, or the incarnation that just joined has already ended
        self._over = ""  # why this incarnation has ended, if not by its deadline
        self._rung = False
        self._beat: Beat  # of the last look

    def look(self) -> None:
        """Make it look again."""
        if not self._rung:
            self._rung = True
            with contextlib.suppress(ActorStopped):  # it has left
                self.ref.tell_nowait(Look())

    async def run(self) -> None:
        """Join, then follow the document until the member has left."""
        self._look_needed = True
        while True:
            if self._member.joined and not self._member.lease.alive():
                await self._lose_all(self._over or "the lease ran out")
            if not self._member.joined and self._leaving is None and not self._winding_up():
                await self._join()
            if self._member.joined:
                await self._follow()
            if self._leaving is not None and not self._held:
                if await self._admission.leave():
                    self._left()
                    return
                self._set_back()
            await self._wait()

    # -- waiting -----------------------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Wait for the next reason to act, and record it."""
        clock, member = self._around.environment.clock, self._member
        if (pause := self._admission.pause) is not None:  # those that wait are let in by a change, which rings (M11)
            with anyio.move_on_after(pause or self._rest()):
                self._note(await self.mailbox.receive())
        elif self._look_needed and not self._winding_up():  # a commit was refused, or this incarnation has ended
            await anyio.sleep(self._rest())
        else:
            if not self._look_needed:  # whatever was refused is done
                self._setbacks = 0
            until = min(self._not_before.values(), default=math.inf)
            if member.joined:
                until = min(until, member.next_look, member.lease.deadline, self._give_again)
            elif self._winding_up():
                until = self._winding_until
            elif member.topic_missing:
                until = clock() + TOPIC_POLL
            with anyio.move_on_after(max(0.0, until - clock())):
                self._note(await self.mailbox.receive())
            self._note_all()
            if member.joined and (pause := self._gathering()):
                await anyio.sleep(pause)
        self._note_all()
        if clock() >= member.next_look:
            member.next_look = math.inf  # the look brings a new one
            self._look_needed = True

    def _rest(self) -> float:
        """Return the seconds to wait before the next attempt after setbacks: the first retry is immediate."""
        again = self._setbacks - 1
        return full_jitter(again, base=0.05, most=LONGEST_PAUSE, random=self._around.environment.random) if again > 0 else 0.0

    def _note_all(self) -> None:
        with contextlib.suppress(anyio.WouldBlock):
            while True:
                self._note(self.mailbox.receive_nowait())

    def _gathering(self) -> float:
        """Return the seconds to wait before the next change, so that it does more at once (M12)."""
        if self._released and self._revoked and len(self._held) > MANY_HELD:  # the others that drain may be given back with these
            self._gathered += 1
            return min(GATHERING * 2 ** (self._gathered - 2), LONGEST_GATHERING) if self._gathered > 1 else 0.0
        self._gathered = 0
        return self._member.spread() if self._look_needed or self._released - self._given.keys() else 0.0

    def _note(self, message: Look | Leave | RaiseToken | Unable | Ended) -> None:
        match message:
            case Leave(timeout=timeout):
                self._leaving = timeout
                self._revoked.clear()  # send all again: it may be more urgent now
            case RaiseToken():
                self._asked.append(message)
            case Unable(partition=partition):
                self._unable.add(partition)
            case Ended():
                self._note_end(message)
            case _:
                self._rung = False
                self._look_needed = True

    def _note_end(self, ended: Ended) -> None:
        partition, incarnation = ended.partition, ended.incarnation
        if incarnation in self._winding:
            self._winding[incarnation].discard(partition)
            if not self._winding[incarnation]:
                del self._winding[incarnation]
                self._member.former.append(incarnation)
        elif incarnation == self._member.lease.incarnation and self._held.get(partition) == ended.token:
            del self._held[partition]
            self._revoked.discard(partition)
            if ended.released:
                self._released.add(partition)
            else:
                self._spent[partition] = ended.token
                self._not_before[partition] = self._around.environment.clock() + RETAKE_PAUSE

    def _winding_up(self) -> bool:
        """True while handlers of an ended incarnation may still run.

        They get a moment to end, so that the next incarnation can take its place over.
        """
        return bool(self._winding) and self._around.environment.clock() < self._winding_until

    # -- leaving and losing --------------------------------------------------------------------------------------------------------

    async def give_up(self) -> None:
        """Leave the group without having given anything back; for when this actor and all others have ended.

        Leases still in the document are dropped with the member, as if it had expired. The next owner has a greater token, closes the
        remaining readers, and claims what is pending.
        """
        member = self._member
        self._setbacks = 0
        while not await self._admission.leave():
            self._set_back()
            await anyio.sleep(self._rest())
            beat = await self._around.broker.do(Heartbeat(self._around.group, member.lease.incarnation, member.ttl, ""))
            known = member.newest(beat)
            if not beat.alive or known is None:
                return  # the member is already gone
            member.document, member.version = known, beat.version

    def _set_back(self) -> None:
        """Look again, after a rest if this happens repeatedly: another member was faster, or this incarnation has ended."""
        self._look_needed = True
        self._setbacks += 1

    async def _lose_all(self, reason: str) -> None:
        """End everything and become a new incarnation (M5)."""
        member, clock = self._member, self._around.environment.clock
        self._over = ""
        if self._held:
            self._winding[member.lease.incarnation] = set(self._held)
            self._winding_until = clock() + WINDING_LIMIT
        elif member.joined:
            member.former.append(member.lease.incarnation)
        held = tuple(self._held)
        member.renew_incarnation()
        for partition in held:
            await self._partitions.tell(Lose(partition, reason))
        self._held.clear()
        self._revoked.clear()
        self._released.clear()
        self._given, self._give_again = {}, math.inf
        self._unable.clear()
        self._not_before.clear()
        self._spent.clear()
        self._fail_asked()
        self._look_needed = True

    # -- following the document -------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Look if there is reason to, make the changes that are due, do what the document asks."""
        done = False
        with reporting(partial(self._around.contact.failed, GROUP)), self._member.lease.scope():  # a later answer is useless
            done = (not self._look_needed or await self._look()) and await self._change()
        if not done:
            self._set_back()
            return
        self._around.contact.answered(GROUP)
        await self._do_duties()
        self._ready(self._held)

    async def _join(self) -> None:
        """Try to become a member, for at most a ttl; it is repeated until it succeeds."""
        contact = self._around.contact
        outcome: Joining = "refused"  # if it takes too long
        with reporting(partial(contact.failed, HEARTBEAT)), anyio.move_on_after(self._member.ttl):
            outcome = await contact.ask(self._admission.join, within=self._settings.heartbeat_interval)
        if outcome == "refused":
            self._set_back()
        else:
            self._look_needed = outcome != "no topic"

    async def _look(self) -> bool:
        """Read the current state; False if this incarnation has ended."""
        around, member, lease = self._around, self._member, self._member.lease
        sent = around.environment.clock()
        beat = await around.broker.do(Heartbeat(around.group, lease.incarnation, member.ttl, member.version))
        self._look_needed = False
        known = member.newest(beat)
        if known is None and beat.alive and beat.version and not beat.damaged:  # its deltas cannot be read, or are of another document
            member.version = ""  # the next look brings the whole document
            return False
        if not beat.alive or known is None or not membership.is_member(known, lease.incarnation):
            if not beat.version or beat.damaged:
                if lease.alive():  # M8: until its deadline, no other member can own what this one has run
                    self._admission.claim(self._held, lease.deadline)
            elif known is not None:
                member.document = known
            self._over = "the group no longer knows this member"
            lease.end()
            return False
        lease.renew(sent, beat)
        if not lease.alive():  # M5: the answer came too late to work on anything that it grants
            return False
        member.document, member.version = known, beat.version
        member.observe(beat)
        self._beat = beat
        around.gate.move(closed=beat.paused)
        before = member.partitions
        await self._admission.topic_there(beat)
        if before < member.partitions:
            await make_groups(around.broker, around.group, range(before, member.partitions), latest=False, younger=True)  # G6
        return True

    async def _change(self) -> bool:
        """Try to set the next document; False if another member was faster."""
        around, member, beat = self._around, self._member, self._beat
        standing = member.document
        if standing is None:
            return False
        incarnation = member.lease.incarnation
        document = await self._release(standing)
        document, raised = self._raise_tokens(document)
        expired: tuple[str, ...] = ()
        if self._leaving is None:
            now = max(beat.now, member.lease.server_now())
            document = membership.enter_unable(document, incarnation=incarnation, partitions=self._unable, now=now)
            step = membership.advance(
                document,
                incarnation=incarnation,
                now=now,
                expired=beat.expired,
                partitions=member.partitions,
                frozen=beat.now < beat.frozen_until,
            )
            document, expired = step.document or document, step.expired
            if membership.is_crowd(document):
                document = membership.grant(standing, document, now=now)
        if document is not standing:
            version, label = around.environment.new_id(), label_of(self._settings.client, around.environment)
            changed = Commit(
                around.group,
                incarnation,
                member.ttl,
                known_version=member.version,
                new_version=version,
                document=document,
                expired=expired,
                delta=delta_of(standing, document),
                changes=(
                    *history.dropped(standing, document, expired, label),
                    *history.grown(standing, document),
                ),
            )
            if not await around.granting.do(changed):
                return False
            member.version, member.document = version, document
        self._released &= self._given.keys()
        self._spent.clear()
        self._unable.clear()
        self._answer_asked(raised)
        return True

    async def _release(self, standing: Document) -> Document:
        """Return the document without the leases that this member has to release, or as it is while others do that for it (M13).

        In a crowd, those that give back at the same time say so, and one of them changes the document for all. Who gets a partition again
        before it was released, or leaves, does it by itself.
        """
        around, member = self._around, self._member
        incarnation, clock = member.lease.incarnation, around.environment.clock
        self._released -= {p for p, token in self._given.items() if (standing.lease.get(p), standing.token.get(p)) != (incarnation, token)}
        mine = {p: standing.token[p] for p in sorted(self._released) if standing.lease.get(p) == incarnation}
        back = any((entry := standing.members.get(standing.target.get(p, ""))) and entry.incarnation == incarnation for p in mine)
        crowd, leaving = membership.is_crowd(standing), self._leaving is not None
        if not mine or back or leaving or not crowd:
            self._given, self._give_again = {}, math.inf
            if crowd and leaving and not self._held:  # to leave drops them
                return standing
            return membership.release(standing, incarnation=incarnation, partitions=mine)
        if mine == self._given and clock() < self._give_again:
            return standing
        freed = await around.broker.do(GiveBack(around.group, incarnation, mine, GIVING_BACK + member.longest_spread()))
        if freed.pause:
            self._given, self._give_again = mine, clock() + freed.pause
            return standing
        self._given, self._give_again = {}, math.inf
        return membership.free(standing, leases=freed.leases)

    def _raise_tokens(self, document: Document) -> tuple[Document, dict[int, int]]:
        """Raise the tokens that owners asked for, above those beside the data (T2), and those that a loss has used up (M6)."""
        raised: dict[int, int] = {}
        incarnation, now = self._member.lease.incarnation, self._member.lease.server_now()
        for partition, spent in self._spent.items():
            if document.token.get(partition) == spent:
                after = membership.raise_token(document, incarnation=incarnation, partition=partition, above=spent, now=now)
                document = after or document
        for asked in self._asked:
            if not asked.reply.wanted:
                continue
            after = membership.raise_token(document, incarnation=incarnation, partition=asked.partition, above=asked.above, now=now)
            if after is not None:
                document = after
                raised[asked.partition] = after.token[asked.partition]
        return document, raised

    def _answer_asked(self, raised: dict[int, int]) -> None:
        for asked in self._asked:
            token = raised.get(asked.partition)
            # If its owner ended during the commit, it has the earlier token: then this partition is found to be lost (M4).
            if asked.reply.set(token) and token is not None and asked.partition in self._held:
                self._held[asked.partition] = token
        self._asked.clear()

    def _fail_asked(self) -> None:
        self._answer_asked({})

    async def _do_duties(self) -> None:
        member, partitions = self._member, self._partitions
        document = member.document
        if document is None:
            return
        duties = membership.duties(document, incarnation=member.lease.incarnation, held=self._held)
        for partition in duties.lost:
            del self._held[partition]
            self._revoked.discard(partition)
            await partitions.tell(Lose(partition, "the group's document leases it to another member"))  # M4
        leaving = self._leaving is not None
        timeout = self._settings.drain_timeout if self._leaving is None else self._leaving
        for partition in (self._held.keys() if leaving else duties.revoke) - self._revoked:
            self._revoked.add(partition)
            await partitions.tell(Revoke(partition, timeout))
        now = self._around.environment.clock()
        self._not_before = {partition: time for partition, time in self._not_before.items() if time > now}
        if not leaving:
            for partition, token in duties.take.items():
                if partition not in self._not_before and partition not in self._released:
                    self._held[partition] = token
                    await partitions.tell(Acquire(partition, token, member.lease))
        if not duties.vacate <= self._released:
            self._released |= duties.vacate
            self._look_needed = True
