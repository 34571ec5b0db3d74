"""When a consumer with `until_empty` asks whether anything is left, and what ends the asking. In virtual time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from redisaq.actors import Supervisor
from redisaq.brokers.steps.settling import ReadRemaining, Remaining
from redisaq.consuming.member import Member
from redisaq.consuming.until_empty import EmptinessWatch
from redisaq.errors import RedisaqError
from tests.actors.answering import Answering, surroundings_of
from tests.actors.group import TRIO_ALONE

pytestmark = TRIO_ALONE


class Watched:
    """A watch over two partitions, of which the second has something left until a test says otherwise; one is owned here."""

    def __init__(self) -> None:
        self.began = anyio.current_time()
        self.left, self.unsettled, self.looks = 1, 0, list[float]()
        self.broker = Answering(lambda step: Remaining(False, self.left if step.partition else 0))
        self.around = surroundings_of(self.broker)
        self.member = Member(None, 60.0, self.around.environment)
        self.member.partitions = 2
        self.ready, self.stopped = anyio.Event(), list[float]()
        owner = SimpleNamespace(owned=SimpleNamespace(flights=self))
        partitions: Any = SimpleNamespace(owners={0: (owner, None)})
        self.actor = EmptinessWatch(self.around, self.member, partitions, self.ready, lambda: self.stopped.append(self.now))
        flights: Any = type("Flights", (), {"unsettled": property(lambda _: self.look())})
        owner.owned.flights = flights()

    @property
    def now(self) -> float:
        return round(anyio.current_time() - self.began, 4)

    def look(self) -> int:
        """Return how many messages are in flight here."""
        self.looks.append(self.now)
        return self.unsettled

    async def run(self, *, pause_after: float) -> None:
        """Let it watch for a second; its group is paused after that time."""
        async with Supervisor() as supervisor:
            await supervisor.start(self.actor)
            await anyio.sleep(pause_after)
            self.around.gate.move(closed=True)
            await anyio.sleep(1.0)

    def asked(self) -> list[float]:
        """Return when it asked about the first partition."""
        return [round(time - self.began, 4) for time, step in self.broker.steps if isinstance(step, ReadRemaining) and not step.partition]


async def test_it_asks_soon_and_then_less_and_less_often() -> None:
    watched = Watched()
    async with Supervisor() as supervisor:
        await supervisor.start(watched.actor)
        await anyio.sleep(5.0)
        assert watched.asked() == [], "nothing is assigned yet"
        watched.ready.set()
        await anyio.sleep(5.0)
        pauses = [0.02, 0.03, 0.045, 0.0675, 0.1013, 0.1519, 0.2278, 0.3417, 0.5126, 0.7689, 1.0, 1.0]
        assert watched.asked() == pytest.approx([5.0 + sum(pauses[: number + 1]) for number in range(12)], abs=0.001)
        assert watched.stopped == []
        watched.left = 0
        await anyio.sleep(1.0)
        assert watched.stopped == pytest.approx([watched.asked()[-1]])
        assert len(watched.asked()) == 13


async def test_while_something_is_in_flight_here_it_does_not_ask_the_server() -> None:
    watched = Watched()
    watched.left, watched.unsettled = 0, 1
    watched.ready.set()
    async with Supervisor() as supervisor:
        await supervisor.start(watched.actor)
        await anyio.sleep(0.11)
        assert watched.looks == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
        watched.unsettled = 0
        await anyio.sleep(0.02)
        assert (watched.asked(), watched.stopped) == ([0.12], [0.12])


@pytest.mark.parametrize("when", ["before", "busy", "idle", "ends"])
async def test_a_group_that_is_paused_ends_it_with_an_error(when: str) -> None:
    watched = Watched()
    watched.ready.set()
    watched.unsettled = int(when in {"busy", "ends"})
    watched.around.gate.move(closed=when == "before")

    def look() -> int:
        if when == "ends":  # what was in flight is done, and the group is paused in that moment
            watched.around.gate.move(closed=True)
            return 0
        return watched.unsettled

    watched.look = look  # type: ignore[method-assign]
    with pytest.raises(RedisaqError, match=r"^group default_group of jobs is paused: it will not be empty before it is resumed$"):
        await watched.run(pause_after=0.03)
    assert watched.stopped == []
    assert len(watched.asked()) == int(when == "idle")


async def test_a_topic_that_is_not_there_is_empty_at_once() -> None:
    watched = Watched()
    watched.member.topic_missing = True
    watched.ready.set()
    async with Supervisor() as supervisor:
        await supervisor.start(watched.actor)
        await anyio.sleep(1.0)
    assert (watched.stopped, watched.asked()) == ([0.0], [])
