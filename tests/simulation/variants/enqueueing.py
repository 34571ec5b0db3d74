"""Variants of the rules about enqueueing once (E), each with the scenario that shows what goes wrong without."""

from __future__ import annotations

import anyio
from msgspec import structs

from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps.producing import Find, Found
from redisaq.errors import AmbiguousEnqueueError
from redisaq.testing import FaultPlan, Simulation
from redisaq.testing.network import Network
from tests.simulation.variants.breaking import Change, Function
from tests.simulation.variants.crowd import TOPIC, takes, topic
from tests.simulation.variants.variant import Variant
from tests.simulation.variants.wire import Wire

TWICE = "was appended twice"

# -- E1 --------------------------------------------------------------------------------------------------------------------------------


def _kills_nothing(_original: Function) -> Function:
    return lambda _network, _marks: None


async def requests_come_late(sim: Simulation) -> None:
    """A producer continues to send; what it gave up may arrive later."""
    producer = sim.producer(TOPIC, init_partitions=2)
    sim.member("a", TOPIC, takes(0.01))
    for number in range(40):
        await producer.batch_enqueue([{"n": number}] * 3)
        await anyio.sleep(0.1)
    await sim.until_quiet()


E1 = Variant(
    name="E1",
    without="the connections of a broken batch are not killed before the tail is looked at",
    changes=[Change(Network, "kill", _kills_nothing)],
    scenario=requests_come_late,
    harm=TWICE,
    plan=FaultPlan(late_request=0.05, delay=(0.0, 0.05)),
)

# -- E2 --------------------------------------------------------------------------------------------------------------------------------


def _guesses(original: Function) -> Function:
    def find(store: MemoryStore, step: Find) -> Found:
        found: Found = original(store, step)
        return structs.replace(found, complete=True)

    return find


async def evidence_is_trimmed(sim: Simulation) -> None:
    """The answer to an append is lost, and the entry is trimmed before the producer looks for it."""
    wire = Wire(sim)
    producer = sim.producer(TOPIC, init_partitions=1, maxlen=2, approximate=False)
    other = sim.producer(TOPIC, init_partitions=1, maxlen=2, approximate=False)
    await topic(sim, 1)
    await producer.enqueue({"n": 0})
    wire.lose_reply("producer-0", "append")
    wire.lose("producer-0", "kill", times=20)  # it has no answer for a while

    async def crowd_out() -> None:
        for number in range(20):
            await other.enqueue({"n": 100 + number})
            await anyio.sleep(0.1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(crowd_out)
        try:
            await producer.enqueue({"n": 1})
        except AmbiguousEnqueueError:
            return
    await anyio.sleep(1.0)


E2 = Variant(
    name="E2",
    without="what is not in the tail is sent again, though the tail no longer reaches back to the anchor",
    changes=[Change(Find, "", _guesses)],
    scenario=evidence_is_trimmed,
    harm=TWICE,
)
