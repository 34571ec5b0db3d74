"""How the court of a simulation judges an owner that ends without giving its partition back, and one that learns of a seek."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import anyio
import pytest

from redisaq import Message
from redisaq.brokers.terms import GroupName
from redisaq.core.in_flight import Flight, InFlight
from redisaq.events import LeaseLost, PartitionAcquired
from redisaq.testing import Simulation
from redisaq.testing.guarantees import Guarantees
from redisaq.testing.observing import Place
from redisaq.testing.record import Observer, Record
from tests.simulation.judged import simulate
from tests.simulation.judges.court import Court
from tests.simulation.process import Told
from tests.simulation.variants.crowd import TOPIC, owned, topic, until
from tests.simulation.variants.variant import BACKENDS, Backend
from tests.simulation.variants.wire import Wire

GROUP = GroupName("orders", "billing")
PLACE = (GROUP, 0)


def test_an_owner_that_stands_still_may_have_counted_an_attempt_once_another_has_taken_its_partition() -> None:
    courts: list[Court] = []

    def court(record: Record) -> Court:
        courts.append(Court(record))
        return courts[-1]

    record = Record(lambda: 5.0, [Guarantees, court])
    first, second = Told("a", suspended=True), Told("b", suspended=True)
    record.event(first, GROUP, acquired(1))
    assert broken(courts[0]) == 0
    record.event(second, GROUP, acquired(2))
    assert broken(courts[0]) == 1
    lost = LeaseLost(topic="orders", group="billing", member="m", partition=0, token=1, reason="late", unsettled=0)
    record.event(first, GROUP, lost)
    assert broken(courts[0]) == 1  # not a second time when it notices
    record.mark(second, "crashes")
    assert broken(courts[0]) == 2
    assert record.violations == []


class Breaks(Observer):
    """Breaks the request by which an owner says that it has learned of the first seek, and lets it come late."""

    def __init__(self, record: Record, wire: Wire) -> None:
        """Begin before a seek."""
        super().__init__(record)
        self._wire = wire

    def noticed(self, place: Place, token: int) -> None:
        """Break the next one."""
        del place, token
        if not self._wire.befallen:
            self._wire.hold("a", "install", 10.0)


async def moved_twice(sim: Simulation) -> None:
    """A message is moved back while it runs, and runs again. Then the group is moved forward, past it."""
    wire = Wire(sim)
    producer = await topic(sim, 1)
    positions: tuple[Literal["earliest", "latest"], ...] = ("earliest", "latest")
    runs = 0

    async def handle(_message: Message[Any]) -> None:
        nonlocal runs
        runs += 1
        await anyio.sleep(1.0)

    sim.member("a", TOPIC, handle)
    await until(lambda: owned(sim, "a") == {0})
    await producer.enqueue({})
    sim.record.observers.append(Breaks(sim.record, wire))
    async with sim.admin() as admin:
        for count, position in enumerate(positions, 1):
            await until(lambda count=count: runs == count)  # type: ignore[misc]
            await admin.pause(TOPIC, "default_group")
            await admin.seek(TOPIC, "default_group", position)
            await admin.resume(TOPIC, "default_group")
    assert wire.befallen
    await sim.until_quiet()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_runs_after_its_owner_has_learned_of_a_seek_counts(backend: Backend) -> None:
    """S5: the second seek has not moved it again."""
    report = simulate(moved_twice, 1, backend)
    assert report.ok, report.violations
    assert [run.attempt for run in report.deliveries] == [1, 1]


def test_what_has_run_since_its_owner_learned_of_a_seek_does_not_run_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """S5: an owner that lets its handlers' results count no more than the first time is found out."""
    returned: Callable[[InFlight, Flight], None] = InFlight.returned
    times = 0

    def twice(flights: InFlight, flight: Flight) -> None:
        nonlocal times
        times += 1
        if times == 2:
            flights.moved(flights.standing, b"0-0", flight.entry)
        returned(flights, flight)

    monkeypatch.setattr(InFlight, "returned", twice)
    report = simulate(moved_twice, 1, "asyncio")
    assert any("again, which is done under the same token" in text for text in report.violations), report.violations


def acquired(token: int) -> PartitionAcquired:
    return PartitionAcquired(topic="orders", group="billing", member="m", partition=0, token=token)


def broken(court: Court) -> int:
    return court.histories._broken.get(PLACE, 0)
