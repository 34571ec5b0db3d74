"""Each step that places a message, when its answer is lost and its node fails over, to a replica that has the step or to one that lacks it.

The caller asks for the step again, or looks. So the message is there once: it is handled once, and what was said to be safe is not lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from redisaq import DeadLetter, Message, Producer, RetryAfter
from redisaq.testing import Report, Simulation
from tests.simulation.judged import simulate
from tests.simulation.scenarios import insistently
from tests.simulation.variants.cluster import clustered
from tests.simulation.variants.crowd import TOPIC, topic, until
from tests.simulation.variants.variant import BACKENDS, Backend
from tests.simulation.variants.wire import Wire

QUICK: dict[str, Any] = {"heartbeat_interval": 0.5, "heartbeat_ttl": 2.5, "group_name": "g"}

LASTING: dict[str, Any] = QUICK | {"heartbeat_ttl": 30.0}

LAG = 6.0
"""Seconds of which the replica does not hear, if it lacks the step."""

Ask = Callable[[Producer], Awaitable[Any]]

ASKED: dict[str, Ask] = {
    "append": lambda producer: producer.enqueue({}, key="a"),
    "delay": lambda producer: producer.enqueue({}, key="a", delay=5.0),
    "append_once": lambda producer: producer.enqueue({}, key="a", dedup_id="x"),
    "append_once of short memory": lambda producer: producer.enqueue({}, key="a", dedup_id="x", dedup_window=1.0),
    "append_once until due": lambda producer: producer.enqueue({}, key="a", dedup_id="x", delay=5.0),
}
"""What a producer may be asked for; each places a message in partition 0."""

either = pytest.mark.parametrize("kept", [True, False], ids=["kept", "lost"])
both = pytest.mark.parametrize("backend", BACKENDS)


async def lose(sim: Simulation, who: str, operation: str, *, kept: bool, partition: int = 0) -> Wire:
    """Let the answer to the next such step be lost, and its node fail over after it; the replica has the step, or lacks it.

    Until it has failed over, nothing more of this process arrives: it hears of the step from the successor only.
    """
    wire = Wire(sim)
    wire.lose_reply(who, operation, cuts=True)

    async def fail_over(_: float) -> None:
        if kept:
            await until(lambda: bool(wire.befallen))
            await sim.failover(0.0, TOPIC, partition, away=0.3)
        else:
            await sim.failover(LAG, TOPIC, partition, away=0.3)
            assert wire.befallen
        wire.mend(who)

    sim._start(fail_over, 0.0)
    await anyio.sleep(0.1)
    return wire


def counted(report: Report) -> Counter[str]:
    return Counter(one.msg_id for one in report.deliveries if one.outcome == "returned")


@pytest.mark.backends_take_turns
@both
@either
@pytest.mark.parametrize("asked", ASKED)
def test_what_a_producer_places_is_there_once(asked: str, kept: bool, backend: Backend) -> None:
    """E1, E2, E4, E7."""

    async def scenario(sim: Simulation) -> None:
        clustered(sim)
        producer = await topic(sim, 2)
        await lose(sim, "producer-0", asked.split(maxsplit=1)[0], kept=kept)
        await ASKED[asked](producer)
        await producer.enqueue({}, key="a")
        sim.member("a", TOPIC, brief, **QUICK)
        await anyio.sleep(6.0)
        await sim.until_quiet()

    report = simulate(scenario, 1, backend)
    assert report.ok, report.violations
    assert report.dropped == []
    assert counted(report) == dict.fromkeys(report.produced, 1)
    assert len(report.produced) == 2


async def brief(_message: object) -> None:
    await anyio.sleep(0.01)


class Once:
    """A handler that does something else the first time."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    async def __call__(self, _message: Message[Any]) -> None:
        error, self._error = self._error, None
        await anyio.sleep(2.0)
        if error is not None:
            raise error


async def comes_due(sim: Simulation, *, kept: bool) -> None:
    producer = await topic(sim, 2)
    sim.member("a", TOPIC, Once(None), **LASTING)
    await producer.enqueue({}, key="a", delay=2.0)
    await anyio.sleep(1.0)
    await lose(sim, "a", "due", kept=kept)


async def is_put_off(sim: Simulation, *, kept: bool) -> None:
    producer = await topic(sim, 2)
    sim.member("a", TOPIC, Once(RetryAfter(1.0)), **LASTING)
    await producer.enqueue({}, key="a")
    await anyio.sleep(0.5)
    await lose(sim, "a", "resolve", kept=kept)


async def is_redriven(sim: Simulation, *, kept: bool) -> None:
    producer = await topic(sim, 2)
    sim.member("a", TOPIC, Once(DeadLetter("no")), **LASTING)
    await producer.enqueue({}, key="a")
    await anyio.sleep(4.0)
    await lose(sim, "scenario", "redrive", kept=kept)
    await redrive(sim)


async def is_redriven_after_a_growth(sim: Simulation, *, kept: bool) -> None:
    producer = await topic(sim, 1)
    sim.member("a", TOPIC, Once(DeadLetter("no")), **LASTING)
    await producer.enqueue({}, key="e")
    await anyio.sleep(4.0)
    await producer.request_partition_increase(2)
    await anyio.sleep(2.0)
    await lose(sim, "scenario", "take_in", kept=kept, partition=1)
    await redrive(sim)


async def redrive(sim: Simulation) -> None:
    async with sim.admin() as admin:
        await insistently(lambda: admin.redrive(TOPIC, "g"))


async def is_delayed_during_a_growth(sim: Simulation, *, kept: bool) -> None:
    producer = await topic(sim, 1)
    sim.member("a", TOPIC, Once(None), **LASTING)
    await producer.enqueue({}, key="e", delay=2.0)
    await lose(sim, "a", "adopt", kept=kept, partition=1)
    await producer.request_partition_increase(2)


@pytest.mark.backends_take_turns
@both
@either
@pytest.mark.parametrize("scenario", [comes_due, is_put_off, is_redriven, is_delayed_during_a_growth], ids=lambda one: one.__name__)
def test_what_a_group_moves_is_there_once(scenario: Any, kept: bool, backend: Backend) -> None:
    """S2, S3, G8."""

    async def play(sim: Simulation) -> None:
        clustered(sim)
        await scenario(sim, kept=kept)
        await anyio.sleep(12.0)
        await sim.until_quiet()

    report = simulate(play, 1, backend)
    assert report.ok, report.violations
    assert report.dropped == []
    (times,) = counted(report).values()
    assert times == 1 or (times == 2 and not kept), "where the replica lacks that it was handled, it is handled again"
    assert counted(report).keys() == set(report.produced)


def test_what_is_redriven_over_partitions_is_there_once() -> None:
    """G8: one that does not know whether it was put there asks again, when it has been handled there."""

    async def play(sim: Simulation) -> None:
        clustered(sim)
        await is_redriven_after_a_growth(sim, kept=True)
        await anyio.sleep(12.0)
        await sim.until_quiet()

    report = simulate(play, 1, "asyncio")
    assert report.ok, report.violations
    assert [one.outcome for one in report.deliveries] == ["raised", "returned"]
