"""A topic grows while its producer does not know what became of a batch: it is there once, and where it was first sent (E6)."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import anyio
import pytest

from redisaq import Message
from redisaq.testing import Fault, Simulation
from redisaq.testing.faults import Kind
from tests.simulation.judged import simulate

Backend = Literal["trio", "asyncio"]

FIRST, APPEND, COUNT = "producer-0", 4, 20


async def growing(sim: Simulation) -> None:
    """One partition becomes four while a batch's fate is found out, which takes its time."""
    producer, grower = sim.producer("orders", init_partitions=1), sim.producer("orders", init_partitions=1)
    await producer.connect()
    await grower.connect()

    async def handle(_message: Message[Any]) -> None:
        await anyio.sleep(0.01)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: producer.batch_enqueue([{"n": n} for n in range(COUNT)], partition_key="n"))
        await anyio.sleep(1.0)
        await grower.request_partition_increase(4)
    await producer.batch_enqueue([{"n": n} for n in range(COUNT)], partition_key="n")
    sim.member("a", "orders", handle, group_name="billing")
    await sim.until_quiet(timeout=60)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("kind", ["lost_reply", "lost_request", "late_request"])
def test_an_uncertain_batch_is_looked_for_where_it_was_sent(kind: Kind, backend: Backend) -> None:
    slow = [Fault(FIRST, number, "delay", 2.0) for number in range(APPEND + 1, APPEND + 8)]
    report = simulate(growing, seed=0, backend=backend, faults=[Fault(FIRST, APPEND, kind, 1.0), *slow])
    assert report.ok, report.violations
    assert [fault.kind for fault in report.faults if fault.number == APPEND] == [kind]
    assert Counter(one.msg_id for one in report.deliveries) == dict.fromkeys(report.produced, 1)
    assert len(report.produced) == 2 * COUNT
    where = {msg_id: {one.partition for one in report.deliveries if one.msg_id == msg_id} for msg_id in report.produced}
    moved = {partition for msg_id in report.produced[:COUNT] for partition in where[msg_id]}
    assert (moved == {0}) == (kind != "lost_request"), "where it was first sent, unless it never arrived"
    assert {partition for msg_id in report.produced[COUNT:] for partition in where[msg_id]} > {0}, "it did grow"
