"""The Redis broker where servers and clients stand still, die and come back (M7, T3)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import anyio
import pytest

from redisaq.brokers.base import GroupName, RawEntry, Reader
from redisaq.brokers.redis import RedisBroker
from redisaq.core.document import Document
from redisaq.errors import ConnectionFailed, LeaseLostError
from redisaq.link import Link, parse_address
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
    installed = await broker.install(GROUP, 0, token, incarnation, foreign=True)
    assert installed.done
    assert await broker.fence(GROUP, 0, token, installed.readers)
    return await broker.open_reader(GROUP, 0, token, incarnation)


async def everything(broker: RedisBroker, reader: Reader, token: int) -> list[int]:
    """Claim what is pending, then read what is new."""
    numbers: list[int] = []
    after: bytes | None = b""
    while after is not None:
        page = await broker.claim(GROUP, 0, token, after=after, count=2)
        numbers += [int(entry.fields[1]) for entry in page.entries]
        after = page.last
    while entries := await reader.read(3, 0):
        numbers += [int(fields[1]) for _, fields in entries if fields is not None]
    return numbers


READS = """
import sys, anyio
from redisaq.brokers.base import GroupName
from redisaq.brokers.redis import RedisBroker
from redisaq.errors import ConnectionFailed
from redisaq.link import Link, parse_address

async def main(url, namespace, token):
    broker = RedisBroker(Link(parse_address(url)), namespace)
    group = GroupName("orders", "billing")
    assert (await broker.install(group, 0, token, "A", foreign=True)).done
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
    await broker.make_topic("orders", 1)
    await broker.make_groups(GROUP, [0], latest=False)
    with subprocess.Popen([sys.executable, "-c", READS, kept.url, namespace, str(TOKEN)], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            with anyio.fail_after(10):
                while b"blocked_clients:1" not in kept.command("INFO", "clients"):
                    await anyio.sleep(0.002)
            os.kill(child.pid, signal.SIGSTOP)
            reader = await own(broker, TOKEN + 1, "B")
            await append(broker, 1, 2, 3)
            assert await everything(broker, reader, TOKEN + 1) == [1, 2, 3]
            assert [one.pending for one in await broker.remaining(GROUP, [0])] == [3], "each of them delivered once"
            os.kill(child.pid, signal.SIGCONT)
            assert child.stdout.readline() == "failed True\n"
        finally:
            child.kill()
    await reader.close()
    await broker.close()


async def test_a_read_under_way_cannot_come_after_the_kill(kept: Server, namespace: str) -> None:
    """T3: whichever of a predecessor's read and the takeover the server meets first, all entries come, in order, and stay."""
    old, new = open_broker(kept, namespace), open_broker(kept, namespace)
    await old.make_topic("orders", 1)
    await old.make_groups(GROUP, [0], latest=False)
    outcomes: list[str] = []

    async def read(reader: Reader) -> None:
        try:
            entries: list[RawEntry] = list(await reader.read(2, 1))
            outcomes.append(f"{len(entries)} entries")
        except ConnectionFailed:
            outcomes.append("killed")

    for turn in range(12):
        token = TOKEN + 2 * turn
        await new.connect()
        reader = await own(old, token, f"old {turn}")
        assert await everything(old, reader, token) == ([] if turn == 0 else [1, 2, 3, 4, 5])
        kept.command("XTRIM", f"{{{namespace}:orders:0}}:0", "MAXLEN", 0)
        await old.claim(GROUP, 0, token, after=b"", count=100)
        await append(old, 1, 2, 3, 4, 5)
        taken: list[Reader] = []

        async def take(token: int = token + 1, turn: int = turn, taken: list[Reader] = taken) -> None:
            taken.append(await own(new, token, f"new {turn}"))

        kept.pause()
        try:
            async with anyio.create_task_group() as tasks:
                for step in (lambda: read(reader), take) if turn % 2 else (take, lambda: read(reader)):  # noqa: B023 -- used at once
                    tasks.start_soon(step)
                await anyio.wait_all_tasks_blocked()
                kept.resume()
        finally:
            kept.resume()
        assert await everything(new, taken[0], token + 1) == [1, 2, 3, 4, 5]
        await reader.close()
        await taken[0].close()
    assert len(outcomes) == 12
    await old.close()
    await new.close()


async def test_after_a_restart_everybody_gets_a_ttl(breakable_server: Server, namespace: str) -> None:
    """M7, on a server that really is another run."""
    broker = open_broker(breakable_server, namespace)
    version = await broker.commit(GROUP, "A", TTL, known_version="", document=Document(epoch=1), joins=True)
    assert version is not None
    version = await broker.commit(GROUP, "B", 0.001, known_version=version, document=Document(epoch=2), joins=True)
    assert version is not None
    await anyio.sleep(0.005)
    assert (await broker.heartbeat(GROUP, "A", TTL, version)).expired == ("B",)

    breakable_server.restart()
    # Not even before anybody's heartbeat: what was seen to be expired was seen at another server.
    drop = Document(epoch=3)
    assert await broker.commit(GROUP, "A", TTL, known_version=version, document=drop, expired=["B"]) is None
    assert await broker.commit(GROUP, "A", TTL, known_version=version, document=drop) is None
    beat = await broker.heartbeat(GROUP, "A", TTL, version)
    assert beat.alive
    assert beat.expired == ()
    assert beat.frozen_until >= beat.now + int((TTL - 1) * 1_000_000)
    assert beat.next_expiry == beat.frozen_until
    assert await broker.commit(GROUP, "A", TTL, known_version=version, document=drop, expired=["B"]) is None
    assert await broker.commit(GROUP, "A", TTL, known_version=version, document=drop) is not None
    again = await broker.heartbeat(GROUP, "A", TTL, "")
    assert again.frozen_until == beat.frozen_until, "only once"
    await broker.close()


async def test_marks_of_an_earlier_run_are_dropped_unkilled(breakable_server: Server, namespace: str) -> None:
    """T3: a restarted server gives the same client ids, and on a Unix socket even the same addresses, to others."""
    old = RedisBroker(Link(parse_address(breakable_server.unix_url)), namespace)
    await old.make_topic("orders", 1)
    await old.make_groups(GROUP, [0], latest=False)
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
    assert (await brokers[0].install(GROUP, 0, TOKEN + 1, "B", foreign=True)).readers == (successor.mark,)
    for broker in brokers:
        await broker.close()


async def test_a_restart_without_data(breakable_server: Server, namespace: str) -> None:
    """Nothing is there any more, not even the scripts: each step says so, none fails."""
    broker = open_broker(breakable_server, namespace)
    await broker.make_topic("orders", 1)
    await broker.make_groups(GROUP, [0], latest=False)
    reader = await own(broker, TOKEN, "A")
    breakable_server.restart(keep_data=False)
    with pytest.raises(ConnectionFailed):
        await reader.read(1, 1)
    assert await broker.topic("orders") is None
    assert await broker.topics() == []
    with pytest.raises(LeaseLostError):
        await broker.open_reader(GROUP, 0, TOKEN, "A")
    with pytest.raises(LeaseLostError):
        await broker.claim(GROUP, 0, TOKEN, after=b"", count=10)
    assert await broker.fence(GROUP, 0, TOKEN, [reader.mark])
    assert not await broker.release(GROUP, 0, TOKEN)
    await broker.close()
