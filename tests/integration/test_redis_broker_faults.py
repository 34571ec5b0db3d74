"""The Redis broker where servers and clients stand still, die and come back (M7, T3)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest

from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.steps.coordination import Heartbeat, make_groups
from redisaq.brokers.steps.leases import Claim, Fence, Install, Release
from redisaq.brokers.steps.settling import ReadRemaining
from redisaq.brokers.steps.topics import MakeTopic, ReadTopic, ReadTopics
from redisaq.brokers.terms import GroupName, Reader
from redisaq.core.membership import Document
from redisaq.errors import ConnectionFailed, LeaseLostError
from redisaq.link import Link, parse_address
from tests.conformance.steps import commit_document
from tests.link_proxy import DRIBBLE, Proxy
from tests.servers import Server

pytestmark = pytest.mark.anyio

GROUP = GroupName("orders", "billing")
TOKEN = 1_700_000_000_123_457
TTL = 60.0


@pytest.fixture
def kept(server: Server, namespace: str) -> Iterator[Server]:
    """The shared server; the namespace is emptied afterwards."""
    yield server
    keys = server.command("KEYS", f"*{namespace}:*")
    if keys:
        server.command("DEL", *keys)


def open_broker(server: Server, namespace: str) -> RedisBroker:
    return RedisBroker(Link(parse_address(server.url)), namespace)


async def append(broker: RedisBroker, *numbers: int) -> None:
    ids = await broker.append("orders", [(0, [b"i", b"%d" % number]) for number in numbers], maxlen=None, approximate=False)
    assert None not in ids


async def own(broker: RedisBroker, token: int, incarnation: str) -> Reader:
    """Take partition 0 over in the order of rule T1, up to the claim; return a reader."""
    installed = await broker.do(Install(GROUP, 0, token, incarnation, foreign=True))
    assert installed.done
    assert await broker.do(Fence(GROUP, 0, token, installed.readers))
    return await broker.open_reader(GROUP, 0, token, incarnation)


async def everything(broker: RedisBroker, reader: Reader, token: int) -> list[int]:
    """Claim what is pending, then read what is new."""
    numbers: list[int] = []
    after: bytes | None = b""
    while after is not None:
        page = await broker.do(Claim(GROUP, 0, token, after=after, count=2))
        numbers += [int(entry.fields[1]) for entry in page.entries]
        after = page.last
    while entries := await reader.read(3, 0):
        numbers += [int(fields[1]) for _, fields in entries if fields is not None]
    return numbers


READS = """
import sys, anyio
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.terms import GroupName
from redisaq.brokers.redis import RedisBroker
from redisaq.errors import ConnectionFailed
from redisaq.link import Link, parse_address

async def main(url, namespace, token):
    broker = RedisBroker(Link(parse_address(url)), namespace)
    group = GroupName("orders", "billing")
    assert (await broker.do(Install(group, 0, token, "A", foreign=True))).done
    reader = await broker.open_reader(group, 0, token, "A")
    print("open", flush=True)
    try:
        print("entries", await reader.read(10, 30))
    except ConnectionFailed as error:
        print("failed", error.maybe_executed)

anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


async def test_a_frozen_client_takes_no_entry(kept: Server, namespace: str) -> None:
    """T3: without the kill, the server would hand the next entry to the read of the client that stands still."""
    broker = open_broker(kept, namespace)
    await broker.do(MakeTopic("orders", 1))
    await make_groups(broker, GROUP, [0], latest=False)
    with subprocess.Popen([sys.executable, "-c", READS, kept.url, namespace, str(TOKEN)], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            with anyio.fail_after(30):
                while b"blocked_clients:1" not in kept.command("INFO", "clients"):
                    await anyio.sleep(0.002)
            os.kill(child.pid, signal.SIGSTOP)
            reader = await own(broker, TOKEN + 1, "B")
            await append(broker, 1, 2, 3)
            assert await everything(broker, reader, TOKEN + 1) == [1, 2, 3]
            assert [one.pending for one in await broker.do_each([ReadRemaining(GROUP, 0)])] == [3], "each of them delivered once"
            os.kill(child.pid, signal.SIGCONT)
            assert child.stdout.readline() == "failed True\n"
        finally:
            child.kill()
    await reader.close()
    await broker.close()


async def test_a_read_that_arrives_late_does_nothing(kept: Server, namespace: str) -> None:
    """T3: a predecessor's read that was still on its way when it was killed. A proxy stands between, so the address is not its socket's."""
    new = open_broker(kept, namespace)
    await new.do(MakeTopic("orders", 1))
    await make_groups(new, GROUP, [0], latest=False)
    outcomes: list[object] = []

    async def read(reader: Reader) -> None:
        try:
            outcomes.append(await reader.read(10, 1))
        except ConnectionFailed as error:
            outcomes.append(error.maybe_executed)

    with Proxy(kept.port) as proxy:
        old = RedisBroker(Link(parse_address(proxy.url)), namespace)
        reader = await own(old, TOKEN, "A")
        proxy.freeze()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, reader)
            await anyio.wait_all_tasks_blocked()
            successor = await own(new, TOKEN + 1, "B")
            await append(new, 1, 2)
            assert await everything(new, successor, TOKEN + 1) == [1, 2]
            await append(new, 3)
            proxy.thaw()
        assert outcomes == [True]
        assert [fields for _, fields in await successor.read(10, 0)] == [[b"i", b"3"]]
        await old.close()
    await new.close()


async def test_after_a_restart_everybody_gets_a_ttl(breakable_server: Server, namespace: str) -> None:
    """M7, on a server that really is another run."""
    broker = open_broker(breakable_server, namespace)
    version = await commit_document(broker, GROUP, "A", TTL, known_version="", document=Document(epoch=1), joins=True)
    assert version is not None
    version = await commit_document(broker, GROUP, "B", 0.001, known_version=version, document=Document(epoch=2), joins=True)
    assert version is not None
    await anyio.sleep(0.005)
    assert (await broker.do(Heartbeat(GROUP, "A", TTL, version))).expired == ("B",)

    breakable_server.restart()
    # Not even before anybody's heartbeat: what was seen to be expired was seen at another server.
    drop = Document(epoch=3)
    assert await commit_document(broker, GROUP, "A", TTL, known_version=version, document=drop, expired=["B"]) is None
    assert await commit_document(broker, GROUP, "A", TTL, known_version=version, document=drop) is None
    beat = await broker.do(Heartbeat(GROUP, "A", TTL, version))
    assert beat.alive
    assert beat.expired == ()
    assert beat.frozen_until >= beat.now + int((TTL - 1) * 1_000_000)
    assert beat.next_expiry == beat.frozen_until
    assert await commit_document(broker, GROUP, "A", TTL, known_version=version, document=drop, expired=["B"]) is None
    assert await commit_document(broker, GROUP, "A", TTL, known_version=version, document=drop) is not None
    again = await broker.do(Heartbeat(GROUP, "A", TTL, ""))
    assert again.frozen_until == beat.frozen_until, "only once"
    await broker.close()


async def test_marks_of_an_earlier_run_are_dropped_unkilled(breakable_server: Server, namespace: str) -> None:
    """T3: a restarted server gives the same client ids, and on a Unix socket even the same addresses, to others."""
    old = RedisBroker(Link(parse_address(breakable_server.unix_url)), namespace)
    await old.do(MakeTopic("orders", 1))
    await make_groups(old, GROUP, [0], latest=False)
    reader = await own(old, TOKEN, "A")
    mark = reader.mark
    await old.close()
    breakable_server.restart()

    brokers = [RedisBroker(Link(parse_address(breakable_server.unix_url)), namespace) for _ in range(mark.client_id + 1)]
    for broker in brokers:
        await broker.connect()
    ids = {int(line.split()[0].removeprefix(b"id=")) for line in breakable_server.command("CLIENT", "LIST").splitlines()}
    assert mark.client_id in ids
    successor = await own(brokers[0], TOKEN + 1, "B")
    left = {int(line.split()[0].removeprefix(b"id=")) for line in breakable_server.command("CLIENT", "LIST").splitlines()}
    assert mark.client_id in left
    assert (await brokers[0].do(Install(GROUP, 0, TOKEN + 1, "B", foreign=True))).readers == (successor.mark,)
    for broker in brokers:
        await broker.close()


async def test_a_restart_without_data(breakable_server: Server, namespace: str) -> None:
    """Nothing is there any more, not even the scripts: each step says so, none fails."""
    broker = open_broker(breakable_server, namespace)
    await broker.do(MakeTopic("orders", 1))
    await make_groups(broker, GROUP, [0], latest=False)
    reader = await own(broker, TOKEN, "A")
    breakable_server.restart(keep_data=False)
    with pytest.raises(ConnectionFailed):
        await reader.read(1, 1)
    assert await broker.do(ReadTopic("orders")) is None
    assert await broker.do(ReadTopics()) == []
    with pytest.raises(LeaseLostError):
        await broker.open_reader(GROUP, 0, TOKEN, "A")
    with pytest.raises(LeaseLostError):
        await broker.do(Claim(GROUP, 0, TOKEN, after=b"", count=10))
    assert await broker.do(Fence(GROUP, 0, TOKEN, [reader.mark]))
    assert not await broker.do(Release(GROUP, 0, TOKEN))
    await broker.close()


async def test_cancelling_leaves_no_connection(breakable_server: Server, namespace: str) -> None:
    """Cancelled anywhere in opening a reader: the connection is gone with it, and the broker goes on."""
    with Proxy(breakable_server.port, chunks=DRIBBLE) as proxy:
        broker = RedisBroker(Link(parse_address(proxy.url)), namespace)
        await broker.do(MakeTopic("orders", 1))
        await make_groups(broker, GROUP, [0], latest=False)
        await own(broker, TOKEN, "A")
        opened = 1

        async def open_one() -> None:
            nonlocal opened
            await broker.open_reader(GROUP, 0, TOKEN, "A")
            opened += 1

        for checkpoints in range(0, 120, 3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(open_one)
                for _ in range(checkpoints):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            assert await broker.do(ReadTopics()) == ["orders"]

        def connections() -> int:
            clients: bytes = breakable_server.command("CLIENT", "LIST")
            return clients.count(b"name=redisaq:") - 1  # without the shared one

        with anyio.fail_after(30):
            while connections() != opened:
                await anyio.sleep(0.002)
        await broker.close()
