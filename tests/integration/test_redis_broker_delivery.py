"""The Redis broker's own ways with retries, dead letters and delays: what only a real server shows."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.steps.producing import Delayed, delay
from redisaq.brokers.steps.retrying import redrive
from redisaq.brokers.steps.settling import ReadRemaining
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import GroupName
from redisaq.core.records import Body, Failure, Resolution
from redisaq.link import Link, parse_address
from tests.conformance.failures import delivered, due, resolution, resolve, values_of
from tests.integration.delivery_steps import exercise_delivery
from tests.servers import Server

pytestmark = pytest.mark.anyio

GROUP = GroupName("orders", "billing")
TOKEN = 1_700_000_000_123_457


@pytest.fixture
async def broker(namespace: str, server: Server) -> AsyncIterator[RedisBroker]:
    """A connected broker that owns partitions 0 and 1; its namespace is emptied afterwards."""
    broker = RedisBroker(Link(parse_address(server.url)), namespace)
    await own(broker)
    yield broker
    await broker.close()
    server.command("DEL", *server.command("KEYS", f"*{namespace}:*"))


async def own(broker: RedisBroker) -> None:
    """Make topic and group, take partitions 0 and 1."""
    await broker.do(MakeTopic("orders", 3))
    await make_groups(broker, GROUP, [0, 1, 2], latest=False)
    for partition in (0, 1):
        await broker.do(Install(GROUP, partition, TOKEN, "A", foreign=True))


def key(namespace: str, name: str) -> str:
    """Return the name of a key of partition 0."""
    return f"{{{namespace}:orders:0}}:{name}"


async def test_a_person_sees_why_with_xrange_alone(broker: RedisBroker, server: Server, namespace: str) -> None:
    fields = [b"i", b"p-1", b"d", b'{"n": 1}', b"k", b"user-7"]
    await broker.append("orders", [(0, fields)], maxlen=None, approximate=False)
    reader = await broker.open_reader(GROUP, 0, TOKEN, "A")
    ((entry_id, _),) = await reader.read(1, 0)
    await reader.close()
    body = Body(entry_id, tuple(fields), 0, 5, Failure("ValueError", "no good", "Traceback …", 5, 1000, 2000, "worker-1"))
    await resolve(broker, GROUP, TOKEN, Resolution("stream", "dead", body))
    ((_, found),) = server.command("XRANGE", key(namespace, "g:billing:dead"), "-", "+")
    assert found[:6] == fields
    assert dict(zip(found[6::2], found[7::2], strict=True)) == {
        b"error": b"ValueError",
        b"text": b"no good",
        b"traceback": "Traceback …".encode(),
        b"attempts": b"5",
        b"first": b"1000",
        b"last": b"2000",
        b"origin": entry_id,
        b"member": b"worker-1",
        b"life": b"0",
    }


async def test_a_person_sees_what_waits_and_when(broker: RedisBroker, server: Server, namespace: str) -> None:
    (entry,) = await delivered(broker, GROUP, TOKEN, b"1")
    await resolve(broker, GROUP, TOKEN, resolution(entry, "retry", due=1_800_000_000_123_457))
    retry = key(namespace, "g:billing:retry")
    assert server.command("ZRANGE", retry, 0, -1, "WITHSCORES") == [entry[0], b"1800000000123457"]
    assert server.command("HGET", f"{retry}:body", entry[0]).startswith(b"0:1:")
    await delay(broker, "orders", [Delayed(0, b"p-7", 1_800_000_000_123_457, [b"i", b"p-7", b"d", b"hello"])])
    assert server.command("ZRANGE", key(namespace, "delayed"), 0, -1, "WITHSCORES") == [b"p-7", b"1800000000123457"]
    assert server.command("HGET", key(namespace, "delayed:body"), "p-7") == b"1:i3:p-71:d5:hello"


async def test_nothing_is_left_of_what_is_done(broker: RedisBroker, server: Server, namespace: str) -> None:
    """Neither a score without a body nor a body without a score."""
    entries = await delivered(broker, GROUP, TOKEN, b"1", b"2", b"3")
    await resolve(broker, GROUP, TOKEN, *(resolution(entry, "retry") for entry in entries))
    bodies = (await due(broker, GROUP, TOKEN)).retries
    await resolve(broker, GROUP, TOKEN, resolution(bodies[0], "done"), resolution(bodies[1], "dead"), resolution(bodies[2], "done"))
    await delay(broker, "orders", [Delayed(0, b"4", 1, [b"i", b"4"])])
    assert (await due(broker, GROUP, TOKEN)).moved == 1
    for name in ("g:billing:retry", "g:billing:retry:body", "delayed", "delayed:body"):
        assert server.command("EXISTS", key(namespace, name)) == 0, name


async def test_a_sealed_stream_keeps_nothing_from_its_place(broker: RedisBroker, server: Server, namespace: str) -> None:
    """S2, and growing: what is due stays delayed until a caller comes that knows where it belongs; retries go on."""
    (entry,) = await delivered(broker, GROUP, TOKEN, b"1")
    await resolve(broker, GROUP, TOKEN, resolution(entry, "retry"))
    await delay(broker, "orders", [Delayed(0, b"2", 1, [b"i", b"2"])])
    last = f"{2**64 - 1}-{2**64 - 1}"
    server.command("XSETID", key(namespace, "0"), last)
    found = await due(broker, GROUP, TOKEN)
    assert (found.moved, values_of(found.retries), found.next_due) == (0, [b"1"], found.now + 1_000_000)
    assert (await broker.do_each([ReadRemaining(GROUP, 0)]))[0].delayed == 1


async def test_a_body_that_somebody_took_away_holds_up_nothing(broker: RedisBroker, server: Server, namespace: str) -> None:
    entries = await delivered(broker, GROUP, TOKEN, b"1", b"2")
    await resolve(broker, GROUP, TOKEN, *(resolution(entry, "retry", due=9) for entry in entries))
    await delay(broker, "orders", [Delayed(0, b"3", 1, [b"i", b"3"]), Delayed(0, b"4", 2, [b"i", b"4"])])
    server.command("HDEL", key(namespace, "g:billing:retry:body"), entries[0][0])
    server.command("HDEL", key(namespace, "delayed:body"), "3")
    found = await due(broker, GROUP, TOKEN)
    assert (found.moved, values_of(found.retries), found.next_due) == (1, [b"2"], None)
    left = (await broker.do_each([ReadRemaining(GROUP, 0)]))[0]
    assert (left.retry, left.delayed) == (1, 0)


async def test_a_server_that_lost_its_scripts(broker: RedisBroker, server: Server) -> None:
    await broker.append("orders", [(0, [b"i", b"1"])] * 3, maxlen=None, approximate=False)
    lost = anyio.Event()

    async def lose() -> None:
        while not lost.is_set():
            server.command("SCRIPT", "FLUSH")
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lose)
        await exercise_delivery(broker, TOKEN)
        lost.set()


async def test_doorbells_share_one_connection(broker: RedisBroker, server: Server, namespace: str) -> None:
    """A consumer of many partitions does not fill the server with connections."""

    def connections() -> int:
        return sum(b"sub" in line for line in server.command("CLIENT", "LIST", "TYPE", "pubsub").splitlines())

    before = connections()
    doorbells = [await broker.listen_partition("orders", partition) for partition in range(50)]
    assert connections() - before == 1
    for partition, doorbell in enumerate(doorbells[:3]):
        await delay(broker, "orders", [Delayed(partition, b"x", 1, [b"i", b"x"])])
        with anyio.fail_after(30):
            await doorbell.wait()
    for doorbell in doorbells:
        await doorbell.close()
    with anyio.fail_after(30):
        while connections() > before:
            await anyio.sleep(0.001)


async def test_a_restart_keeps_what_was_put_aside(breakable_server: Server, namespace: str) -> None:
    """Delays and retries survive it, as far as the server keeps its data."""
    broker = RedisBroker(Link(parse_address(breakable_server.url)), namespace)
    await own(broker)
    first, second = await delivered(broker, GROUP, TOKEN, b"1", b"2")
    await resolve(broker, GROUP, TOKEN, resolution(first, "retry"), resolution(second, "dead"))
    await delay(broker, "orders", [Delayed(0, b"3", 1, [b"i", b"3"])])
    breakable_server.restart()
    found = await due(broker, GROUP, TOKEN)
    assert (values_of(found.retries), found.moved) == ([b"1"], 1)
    assert await redrive(broker, GROUP, 0, None, count=10) == 1
    await broker.close()
