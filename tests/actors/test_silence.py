"""A server that does not answer, without a connection that breaks: nothing of a consumer waits forever. In virtual time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import anyio
import pytest
from msgspec import structs

from redisaq import Consumer, Message, Producer, RetryPolicy, events
from redisaq.brokers.steps.coordination import Commit, Heartbeat
from redisaq.brokers.terms import GroupName
from redisaq.testing import virtual_run
from tests.actors.group import Notebook, fresh_url, produce
from tests.actors.unanswering import UnansweringBroker, with_silence
from tests.changing_steps import Do, change_step

Backend = Literal["trio", "asyncio"]
BACKENDS: tuple[Backend, ...] = ("trio", "asyncio")
TTL, INTERVAL = 6.0, 1.0
LIMIT = TTL / 2  # seconds of silence after which a connection breaks
MESSAGES = 8

each_backend = pytest.mark.parametrize("backend", BACKENDS)


def member(url: str, notebook: Notebook, **more: Any) -> tuple[Consumer[Any], UnansweringBroker]:
    consumer = Consumer(
        "jobs",
        url,
        **{
            "heartbeat_interval": INTERVAL,
            "heartbeat_ttl": TTL,
            "retry": RetryPolicy(max_attempts=3, backoff=0.2),
            "on_event": notebook.note,
            **more,
        },
    )
    return consumer, with_silence(consumer, url)


class Run:
    """What a small group did while its server left something unanswered."""

    def __init__(self) -> None:
        self.notebook = Notebook()
        self.handled: set[int] = set()
        self.emptied = self.ended = 0.0  # seconds until all was settled; until the consumer had stopped after that
        self.left_out = 0
        self.steps: set[str] = set()


async def small_group(prepare: Callable[[UnansweringBroker], None], *, most: float = 60.0) -> Run:
    """Let a consumer handle some messages, one of which fails at first and one of which is delayed, then stop it."""
    url, run = fresh_url(), Run()
    consumer, broker = member(url, run.notebook)
    prepare(broker)

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(0.01)
        if message.payload["n"] == 1 and message.attempt == 1:
            raise ValueError("at first")
        run.handled.add(message.payload["n"])

    def emptied() -> bool:
        return all(broker.store.remaining(consumer_group, partition).empty for partition in range(2))

    consumer_group = GroupName("jobs", "default_group")
    async with Producer("jobs", url, init_partitions=2) as producer, anyio.create_task_group() as tasks:
        await producer.batch_enqueue([{"n": n} for n in range(4)], partition_key="n")
        began = anyio.current_time()
        tasks.start_soon(consumer.process, handle)
        await anyio.sleep(0.5)
        await producer.batch_enqueue([{"n": n} for n in range(4, 7)], partition_key="n")
        await producer.enqueue({"n": 7}, delay=0.5)
        with anyio.fail_after(most):
            while len(run.handled) < MESSAGES or not emptied():
                await anyio.sleep(0.05)
        run.emptied, ends = anyio.current_time() - began, anyio.current_time()
        await consumer.stop()
    run.ended = anyio.current_time() - ends
    run.left_out, run.steps = broker.left_out, set(broker.asked)
    return run


def steps_of_a_run() -> list[str]:
    async def main() -> set[str]:
        return (await small_group(lambda _: None)).steps

    return sorted(virtual_run(main) - {"connect", "topic"})  # the first connection; a look that only the end takes


@pytest.mark.parametrize("executed", [False, True], ids=["lost", "carried-out"])
@pytest.mark.parametrize("step", steps_of_a_run())
@each_backend
def test_any_step_may_stay_unanswered(backend: Backend, step: str, *, executed: bool) -> None:
    """Its connection breaks after a while; until then nothing else waits longer than that, and no lease is lost."""
    befallen = 0
    for number in (1, 2, 3):

        def prepare(broker: UnansweringBroker, number: int = number) -> None:
            broker.executed, broker.breaks = executed, LIMIT
            broker.unanswered = lambda name, count: (name, count) == (step, number)

        async def main(prepare: Callable[[UnansweringBroker], None] = prepare) -> Run:
            return await small_group(prepare)

        run = virtual_run(main, backend=backend)
        befallen += run.left_out
        assert run.emptied < 2 * LIMIT + 3.0
        assert run.ended <= LIMIT + 1.5
    assert befallen


@pytest.mark.parametrize("silence", [0.7 * TTL, 2.5 * TTL], ids=["shorter than a lease", "longer"])
@each_backend
def test_all_may_be_silent_from_any_step_on(backend: Backend, silence: float) -> None:
    """Whatever is asked for meanwhile has no answer; afterwards the work goes on within a heartbeat's time of breaking connections."""

    async def count() -> int:
        total = 0

        def prepare(broker: UnansweringBroker) -> None:
            def none(_name: str, _number: int) -> bool:
                nonlocal total
                total += 1
                return False

            broker.unanswered = none

        await small_group(prepare)
        return total

    for begin in range(2, virtual_run(count, backend=backend) + 1, 7):

        def prepare(broker: UnansweringBroker, begin: int = begin) -> None:
            broker.breaks = LIMIT
            seen, since = 0, float("inf")

            def silent(name: str, _number: int) -> bool:
                nonlocal seen, since
                seen += name != "topic"
                if seen == begin and since == float("inf"):
                    since = anyio.current_time()
                return since <= anyio.current_time() < since + silence

            broker.unanswered = silent

        async def main(prepare: Callable[[UnansweringBroker], None] = prepare) -> Run:
            return await small_group(prepare, most=90.0)

        run = virtual_run(main, backend=backend)
        assert run.emptied < silence + LIMIT + TTL + 3.0, begin
        assert run.ended <= silence + 1.5


async def end_in_silence(moment: str, how: str, *, breaks: float | None = None, drain_timeout: float = 30.0) -> float:
    """End a consumer whose server is silent; return how long that took."""
    url, notebook = fresh_url(), Notebook()
    await produce(url, 3, partitions=3)
    consumer, broker = member(url, notebook, drain_timeout=drain_timeout)
    broker.breaks = breaks
    before = {"joining": 2, "reading": 30}[moment]
    silent = moment == "joining"

    def unanswered(name: str, _number: int) -> bool:
        return silent and name != "connect" and (moment != "joining" or sum(broker.asked.values()) > before)

    broker.unanswered = unanswered
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.process, notebook.handle)
        await anyio.sleep(1.5)
        silent = True
        await anyio.sleep(1.5)
        began = anyio.current_time()
        if how == "cancel":
            tasks.cancel_scope.cancel()
        else:
            await getattr(consumer, how)()
    assert broker.asked.total() == broker.asked_before_close, "nothing more is sent to a server that is given up"
    return anyio.current_time() - began


@pytest.mark.parametrize("how", ["stop", "close", "cancel"])
@pytest.mark.parametrize("moment", ["joining", "reading"])
@pytest.mark.parametrize("breaks", [None, 2.2], ids=["silent", "breaks meanwhile"])
@each_backend
def test_ending_waits_a_second_for_a_silent_server(backend: Backend, moment: str, how: str, breaks: float | None) -> None:
    async def main() -> float:
        return await end_in_silence(moment, how, breaks=breaks)

    assert virtual_run(main, backend=backend) <= 1.2


@each_backend
def test_an_unanswered_heartbeat_is_reported_after_an_interval(backend: Backend) -> None:
    async def main() -> None:
        url, notebook = fresh_url(), Notebook()
        await produce(url, 1)
        consumer, broker = member(url, notebook)
        assert (consumer.statistics().connected, consumer.statistics().last_heartbeat) == (False, None)
        silent = False
        broker.unanswered = lambda _name, _number: silent
        broker.breaks = LIMIT
        async with anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, notebook.handle)
            await anyio.sleep(1.1 * INTERVAL)
            stands = consumer.statistics()
            assert stands.state == "running"
            assert stands.connected
            assert stands.last_heartbeat is not None
            assert stands.last_heartbeat <= INTERVAL
            silent = True
            while not notebook.of(events.Disconnected):
                await anyio.sleep(0.01)
                assert anyio.current_time() < 60
            stands = consumer.statistics()
            assert stands.state == "disconnected"
            assert not stands.connected
            assert stands.last_heartbeat == pytest.approx(2 * INTERVAL, abs=0.05)  # one that was answered, one that was not
            await anyio.sleep(2 * TTL)
            assert consumer.statistics().state == "disconnected"
            assert len(notebook.of(events.Disconnected)) == 1
            silent = False
            await anyio.sleep(TTL)
            assert consumer.statistics().state == "running"
            assert len(notebook.of(events.Reconnected)) == 1
            assert len(notebook.of(events.MemberJoined)) == 2
            await consumer.stop()

    virtual_run(main, backend=backend)


@pytest.mark.parametrize("breaks", [None, LIMIT])
@each_backend
def test_joining_in_silence_is_reported_and_tried_again(backend: Backend, breaks: float | None) -> None:
    async def main() -> None:
        url, notebook = fresh_url(), Notebook()
        await produce(url, 1)
        consumer, broker = member(url, notebook)
        silent = True
        broker.unanswered = lambda name, _number: silent and name != "connect"
        broker.breaks = breaks
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, notebook.handle)
            await anyio.sleep(1.05 * INTERVAL)
            assert len(notebook.of(events.Disconnected)) == 1
            assert consumer.statistics().state == "disconnected"
            await anyio.sleep(200.0)
            assert len(notebook.of(events.Disconnected)) == 4  # again each minute
            silent = False
            await anyio.sleep(TTL + 2.0)
            assert notebook.numbers == [0]
            assert len(notebook.of(events.Reconnected)) == 1
            await consumer.stop()

    virtual_run(main, backend=backend)


@each_backend
def test_what_is_delayed_comes_though_no_notification_does(backend: Backend) -> None:
    """A look every ttl, whatever the notifications say."""

    async def main() -> None:
        url, notebook = fresh_url(), Notebook()
        await produce(url, 1)
        consumer, broker = member(url, notebook)
        broker.unanswered = lambda name, _number: name.startswith("listen")
        async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, notebook.handle)
            await anyio.sleep(3.0)
            await producer.enqueue({"n": 7}, delay=1.0)
            await producer.request_partition_increase(2)
            await anyio.sleep(TTL + 1.1)
            assert notebook.numbers == [0, 7]
            assert len(consumer.assignment) == 2
            await consumer.stop()

    virtual_run(main, backend=backend)


async def a_minute(step: str) -> int:
    """Let a member run for a minute, and return how often it has asked for this step."""
    url, notebook = fresh_url(), Notebook()
    await produce(url, 1)
    consumer, broker = member(url, notebook)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.process, notebook.handle)
        await anyio.sleep(60.0)
        await consumer.stop()
    return broker.asked[step]


@each_backend
def test_a_member_that_hears_again_and_again_that_it_is_none_rests(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def heartbeat(step: Heartbeat, do: Do) -> Any:
        return structs.replace(await do(step), alive=False)

    change_step(monkeypatch, Heartbeat, heartbeat)

    assert virtual_run(a_minute, "commit", backend=backend) < 4 * 60
    assert len(caplog.records) < 4 * 60


@each_backend
def test_a_member_whose_changes_are_always_refused_rests(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async def commit(_step: Commit, _do: Do) -> bool:
        await anyio.lowlevel.checkpoint()
        return False

    change_step(monkeypatch, Commit, commit)

    assert virtual_run(a_minute, "heartbeat", backend=backend) < 4 * 60


@each_backend
def test_one_group_lost_for_each_loss(backend: Backend) -> None:
    async def main() -> None:
        url, notebook = fresh_url(), Notebook()
        await produce(url, 1, partitions=8)
        consumer, broker = member(url, notebook)
        async with anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, notebook.handle)
            for losses in (1, 2):
                broker.store.flush()
                await anyio.sleep(4 * TTL)
                assert len(notebook.of(events.GroupLost)) == losses
            await consumer.stop()

    virtual_run(main, backend=backend)


@each_backend
def test_until_empty_asks_once_a_second_at_most_in_the_end(backend: Backend) -> None:
    async def main() -> int:
        url, notebook = fresh_url(), Notebook()
        await produce(url, 1, partitions=2)
        consumer, broker = member(url, notebook)
        async with Producer("jobs", url) as producer:
            await producer.enqueue({"n": 1}, delay=30.0)
            await consumer.process(notebook.handle, until_empty=True)
        assert notebook.numbers == [0, 1]
        return broker.asked["remaining"]

    assert virtual_run(main, backend=backend) < 45
