"""Grows a topic, and completes a growth that somebody has left undone (G).

Every step can be repeated, and all callers do the same steps in the same order: announce, make the new streams, cut the old ones, publish.
So it does not matter who completes a growth: the next grower, a producer that meets a seal, or an owner. A caller that comes late changes
nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from redisaq.brokers.steps import Broker, PartitionStep, ShareStep, Step, retrying
from redisaq.brokers.steps.growing import (
    FROM_ELSEWHERE,
    Announce,
    CloseBarrier,
    DropTakenIn,
    NameStream,
    Passed,
    Publish,
    ReadBarrier,
    ReadPassed,
    ReadSeal,
    Replicate,
    ReplicateRun,
    TakeIn,
)
from redisaq.brokers.steps.retrying import Redrive
from redisaq.brokers.steps.topics import MakeTopic, ReadTopic, Terms, TopicState, birth, cuts_of
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import format_id, parse_id
from redisaq.core.partitioner import partition_for
from redisaq.core.records import Body
from redisaq.environment import current_environment, time_is_up_at

logger = logging.getLogger("redisaq.brokers")

COUNTED = 1000
"""The most messages to count when a caller asks for how many a partition waits."""

TOGETHER = 500
"""Streams that are cut, or looked at, in one write: a server does nothing else for some milliseconds then."""

REPLICATED_WITHIN = 5.0
"""Seconds for which a replica is waited for, if the caller has twice as much time: while a topic grows, producers wait, too."""


async def make_or_grow(broker: Broker, topic: str, partitions: int, *, terms: Terms | None = None) -> TopicState:
    """Make the topic with this many partitions, or grow it to them; a topic that has more keeps them.

    Args:
        broker: the broker to ask.
        topic: its name.
        partitions: the least that it is to have.
        terms: what a producer asks of the topic (E3).

    Returns:
        The topic's state afterwards.
    """
    while True:
        state = await broker.do(MakeTopic(topic, partitions, terms))
        if state.partitions >= partitions:
            return state
        announced = await broker.do(Announce(topic, state.generation, partitions))
        if announced is not None and announced.pending is not None:  # perhaps another caller's number: that growth is completed first
            grown = await _complete(broker, topic, announced, (*announced.counts, announced.pending))
            if grown is not None and grown.partitions >= partitions:
                return grown
        # Else somebody has completed it meanwhile, or the topic is lost: look again.


async def settle_growth(broker: Broker, topic: str, met: int | None = None) -> TopicState | None:
    """Complete every growth of which a stream has been cut (G3), and return the topic's state; None if the topic does not exist.

    Args:
        broker: the broker to ask.
        topic: the topic's name.
        met: a partition where the caller has met a seal. The meta may have forgotten that there is such a partition (G9).
    """
    state = await broker.do(ReadTopic(topic))
    while state is not None:
        seals = await _seals(broker, topic, state.partitions, state.cuts)
        if met is not None and met >= state.partitions:
            seals += [seal for seal in (await broker.do(ReadSeal(topic, met, state.cuts)),) if seal]
        if not seals:
            break
        latest = await broker.do(ReadTopic(topic))
        if latest is None or latest.generation != state.generation:  # the grower lives, and has published it meanwhile
            state = latest
            continue
        history = _furthest(seals)
        while history[-1] < state.partitions:  # the topic was lost and made again with more, or a version that does not cut has grown it
            later = await _seals(broker, topic, state.partitions, cuts_of(history))
            history = _furthest(later) if later else (*history, state.partitions)
        state = await _complete(broker, topic, state, history)
    return state


async def complete_announced(broker: Broker, topic: str, announced: TopicState) -> None:
    """Complete a growth that was announced, and perhaps not begun (G3); nothing happens if it is over."""
    if announced.pending is not None:
        await _complete(broker, topic, announced, (*announced.counts, announced.pending))


async def publish_again(broker: Broker, topic: str, known: TopicState) -> TopicState | None:
    """Let a topic that has forgotten growths grow by them again, one after the other, to as many partitions as the caller knew (G9).

    Returns:
        The topic's state afterwards; None if the topic does not exist.
    """
    while (state := await broker.do(ReadTopic(topic))) is not None and state.partitions < known.partitions:
        grown = len(state.counts)
        same = known.counts[:grown] == state.counts  # else it was made again, or has grown, without what the caller knows
        await _complete(broker, topic, state, known.counts[: grown + 1] if same else (*state.counts, known.partitions))
    return state


async def close_barriers(broker: Broker, group: GroupName, history: Sequence[int]) -> None:
    """Let the group wait again at every partition that the topic grew by (G4)."""
    await broker.do_each([CloseBarrier(group, number) for number in _grown(history)])


async def waiting_in(broker: Broker, group: GroupName, history: Sequence[int]) -> dict[int, tuple[int, Passed]]:
    """Return what the group's partitions wait for that the topic grew by: the first older one that is not worked off, and what it holds.

    Partitions that are open, or have nothing to wait for any more, are left out.
    """
    numbers = _grown(history)
    opened = await broker.do_each([ReadBarrier(group, number) for number in numbers])
    closed = [number for number, growth in zip(numbers, opened, strict=True) if growth < birth(history, number)]
    behind: dict[int, tuple[int, Passed]] = {}
    for growth in sorted({birth(history, number) for number in closed}):
        older = await broker.do_each([ReadPassed(group, number, growth, COUNTED) for number in range(history[growth - 1])])
        found = next(((number, passed) for number, passed in enumerate(older) if not passed.done), None)
        if found is not None:
            behind |= {number: found for number in closed if birth(history, number) == growth}
    return behind


async def redrive(broker: Broker, group: GroupName, partition: int, ids: Sequence[bytes] | None, count: int, *, state: TopicState) -> int:
    """Redrive dead letters; move those whose keys have moved since to where they belong now (G8). See `steps.retrying.redrive`.

    Such messages are put there under a mark before they are dropped here. So this can be interrupted and repeated, by anybody.
    """
    known: TopicState | None = state
    if not state.history:
        together = await retrying.redrive(broker, group, partition, ids, count)
        if together is not None:
            return together
        known = await settle_growth(broker, group.topic)  # it has grown since
    moved, letters = 0, await retrying.next_lives(broker, group, partition, ids, count)
    while letters and known is not None:
        by_place: dict[int, list[tuple[bytes, Body]]] = {}
        for letter in letters:
            by_place.setdefault(_place(letter[1].fields, partition, known.partitions), []).append(letter)
        letters = list[tuple[bytes, Body]]()
        for place, some in by_place.items():
            done = await _redrive_to(broker, group, some, partition=partition, place=place, cuts=known.cuts)
            if done is None:
                letters += some
            else:
                moved += done
        if letters:
            known = await settle_growth(broker, group.topic)  # it has grown once more meanwhile; None if it is lost
            # Others may have redriven them to where they belonged before.
            letters = await retrying.next_lives(broker, group, partition, [dead_id for dead_id, _ in letters], count)
    return moved


async def _redrive_to(
    broker: Broker, group: GroupName, letters: Sequence[tuple[bytes, Body]], *, partition: int, place: int, cuts: int
) -> int | None:
    """Give dead letters of a partition a new life where their keys belong, all in one place; None if the topic has grown since."""
    if place == partition:
        return await broker.do(Redrive(group, partition, letters, cuts))
    lives = [(dead_id, Body(_id_elsewhere(body.entry_id, partition), body.fields, body.life)) for dead_id, body in letters]
    drop = partial(DropTakenIn, group, partition, [dead_id for dead_id, _ in letters])
    return await move(broker, TakeIn(group, place, partition, lives, cuts), drop)


def _id_elsewhere(entry_id: bytes, partition: int) -> bytes:
    """Return the id that a message of a partition has in another one: no other message there has it."""
    time, sequence = parse_id(entry_id)
    if sequence < FROM_ELSEWHERE:  # else it has come from another partition before, and its id tells from which
        sequence += (partition + 1) * FROM_ELSEWHERE
    return format_id((time, sequence))


async def move(
    broker: Broker, put: PartitionStep[str | None] | ShareStep[str | None], drop: Callable[[str], Step[int | None]]
) -> int | None:
    """Put messages into another partition, and drop them where they were once they are safe there (G8).

    No process and no server that ends meanwhile takes a message with it. A drop is refused by another run of a server than the one that
    put: after a failover it may have forgotten that. In a cluster another server may keep the old place for good: then a replica has to
    have them at the new place first. If this is interrupted, they may be in both places. It can be repeated: `put` puts them there once.

    Args:
        broker: the broker to ask.
        put: puts them there.
        drop: given the run of the server that put them, returns the step that drops them.

    Returns:
        How many were dropped; None if the topic has grown since their place was chosen: then nothing was dropped. Usually nothing was put
        either, but if the server's run has changed in between, they may be in the place that was chosen, too.
    """
    while (run := await broker.do(put)) is not None:
        dropped = await broker.do(drop(run))
        while dropped is None and (replicated := await broker.do(ReplicateRun(*put.place, run, _replicated_within()))) is not None:
            if replicated:  # else wait on
                dropped = await broker.do(drop(""))
        if dropped is not None:
            return dropped
    return None


def _place(fields: Sequence[bytes], partition: int, partitions: int) -> int:
    """Return where a message belongs: a message without a key, where it is."""
    key = dict(zip(fields[::2], fields[1::2], strict=False)).get(b"k")
    return partition if key is None else partition_for(key, partitions)


def _grown(history: Sequence[int]) -> range:
    return range(history[0], history[-1]) if history else range(0)


async def _complete(broker: Broker, topic: str, state: TopicState, history: tuple[int, ...]) -> TopicState | None:
    """Make the new streams, cut the old ones, publish: whatever of it is not done yet. Return the state afterwards, as Publish does."""
    old = history[-2]
    while True:
        for start in range(old, history[-1], TOGETHER):
            numbers = range(start, min(start + TOGETHER, history[-1]))
            await broker.do_each([NameStream(topic, number, history) for number in numbers])
        seals, run = list[tuple[int, ...]](), broker.run_id
        for start in range(0, old, TOGETHER):
            numbers = range(start, min(start + TOGETHER, old))
            seals += await broker.do_each([NameStream(topic, number, history) for number in numbers])
        furthest = _furthest([history, *seals])
        if furthest != history:
            history = furthest  # others have cut some streams for a greater count: all publish that one (G2)
            continue
        within = _replicated_within()
        replicated = await broker.do(Replicate(topic, old, within))
        if broker.run_id == run:
            break
        # Else another server answers by now, perhaps one that has not heard of the cuts.
    if not replicated:
        logger.warning(
            "topic %s grows to %d partitions, and no replica has confirmed within %.1f s that its streams are cut: if one takes over that "
            "has not heard of it, messages of a key may run out of order",
            topic,
            history[-1],
            within,
        )
    return await broker.do(Publish(topic, state.generation, history))


def _replicated_within() -> float:
    return min(REPLICATED_WITHIN, (time_is_up_at() - current_environment().monotonic()) / 2)


async def _seals(broker: Broker, topic: str, partitions: int, cuts: int) -> list[tuple[int, ...]]:
    seals: list[tuple[int, ...]] = []
    for start in range(0, partitions, TOGETHER):
        numbers = range(start, min(start + TOGETHER, partitions))
        seals += await broker.do_each([ReadSeal(topic, number, cuts) for number in numbers])
    return [seal for seal in seals if seal]


def _furthest(histories: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the history with the greatest last count."""
    return max(histories, key=lambda history: history[-1])
