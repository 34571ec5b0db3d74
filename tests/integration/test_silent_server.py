"""A server that does not answer: each call of a producer and of an Admin ends in time, and says what it knows (docs/understand/link.md).

The server is stopped (the kernel goes on acknowledging), or stands behind a proxy that swallows everything.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

from redisaq import Admin, Producer
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.terms import GroupName
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed
from tests.breaking_proxy import BreakingProxy
from tests.server_fixtures import ServerPool
from tests.servers import Server
from tests.ticks import Ticks

pytestmark = pytest.mark.anyio

TIME = 1.0  # of a call: so a silence is half a second
MARGIN = 0.45  # less than another half of it


@pytest.fixture(autouse=True)
def look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no producer look at its topic again: on a busy machine the time for that has come before the server is stopped."""
    monkeypatch.setattr("redisaq.core.enqueueing.FRESH", 600.0)


ProducerCall = Callable[[Producer], Awaitable[Any]]

PRODUCER_CALLS: dict[str, ProducerCall] = {
    "enqueue": lambda producer: producer.enqueue({}),
    "batch": lambda producer: producer.batch_enqueue([{}, {}, {}]),
    "delayed": lambda producer: producer.enqueue({}, delay=0.001),
    "delayed batch": lambda producer: producer.batch_enqueue([{}, {}], delay=0.001),
    "once": lambda producer: producer.enqueue({}, dedup_id="long"),
    "once, briefly": lambda producer: producer.enqueue({}, dedup_id="short", dedup_window=1.0),
    "once, delayed": lambda producer: producer.enqueue({}, dedup_id="later", delay=0.001),
    "growth": lambda producer: producer.request_partition_increase(2),
}


@pytest.fixture(scope="module")
def stopping(server_pool: ServerPool) -> Iterator[Server]:
    """A server of this module's own, to be stopped."""
    server = server_pool.new("valkey9")
    yield server
    server.close()


@pytest.fixture
def proxy(valkey_server: Server) -> Iterator[BreakingProxy]:
    proxy = BreakingProxy(valkey_server.port)
    yield proxy
    proxy.close()


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


async def outcome_of(call: Awaitable[Any], within: float = TIME) -> Any:
    """Return what a call returned, or the error that it raised; it must not take longer than it may."""
    with Ticks() as ticks:
        began = time.monotonic()
        try:
            outcome = await call
        except (ConnectionFailed, AmbiguousEnqueueError) as error:
            outcome = error
        ended = time.monotonic()
    assert ticks.between(began, ended) < within + MARGIN
    return outcome


def ids_in(server: Server, namespace: str, topic: str, partitions: int = 2) -> list[str]:
    """Return the ids of the messages of a topic, the delayed ones first."""
    names = [f"{{{namespace}:{topic}:{p}}}:{cuts}" for p in range(partitions) for cuts in range(2)]  # growing renames streams
    streams = [server.command("XRANGE", name, "-", "+") for name in names if server.command("TYPE", name) == b"stream"]
    delayed = [server.command("ZRANGE", f"{{{namespace}:{topic}:{p}}}:delayed", 0, -1) for p in range(partitions)]
    return [one.decode() for some in delayed for one in some] + [fields[1].decode() for entries in streams for _, fields in entries]


async def test_every_call_of_a_producer_ends(stopping: Server, namespace: str) -> None:
    """Each of a producer of its own. After it: nothing twice, nothing behind what was sent later, and what was confirmed is there."""
    producers = {
        name: Producer(str(number), stopping.url, namespace=namespace, send_timeout=TIME) for number, name in enumerate(PRODUCER_CALLS)
    }
    outcomes: dict[str, Any] = {}

    async def call(name: str) -> None:
        outcomes[name] = await outcome_of(PRODUCER_CALLS[name](producers[name]))

    async with contextlib.AsyncExitStack() as stack:
        for producer in producers.values():
            await stack.enter_async_context(producer)
            await producer.enqueue({"before": True})
        with stopped(stopping):
            async with anyio.create_task_group() as tasks:
                for name in PRODUCER_CALLS:
                    tasks.start_soon(call, name)
        for name, error in outcomes.items():
            assert isinstance(error, AmbiguousEnqueueError), name
            assert len(error.message_ids) == {"batch": 3, "delayed batch": 2, "growth": 0}.get(name, 1), name
        for name, producer in producers.items():
            after = await producer.batch_enqueue([{"after": n} for n in range(8)])  # into every partition
            found = ids_in(stopping, namespace, producer.topic)
            assert len(found) == len(set(found)), f"{name}: twice"
            assert set(after) < set(found), name
            if "delay" not in name and name != "growth":
                assert found[-8:] == after, f"{name}: late"


@pytest.mark.backends_take_turns
@pytest.mark.parametrize("name", PRODUCER_CALLS)
async def test_half_of_the_time_is_left_to_look_and_send_again(
    proxy: BreakingProxy, valkey_server: Server, namespace: str, name: str
) -> None:
    """Only this connection is silent: it is killed, and what it still carried never comes."""
    async with Producer("jobs", proxy.url, namespace=namespace, send_timeout=2 * TIME) as producer:
        await producer.enqueue({"before": True})
        await producer.enqueue({"before": True}, delay=60)
        proxy.swallow()
        answers: list[Any] = []
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                answers.append(await outcome_of(PRODUCER_CALLS[name](producer), 2 * TIME))

            tasks.start_soon(call)
            await anyio.sleep(0.1)
            proxy.admit()
        (answer,) = answers
        assert isinstance(answer, str | list | int), answer
        proxy.let_through()
        await anyio.sleep(0.05)
        found = ids_in(valkey_server, namespace, "jobs")
        ids = [answer] if isinstance(answer, str) else [] if isinstance(answer, int) else answer
        assert sorted(found[-len(ids) :] if ids else []) == sorted(ids) or "delay" in name
        assert len(found) == 2 + len(ids)
        assert len(set(found)) == len(found)


async def test_what_a_cancelled_call_left_is_killed_before_anything_else_is_sent(
    proxy: BreakingProxy, valkey_server: Server, namespace: str
) -> None:
    """E1: its bytes were written, and no caller heard that the connection broke."""
    async with Producer("jobs", proxy.url, namespace=namespace, send_timeout=TIME) as producer:
        before = await producer.enqueue({})
        proxy.swallow()
        with anyio.move_on_after(0.1) as given_up:
            await producer.enqueue({"late": True})
        assert given_up.cancelled_caught
        proxy.admit()
        await anyio.sleep(TIME / 2)
        after = await producer.enqueue({})
        proxy.let_through()
        await anyio.sleep(0.05)
        assert ids_in(valkey_server, namespace, "jobs") == [before, after]


async def test_a_call_that_sent_nothing_says_so(proxy: BreakingProxy, namespace: str) -> None:
    """The first is uncertain; those that find no connection, or wait for the first, or for one that connects, are not."""
    async with Producer("jobs", proxy.url, namespace=namespace, send_timeout=TIME) as producer:
        await producer.enqueue({})
        proxy.swallow()
        outcomes: list[Any] = []

        async def call(pause: float) -> None:
            await anyio.sleep(pause)
            outcomes.append(await outcome_of(producer.enqueue({})))

        async with anyio.create_task_group() as tasks:
            for pause in (0.0, 0.7, 1.2):
                tasks.start_soon(call, pause)
        uncertain, *unsent = outcomes
        assert isinstance(uncertain, AmbiguousEnqueueError)
        for error in unsent:
            assert isinstance(error, ConnectionFailed)
            assert not error.maybe_executed


async def test_the_first_call_ends_too(proxy: BreakingProxy, namespace: str) -> None:
    """One connects, the others wait for it."""
    proxy.swallow()
    producer = Producer("jobs", proxy.url, namespace=namespace, send_timeout=TIME)
    outcomes: dict[str, Any] = {}

    async def call(name: str) -> None:
        outcomes[name] = await outcome_of(PRODUCER_CALLS[name](producer))

    async with anyio.create_task_group() as tasks:
        for name in PRODUCER_CALLS:
            tasks.start_soon(call, name)
    for error in outcomes.values():
        assert isinstance(error, ConnectionFailed)
        assert not error.maybe_executed
    await producer.close()


async def test_waiting_for_room_ends(proxy: BreakingProxy, namespace: str) -> None:
    async with Producer("jobs", proxy.url, namespace=namespace, send_timeout=TIME, max_backlog=5) as producer:
        await producer.enqueue({})
        proxy.swallow()
        error = await outcome_of(producer.enqueue({}))
        assert isinstance(error, ConnectionFailed)
        assert not error.maybe_executed


async def test_closing_and_cancelling_wait_for_nobody(proxy: BreakingProxy, namespace: str) -> None:
    producer = Producer("jobs", proxy.url, namespace=namespace)
    admin = Admin(proxy.url, namespace=namespace)
    await producer.enqueue({})
    await admin.connect()
    outcomes: list[Any] = []

    async def call() -> None:
        outcomes.append(await outcome_of(producer.enqueue({})))

    proxy.swallow()
    with Ticks() as ticks:
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            tasks.start_soon(outcome_of, admin.topics())
            await anyio.sleep(0.05)
            await producer.close()
            await admin.close()
        assert isinstance(outcomes[0], AmbiguousEnqueueError)
        for call_it in (producer.connect, lambda: admin.pause("jobs", "workers")):
            with anyio.move_on_after(0.05):
                await call_it()
        await producer.close()
        await admin.close()
        ended = time.monotonic()
    assert ticks.between(began, ended) < 1.0


# -- Admin ---------------------------------------------------------------------------------------------------------------------------


async def read_dead(admin: Admin) -> list[Any]:
    return [one async for one in admin.dead_letters("jobs", "workers")]


READS: dict[str, Callable[[Admin], Awaitable[Any]]] = {
    "topics": lambda admin: admin.topics(),
    "topic": lambda admin: admin.topic("jobs"),
    "group": lambda admin: admin.group("jobs", "workers"),
    "dead_letters": read_dead,
}
CHANGES: dict[str, tuple[str, Callable[[Admin], Awaitable[Any]]]] = {
    "redrive": ("redrive", lambda admin: admin.redrive("jobs", "workers", ["x"])),
    "purge": ("purge", lambda admin: admin.purge("jobs", "workers")),
    "seek": ("seek", lambda admin: admin.seek("jobs", "workers", "earliest")),
    "pause": ("set_paused", lambda admin: admin.pause("jobs", "workers")),
    "resume": ("set_paused", lambda admin: admin.resume("jobs", "workers")),
    "delete_group": ("disband", lambda admin: admin.delete_group("jobs", "workers")),
    "delete_group, later": ("drop_group", lambda admin: admin.delete_group("jobs", "workers")),
    "delete_topic": ("disband", lambda admin: admin.delete_topic("jobs")),
    "delete_topic, later": ("drop_topic", lambda admin: admin.delete_topic("jobs")),
}


async def make_group(url: str, namespace: str) -> None:
    """Make a topic, and a paused group of it that nobody works for."""
    async with Producer("jobs", url, namespace=namespace) as producer, Admin(url, namespace=namespace) as admin:
        await producer.enqueue({})
        await make_groups(admin._broker, GroupName("jobs", "workers"), [0], latest=False)
        await admin.pause("jobs", "workers")


async def test_every_call_of_an_admin_ends(stopping: Server, namespace: str) -> None:
    await make_group(stopping.url, namespace)
    calls = {**READS, **{name: call for name, (_, call) in CHANGES.items()}}
    outcomes: dict[str, Any] = {}

    async def call(name: str, admin: Admin) -> None:
        outcomes[name] = await outcome_of(calls[name](admin))

    async with contextlib.AsyncExitStack() as stack:
        admins = {name: await stack.enter_async_context(Admin(stopping.url, namespace=namespace, timeout=TIME)) for name in calls}
        with stopped(stopping):
            async with anyio.create_task_group() as tasks:
                for name, admin in admins.items():
                    tasks.start_soon(call, name, admin)
        for name, error in outcomes.items():
            assert isinstance(error, ConnectionFailed), name
            if name in CHANGES:
                assert not error.maybe_executed, f"{name}: it has only looked"
        assert (await admins["group"].group("jobs", "workers")).paused


@pytest.mark.backends_take_turns
@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_that_was_not_answered_says_so(
    proxy: BreakingProxy, valkey_server: Server, namespace: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been made; and what is still under way is killed before the next change (E1)."""
    step, call = CHANGES[name]
    await make_group(valkey_server.url, namespace)
    async with Admin(proxy.url, namespace=namespace, timeout=TIME) as admin:
        broker: Any = admin._broker
        real = {name: getattr(broker, name) for name in ("do", "do_each")}

        async def swallowed(name: str, asked: Any) -> Any:
            if (asked if name == "do" else asked[0]).name == step:
                proxy.swallow()
            return await real[name](asked)

        for method in real:
            monkeypatch.setattr(broker, method, functools.partial(swallowed, method))
        error = await outcome_of(call(admin))
        monkeypatch.undo()
        if step == "redrive":
            assert error == 0, "nothing of that id: nothing was to be changed"
            return
        assert isinstance(error, ConnectionFailed)
        assert error.maybe_executed
        proxy.admit()
        if not name.startswith("delete"):
            await admin.resume("jobs", "workers")
            proxy.let_through()
            await anyio.sleep(0.05)
            assert not (await admin.group("jobs", "workers")).paused


@pytest.mark.backends_take_turns
@pytest.mark.parametrize("name", READS)
async def test_a_look_is_repeated(proxy: BreakingProxy, valkey_server: Server, namespace: str, name: str) -> None:
    await make_group(valkey_server.url, namespace)
    async with Admin(proxy.url, namespace=namespace, timeout=2 * TIME) as admin:
        proxy.swallow()
        async with anyio.create_task_group() as tasks:

            async def look() -> None:
                assert not isinstance(await outcome_of(READS[name](admin), 2 * TIME), Exception)

            tasks.start_soon(look)
            await anyio.sleep(0.1)
            proxy.admit()
