"""An owner keeps its partition over a failover: messages that it has settled may be pending, unread or to be retried on the new server.

Each scenario causes one such case directly. A message that no task works on any more is reported as "not quiet".
"""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest

from redisaq import Message, RetryPolicy
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import EntryId, parse_id
from redisaq.testing import Report, Simulation
from tests.simulation.judged import simulate
from tests.simulation.variants.crowd import GROUP, TOPIC, owned, takes, topic, until
from tests.simulation.variants.variant import BACKENDS, Backend, Scenario
from tests.simulation.variants.wire import Wire

AGAIN = RetryPolicy(backoff=0.1, max_backoff=0.1, jitter=False)


def pending(sim: Simulation, group: GroupName = GROUP) -> int:
    """Return how much the server holds as pending in the only partition."""
    cursor = sim.store.cursor(group, 0)
    return len(cursor.pending) if cursor is not None else 0


async def claim_breaks(sim: Simulation) -> None:
    """Settled messages are pending again. The first claim that would show this breaks, and by the second one the server is known."""
    wire = Wire(sim)
    producer = await topic(sim, 1)
    sim.member("a", TOPIC, takes(0.2))
    await until(lambda: owned(sim, "a") == {0})
    await producer.enqueue({})
    await until(lambda: pending(sim) == 1)
    await sim.failover(1.0)
    assert pending(sim) == 1
    wire.lose("a", "claim")
    await sim.until_quiet()
    assert wire.befallen == ["lose a claim"]


async def read_breaks(sim: Simulation) -> None:
    """Read and settled messages are unread again. The read that returns them breaks."""
    wire = Wire(sim)
    producer = await topic(sim, 1)
    sim.member("a", TOPIC, takes(0.01))
    await until(lambda: owned(sim, "a") == {0})
    async with anyio.create_task_group() as tasks:
        await producer.batch_enqueue([{}] * 3)  # at the same moment: the replica hears of these, and of no read
        tasks.start_soon(sim.failover, 1.0)
    wire.lose_reply("a", "read")
    await sim.until_quiet()
    assert wire.befallen == ["lose reply a read"]


async def settled_too_early(sim: Simulation) -> None:
    """An acknowledgement comes before the new server has given the entry out, and its answer after that."""
    wire = Wire(sim)
    producer = await topic(sim, 1)
    await producer.enqueue({})
    wire.slow("a", 0.05, "sight")  # the last step before a read
    wire.slow("a", 1.0, "settle")
    sim.member("a", TOPIC, takes(0.17))
    await until(lambda: owned(sim, "a") == {0})
    assert pending(sim) == 0
    await sim.failover(0.2)
    await anyio.sleep(2.0)
    wire.slow("a", 0.0, "settle")
    await sim.until_quiet()


async def settled_meanwhile(sim: Simulation) -> None:
    """A claim returns a pending message while its handler runs, and is answered once it has been settled: it must not run again."""
    wire = Wire(sim)
    producer = await topic(sim, 1)
    sim.member("a", TOPIC, takes(0.5))
    await until(lambda: owned(sim, "a") == {0})
    await producer.enqueue({})
    await until(lambda: pending(sim) == 1)
    wire.slow("a", 1.0, "claim")
    await sim.failover(0.1)
    await anyio.sleep(3.0)
    wire.slow("a", 0.0, "claim")
    await sim.until_quiet()


async def retried_unheard(sim: Simulation) -> None:
    """The server has forgotten the attempt under which a retry is settled."""
    producer = await topic(sim, 1)

    async def handle(message: Message[Any]) -> None:
        if message.attempt == 1:
            raise ValueError("the first time")
        await anyio.sleep(2.0)

    sim.member("a", TOPIC, handle, retry=AGAIN)
    await until(lambda: owned(sim, "a") == {0})
    await producer.enqueue({})
    await until(lambda: bool(sim.store.shelf(GROUP, 0).retry))
    await sim.failover(1.0)
    await sim.until_quiet()


async def failed_unheard(sim: Simulation) -> None:
    """The server has forgotten the last failure of a retry that waits for another message of its lane."""
    producer = await topic(sim, 1)

    async def handle(message: Message[Any]) -> None:
        if message.payload["n"]:
            await anyio.sleep(2.0)
        elif message.attempt <= 2:
            raise ValueError("twice")

    sim.member("a", TOPIC, handle, retry=AGAIN)
    await until(lambda: owned(sim, "a") == {0})
    await producer.enqueue({"n": 0})
    await until(lambda: bool(sim.store.shelf(GROUP, 0).retry))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sim.failover, 1.0)
        await anyio.sleep(0.15)  # it has failed a second time, and is due again in a moment
        await producer.enqueue({"n": 1})
    await sim.until_quiet()


async def parked_unheard(sim: Simulation) -> None:
    """On the server a message is pending that has failed, and waits for its next turn after another message."""
    producer = await topic(sim, 1)

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(2.0 if message.payload["n"] else 0.1)
        if not message.payload["n"] and message.attempt == 1:
            raise ValueError("the first time")

    sim.member("a", TOPIC, handle, retry=AGAIN)
    await until(lambda: owned(sim, "a") == {0})
    await producer.batch_enqueue([{"n": 0}, {"n": 1}])
    await until(lambda: pending(sim) == 2)
    await sim.failover(1.0)
    await sim.until_quiet()


async def group_unheard(sim: Simulation) -> None:
    """The server has neither the group, which was lost with its slot and made again, nor the messages parked since."""
    wire = Wire(sim)
    producer = await topic(sim, 1)

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(0.1)
        if message.payload["n"] == 0 and message.attempt == 1:
            raise ValueError("the first time")

    sim.member("a", TOPIC, handle, batch_size=1, retry=RetryPolicy(backoff=60.0, jitter=False))
    await until(lambda: owned(sim, "a") == {0})
    wire.lose("a", "remake_group", times=100)
    await sim.lose_slot(TOPIC, 0)
    await producer.batch_enqueue([{"n": n} for n in range(6)])
    await until(lambda: sim.store.lease(GROUP, 0).token > 0)  # it has taken the partition again
    assert sim.store.cursor(GROUP, 0) is None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sim.failover, 3.0)
        wire.mend("a")
    await sim.until_quiet()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "scenario",
    [
        claim_breaks,
        read_breaks,
        settled_too_early,
        settled_meanwhile,
        retried_unheard,
        failed_unheard,
        parked_unheard,
        group_unheard,
    ],
    ids=lambda one: one.__name__,
)
def test_what_the_new_server_believes_is_worked_off(scenario: Scenario, backend: Backend) -> None:
    for seed in range(3):
        report: Report = simulate(scenario, seed=seed, backend=backend)
        assert report.ok, f"seed {seed}: {report.timeline()}"
        assert (report.dropped, report.known) == ([], [])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_delayed_message_that_is_forgotten_was_not_put_into_its_stream(backend: Backend) -> None:
    async def scenario(sim: Simulation) -> None:
        producer = await topic(sim, 1)
        sim.member("a", TOPIC, lambda _message: None)
        await until(lambda: len(owned(sim, "a")) == 1)
        await producer.enqueue({"n": 0}, delay=5.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sim.failover, 1.0)
            await anyio.sleep(0.1)
            await producer.enqueue({"n": 1}, delay=30.0)
        await sim.until_quiet()

    report = simulate(scenario, 1, backend)
    assert report.ok, report.violations
    assert report.dropped == report.produced[1:]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_an_owner_has_in_hand_of_lost_entries_may_run_before_lower_ids(backend: Backend) -> None:
    """A slower clock gives lower ids to what comes after them. Nobody else may run what is lost, nor does it come again."""
    ran: dict[int, EntryId] = {}

    async def scenario(sim: Simulation) -> None:
        sim.cluster(3)
        producer = await topic(sim, 1)

        async def handle(message: Message[Any]) -> None:
            ran[message.payload["n"]] = parse_id(message.entry_id.encode())
            await anyio.sleep(1.0)

        sim.member("a", TOPIC, handle)
        await until(lambda: owned(sim, "a") == {0})
        await producer.enqueue({"n": 0})
        await anyio.sleep(1.5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(sim.failover, 0.5, TOPIC, 0, away=0.0, slow=10.0))
            await anyio.sleep(0.1)
            await producer.batch_enqueue([{"n": n} for n in (1, 2, 3)])
        await producer.batch_enqueue([{"n": n} for n in (4, 5)])
        await sim.until_quiet()

    report = simulate(scenario, 1, backend)
    assert list(ran) == [0, 1, 2, 3, 4, 5]
    assert ran[0] < ran[4] < ran[1]
    assert report.ok, report.timeline()
