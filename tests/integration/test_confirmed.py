"""Writes that wait for a replica (C7): producers with acks="replica", consumers with durability="replica"."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import anyio
import pytest

from redisaq import App, Consumer, Message, Producer
from redisaq.brokers import growth, open_broker
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.redis import RedisBroker, growing
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.administration import ViewStream
from redisaq.brokers.steps.coordination import Commit
from redisaq.brokers.steps.growing import Adopt, NameStream, Replicate, ReplicateRun
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.steps.producing import AppendOnce, Confirm
from redisaq.brokers.steps.topics import MakeTopic, ReadTopic
from redisaq.core.partitioner import partition_for
from redisaq.environment import time_limit
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, ServerError, SettingsError
from redisaq.link import Command, Link, ReadingConnection, confirmed as module, parse_address, sentinel
from tests.conformance.worlds import PASSWORD
from tests.link_fake import FakeServer, usual_answers
from tests.sentinels import PATIENCE, Guarded
from tests.server_fixtures import ServerPool
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no busy machine make a sentinel late."""
    monkeypatch.setattr(sentinel, "ANSWER_WITHIN", PATIENCE)


@pytest.fixture(scope="module")
def pair(server_pool: ServerPool) -> Iterator[Guarded]:
    """A master with replicas that these tests freeze, and sentinels that leave them alone."""
    pair = server_pool.new_guarded("valkey9", down_after=600.0)
    yield pair
    pair.close()


@pytest.fixture
def master(pair: Guarded) -> Iterator[Server]:
    """The master; its replicas go on when the test ends."""
    yield pair.servers[0]
    for replica in pair.servers[1:]:
        replica.resume()


def freeze(pair: Guarded) -> None:
    for replica in pair.servers[1:]:
        replica.pause()


def waits(server: Server) -> int:
    """Return how many WAIT commands the server has carried out."""
    lines = [line for line in server.command("INFO", "commandstats").decode().splitlines() if line.startswith("cmdstat_wait:")]
    return int(lines[0].partition("calls=")[2].partition(",")[0]) if lines else 0


async def test_one_wait_confirms_all_calls_of_a_write(master: Server) -> None:
    link, before = Link(parse_address(master.url), confirmed=True), waits(master)
    answers: dict[int, list[object]] = {}

    async def call(number: int) -> None:
        answers[number] = await link.call(("ECHO", str(number)), ("SET", "confirmed", number))

    await link.connect()
    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(call, number)
    assert answers == {number: [str(number).encode(), b"OK"] for number in range(100)}
    assert 1 <= waits(master) - before < 10
    await link.close()


async def test_what_no_replica_confirms_raises_and_the_next_call_is_served(
    pair: Guarded, master: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONFIRM_WITHIN", 0.2)
    link = Link(parse_address(master.url), confirmed=True)
    await link.call(("SET", "confirmed", 1))
    freeze(pair)
    with pytest.raises(ConnectionFailed, match=r"no replica has confirmed it within 0\.2 s") as raised:
        await link.call(("SET", "confirmed", 2))
    assert raised.value.maybe_executed
    assert raised.value.connections == (), "its connection lives, and has carried out everything"
    for replica in pair.servers[1:]:
        replica.resume()
    with anyio.fail_after(30):
        while True:
            try:
                assert await link.call(("GET", "confirmed")) == [b"2"]
            except ConnectionFailed:
                continue
            break
    await link.close()


async def test_what_the_server_refuses_is_not_waited_for(pair: Guarded, master: Server) -> None:
    freeze(pair)
    link = Link(parse_address(master.url), confirmed=True)
    (refused,) = await link.call(("LPUSH", "confirmed"))
    assert isinstance(refused, ServerError)
    await link.close()


async def test_callers_leave_at_any_time(pair: Guarded, master: Server) -> None:
    """No task hangs that waits for the same WAIT, or for the next one, whichever of them drove."""
    link = Link(parse_address(master.url), confirmed=True)
    await link.connect()
    for number in range(40):
        done: list[int] = []

        async def call(own: int, number: int = number, done: list[int] = done) -> None:
            with anyio.move_on_after(0.0 if own < 4 else 30) as scope:
                if own < 4:
                    scope.cancel() if number % 4 == own else None
                await link.call(("SET", "confirmed", own))
            done.append(own)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, 0)
            for own in range(1, 10):
                tasks.start_soon(call, own)
            await anyio.lowlevel.checkpoint()
        assert sorted(done) == list(range(10))
    freeze(pair)
    with pytest.raises(ConnectionFailed, match="time of the call"), time_limit(0.2):
        await link.call(("SET", "confirmed", 0))
    await link.close()


async def test_a_user_who_may_not_wait_gets_an_error_that_says_so(master: Server) -> None:
    master.command("ACL", "SETUSER", "hasty", "on", f">{PASSWORD}", "~*", "&*", "+@all", "-wait")
    url = master.url.replace("redis://", f"redis://hasty:{PASSWORD.replace(' ', '%20')}@")
    producer = Producer("jobs", url, acks="replica", namespace="hasty")
    with pytest.raises(ConnectionFailed, match=r"\+wait"):
        await producer.connect()
    await producer.close()


async def test_a_producer_says_what_no_replica_has(pair: Guarded, master: Server, namespace: str) -> None:
    async with Producer("jobs", pair.url, namespace=namespace, acks="replica", send_timeout=3.0) as producer:
        await producer.enqueue(1)
        await producer.enqueue(2, dedup_id="2")
        await producer.enqueue(3, delay=100)
        await producer.batch_enqueue([4, 5])
        freeze(pair)
        with pytest.raises(AmbiguousEnqueueError, match="no replica has confirmed") as raised:
            await producer.enqueue(6)
        assert len(raised.value.message_ids) == 1
        for replica in pair.servers[1:]:
            replica.resume()
        await producer.enqueue(7)
    assert master.command("XLEN", f"{{{namespace}:jobs:0}}:0") == 6, "what was uncertain is there, once"


async def test_a_producer_waits_for_a_replica_that_comes_back(pair: Guarded, namespace: str) -> None:
    """What a look finds is confirmed, too, before it counts as sent."""
    async with Producer("jobs", pair.url, namespace=namespace, acks="replica", send_timeout=30.0) as producer:
        await producer.enqueue(1)
        freeze(pair)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(producer.enqueue, 2)
            await anyio.sleep(1.5)
            pair.servers[1].resume()
    assert pair.servers[1].command("XLEN", f"{{{namespace}:jobs:0}}:0") == 2


async def test_what_a_look_finds_is_confirmed_too(pair: Guarded, master: Server, namespace: str) -> None:
    """A connection that has written nothing waits for nothing: after a reconnection the look alone would count as enough."""
    stream, done = f"{{{namespace}:jobs:0}}:0", False

    async def enqueue() -> None:
        nonlocal done
        await producer.enqueue(2)
        done = True

    async with Producer("jobs", pair.url, namespace=namespace, acks="replica", send_timeout=60.0) as producer:
        await producer.enqueue(1)
        freeze(pair)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enqueue)
            with anyio.fail_after(30):
                while master.command("XLEN", stream) < 2:
                    await anyio.sleep(0.001)
                before = waits(master)
                master.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                while waits(master) < before + 5:  # it has connected again, and looked
                    await anyio.sleep(0.01)
            assert not done
            pair.servers[1].resume()
    assert done
    assert master.command("XLEN", stream) == 2


class Recording(MemoryBroker):
    """Notes which steps it does."""

    def __init__(self, name: str, namespace: str) -> None:
        super().__init__(name, namespace)
        self.done: set[type[object]] = set()

    async def do(self, step: Step[Any]) -> Any:
        self.done.add(type(step))
        return await super().do(step)


class Demoted:
    """A connection to a server that becomes a replica during a WAIT."""

    url = "redis://test"

    def give_up(self, reason: str) -> None:
        """It breaks by itself."""

    async def read(self, command: Command, block: float) -> ServerError:
        del command, block
        return ServerError("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_growth_is_tried_again_where_a_server_becomes_a_replica() -> None:
    """G7: a failure that passes, and no error of the server that ends the growth."""
    with pytest.raises(ConnectionFailed, match="UNBLOCKED"):
        await growing._is_confirmed(cast("ReadingConnection", Demoted()), 0.0)


async def test_a_mark_at_a_former_place_is_confirmed_too(namespace: str) -> None:
    """E7, C7: the message that it names may be at the primary alone."""
    broker = Recording(namespace, namespace)
    producer = Producer("jobs", f"memory://{namespace}", namespace=namespace, acks="replica", init_partitions=1)
    producer._access._confirmed = broker
    async with producer:
        sent = await producer.enqueue(1, dedup_id="a")
        await producer.request_partition_increase(8)
        assert partition_for("a", 8) != 0
        broker.done.clear()
        assert (await producer.enqueue(1, dedup_id="a")) == sent
        assert Confirm in broker.done
        assert AppendOnce not in broker.done


async def test_leases_are_given_where_replicas_are_waited_for(namespace: str) -> None:
    plain, confirmed = Recording(namespace, namespace), Recording(namespace, namespace)
    consumer = Consumer("jobs", f"memory://{namespace}", namespace=namespace, durability="replica", init_partitions=2)
    consumer._access.broker, consumer._access._confirmed = plain, confirmed

    async def handle(message: Message[int]) -> None:
        del message

    async with anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, handle)
        with anyio.fail_after(30):
            while len(consumer.assignment) < 2:
                await anyio.sleep(0.01)
        await consumer.stop()
    assert confirmed.done == {Install, Commit}
    assert Install not in plain.done


async def test_a_consumer_takes_nothing_that_no_replica_knows(pair: Guarded, namespace: str) -> None:
    handled: list[int] = []
    consumer = Consumer("jobs", pair.url, namespace=namespace, durability="replica", init_partitions=2)

    async def handle(message: Message[int]) -> None:
        handled.append(message.payload)

    async with Producer("jobs", pair.url, namespace=namespace, init_partitions=2) as producer, anyio.create_task_group() as tasks:
        await producer.batch_enqueue([1, 2])
        freeze(pair)
        tasks.start_soon(consumer.process, handle)
        await anyio.sleep(1.0)
        assert not consumer.assignment
        assert not handled
        for replica in pair.servers[1:]:
            replica.resume()
        with anyio.fail_after(30):
            while len(handled) < 2:
                await anyio.sleep(0.01)
        await consumer.stop()
    await consumer.close()


async def test_an_app_has_both(pair: Guarded, namespace: str) -> None:
    app = App(pair.url, namespace=namespace)
    safe, quick = app.topic("safe", int, acks="replica"), app.topic("quick", int)
    async with app:
        before = waits(pair.servers[0])
        await quick.enqueue(1)
        assert waits(pair.servers[0]) == before
        await safe.enqueue(1)
        assert waits(pair.servers[0]) > before


async def test_a_growth_waits_for_a_replica_but_not_forever(
    pair: Guarded, master: Server, namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The count is published once a replica has the cuts, or with a warning (G7)."""
    async with Producer("jobs", master.url, namespace=namespace, init_partitions=2) as producer:
        before = waits(master)
        assert await producer.request_partition_increase(3) == 3
        assert waits(master) > before
        assert not caplog.records
        monkeypatch.setattr(growth, "REPLICATED_WITHIN", 0.2)
        freeze(pair)
        assert await producer.request_partition_increase(5) == 5
        (warning,) = caplog.records
        assert warning.getMessage().startswith("topic jobs grows to 5 partitions, and no replica has confirmed within 0.2 s")


async def test_a_connection_that_waits_for_a_replica_is_not_taken_for_a_silent_one(pair: Guarded, master: Server, namespace: str) -> None:
    broker = RedisBroker(Link(parse_address(master.url), silence=0.3), namespace)
    await broker.do(MakeTopic("jobs", 1))
    await broker.do_each([NameStream("jobs", partition, (1, 2)) for partition in (1, 0)])
    before = waits(master)
    assert await broker.do(ReplicateRun("jobs", 0, broker.run_id, 30.0))
    assert waits(master) > before
    assert not await broker.do(ReplicateRun("jobs", 0, "another", 30.0)), "G8: it may not have what the other one has"
    freeze(pair)
    assert not await broker.do(Replicate("jobs", 1, 0.9)), "G7: none has confirmed it"
    assert not await broker.do(ReplicateRun("jobs", 0, broker.run_id, 0.9)), "G8: none has confirmed it"
    await broker.close()


async def test_to_wait_for_a_replica_writes_over_nothing(master: Server, namespace: str) -> None:
    """After a failover that lost the cuts, messages are under the name where a seal was (G7)."""
    broker = open_broker(master.url, namespace)
    await broker.do(MakeTopic("jobs", 1))
    await broker.append("jobs", [(0, [b"i", b"m", b"d", b"1"])], maxlen=None, approximate=False)
    before = waits(master)
    await broker.do(Replicate("jobs", 1, 30.0))
    assert waits(master) > before
    assert (await broker.do(ViewStream("jobs", 0))).length == 1
    await broker.close()


async def test_where_there_are_no_replicas(namespace: str) -> None:
    async with Producer("jobs", f"memory://{namespace}", acks="replica") as producer:
        await producer.enqueue(1)
    producer = Producer("jobs", "embedded://", acks="replica", namespace=namespace)
    with pytest.raises(SettingsError, match="an embedded server has no replicas"):
        await producer.connect()


@pytest.mark.parametrize("setting", [{"acks": "all"}, {"acks": None}])
def test_acks_that_do_not_exist(setting: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="acks must be 'primary' or 'replica'"):
        Producer("jobs", "memory://", **setting)  # type: ignore[arg-type]


async def test_confirm_changes_nothing(guarded: Guarded, namespace: str) -> None:
    for url in (f"memory://{namespace}", guarded.url):
        broker = open_broker(url, namespace, confirmed=True)
        await broker.do(MakeTopic("jobs", 1))
        await broker.append("jobs", [(0, [b"i", b"1"])], maxlen=None, approximate=False)
        bell = await broker.listen_partition("jobs", 0)
        before = await broker.do(ReadTopic("jobs")), await broker.do_each([ViewStream("jobs", 0)])
        await broker.do(Confirm("jobs", 0))
        with anyio.fail_after(30):
            await bell.wait()
        assert (await broker.do(ReadTopic("jobs")), await broker.do_each([ViewStream("jobs", 0)])) == before
        await broker.close()


async def test_in_a_cluster_what_changes_nothing_is_waited_for_too(server_pool: ServerPool, namespace: str) -> None:
    """C7, G8: a replica there does not confirm that a doorbell was rung, and what a script has found changes nothing."""
    cluster = server_pool.new_cluster("cluster", masters=1, replicas=1)
    broker = open_broker(cluster.url, namespace, confirmed=True)
    try:
        await broker.do(MakeTopic("jobs", 1))
        run = await broker.do(Adopt("jobs", 0, 1, [], 0))
        assert run is not None
        await broker.do(Confirm("jobs", 0))
        assert await broker.do(ReplicateRun("jobs", 0, run, 30.0))
        before = cluster.nodes[0].command("DBSIZE")
        cluster.nodes[1].pause()
        assert await broker.do(ReplicateRun("jobs", 0, run, 0.2)) is False, "G8: none has confirmed it"
        with pytest.raises(ConnectionFailed, match="no replica has confirmed it"):
            await broker.do(Confirm("jobs", 0))
        assert cluster.nodes[0].command("DBSIZE") == before
    finally:
        cluster.nodes[1].resume()
        await broker.close()
        cluster.close()


async def test_who_has_no_time_left_takes_nobody_elses_driver_away() -> None:
    """The next two join the write that it began, and the one that stays is woken when the one that drives leaves."""
    got = b"$1\r\nx\r\n"
    with FakeServer(usual_answers() | {"GET": lambda command: got if command[1] == b"first" else b"", "WAIT": b""}) as server:
        link = Link(parse_address(server.url), confirmed=True, silence=600.0)
        await link.connect()
        done: list[str] = []

        async def call(key: str) -> None:
            await link.call(("GET", key))
            done.append(key)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, "first")
                await until(lambda: server.words().count("WAIT") == 1)
                connection = link._connector.current
                assert connection is not None
                # It has read its value: else it may do so between the next two, and write what the first of them has put.
                await until(lambda: len(connection._waiters) == 1)
                with pytest.raises(ConnectionFailed), time_limit(0.0):
                    await link.call(("GET", "late"))
                async with anyio.create_task_group() as leaving:
                    leaving.start_soon(call, "leaves")
                    tasks.start_soon(call, "stays")
                    await until(lambda: server.words().count("WAIT") == 2)
                    server.send(b":1\r\n" + got + got)  # confirms the first, and answers the others
                    await until(lambda: done == ["first"])
                    await anyio.wait_all_tasks_blocked()
                    leaving.cancel_scope.cancel()
                server.send(b":1\r\n")
        assert done == ["first", "stays"]
        await link.close()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.005)
