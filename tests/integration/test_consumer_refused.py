"""Consumers of servers that refuse something, or say nothing: real ones."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from redisaq import Admin, Consumer, Message, Producer, events
from redisaq.brokers import open_broker
from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import GroupName
from redisaq.errors import ConnectionFailed
from redisaq.events import Event
from redisaq.link import Link, parse_address
from tests.link_fake import FakeServer, usual_answers
from tests.server_fixtures import ServerPool
from tests.servers import Server
from tests.ticks import Ticks

pytestmark = pytest.mark.anyio

TTL, INTERVAL = 3.0, 0.5


@pytest.fixture
def own_server(server_pool: ServerPool) -> Iterator[Server]:
    server = server_pool.new("valkey9")
    yield server
    server.close()


class Watcher:
    """A consumer, what it handled and what it reported."""

    def __init__(self, url: str, namespace: str, **more: Any) -> None:
        self.events: list[Event] = []
        self.handled: list[int] = []
        options = {"heartbeat_interval": INTERVAL, "heartbeat_ttl": TTL, "on_event": self.events.append, "namespace": namespace, **more}
        self.consumer: Consumer[Any] = Consumer("jobs", url, **options)

    async def handle(self, message: Message[Any]) -> None:
        """Note the message."""
        self.handled.append(message.payload["n"])

    def of(self, kind: type[Event]) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def pending(server: Server, namespace: str) -> int:
    """Return how many entries of both partitions are delivered and not acknowledged."""
    return sum(int(server.command("XPENDING", f"{{{namespace}:jobs:{p}}}:0", "default_group")[0]) for p in (0, 1))


async def until(done: Callable[[], bool], *, most: float = 30.0) -> None:
    with anyio.fail_after(most):
        while not done():
            await anyio.sleep(0.02)


async def test_t4_without_the_right_to_use_client_a_consumer_works_and_says_so(server: Server, namespace: str) -> None:
    server.command("ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-client")
    async with Producer("jobs", server.url, namespace=namespace, init_partitions=2) as producer:
        await producer.batch_enqueue([{"n": n} for n in range(4)])
        watcher = Watcher(f"redis://plain:secret@127.0.0.1:{server.port}/0", namespace)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watcher.consumer.process, watcher.handle)
            await until(lambda: len(watcher.handled) == 4)
            await anyio.sleep(0.2)  # reads wait in the server
            with anyio.fail_after(30):
                await watcher.consumer.stop()
        # The next member meets marks that cannot be killed.
        again = Watcher(f"redis://plain:secret@127.0.0.1:{server.port}/0", namespace)
        await producer.enqueue({"n": 4})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(again.consumer.process, again.handle)
            await until(lambda: again.handled == [4])
            await again.consumer.stop()
    assert len(watcher.of(events.KillNotPermitted)) == 1


async def test_partitions_beyond_maxclients_are_reported_and_go_to_another_member(own_server: Server, namespace: str) -> None:
    partitions = 24
    async with Producer("jobs", own_server.url, namespace=namespace, init_partitions=partitions):
        pass
    limited, other = Watcher(own_server.url, namespace), Watcher(own_server.url, namespace)
    admin = Link(parse_address(own_server.url))  # nobody else could raise the limit again
    await admin.call(("CONFIG", "SET", "maxclients", 12))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(limited.consumer.process, limited.handle)
        await until(lambda: bool(limited.of(events.PartitionStuck)))
        assert re.search("max number of clients|maxclients", limited.of(events.PartitionStuck)[0].reason)
        assert limited.consumer.statistics().state == "running"
        await admin.call(("CONFIG", "SET", "maxclients", 1000))
        async with Producer("jobs", own_server.url, namespace=namespace) as producer:
            await producer.batch_enqueue([{"n": n} for n in range(200)])
            tasks.start_soon(other.consumer.process, other.handle)
            await until(lambda: {*limited.handled, *other.handled} == set(range(200)))
        await limited.consumer.close()
        await other.consumer.close()
    await admin.close()


FEW_DESCRIPTORS = textwrap.dedent(
    """
    import resource, sys
    import anyio
    from redisaq import Consumer, events

    async def main():
        told = []
        consumer = Consumer("jobs", sys.argv[1], namespace=sys.argv[2], heartbeat_interval=0.5, heartbeat_ttl=3.0, on_event=told.append)
        async def handle(message):
            print("handled", message.payload["n"], flush=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, handle)
            with anyio.fail_after(30):
                while not any(isinstance(event, events.PartitionStuck) for event in told):
                    await anyio.sleep(0.05)
            print(next(event.reason for event in told if isinstance(event, events.PartitionStuck)), flush=True)
            print("state", consumer.statistics().state, flush=True)
            resource.setrlimit(resource.RLIMIT_NOFILE, (400, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            with anyio.fail_after(30):
                while len(consumer.assignment) < 40 or sum(one.handled for one in consumer.statistics().partitions) < 40:
                    await anyio.sleep(0.05)
            print("all", flush=True)
            await consumer.stop()

    resource.setrlimit(resource.RLIMIT_NOFILE, (30, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    anyio.run(main, backend=sys.argv[3])
    """
)


async def test_partitions_beyond_the_limit_of_open_files_are_reported_and_read_when_it_is_raised(
    server: Server, namespace: str, anyio_backend_name: str
) -> None:
    async with Producer("jobs", server.url, namespace=namespace, init_partitions=40) as producer:
        await producer.batch_enqueue([{"n": n} for n in range(200)])
    words = [sys.executable, "-c", FEW_DESCRIPTORS, server.url, namespace, anyio_backend_name]
    done = await anyio.run_process(words, check=False, stdin=subprocess.DEVNULL)
    said = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert "open files" in said
    assert "state running" in said
    assert "all" in said.split()


async def test_who_may_only_read_looks_at_a_group_without_what_members_would_have_to_be_asked_for(
    own_server: Server, namespace: str
) -> None:
    async with Producer("jobs", own_server.url, namespace=namespace, init_partitions=1) as producer:
        await producer.enqueue({"n": 1})
    watcher = Watcher(own_server.url, namespace)
    await watcher.consumer.process(watcher.handle, until_empty=True)
    own_server.command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "&*", "+@all", "-@write", "+eval", "+evalsha")
    async with Admin(f"redis://reader:secret@127.0.0.1:{own_server.port}/0", namespace=namespace) as reader:
        assert (await reader.group("jobs", watcher.consumer.group_name, running=True)).unread == 0


async def test_a_refused_password_is_tried_again_until_it_is_right(own_server: Server, namespace: str) -> None:
    own_server.command("ACL", "SETUSER", "turning", "on", ">first", "~*", "&*", "+@all")
    async with Producer("jobs", own_server.url, namespace=namespace, init_partitions=1) as producer:
        watcher = Watcher(f"redis://turning:first@127.0.0.1:{own_server.port}/0", namespace)
        async with anyio.create_task_group() as tasks:
            await tasks.start(watcher.consumer.process, watcher.handle)
            own_server.command("ACL", "DELUSER", "turning")  # closes its connections
            await until(lambda: bool(watcher.of(events.Disconnected)))
            await until(lambda: watcher.consumer.statistics().state == "disconnected")
            await anyio.sleep(TTL)  # beyond its lease
            own_server.command("ACL", "SETUSER", "turning", "on", ">first", "~*", "&*", "+@all")
            await producer.enqueue({"n": 1})
            await until(lambda: watcher.handled == [1])
            assert watcher.consumer.statistics().state == "running"
            await watcher.consumer.stop()
    with pytest.raises(ConnectionFailed, match="wrong user name or password"):
        await Watcher(f"redis://turning:wrong@127.0.0.1:{own_server.port}/0", namespace).consumer.process(watcher.handle)


async def test_a_rotated_password_is_tried_again_until_it_is_right(own_server: Server, namespace: str) -> None:
    own_server.command("ACL", "SETUSER", "turning", "on", ">first", "~*", "&*", "+@all")
    async with Producer("jobs", own_server.url, namespace=namespace, init_partitions=1) as producer:
        watcher = Watcher(f"redis://turning:first@127.0.0.1:{own_server.port}/0", namespace)
        async with anyio.create_task_group() as tasks:
            await tasks.start(watcher.consumer.process, watcher.handle)
            own_server.command("ACL", "SETUSER", "turning", "resetpass", ">second")
            own_server.command("CLIENT", "KILL", "USER", "turning")
            await until(lambda: any("wrong user name or password" in event.reason for event in watcher.of(events.Disconnected)))
            own_server.command("ACL", "SETUSER", "turning", "on", ">first")
            await producer.enqueue({"n": 1})
            await until(lambda: watcher.handled == [1])
            await watcher.consumer.stop()


def link_of(user: Any) -> Link:
    """Return the link of a producer, consumer or admin."""
    broker = user._access.broker
    assert isinstance(broker, RedisBroker)
    assert isinstance(broker._link, Link)
    return broker._link


async def test_an_answer_that_wants_a_log_in_breaks_the_connection(own_server: Server, namespace: str) -> None:
    """RESET logs out and leaves the connection open: what comes next on it is answered with NOAUTH, and is not executed."""
    url = f"redis://turning:first@127.0.0.1:{own_server.port}/0"
    for name, password in {"root": "root", "turning": "first"}.items():
        own_server.command("ACL", "SETUSER", name, "on", f">{password}", "~*", "&*", "+@all")
    own_server.command("ACL", "SETUSER", "default", "off")
    root = Link(parse_address(f"redis://root:root@127.0.0.1:{own_server.port}/0"))
    watcher = Watcher(url, namespace)
    async with Producer("jobs", url, namespace=namespace) as producer, Admin(url, namespace=namespace) as admin:
        await producer.enqueue({"n": 0})
        async with anyio.create_task_group() as tasks:
            await tasks.start(watcher.consumer.process, watcher.handle)
            await until(lambda: watcher.handled == [0])
            await root.call(("ACL", "SETUSER", "turning", "resetpass", ">second"))
            for user in (watcher.consumer, producer, admin):
                await link_of(user).call(("RESET",))
            await until(lambda: bool(watcher.of(events.Disconnected)))
            await until(lambda: watcher.consumer.statistics().state == "disconnected")
            with pytest.raises(ConnectionFailed, match="wrong user name or password") as refused:
                await producer.enqueue({"n": 1})
            assert not refused.value.maybe_executed
            with pytest.raises(ConnectionFailed, match=r"wants a log-in again \(NOAUTH") as logged_out:
                await admin.topics()
            assert not logged_out.value.maybe_executed
            await root.call(("ACL", "SETUSER", "turning", "resetpass", ">first"))
            assert await admin.topics() == ["jobs"]
            await producer.enqueue({"n": 2})
            await until(lambda: watcher.handled == [0, 2])
            await until(lambda: watcher.consumer.statistics().state == "running")
            await watcher.consumer.stop()
    await root.close()


async def test_a_read_on_a_connection_that_is_logged_out_breaks_it(own_server: Server, namespace: str) -> None:
    own_server.command("ACL", "SETUSER", "turning", "on", ">first", "~*", "&*", "+@all")
    own_server.command("ACL", "SETUSER", "default", "off")
    broker: Any = open_broker(f"redis://turning:first@127.0.0.1:{own_server.port}/0", namespace)
    group = GroupName("jobs", "g")
    await broker.do(MakeTopic("jobs", 1))
    await make_groups(broker, group, [0], latest=False)
    await broker.do(Install(group, 0, 1_700_000_000_123_457, "A", foreign=True))
    reader = await broker.open_reader(group, 0, 1_700_000_000_123_457, "A")
    await reader._connection.call(("RESET",))
    with pytest.raises(ConnectionFailed, match="wants a log-in again"):
        await reader.read(1, 0)
    with pytest.raises(ConnectionFailed):
        await reader.read(1, 0)
    await broker.close()


@pytest.mark.parametrize("refusal", ["NOAUTH Authentication required.", "BUSY a script runs"])
async def test_who_may_not_listen_just_now_tries_again(refusal: str, namespace: str) -> None:
    """It would be an end for the consumer if it were a ServerError."""
    with FakeServer(usual_answers() | {"SSUBSCRIBE": f"-{refusal}\r\n".encode()}) as fake:
        broker = open_broker(fake.url, namespace)
        with pytest.raises(ConnectionFailed, match=refusal[:4]):
            await broker.listen(GroupName("jobs", "g"))
        with pytest.raises(ConnectionFailed, match=refusal[:4]):
            await broker.listen_partition("jobs", 0)
        await broker.close()


async def test_a_stopped_server_is_reported_and_does_not_hold_up_the_end(own_server: Server, namespace: str) -> None:
    """The kernel still acknowledges; nothing else does."""
    async with Producer("jobs", own_server.url, namespace=namespace, init_partitions=2) as producer:
        await producer.enqueue({"n": 0})
        watcher = Watcher(own_server.url, namespace)
        async with anyio.create_task_group() as tasks:
            await tasks.start(watcher.consumer.process, watcher.handle)
            await until(lambda: watcher.handled == [0] and pending(own_server, namespace) == 0)
            own_server.pause()
            try:
                with Ticks() as ticks:
                    stopped = time.monotonic()
                    await until(lambda: bool(watcher.of(events.Disconnected)))
                    noticed = time.monotonic()
                assert ticks.between(stopped, noticed) < 2 * INTERVAL + 1.0
                assert watcher.consumer.statistics().state == "disconnected"
                await anyio.sleep(TTL)  # beyond its lease
            finally:
                own_server.resume()
            with anyio.fail_after(30):
                await producer.enqueue({"n": 1})
            await until(lambda: watcher.handled == [0, 1])
            assert len(watcher.of(events.Reconnected)) >= 1
            own_server.pause()
            try:
                await anyio.sleep(0.3)
                with Ticks() as ticks:
                    ends = time.monotonic()
                    await watcher.consumer.stop()
                    ended = time.monotonic()
                assert ticks.between(ends, ended) < 2.0  # a second, and no second one
            finally:
                own_server.resume()
