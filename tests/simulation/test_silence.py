"""Silences and outages of the simulated network: which requests are answered when, which were executed, and how a group reacts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from redisaq.brokers import open_broker
from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.topics import ReadTopic
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, SettingsError
from redisaq.testing import Fault, FaultPlan, Simulation
from redisaq.testing.faults import Kind
from redisaq.testing.faulty_broker import FaultyBroker
from redisaq.testing.member import URL
from redisaq.testing.network import WaitLimits
from tests.simulation.judged import simulate
from tests.simulation.playing import play
from tests.simulation.variants.breaking import Change, taken_out
from tests.simulation.variants.crowd import QUICK, TOPIC, owned, takes, topic, until
from tests.simulation.variants.variant import BACKENDS, Backend

both = pytest.mark.parametrize("backend", BACKENDS)


async def broken(call: Callable[[], Awaitable[Any]]) -> tuple[float, ConnectionFailed]:
    """Return how long a call took to fail, and how it did."""
    began = anyio.current_time()
    with pytest.raises(ConnectionFailed) as raised:
        await call()
    return anyio.current_time() - began, raised.value


def append(broker: Broker, msg_id: bytes = b"m") -> Callable[[], Awaitable[Any]]:
    """Return a call that appends a message."""
    return lambda: broker.append(TOPIC, [(0, [b"i", msg_id, b"d", b"1"])], maxlen=None, approximate=True)


def appended(sim: Simulation) -> int:
    """Return how many messages are in the first partition."""
    return len(sim.store.streams[TOPIC, 0])


@both
@pytest.mark.parametrize(("kind", "carried_out"), [("silent_request", 0), ("silent_reply", 2)])
def test_a_silent_connection_answers_nobody_and_then_breaks(kind: Kind, carried_out: int, backend: Backend) -> None:
    async def scenario(sim: Simulation) -> None:
        await topic(sim, 1)
        broker = open_broker(URL, "redisaq")
        await broker.do(ReadTopic(TOPIC))
        with anyio.move_on_after(1.0) as given_up:
            await append(broker)()  # operation 2: who gives up leaves the connection as it is
        assert given_up.cancelled_caught
        took, error = await broken(append(broker, b"n"))
        assert took == pytest.approx(2.0, abs=0.01)
        assert error.maybe_executed
        assert len(error.connections) == 1
        assert appended(sim) == carried_out
        await append(broker, b"o")()  # over another connection
        assert appended(sim) == carried_out + 1

    report = simulate(scenario, 1, backend, [Fault("scenario", 2, kind, 3.0)])
    assert [fault.kind for fault in report.faults] == [kind]


@both
def test_a_silent_network_is_that_of_one_process_and_what_it_sent_comes_late(backend: Backend) -> None:
    async def scenario(sim: Simulation) -> None:
        producer, other = await topic(sim, 1), sim.producer(TOPIC)
        await other.connect()
        await producer.enqueue({})
        await sim.silence(3.0, "producer-0")
        await sim.silence(1.0, "producer-0")  # it is silent already
        began = anyio.current_time()
        await other.enqueue({})
        assert anyio.current_time() - began < 0.1
        with anyio.move_on_after(2.5):
            await producer.enqueue({})
        assert appended(sim) == 2
        await anyio.sleep(1.0)
        assert appended(sim) == 3
        with pytest.raises(SettingsError, match="no member or producer 'producer-7'"):
            await sim.silence(1.0, "producer-7")

    simulate(scenario, 1, backend)


@both
def test_a_member_whose_network_is_silent_loses_its_partitions_and_comes_back(backend: Backend) -> None:
    async def scenario(sim: Simulation) -> None:
        producer = await topic(sim, 4)
        for name in "ab":
            sim.member(name, TOPIC, takes(0.1), **QUICK)
        await until(lambda: len(owned(sim, "a")) == len(owned(sim, "b")) == 2)
        await sim.silence(5.0, "a")
        await producer.batch_enqueue([{}] * 40)
        await until(lambda: len(owned(sim, "b")) == 4, 4.0)
        await until(lambda: not owned(sim, "a"), 1.0)
        await sim.until_quiet()
        assert len(owned(sim, "a")) == 2

    report = simulate(scenario, 1, backend)
    assert report.ok, report.violations


@both
def test_notifications_are_not_heard_in_a_silence(backend: Backend) -> None:
    async def scenario(sim: Simulation) -> None:
        await topic(sim, 1)
        broker = open_broker(URL, "redisaq")
        bell = await broker.listen_partition(TOPIC, 0)
        await sim.silence(2.0)
        sim.store.ring((TOPIC, 0))
        took, _ = await broken(bell.wait)
        assert took == pytest.approx(2.0, abs=0.01)

    simulate(scenario, 1, backend)


@both
def test_a_server_that_stands_still_carries_out_later_what_it_was_sent(backend: Backend) -> None:
    async def scenario(sim: Simulation) -> None:
        await topic(sim, 1)
        broker = open_broker(URL, "redisaq")
        await broker.do(ReadTopic(TOPIC))
        await sim.silence(3.0)
        took, error = await broken(append(broker))
        assert took == pytest.approx(3.0, abs=0.01)
        assert error.maybe_executed
        await anyio.sleep(0.01)
        assert appended(sim) == 1
        assert sim.store.run_id == broker_run(error)

    simulate(scenario, 1, backend)


def broker_run(error: ConnectionFailed) -> str:
    """Return the run of the server to which a broken connection led."""
    (connection,) = error.connections
    return connection[2]


@both
def test_a_server_that_was_away_is_another_run_with_the_same_data(backend: Backend) -> None:
    async def scenario(sim: Simulation) -> None:
        await topic(sim, 1)
        broker = open_broker(URL, "redisaq")
        await append(broker)()
        run_id = sim.store.run_id

        async def ask() -> None:
            took, error = await broken(lambda: broker.do(ReadTopic(TOPIC)))
            assert took < 1.0
            assert not error.maybe_executed

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sim.outage, 3.0)
            await anyio.sleep(1.0)
            await ask()
            assert appended(sim) == 1
        await append(broker, b"n")()
        assert appended(sim) == 2
        assert sim.store.run_id != run_id

    simulate(scenario, 1, backend)


@both
@pytest.mark.parametrize(
    ("scenario", "kinds"),
    [("unanswered", {"silent_request", "silent_reply", "silent_network"}), ("away", {"silent_server", "outage"})],
)
def test_the_faults_of_a_run_bring_the_same_run_again(scenario: str, kinds: set[str], backend: Backend) -> None:
    reports = (play(scenario, backend, seed) for seed in range(20))
    drawn = next(one for one in reports if {fault.kind for fault in one.faults} >= kinds)
    again = play(scenario, backend, drawn.seed, drawn.faults)
    assert again.trace_hash == drawn.trace_hash
    assert again.faults == drawn.faults


def test_settings_of_silences_that_cannot_work() -> None:
    wrong: list[dict[str, Any]] = [{"silence": -1.0}, {"away": float("nan")}, {"silent_reply": 2.0}, {"silent_network": 0.6, "crash": 0.6}]
    for options in wrong:
        with pytest.raises(SettingsError):
            FaultPlan(**options)


async def asks_a_silent_server(sim: Simulation) -> None:
    """A producer and an admin call during a long silence: each learns in its time that the result is unknown."""
    producer = sim.producer(TOPIC, init_partitions=1, send_timeout=2.0)
    await producer.enqueue({})
    async with sim.admin(timeout=3.0) as admin:
        await admin.topic(TOPIC)
        await sim.silence(20.0)
        with pytest.raises((ConnectionFailed, AmbiguousEnqueueError)):
            await producer.enqueue({})
        took, _ = await broken(lambda: admin.delete_topic(TOPIC))
        assert took < 3.1
    await anyio.sleep(20.0)


@both
def test_calls_end_in_their_time_however_long_nothing_is_heard(backend: Backend) -> None:
    report = simulate(asks_a_silent_server, 1, backend)
    assert report.ok, report.violations


@both
def test_a_call_that_does_not_is_a_violation(backend: Backend) -> None:
    async def patient(sim: Simulation) -> None:
        producer = sim.producer(TOPIC, init_partitions=1, send_timeout=2.0)
        await producer.enqueue({})
        await sim.silence(20.0)
        with pytest.raises((ConnectionFailed, AmbiguousEnqueueError)):
            await producer.enqueue({})

    forever = Change(FaultyBroker, "_limits", lambda _original: lambda _broker: WaitLimits(60.0, 60.0))
    with taken_out(forever):
        report = simulate(patient, 1, backend)
    assert any("with a send_timeout of 2 s" in one for one in report.violations), report.violations


@both
def test_a_first_call_without_an_answer_ends_when_its_time_is_up(backend: Backend) -> None:
    """A client that connects has no such fault of its own, but a silence of the whole server may begin before."""

    async def scenario(sim: Simulation) -> None:
        producer = sim.producer(TOPIC, send_timeout=5.0)
        await sim.silence(6.0)
        took, _ = await broken(lambda: producer.enqueue({}))
        assert took == pytest.approx(5.0, abs=0.1)
        await anyio.sleep(2.0)
        await producer.enqueue({})

    report = simulate(scenario, 1, backend)
    assert report.ok, report.violations
