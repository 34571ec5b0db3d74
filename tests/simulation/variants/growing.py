"""Variants of the rules about growing (G, E6), each with the scenario that shows the harm: a key that moves has messages in two places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
from msgspec.structs import replace

from redisaq import DeadLetter, Message, RetryPolicy
from redisaq.brokers import growth
from redisaq.brokers.memory.registry import FUNCTIONS, carry_out
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.growing import FROM_ELSEWHERE, Adopt, Announce, NameStream, Passed, Publish, ReadPassed, Replicate, SetSwept
from redisaq.brokers.steps.topics import TopicState
from redisaq.brokers.terms import GroupName
from redisaq.consuming import growth_watch, member, owner as partition_owner, retry_timer
from redisaq.consuming.context import Surroundings
from redisaq.core.entry_ids import parse_id
from redisaq.core.partitioner import partition_for
from redisaq.core.records import decode_delayed
from redisaq.producing import sender
from redisaq.testing import Simulation
from tests.simulation.variants.breaking import Change, Function
from tests.simulation.variants.crowd import GROUP, TOPIC, takes, topic, until
from tests.simulation.variants.variant import Variant

OVERTAKEN = r"of that key is not done"
UNREAD = r"not quiet after .*unread=True"

KEYS = [key for key in (f"k{number}" for number in range(60)) if partition_for(key, 1) != partition_for(key, 3)][:8]
"""Keys that move when one partition becomes three."""


async def _send(producer: Any, rounds: int, every: float = 0.0) -> None:
    for number in range(rounds):
        await producer.batch_enqueue([{"n": number, "key": key} for key in KEYS], partition_key="key")
        await anyio.sleep(every)


# -- E6 --------------------------------------------------------------------------------------------------------------------------------


def _under_any_name(original: Function) -> Function:
    def append(store: MemoryStore, name: str, entries: Any, maxlen: int | None, _cuts: int = 0) -> Any:
        return [answer for entry in entries for answer in original(store, name, [entry], maxlen, store.naming((name, entry[0])).number)]

    return append


async def two_producers(sim: Simulation) -> None:
    """One producer learns that the topic has grown, the other does not know yet; both have messages of the same keys."""
    first, grower = await topic(sim, 1), await topic(sim, 1)
    sim.member("a", TOPIC, takes(0.3))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_send, first, 10, 0.1)
        await anyio.sleep(0.25)  # each asks every half second whether the topic has grown, not both at the same time
        tasks.start_soon(_send, await topic(sim, 1), 10, 0.1)
        await anyio.sleep(0.35)
        await grower.request_partition_increase(3)
    await sim.until_quiet()


E6 = Variant(
    name="E6",
    without="a stream takes what was placed before it was cut",
    changes=[Change(MemoryStore, "append", _under_any_name)],
    scenario=two_producers,
    harm=OVERTAKEN,
)

# -- G1 --------------------------------------------------------------------------------------------------------------------------------


def _published_at_any_time(_original: Function) -> Function:
    def publish(store: MemoryStore, step: Publish) -> TopicState:
        state = replace(
            store.topics[step.topic], generation=len(step.history) - 1, partitions=step.history[-1], history=step.history, pending=None
        )
        store.topics[step.topic] = state
        store.ring(step.topic)
        return state

    return publish


async def late_grower(sim: Simulation) -> None:
    """A grower stops before it publishes; others do, and the topic grows once more. Then it goes on."""
    producer = await topic(sim, 1)
    carry_out(sim.store, Announce(TOPIC, 0, 3))
    for partition in (1, 2, 0):
        carry_out(sim.store, NameStream(TOPIC, partition, (1, 3)))
    await producer.request_partition_increase(8)
    await producer.batch_enqueue([{"n": number} for number in range(16)])
    carry_out(sim.store, Publish(TOPIC, 0, (1, 3)))
    sim.member("a", TOPIC, takes(0.01))
    await sim.until_quiet(timeout=60)


G1 = Variant(
    name="G1",
    without="a grower publishes whatever was published meanwhile",
    changes=[Change(Publish, "", _published_at_any_time)],
    scenario=late_grower,
    harm=r"topic orders has fewer partitions than before",
)

# -- G2 --------------------------------------------------------------------------------------------------------------------------------


def _leaves_older_names(original: Function) -> Function:
    def make_stream(store: MemoryStore, name: str, partition: int, history: tuple[int, ...] | None = None) -> Any:
        stream = store.streams.get((name, partition))
        return stream if stream is not None and history is None else original(store, name, partition, history)

    return make_stream


async def lost_cut(sim: Simulation) -> None:
    """The server has forgotten that it cut a stream, and not that the topic has grown."""
    producer = await topic(sim, 1)
    await _send(producer, 1)
    await producer.request_partition_increase(3)
    await _send(producer, 1)
    del sim.store.names[TOPIC, 0]
    sim.member("a", TOPIC, takes(0.01))
    await sim.until_quiet(timeout=60)


G2 = Variant(
    name="G2",
    without="a stream that is found under an older name is left as it is",
    changes=[Change(MemoryStore, "make_stream", _leaves_older_names)],
    scenario=lost_cut,
    harm=UNREAD,
)


def _whichever_comes_first(_original: Function) -> Function:
    def furthest(histories: list[tuple[int, ...]]) -> tuple[int, ...]:
        return histories[0]

    return furthest


async def lost_publication(sim: Simulation) -> None:
    """A failover has forgotten that a count was published, and nobody is left who knew it; then a smaller count is asked for."""
    sim.cluster(9)
    producer = await topic(sim, 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sim.failover, 3.0)
        await anyio.sleep(0.5)
        await producer.request_partition_increase(8)
        await _send(producer, 1)
        await producer.close()
    await (await topic(sim, 1)).request_partition_increase(3)
    sim.member("a", TOPIC, takes(0.01))
    await sim.until_quiet(timeout=60)


G2_COUNT = Variant(
    name="G2 count",
    without="a grower publishes its own count, whatever the seals say",
    changes=[Change(growth, "_furthest", _whichever_comes_first)],
    scenario=lost_publication,
    harm=r"is neither done nor dead",
)

# -- G3 --------------------------------------------------------------------------------------------------------------------------------


def _leaves_it(_original: Function) -> Function:
    async def settle_growth(_broker: Broker, _topic: str) -> TopicState | None:
        await anyio.sleep(1.0)
        return None

    return settle_growth


async def grower_died(sim: Simulation) -> None:
    """A grower has cut the stream, and was never heard of again."""
    producer = await topic(sim, 1)
    await _send(producer, 1)
    for partition in (1, 2, 0):
        carry_out(sim.store, NameStream(TOPIC, partition, (1, 3)))
    await _send(producer, 2)
    sim.member("a", TOPIC, takes(0.05))
    await sim.until_quiet()


G3 = Variant(
    name="G3",
    without="a producer that meets a seal waits for the grower",
    changes=[Change(sender, "settle_growth", _leaves_it)],
    scenario=grower_died,
    harm=r"the scenario ended with ConnectionFailed",
)

# -- G4 --------------------------------------------------------------------------------------------------------------------------------


def _born_at_once(_original: Function) -> Function:
    def birth(_history: Sequence[int], _partition: int) -> int:
        return 0

    return birth


async def slow_group(sim: Simulation) -> None:
    """A topic grows while its group is behind."""
    producer = await topic(sim, 1)
    sim.member("a", TOPIC, takes(0.2))
    await _send(producer, 3)
    await producer.request_partition_increase(3)
    await _send(producer, 3)
    await sim.until_quiet()


G4 = Variant(
    name="G4",
    without="a new partition is read at once",
    changes=[Change(partition_owner, "birth", _born_at_once)],
    scenario=slow_group,
    harm=OVERTAKEN,
)

# -- G5 --------------------------------------------------------------------------------------------------------------------------------


def _counts_no_retries(original: Function) -> Function:
    def read_passed(store: MemoryStore, step: ReadPassed) -> Passed:
        shelf = store.shelf(step.group, step.partition)
        retry, shelf.retry = shelf.retry, {}
        passed: Passed = original(store, step)
        shelf.retry = retry
        return passed

    return read_passed


async def first_runs_fail(sim: Simulation) -> None:
    """Each message fails at first, and is to be tried again when the topic has grown."""

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(0.02)
        if message.attempt == 1 and message.payload["n"] == 0:
            raise ValueError("the first time")

    producer = await topic(sim, 1)
    sim.member("a", TOPIC, handle, retry=RetryPolicy(backoff=5.0, jitter=False))
    await _send(producer, 1)
    await anyio.sleep(1.0)
    await producer.request_partition_increase(3)
    await _send(producer, 2, 0.1)
    await sim.until_quiet()


G5 = Variant(
    name="G5",
    without="what is to be tried again does not keep a new partition waiting",
    changes=[Change(ReadPassed, "", _counts_no_retries)],
    scenario=first_runs_fail,
    harm=OVERTAKEN,
)


def _counts_no_strangers(original: Function) -> Function:
    def read_passed(store: MemoryStore, step: ReadPassed) -> Passed:
        shelf = store.shelf(step.group, step.partition)
        retry, shelf.retry = shelf.retry, {one: kept for one, kept in shelf.retry.items() if parse_id(one)[1] < FROM_ELSEWHERE}
        passed: Passed = original(store, step)
        shelf.retry = retry
        return passed

    return read_passed


async def redriven_elsewhere(sim: Simulation) -> None:
    """A dead letter is redriven into a new partition, and runs there while the topic grows once more, and its key moves on."""
    key = next(f"k{number}" for number in range(200) if len({partition_for(f"k{number}", count) for count in (1, 3, 5)}) == 3)
    runs = 0

    async def handle(_message: Message[Any]) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise DeadLetter("the first time")
        await anyio.sleep(8.0 if runs == 2 else 0.01)

    producer = await topic(sim, 1)
    sim.member("a", TOPIC, handle)
    await producer.enqueue({}, key=key)
    await until(lambda: len(sim.store.shelf(GROUP, 0).dead) == 1)
    await producer.request_partition_increase(3)
    async with sim.admin() as admin:
        await admin.redrive(TOPIC, GROUP.group)
    await until(lambda: runs == 2)
    await producer.request_partition_increase(5)
    await producer.enqueue({}, key=key)
    await sim.until_quiet()


G5_REDRIVEN = Variant(
    name="G5 redriven",
    without="what was redriven from another partition does not keep a new one waiting",
    changes=[Change(ReadPassed, "", _counts_no_strangers)],
    scenario=redriven_elsewhere,
    harm=r"both have the key",
)

# -- G6 --------------------------------------------------------------------------------------------------------------------------------


def _begins_at_the_end(original: Function) -> Function:
    async def make_groups(broker: Broker, group: GroupName, partitions: Any, *, latest: bool, younger: bool = False) -> None:
        await original(broker, group, partitions, latest=latest or younger, younger=younger)

    return make_groups


async def nobody_there(sim: Simulation) -> None:
    """A group has no member while its topic grows, and messages come."""
    producer = await topic(sim, 1)
    sim.member("a", TOPIC, takes(0.01))
    await _send(producer, 1)
    await anyio.sleep(1.0)
    await sim.leave("a")
    await producer.request_partition_increase(3)
    await _send(producer, 2)
    sim.member("b", TOPIC, takes(0.01))
    await sim.until_quiet()


G6 = Variant(
    name="G6",
    without="a group begins at the end of the streams that came while it had no member",
    changes=[Change(member, "make_groups", _begins_at_the_end)],
    scenario=nobody_there,
    harm=r"is neither done nor dead",
)

# -- G7 --------------------------------------------------------------------------------------------------------------------------------


def _publishes_first(original: Function) -> Function:
    async def complete(broker: Broker, name: str, state: TopicState, history: tuple[int, ...]) -> None:
        await broker.do_each([NameStream(name, number, history) for number in range(history[-2], history[-1])])
        await broker.do(Replicate(name, 0, 1.0))
        await broker.do(Publish(name, state.generation, history))
        await anyio.sleep(0.4)
        await original(broker, name, state, history)

    return complete


def _passes_without_a_cut(original: Function) -> Function:
    def read_passed(store: MemoryStore, step: ReadPassed) -> Passed:
        naming = store.naming(step.place)
        if naming.number < step.growth:
            return Passed(done=store.remaining(step.group, step.partition).empty)
        passed: Passed = original(store, step)
        return passed

    return read_passed


G7 = Variant(
    name="G7",
    without="the count is published before the streams are cut",
    changes=[Change(growth, "_complete", _publishes_first), Change(ReadPassed, "", _passes_without_a_cut)],
    scenario=two_producers,
    harm=OVERTAKEN,
)

# -- G8 --------------------------------------------------------------------------------------------------------------------------------


def _looks_at_nothing(_original: Function) -> Function:
    async def sweep(around: Surroundings, partition: int) -> None:
        await around.broker.do(SetSwept(around.group.topic, partition, 1, around.broker.run_id))

    return sweep


async def delayed_messages(sim: Simulation) -> None:
    """Messages are delayed until after the topic has grown; two groups have it."""
    producer = await topic(sim, 1)
    for number in range(4):
        for key in KEYS:
            await producer.enqueue({"n": number, "key": key}, key=key, delay=2.0 + number * 0.05)
    sim.member("a", TOPIC, takes(0.1))
    sim.member("b", TOPIC, takes(0.1), group_name="other")
    await anyio.sleep(1.0)
    await producer.request_partition_increase(3)
    await _send(producer, 8, 0.2)
    await sim.until_quiet()


G8_SWEEP = Variant(
    name="G8 sweep",
    without="what is due moves into the stream where it was delayed",
    changes=[Change(retry_timer, "sweep", _looks_at_nothing)],
    scenario=delayed_messages,
    harm=OVERTAKEN,
)


def _adopts_again(original: Function) -> Function:
    def adopt(store: MemoryStore, step: Adopt) -> str | None:
        store.adopted.pop(step.place, None)
        run: str | None = original(store, step)
        return run

    return adopt


async def interrupted_sweep(sim: Simulation) -> None:
    """A sweep ends between adopting and removing; what was adopted is moved into its stream, and then another sweep begins."""
    producer = await topic(sim, 1)
    for key in KEYS:
        await producer.enqueue({"n": 0, "key": key}, key=key, delay=2.0)
    await producer.request_partition_increase(3)
    store = sim.store
    rows = [(msg_id, b"%d" % due, body) for msg_id, (due, body) in store.delayed[TOPIC, 0].items()]
    by_place: dict[int, list[tuple[bytes, bytes, bytes]]] = {}
    for row in rows:
        words = decode_delayed(row[2])
        by_place.setdefault(partition_for(words[words.index(b"k") + 1], 3), []).append(row)
    for place, some in by_place.items():
        FUNCTIONS[Adopt](store, Adopt(TOPIC, place, 0, some, store.naming((TOPIC, place)).number))
        carry_out(store, SetSwept(TOPIC, place, 1, store.run_of((TOPIC, place))))
    sim.member("b", TOPIC, takes(0.01), group_name="other")  # it opens the new partitions, and moves what is due
    kept = dict(store.delayed.pop((TOPIC, 0)))
    await anyio.sleep(4.0)
    store.delayed[TOPIC, 0] = kept
    store.naming((TOPIC, 0)).swept = 0
    await anyio.sleep(20.0)


G8_MARK = Variant(
    name="G8 mark",
    without="a delayed message is adopted each time that it is asked for",
    changes=[Change(Adopt, "", _adopts_again)],
    scenario=interrupted_sweep,
    harm=r"was appended twice",
)

# -- G9 --------------------------------------------------------------------------------------------------------------------------------


def _takes_what_is_left(_original: Function) -> Function:
    async def publish_again(_self: growth_watch.GrowthWatch) -> None:
        pass

    return publish_again


async def forgotten_growth(sim: Simulation) -> None:
    """A topic grows while its server's replica is cut off, which then takes over; no producer is left."""
    producer = await topic(sim, 1)
    await _send(producer, 1)
    sim.member("a", TOPIC, takes(0.01))
    await anyio.sleep(5.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sim.failover, 3.0)
        await anyio.sleep(0.5)
        await producer.request_partition_increase(3)
    await sim.until_quiet(timeout=60)


G9 = Variant(
    name="G9",
    without="a member goes on with partitions that the server has forgotten",
    changes=[Change(growth_watch.GrowthWatch, "_publish_again", _takes_what_is_left)],
    scenario=forgotten_growth,
    harm=r"3 of 1 partitions are owned",
)
