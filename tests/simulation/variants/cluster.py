"""Variants of the rules about more than one server (C), each with the scenario that shows what goes wrong without.

C6 has none: which server a link behind sentinels talks to is decided below what a simulation replaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import anyio
from msgspec import structs

from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps.producing import Find, Found
from redisaq.brokers.terms import ReaderMark
from redisaq.core.enqueueing import Enqueue
from redisaq.core.entry_ids import parse_id
from redisaq.errors import ConnectionFailed
from redisaq.link.spread import Spreader
from redisaq.producing.sender import Sender
from redisaq.testing import FaultPlan, Simulation
from redisaq.testing.clustered_broker import ClusteredBroker, Refused
from redisaq.testing.network import Connection, Network
from tests.simulation.judges.sent import Sent
from tests.simulation.scenarios_cluster import Task
from tests.simulation.variants.breaking import Change, Function
from tests.simulation.variants.crowd import TOPIC, takes
from tests.simulation.variants.enqueueing import TWICE
from tests.simulation.variants.variant import Variant
from tests.simulation.variants.wire import Wire

BEHIND = "behind number"
LOST = "a replica had confirmed it"
KEYS = ("a", "b", "e", "h")
"""The first two belong to one of two partitions, the others to the other."""


def clustered(sim: Simulation, partitions: int = 2) -> None:
    """Let each slot be alone, and judge the order of what is sent."""
    sim.cluster(partitions + 1)
    sim.record.observers.append(Sent(sim.record))


# -- C1 --------------------------------------------------------------------------------------------------------------------------------


def _follows(_original: Function) -> Function:
    async def redirected(
        broker: ClusteredBroker, topic: str, entries: Sequence[Any], answers: Sequence[object], appended: Sequence[bytes | None]
    ) -> list[bytes | None]:
        await anyio.sleep(0.1)
        places = [place for place, answer in enumerate(answers) if isinstance(answer, Refused)]
        again = await broker.append(topic, [entries[place] for place in places], maxlen=None, approximate=False)
        told = list(appended)
        for place, answer in zip(places, again, strict=True):
            told[place] = answer
        return told

    return redirected


async def slots_move(sim: Simulation) -> None:
    """Slots are on their way to other nodes, while calls hold several messages for each."""
    clustered(sim)
    producer = sim.producer(TOPIC, init_partitions=2, send_timeout=2.0)
    sim.member("a", TOPIC, takes(0.01))
    task = Task(producer, "x")
    async with anyio.create_task_group() as tasks:
        for partition in range(2):
            tasks.start_soon(sim.move_slot, TOPIC, partition, 0.5 + partition)
        for _ in range(20):
            await task.send(*KEYS, *KEYS)
            await anyio.sleep(0.1)
    await sim.until_quiet()


C1 = Variant(
    name="C1",
    without="the link itself sends again what a node refused because the slot moves",
    changes=[Change(ClusteredBroker, "_redirected", _follows)],
    scenario=slots_move,
    harm=f"{BEHIND}|with a send_timeout",
)

# -- C2 --------------------------------------------------------------------------------------------------------------------------------


def _ends_at_the_first(_original: Function) -> Function:
    async def send(_spreader: Spreader[Any], parts: Mapping[Any, Sequence[int]], size: int, send: Function) -> list[object]:
        answered: list[object] = [None] * size
        failures: list[ConnectionFailed] = []

        async def run(node: Any, places: Sequence[int]) -> None:
            try:
                for place, answer in zip(places, await send(node, places), strict=True):
                    answered[place] = answer
            except ConnectionFailed as error:
                failures.append(error)
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for node, places in parts.items():
                tasks.start_soon(run, node, places)
        if failures:
            raise failures[0]
        return answered

    return send


async def calls_span_nodes(sim: Simulation) -> None:
    """Each call has parts at two nodes."""
    clustered(sim)
    producer = sim.producer(TOPIC, init_partitions=2)
    sim.member("a", TOPIC, takes(0.01))
    task = Task(producer, "x")
    for _ in range(40):
        await task.send(*KEYS)
        await anyio.sleep(0.1)
    await sim.until_quiet()


C2 = Variant(
    name="C2",
    without="a call over several nodes ends when its first part breaks, and names only that part's connection",
    changes=[Change(Spreader, "send", _ends_at_the_first)],
    scenario=calls_span_nodes,
    harm=f"{TWICE}|{BEHIND}",
    plan=FaultPlan(lost_reply=0.05, late_request=0.2, delay=(0.0, 0.1)),
)

# -- C3 --------------------------------------------------------------------------------------------------------------------------------


def _sends_what_was_overtaken(_original: Function) -> Function:
    def settle(enqueue: Enqueue, _overtaken: str = "") -> None:
        if all(message.known not in ("absent", "uncertain") for message in enqueue.messages):
            enqueue._end(enqueue._ambiguity)
        enqueue._hold()

    return settle


C3 = Variant(
    name="C3",
    without="what a node refused is sent again, though a later message of its stream was accepted",
    changes=[Change(Enqueue, "_settle", _sends_what_was_overtaken)],
    scenario=slots_move,
    harm=BEHIND,
)

# -- C4 --------------------------------------------------------------------------------------------------------------------------------


def _insists(original: Function) -> Function:
    async def kill_at(broker: ClusteredBroker, node: int, marks: Sequence[ReaderMark]) -> bool:
        if any(mark.run_id not in broker.store.runs for mark in marks):
            raise ConnectionFailed(broker.store.url, "the node cannot be reached", maybe_executed=False)
        return bool(await original(broker, node, marks))

    return kill_at


def _takes_silence_for_it(original: Function) -> Function:
    async def kill_at(broker: ClusteredBroker, node: int, marks: Sequence[ReaderMark]) -> bool:
        try:
            return bool(await original(broker, node, marks))
        except ConnectionFailed:
            return True

    return kill_at


async def a_node_dies(sim: Simulation) -> None:
    """A node is gone in the middle of calls, and has a successor after a second."""
    clustered(sim)
    wire = Wire(sim)
    producer = sim.producer(TOPIC, init_partitions=2, send_timeout=10.0)
    sim.member("a", TOPIC, takes(0.01))
    task = Task(producer, "x")
    await task.send(*KEYS)
    wire.lose("producer-0", "append", times=2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(sim.failover, 0.0, TOPIC, 0, away=1.0))
        await task.send(*KEYS)
    if task.failed:
        sim.record.violation(f"a call failed, though each node had its successor: {dict(task.failed)}")
    await sim.until_quiet()


C4 = Variant(
    name="C4",
    without="a connection to a node that was replaced has to be killed there",
    changes=[Change(ClusteredBroker, "_kill_at", _insists)],
    scenario=a_node_dies,
    harm="though each node had its successor",
)

C4_HELD = Variant(
    name="C4 held",
    without="a node that does not answer counts as replaced",
    changes=[Change(ClusteredBroker, "_kill_at", _takes_silence_for_it)],
    scenario=calls_span_nodes,
    harm=f"{TWICE}|{BEHIND}",
    plan=FaultPlan(late_request=0.1, lost_request=0.1, delay=(0.0, 0.05)),
)

# -- C5 --------------------------------------------------------------------------------------------------------------------------------


def _keeps_the_anchor(original: Function) -> Function:
    def find(store: MemoryStore, step: Find) -> Found:
        found: Found = original(store, step)
        return structs.replace(found, last=max(found.last, step.anchor, key=parse_id))

    return find


async def a_slow_clock_takes_over(sim: Simulation) -> None:
    """A node fails over to one that has not heard of the last messages, and gives lower ids; before and after, an answer is lost."""
    clustered(sim, partitions=1)
    wire = Wire(sim)
    producer = sim.producer(TOPIC, init_partitions=1)
    sim.member("a", TOPIC, takes(0.01))
    task = Task(producer, "x")
    await task.send("a")
    await anyio.sleep(1.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(sim.failover, 3.0, TOPIC, 0, away=0.0, slow=10.0))
        await anyio.sleep(1.0)
        await task.send("a")
        wire.lose("producer-0", "append")
        wire.lose("producer-0", "kill", times=100)
        wire.lose_reply("producer-0", "append")
        tasks.start_soon(task.send, "a")
        await anyio.sleep(2.0)
        wire.mend("producer-0", "kill")
    await sim.until_quiet()


C5 = Variant(
    name="C5",
    without="the anchor of the next try is the one before, though the stream's last id is lower",
    changes=[Change(Find, "", _keeps_the_anchor)],
    scenario=a_slow_clock_takes_over,
    harm=TWICE,
)

# -- C7 --------------------------------------------------------------------------------------------------------------------------------


def _does_not_wait(_original: Function) -> Function:
    async def confirm(_network: Network, _connection: Connection, *, reads: bool) -> None:
        del reads

    return confirm


def _trusts_what_it_finds(_original: Function) -> Function:
    async def confirm(_sender: Sender, _partition: int) -> None:
        pass

    return confirm


async def replicas_lag(sim: Simulation) -> None:
    """A producer waits for replicas; nodes fail over to such as have not heard of the last seconds."""
    clustered(sim)
    producer = sim.producer(TOPIC, init_partitions=2, acks="replica", send_timeout=20.0)
    task = Task(producer, "x")
    async with anyio.create_task_group() as tasks:

        async def fail_over() -> None:
            for partition in (0, 1, 0):
                await anyio.sleep(0.5)
                await sim.failover(0.7, TOPIC, partition, away=0.3)

        tasks.start_soon(fail_over)
        for _ in range(40):
            await task.send(*KEYS)
            await anyio.sleep(0.05)
    sim.member("a", TOPIC, takes(0.01))
    await sim.until_quiet()
    for msg_id in sorted(set(sim.record.dropped()) & set(sim.record.produced)):
        sim.record.violation(f"message {msg_id} is lost, and {LOST}")


C7 = Variant(
    name="C7",
    without="a producer that asks for a replica does not wait for one",
    changes=[Change(Network, "confirm", _does_not_wait)],
    scenario=replicas_lag,
    harm=LOST,
)

C7_FOUND = Variant(
    name="C7 found",
    without="what a look has found is taken for confirmed",
    changes=[Change(Sender, "_confirm", _trusts_what_it_finds)],
    scenario=replicas_lag,
    harm=LOST,
    plan=FaultPlan(lost_reply=0.3),
)
