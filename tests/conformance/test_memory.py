"""Behaviour of the memory broker alone: event loops, time, cancellation, and what tests may do to its store."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from redisaq.brokers.growth import make_or_grow
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.memory.holdings import Holdings
from redisaq.brokers.steps.coordination import Heartbeat, make_groups
from redisaq.brokers.steps.leases import Claim, Fence, Install, Release, RemakeGroup, SetDeliveries
from redisaq.brokers.steps.producing import AppendOnce
from redisaq.brokers.steps.retention import ReadKeeping
from redisaq.brokers.steps.settling import ReadRemaining
from redisaq.brokers.steps.topics import MakeTopic, ReadTopic, ReadTopics, Terms
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import Document
from redisaq.core.records import Entry
from redisaq.environment import Environment, use_environment
from redisaq.errors import ConnectionFailed
from tests.conformance.steps import append, commit_document, ids, pending, values
from tests.conftest import Backend

pytestmark = pytest.mark.anyio

GROUP = GroupName("orders", "billing")


def run_in_new_loop(backend: Backend, main: Callable[[], Awaitable[Any]]) -> Any:
    name, options = backend
    return anyio.run(main, backend=name, backend_options=options)


def test_another_event_loop_sees_nothing(anyio_backend: Backend) -> None:
    broker = MemoryBroker("shared", "ns")

    async def first() -> None:
        await broker.connect()
        await broker.do(MakeTopic("orders", 1))
        assert await MemoryBroker("shared", "ns").do(ReadTopics()) == ["orders"]

    async def second() -> None:
        assert await broker.do(ReadTopics()) == [], "though the broker was not closed"
        await broker.do(MakeTopic("other", 1))
        await broker.close()

    run_in_new_loop(anyio_backend, first)
    run_in_new_loop(anyio_backend, second)


async def test_names_and_namespaces_are_apart() -> None:
    await MemoryBroker("one", "ns").do(MakeTopic("orders", 1))
    assert await MemoryBroker("one", "ns").do(ReadTopics()) == ["orders"]
    assert await MemoryBroker("two", "ns").do(ReadTopics()) == []
    assert await MemoryBroker("one", "other").do(ReadTopics()) == []


@dataclass
class Clock:
    """A wall clock that is moved by hand."""

    now: float = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def virtual(clock: Clock) -> Iterator[Environment]:
    """An environment without randomness, for this context."""
    with use_environment(Environment(wall_clock=clock, random=random.Random(7))) as environment:
        yield environment


async def test_time_is_the_environments(namespace: str, clock: Clock, virtual: Environment) -> None:
    """In microseconds, exactly; expiry comes with the microsecond, not after it."""
    broker = MemoryBroker("time", namespace, virtual)
    await commit_document(broker, GROUP, "A", 0.5, known_version="", document=Document(), joins=True)
    beat = await broker.do(Heartbeat(GROUP, "B", 1, ""))
    assert (beat.now, beat.next_expiry) == (1_700_000_000_250_000, 1_700_000_000_750_000)
    clock.now += 0.499_999
    assert (await broker.do(Heartbeat(GROUP, "B", 1, ""))).expired == ()
    clock.now = 1_700_000_000.75
    assert (await broker.do(Heartbeat(GROUP, "B", 1, ""))).expired == ("A",)


async def test_time_never_goes_back(namespace: str, clock: Clock, virtual: Environment) -> None:
    broker = MemoryBroker("time", namespace, virtual)
    before = (await broker.do(Heartbeat(GROUP, "A", 1, ""))).now
    clock.now -= 100
    assert (await broker.do(Heartbeat(GROUP, "A", 1, ""))).now == before


async def test_ids_grow_while_time_stands_still(namespace: str, clock: Clock, virtual: Environment) -> None:
    broker = MemoryBroker("time", namespace, virtual)
    await broker.do(MakeTopic("orders", 1))
    assert await append(broker, "orders", 0, b"1", b"2") == [b"1700000000250-0", b"1700000000250-1"]
    clock.now -= 100
    assert await append(broker, "orders", 0, b"3") == [b"1700000000250-2"]
    clock.now += 200
    assert await append(broker, "orders", 0, b"4") == [b"1700000100250-0"]


async def test_the_contexts_environment_is_taken_at_first_use(namespace: str, clock: Clock) -> None:
    broker = MemoryBroker("time", namespace)
    with use_environment(Environment(wall_clock=clock)):
        assert (await broker.do(Heartbeat(GROUP, "A", 1, ""))).now == 1_700_000_000_250_000


def test_one_seed_gives_one_history(anyio_backend: Backend) -> None:
    async def main() -> list[object]:
        with use_environment(Environment(wall_clock=Clock(), random=random.Random(11))):
            broker = MemoryBroker("seeded", "ns")
            version = await commit_document(broker, GROUP, "A", 1, known_version="", document=Document(), joins=True)
            await broker.do(Install(GROUP, 0, 1, "A", foreign=False))
            return [version, (await broker.open_reader(GROUP, 0, 1, "A")).mark, await broker.do(Heartbeat(GROUP, "A", 1, ""))]

    assert run_in_new_loop(anyio_backend, main) == run_in_new_loop(anyio_backend, main)


async def test_a_cancelled_operation_is_not_done(namespace: str) -> None:
    """Its step comes after its checkpoint."""
    broker = MemoryBroker("cancel", namespace)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await broker.do(MakeTopic("orders", 1))
    assert scope.cancelled_caught
    assert await broker.do(ReadTopics()) == []


async def test_every_operation_has_its_checkpoint(namespace: str) -> None:
    """Otherwise nothing would interleave, and no test would find what interleaving breaks."""
    broker = MemoryBroker("fair", namespace)
    await broker.do(Install(GROUP, 0, 1, "A", foreign=False))
    reader = await broker.open_reader(GROUP, 0, 1, "A")
    doorbell = await broker.listen(GROUP)
    await broker.do(MakeTopic(GROUP.topic, 1))
    operations: list[Callable[[], Awaitable[object]]] = [
        broker.connect,
        lambda: broker.do(ReadTopics()),
        lambda: broker.do(ReadTopic("orders")),
        lambda: broker.do(MakeTopic("orders", 2)),
        lambda: make_or_grow(broker, "orders", 3),
        lambda: broker.append("orders", [(0, [b"i", b"1"])], maxlen=None, approximate=True),
        lambda: make_groups(broker, GROUP, [0], latest=False),
        lambda: broker.do(Heartbeat(GROUP, "A", 1, "")),
        lambda: commit_document(broker, GROUP, "A", 1, known_version="", document=Document(), joins=True),
        lambda: broker.listen(GROUP),
        lambda: broker.do(Install(GROUP, 0, 1, "A", foreign=False)),
        lambda: broker.do(Fence(GROUP, 0, 1, [])),
        lambda: broker.open_reader(GROUP, 0, 1, "A"),
        lambda: broker.do(Claim(GROUP, 0, 1, after=b"", count=1)),
        lambda: broker.do(SetDeliveries(GROUP, 0, 1, {})),
        lambda: broker.do_each([]),
        lambda: broker.do_each([ReadRemaining(GROUP, 0)]),
        lambda: broker.do(RemakeGroup(GROUP, 0, b"")),
        lambda: broker.do(Release(GROUP, 0, 1)),
        lambda: broker.listen_partition(GROUP.topic, 0),
        lambda: broker.kill([]),
        lambda: reader.read(1, 0),
        reader.finish,
        reader.close,
        doorbell.wait,
        doorbell.close,
        broker.close,
    ]
    for operation in operations:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await operation()
        assert scope.cancelled_caught


async def test_a_restart_breaks_connections_and_keeps_data(namespace: str) -> None:
    broker = MemoryBroker("restart", namespace)
    await broker.do(MakeTopic("orders", 1))
    await make_groups(broker, GROUP, [0], latest=False)
    await broker.do(Install(GROUP, 0, 1, "A", foreign=False))
    reader = await broker.open_reader(GROUP, 0, 1, "A")
    broker.store.restart()
    with pytest.raises(ConnectionFailed):
        await reader.read(1, 0)
    again = await broker.open_reader(GROUP, 0, 1, "A")
    assert again.mark.client_id == reader.mark.client_id, "ids begin again with the server"
    assert again.mark.run_id != reader.mark.run_id
    assert await broker.do(Fence(GROUP, 0, 1, [reader.mark]))
    await append(broker, "orders", 0, b"1")
    assert len(await again.read(1, 0)) == 1, "the one with the old run_id was meant, not this one"
    await reader.close()
    assert await broker.do(Fence(GROUP, 0, 1, [again.mark]))
    with pytest.raises(ConnectionFailed):  # the other's end did not take it off the server's list
        await again.read(1, 0)


async def test_a_restart_breaks_operations_under_way(namespace: str) -> None:
    broker = MemoryBroker("restart", namespace)
    caught: list[ConnectionFailed] = []

    async def call() -> None:
        while not caught:
            try:
                await broker.do(ReadTopics())
            except ConnectionFailed as error:
                caught.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        while not caught:
            broker.store.restart()
            await anyio.lowlevel.checkpoint()
    assert caught[0].maybe_executed
    assert await broker.do(ReadTopics()) == [], "the next call goes to the server as it is now"


async def test_a_read_of_a_client_that_stands_still_ends_by_itself(namespace: str, clock: Clock, virtual: Environment) -> None:
    """T4: the server ends a blocked read in time, whether or not the client has noticed; then it delivers nothing to it any more."""
    broker = MemoryBroker("still", namespace, virtual)
    await make_groups(broker, GROUP, [0], latest=False)
    await broker.do(Install(GROUP, 0, 1, "A", foreign=False))
    reader = await broker.open_reader(GROUP, 0, 1, "A")
    found: list[Entry] = []

    async def read() -> None:
        found.extend(await reader.read(10, 0.2))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        while not broker.store.blocked_reads:
            await anyio.lowlevel.checkpoint()
        clock.now += 0.2  # the server's; the client's timer is still to fire
        sent = await append(broker, "orders", 0, b"1")
        assert await pending(broker, GROUP, 0, 1) == {}
    assert found == []
    assert ids(await reader.read(10, 0)) == sent


async def test_an_entry_given_to_a_client_that_stands_still_is_pending(namespace: str) -> None:
    """T3: the danger itself: the read was answered, and its client may never notice."""
    broker = MemoryBroker("still", namespace)
    await make_groups(broker, GROUP, [0], latest=False)
    await broker.do(Install(GROUP, 0, 1, "A", foreign=False))
    reader = await broker.open_reader(GROUP, 0, 1, "A")
    scope = anyio.CancelScope()
    found: list[Entry] = []

    async def read() -> None:
        with scope:
            found.extend(await reader.read(10, 60))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        while not broker.store.blocked_reads:
            await anyio.lowlevel.checkpoint()
        scope.cancel()
        sent = broker.store.append("orders", [(0, [b"i", b"1"])], None)  # before the reader's task runs
    assert await pending(broker, GROUP, 0, 1) == dict.fromkeys(sent, 1)
    assert found == []
    assert values(reader.take_leftover()) == [b"1"]
    assert list(reader.take_leftover()) == [], "once"


async def test_marks_of_deduplication_do_not_pile_up(namespace: str, clock: Clock, virtual: Environment) -> None:
    """They expire on a server; here they are dropped once many of them have."""
    broker = MemoryBroker("marks", namespace)
    await broker.do(MakeTopic("orders", 1))
    window: dict[str, Any] = {"due": None, "maxlen": 1, "approximate": False}
    assert await broker.do(AppendOnce("orders", 0, [b"i", b"kept"], "kept", 9999.0, **window)) == b"kept"
    for number in range(3000):
        clock.now += 1.0
        await broker.do(AppendOnce("orders", 0, [b"i", b"%d" % number], str(number), 10.0, **window))
    assert len(broker.store.marks) <= 1000
    assert await broker.do(AppendOnce("orders", 0, [b"i", b"again"], "kept", 9999.0, **window)) == b"kept"


async def test_what_was_closed_does_not_pile_up(namespace: str) -> None:
    broker = MemoryBroker(namespace, "ns")
    await broker.do(MakeTopic("orders", 1))
    await broker.do(Install(GROUP, 0, 1, "A", foreign=False))
    for _ in range(5):
        await (await broker.open_reader(GROUP, 0, 1, "A")).close()
        await (await broker.listen_partition("orders", 0)).close()
    assert broker._session is not None
    assert [len(broker._session.clients), len(broker._session.subscriptions)] == [1, 1], "the last ones"
    await broker.close()


async def test_reads_are_served_in_the_order_in_which_they_came(namespace: str) -> None:
    broker = MemoryBroker("fifo", namespace)
    await make_groups(broker, GROUP, [0], latest=False)
    await broker.do(Install(GROUP, 0, 1, "A", foreign=False))
    found: dict[int, list[bytes]] = {}

    async def read(number: int) -> None:
        reader = await broker.open_reader(GROUP, 0, 1, "A")
        found[number] = values(await reader.read(1, 60))

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(read, number)
            while broker.store.blocked_reads <= number:
                await anyio.lowlevel.checkpoint()
        await append(broker, "orders", 0, b"0", b"1", b"2")
    assert found == {0: [b"0"], 1: [b"1"], 2: [b"2"]}


async def test_what_a_late_call_opens_after_the_broker_was_closed_is_closed_too(namespace: str) -> None:
    """As on a server that executes what a connection sent before it broke."""

    class Late(MemoryBroker):
        steps: list[Callable[[Any], object]]

        async def _operate(self, name: str, step: Callable[[Any], Any]) -> Any:
            self.steps.append(step)
            await anyio.lowlevel.checkpoint()
            raise ConnectionFailed(self.store.url, f"{name} comes late", maybe_executed=True)

    whole, late = MemoryBroker("late", namespace), Late("late", namespace)
    late.steps = []
    await whole.do(MakeTopic("orders", 1))
    await make_groups(whole, GROUP, [0], latest=False)
    await whole.do(Install(GROUP, 0, 1, "a", foreign=False))
    for call in (late.listen(GROUP), late.listen_partition("orders", 0), late.open_reader(GROUP, 0, 1, "a")):
        with pytest.raises(ConnectionFailed):
            await call
    await late.close()
    for step in late.steps:
        step(late.store)
    assert late.store.connections == 0


async def test_who_loses_a_topics_slot_knows_no_more_since_when_its_groups_are_alone(namespace: str) -> None:
    broker = MemoryBroker("slot", namespace)
    other = GroupName("other", GROUP.group)
    for group in (GROUP, other):
        await broker.do(MakeTopic(group.topic, 1, Terms(30.0, acked=True)))
        assert (await broker.do(ReadKeeping(group))).alone.keys() == {group.group}
    assert broker.store.alone.keys() == {GROUP, other}
    broker.store.forget_coordination(GROUP.topic)
    assert broker.store.alone.keys() == {other}


async def test_closing_an_old_connection_leaves_one_of_the_same_id_alone(namespace: str) -> None:
    """A restarted server gives the same ids to others."""
    broker = MemoryBroker("restarted", namespace)
    await broker.do(MakeTopic("orders", 1))
    await make_groups(broker, GROUP, [0], latest=False)
    await broker.do(Install(GROUP, 0, 1, "a", foreign=False))
    old = await broker.open_reader(GROUP, 0, 1, "a")
    broker.store.restart()
    new = await broker.open_reader(GROUP, 0, 1, "a")
    assert old.mark.client_id == new.mark.client_id
    await old.close()
    assert broker.store.connections == 1
    await broker.close()
    assert broker.store.connections == 0


async def test_nothing_outlives_a_flush() -> None:
    """A server that has lost everything knows nothing of any kind."""
    store, empty = MemoryBroker("flushed", "ns").store, MemoryBroker("new", "ns").store
    kinds = [field.name for field in fields(Holdings)]
    for kind in kinds:
        held: Any = getattr(store, kind)
        if isinstance(held, set):
            held.add("other")
        elif kind == "streams":
            store.make_stream("orders", 0)
        elif kind == "coordination":
            store.members(GROUP)
        else:
            held["other"] = object()
    store.flush()
    assert {kind: getattr(store, kind) for kind in kinds} == {kind: getattr(empty, kind) for kind in kinds}
