"""Lets the partitions that a topic grew by wait for the older ones, and opens them (G4, G5).

A key that moves to a new partition may have earlier messages in an older one. So a new partition is read once this group has worked off
every older partition up to the cut of that growth. The watch asks the server about one older partition after the other, for all partitions
of this member together. The data beside the lease keep the answer. An administrator who moves the group makes them wait again, so the watch
asks whenever the group was paused.

It also completes a growth that was announced, and that nobody has completed for a while (G3), and repeats one that the server has forgotten
(G9).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import anyio

from redisaq import events
from redisaq.actors.actor import Actor
from redisaq.brokers.growth import COUNTED, TOGETHER, complete_announced, publish_again
from redisaq.brokers.steps.growing import OpenBarrier, ReadBarrier, ReadPassed
from redisaq.brokers.steps.topics import ReadTopic, birth
from redisaq.consuming.contact import forever
from redisaq.consuming.context import Surroundings
from redisaq.consuming.doorbell import Ring, ring
from redisaq.consuming.member import Member
from redisaq.consuming.owned import Barrier, OwnedPartition
from redisaq.consuming.standing import still_owned

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5  # seconds between two questions whether an older partition is worked off
TOLD_AFTER, TOLD_EVERY = 10.0, 60.0  # seconds of waiting before it is reported, and between two reports
LEFT_UNDONE = 5.0  # seconds after which an announced growth is completed here

Waiting = tuple[OwnedPartition, Barrier]


class GrowthWatch(Actor[Ring]):
    """Opens this member's partitions that came by a growth."""

    def __init__(self, surroundings: Surroundings, member: Member, owned: Callable[[], Sequence[OwnedPartition]]) -> None:
        """Begin with nothing to wait for.

        Args:
            surroundings: the consumer's.
            member: the member.
            owned: returns its partitions.
        """
        super().__init__(name="growth_watch", capacity=1, restart=forever(reset_after=5.0))
        self._around = surroundings
        self._member = member
        self._owned = owned
        # growth -> the first older partition that was not worked off when that was last asked, and a message that it waited for
        self._at: dict[int, tuple[int, bytes]] = {}
        self._announced: tuple[int, float] | None = None  # a generation whose growth is under way, and since when
        surroundings.look_at_growth = lambda: ring(self.ref)
        surroundings.gate.moved = self._note_pause

    async def run(self) -> None:
        """Ask, for as long as a partition waits."""
        pause = FIRST_PAUSE
        while True:
            await self._publish_again()
            left = await self._complete_announced()
            waiting = [] if self._around.gate.closed else self._waiting()
            if waiting and await self._look(waiting):
                pause = FIRST_PAUSE
                continue
            pause = min(LONGEST_PAUSE, pause * 1.5) if waiting else FIRST_PAUSE
            with anyio.move_on_after(min(left, pause if waiting else math.inf)):
                await self.mailbox.receive()

    def _note_pause(self) -> None:
        """When the group is paused, close what is open: an administrator may move the group. Afterwards, ask whether it is still open."""
        if self._around.gate.closed:
            self._at.clear()
            for owned, barrier in self._behind_barriers():
                owned.gate.move(closed=True)
                barrier.passed = None if barrier.passed else barrier.passed
        self._around.look_at_growth()

    def _behind_barriers(self) -> list[Waiting]:
        return [(owned, owned.barrier) for owned in self._owned() if owned.barrier is not None]

    def _waiting(self) -> list[Waiting]:
        return [(owned, barrier) for owned, barrier in self._behind_barriers() if not barrier.passed and not owned.lost]

    async def _look(self, waiting: Sequence[Waiting]) -> bool:
        """Ask once; True if there was progress."""
        around = self._around
        doubtful = [one for one in waiting if one[1].passed is None]
        if doubtful:
            moves = around.gate.moves
            steps = [ReadBarrier(around.group, owned.partition) for owned, _ in doubtful]
            for (owned, barrier), opened in zip(doubtful, await around.broker.do_each(steps), strict=True):
                if moves == around.gate.moves:
                    barrier.passed = opened >= birth(around.history, owned.partition)
                    owned.gate.move(closed=not barrier.passed)
            return True
        progress = False
        of_growth: dict[int, list[Waiting]] = {}
        for owned, barrier in waiting:
            of_growth.setdefault(birth(around.history, owned.partition), []).append((owned, barrier))
        for growth, behind in sorted(of_growth.items()):
            if growth < len(around.history):  # else a heartbeat has to report that growth first
                progress = await self._look_for(growth, behind) or progress
        return progress

    async def _look_for(self, growth: int, behind: Sequence[Waiting]) -> bool:
        """Ask about the partitions that are older than this growth; open those that wait for them once all are worked off (G4)."""
        around, older = self._around, self._around.history[growth - 1]
        moves, (began, known) = around.gate.moves, self._at.get(growth, (0, b""))
        at = began
        while at < older:
            numbers = range(at, min(older, at + (TOGETHER if at > began else 1)))
            steps = [ReadPassed(around.group, number, growth, known=known if number == began else b"") for number in numbers]
            answers = await around.broker.do_each(steps)
            failed = next(((number, answer) for number, answer in zip(numbers, answers, strict=True) if not answer.done), None)
            if failed is not None:
                at, known = failed[0], failed[1].oldest
                break
            at = numbers.stop
        if moves != around.gate.moves:
            return True  # an administrator may have moved the group meanwhile
        self._at[growth] = at, known
        if at < older:
            await self._tell_waiting(growth, at, behind)
            return at > began
        if began:  # all of them once more: a group that was lost and made again has worked off less
            self._at[growth] = 0, b""
            return True
        for owned, barrier in behind:
            token = owned.standing
            opened = await around.broker.do(OpenBarrier(around.group, owned.partition, token, growth))
            if not opened:  # perhaps a seek has spent the token (S5): then it is tried again
                await still_owned(around, owned, token, "another token is current")
            elif moves == around.gate.moves:
                barrier.passed, barrier.waiting_for, barrier.messages = True, None, None
                owned.gate.move(closed=False)
                waited = around.environment.clock() - barrier.since
                around.bulletin.publish(events.PartitionOpened, owned, waited=waited)
        return True

    async def _tell_waiting(self, growth: int, partition: int, behind: Sequence[Waiting]) -> None:
        """Note what they wait for, and report it now and then."""
        around, now = self._around, self._around.environment.clock()
        for _, barrier in behind:
            barrier.waiting_for = partition
        due = [(owned, barrier) for owned, barrier in behind if now >= _told_next(barrier)]
        if not due:
            return
        passed = await around.broker.do(ReadPassed(around.group, partition, growth, COUNTED))
        if not passed.done:
            for owned, barrier in due:
                barrier.told, barrier.messages = now, passed.waiting
                around.bulletin.publish(
                    events.PartitionWaiting,
                    owned,
                    waiting_for=partition,
                    messages=passed.waiting,
                    oldest=passed.oldest.decode(),
                    waited=now - barrier.since,
                )

    async def _publish_again(self) -> None:
        """Let the topic grow again by what the server has forgotten (G9)."""
        member = self._member
        if member.forgotten and member.topic is not None:
            await publish_again(self._around.broker, self._around.group.topic, member.topic)
            member.forgotten = False

    async def _complete_announced(self) -> float:
        """Complete a growth that has been under way for too long (G3); return after how many seconds to look again."""
        topic, now = self._member.topic, self._around.environment.clock()
        if topic is None or topic.pending is None:
            self._announced = None
            return math.inf
        if self._announced is None or self._announced[0] != topic.generation:
            self._announced = topic.generation, now
        left = self._announced[1] + LEFT_UNDONE - now
        if left > 0:
            return left
        broker, name = self._around.broker, self._around.group.topic
        state = await broker.do(ReadTopic(name))
        if state is not None and state.generation == topic.generation:
            await complete_announced(broker, name, state)
        self._announced = None
        return LEFT_UNDONE


def _told_next(barrier: Barrier) -> float:
    return barrier.since + TOLD_AFTER if barrier.told is None else barrier.told + TOLD_EVERY
