"""The heartbeats of one member, and what it tells with them: exactly when, and how soon again after failures. In virtual time."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import events
from redisaq.actors import Supervisor
from redisaq.brokers.steps.coordination import Beat, Heartbeat, TellRunning
from redisaq.brokers.steps.topics import TopicState
from redisaq.consuming.heartbeat import HeartbeatEmitter
from redisaq.consuming.member import Member
from redisaq.core.membership import Document, MemberEntry
from redisaq.errors import ConnectionFailed, ServerError
from tests.actors.answering import Answering, surroundings_of
from tests.actors.group import TRIO_ALONE, Notebook
from tests.unit.owning import owned_partition, read

pytestmark = TRIO_ALONE
TOPIC = TopicState(0, 4)


async def test_after_a_failure_it_beats_soon_again_and_after_an_answer_as_usual() -> None:
    """The longest pauses that chance draws: from a tenth of a second, twice as long each time, at most an interval."""
    began, away, notebook = anyio.current_time(), False, Notebook()

    def answer(_step: Any) -> Any:
        if away:
            raise ConnectionFailed("redis://x", "away")
        return Beat(alive=True, now=1, topic=TOPIC)

    broker = Answering(answer)
    around = surroundings_of(broker, notebook, heartbeat_interval=10.0, heartbeat_ttl=60.0)
    member = Member(None, 60.0, around.environment)
    member.joined, member.topic, member.partitions = True, TOPIC, 4
    member.lease.begin(began)
    looks = list[float]()

    def beats() -> list[float]:
        times = [round(time - began, 3) for time in broker.times(Heartbeat)]
        broker.steps.clear()
        return times

    async with Supervisor() as supervisor:
        ref = await supervisor.start(HeartbeatEmitter(around, member, lambda: looks.append(anyio.current_time())))
        await anyio.sleep(25.0)
        assert beats() == [0.0, 10.0, 20.0]
        away = True
        await anyio.sleep(28.0)
        assert beats() == [30.0, 30.1, 30.3, 30.7, 31.5, 33.1, 36.3, 42.7, 52.7]
        away = False
        await anyio.sleep(20.0)
        assert beats() == [62.7, 72.7]
        assert around.contact.heartbeat == pytest.approx(began + 72.7)
        assert member.lease.deadline == pytest.approx(began + 122.7)
        away = True
        await anyio.sleep(10.0)
        assert beats() == [82.7, 82.8]
        assert [type(event) for event in notebook.events] == [events.Disconnected, events.Reconnected, events.Disconnected]
        assert looks == [], "there was no news"
        await supervisor.stop(ref)


async def test_one_that_is_taken_for_dead_ends_its_lease_and_has_the_group_looked_at() -> None:
    looks = list[str]()
    broker = Answering(lambda _: Beat(alive=False, now=1, topic=TOPIC, born=7, watched=True))
    around = surroundings_of(broker, heartbeat_interval=10.0, heartbeat_ttl=60.0)
    member = Member(None, 60.0, around.environment)
    member.joined = True
    member.lease.begin(anyio.current_time())
    async with Supervisor() as supervisor:
        ref = await supervisor.start(HeartbeatEmitter(around, member, lambda: looks.append("look")))
        await anyio.sleep(25.0)
        await supervisor.stop(ref)
    assert (member.lease.alive(), looks, len(broker.steps)) == (False, ["look"], 1)


@pytest.mark.parametrize(("members", "reported"), [(None, 100), (1, 100), (40, 50), (4000, 1)])
async def test_while_somebody_watches_it_tells_its_part_of_what_is_in_handlers(members: int | None, reported: int) -> None:
    """A group of many members tells no more than one of few; and what people look at is worth no lease."""

    def answer(step: Any) -> Any:
        if isinstance(step, Heartbeat):
            return Beat(alive=True, now=1, topic=TOPIC, watched=len(broker.of(Heartbeat)) > 1)
        raise ServerError("NOPERM not this one")

    broker = Answering(answer)
    around = surroundings_of(broker, heartbeat_interval=10.0, heartbeat_ttl=60.0)
    member = Member(None, 60.0, around.environment)
    member.joined, member.topic, member.partitions = True, TOPIC, 4
    if members is not None:
        member.document = Document(1, {str(number): MemberEntry(str(number)) for number in range(members)})
    member.lease.begin(anyio.current_time())
    owned = owned_partition(200, page=200)
    for flight in read(owned, 1, 150):
        owned.flights.start(flight)
    async with Supervisor() as supervisor:
        ref = await supervisor.start(HeartbeatEmitter(around, member, lambda: None, lambda: [owned]))
        await anyio.sleep(25.0)
        await supervisor.stop(ref)
    told = broker.of(TellRunning)
    assert [(one.incarnation, one.ttl, one.report.count, len(one.report.messages)) for one in told] == [
        (member.lease.incarnation, 60.0, 150, reported),
        (member.lease.incarnation, 60.0, 150, reported),
    ]
