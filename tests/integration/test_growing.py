"""A topic grows on a real server while producers, groups of every kind and a dying grower go on (G, E6)."""

from __future__ import annotations

from collections import defaultdict
from random import Random
from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer
from redisaq.brokers.growth import make_or_grow
from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.steps.administration import SetPaused, ViewGroup
from redisaq.brokers.steps.growing import Announce, NameStream
from redisaq.brokers.steps.producing import ReadAnchor
from redisaq.brokers.steps.topics import ReadTopic
from redisaq.brokers.terms import GroupName
from redisaq.link import Link, parse_address
from tests.matrix import TURNS, everything
from tests.server_fixtures import KINDS, ServerPool
from tests.servers import Server

pytestmark = [pytest.mark.anyio, getattr(pytest.mark, TURNS)]

KEYS = [f"k{number}" for number in range(200)]
COUNTS = (3, 5, 8, 64 if everything() else 16)


@pytest.fixture(scope="module", params=KINDS if everything() else KINDS[:1])
def server(request: pytest.FixtureRequest, server_pool: ServerPool) -> Server:
    """One server, since this takes some seconds; each kind in turn if every combination is asked for."""
    return server_pool.shared(request.param)


class Ledger:
    """What one group handled of each key, in order; and whether two of one key ran at once."""

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = defaultdict(list)
        self.running: set[str] = set()
        self.at_once = 0
        self.count = 0

    async def handle(self, message: Message[Any]) -> None:
        """Note it, and take a moment."""
        key, number = message.payload["key"], message.payload["n"]
        self.at_once += key in self.running
        self.running.add(key)
        if number not in self.seen[key][-1:]:  # one that a cancelled handler left runs again
            self.seen[key].append(number)
            self.count += 1
        try:
            await anyio.sleep(0.0005)
        finally:
            self.running.discard(key)

    def first(self) -> dict[str, list[int]]:
        """Return what was handled of each key, in the order in which it was handled first."""
        return {key: list(dict.fromkeys(seen)) for key, seen in self.seen.items()}


class Load:
    """Producers that count for each key."""

    def __init__(self, url: str, namespace: str, **options: Any) -> None:
        self.url = url
        self.options: dict[str, Any] = {"namespace": namespace, "init_partitions": COUNTS[0], **options}
        self.sent: dict[str, list[int]] = defaultdict(list)
        self.stop = anyio.Event()

    async def run(self, seed: int) -> None:
        """Send until it is to stop."""
        random, keys, number = Random(seed), KEYS[seed::4], 0
        async with Producer("orders", self.url, **self.options) as producer:
            while not self.stop.is_set():
                batch = [(random.choice(keys), number := number + 1) for _ in range(10)]
                await producer.batch_enqueue([{"key": key, "n": sent} for key, sent in batch], partition_key="key")
                for key, sent in batch:
                    self.sent[key].append(sent)
                await anyio.sleep(0.05)

    @property
    def count(self) -> int:
        return sum(map(len, self.sent.values()))


async def test_keys_keep_their_order_while_the_topic_grows(server: Server, namespace: str) -> None:
    """3 to 5 by a grower that dies after its first cut, then to 8, and to 16 or 64.

    Members join, leave and are closed; one group is behind, one comes at the end, one asks for no order.
    """
    url = server.url
    load, ledgers = Load(url, namespace), {name: Ledger() for name in ("billing", "behind", "late", "unordered")}

    def consumer(group: str, **options: Any) -> Consumer[Any]:
        return Consumer("orders", url, namespace=namespace, group_name=group, heartbeat_interval=0.5, **options)

    async def grow(partitions: int) -> None:
        async with Producer("orders", url, namespace=namespace) as producer:
            assert await producer.request_partition_increase(partitions) == partitions

    async with anyio.create_task_group() as tasks:
        for seed in range(4):
            tasks.start_soon(load.run, seed)
        first = consumer("billing")
        await tasks.start(first.process, ledgers["billing"].handle)
        unordered = consumer("unordered", ordering="none")
        await tasks.start(unordered.process, ledgers["unordered"].handle)
        await anyio.sleep(0.5)
        await _grow_and_die(url, namespace)
        with anyio.fail_after(30):
            while (await _history(url, namespace)) != (3, 5):  # the producers complete it
                await anyio.sleep(0.02)
        second = consumer("billing")
        await tasks.start(second.process, ledgers["billing"].handle)
        await anyio.sleep(0.3)
        await grow(8)
        await first.stop()
        third = consumer("billing")
        await tasks.start(third.process, ledgers["billing"].handle)
        await grow(COUNTS[-1])
        await anyio.sleep(0.3)
        behind = consumer("behind")
        await tasks.start(behind.process, ledgers["behind"].handle)
        await second.close()
        await anyio.sleep(0.5)
        load.stop.set()
        late = consumer("late")
        await tasks.start(late.process, ledgers["late"].handle)
        with anyio.fail_after(120):
            while any(ledger.count < load.count for ledger in ledgers.values()):
                await anyio.sleep(0.05)
        for one in (third, unordered, behind, late):
            await one.stop()
    for name, ledger in ledgers.items():
        if name == "unordered":
            assert {key: sorted(set(seen)) for key, seen in ledger.seen.items()} == load.sent
        else:
            assert ledger.seen == load.sent, name
            assert ledger.at_once == 0


async def _grow_and_die(url: str, namespace: str) -> None:
    broker = RedisBroker(Link(parse_address(url)), namespace)
    await broker.connect()
    await broker.do(Announce("orders", 0, 5))
    for partition in (3, 4, 0):
        await broker.do(NameStream("orders", partition, (3, 5)))
    await broker.close()


async def _history(url: str, namespace: str) -> tuple[int, ...]:
    broker = RedisBroker(Link(parse_address(url)), namespace)
    await broker.connect()
    state = await broker.do(ReadTopic("orders"))
    await broker.close()
    assert state is not None
    return state.history


async def test_a_topic_that_is_deleted_while_a_refusal_is_looked_at(
    server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step meets a seal, which is gone when the server is asked what it is: the step is repeated, and finds nothing."""
    link, keys = Link(parse_address(server.url)), Keys(namespace)
    broker = RedisBroker(link, namespace)
    await broker.connect()
    await link.call((b"SET", keys.stream("orders", 0), b"2,5"))
    call = link.call

    async def deleting(*commands: Any) -> list[Any]:
        if commands[0][0] == b"TYPE":
            await call((b"DEL", keys.stream("orders", 0)))
        return await call(*commands)

    monkeypatch.setattr(link, "call", deleting)
    assert await broker.do(ReadAnchor("orders", 0)) is None
    await broker.close()


async def test_an_announcement_that_an_older_version_has_overtaken(server: Server, namespace: str) -> None:
    """A version that announces nothing publishes a greater count, and leaves `pending` there: no history goes down."""
    link = Link(parse_address(server.url))
    broker = RedisBroker(link, namespace)
    await broker.connect()
    await make_or_grow(broker, "orders", 2)
    announced = await broker.do(Announce("orders", 0, 3))
    assert announced is not None
    assert announced.pending == 3
    await link.call((b"HSET", Keys(namespace).meta("orders"), b"generation", 1, b"partitions", 4))
    state = await broker.do(ReadTopic("orders"))
    assert state is not None
    assert (state.partitions, state.pending) == (4, None)
    with anyio.fail_after(10):
        assert (await make_or_grow(broker, "orders", 6)).history == (4, 6)
    await broker.close()


async def test_a_pause_that_an_older_version_has_ended(server: Server, namespace: str) -> None:
    """It leaves `paused_at` there: the next pause has a time of its own, so that a seek waits until all members know of it (G4)."""
    link, group = Link(parse_address(server.url)), GroupName("orders", "billing")
    broker = RedisBroker(link, namespace)
    await broker.connect()
    await broker.do(SetPaused(group, paused=True))
    first = (await broker.do(ViewGroup(group))).paused_at
    await broker.do(SetPaused(group, paused=True))
    assert (await broker.do(ViewGroup(group))).paused_at == first > 0
    await link.call((b"HSET", Keys(namespace).group(group).state, b"paused_at", 1))
    await link.call((b"HDEL", Keys(namespace).group(group).state, b"paused"))
    await broker.do(SetPaused(group, paused=True))
    assert (await broker.do(ViewGroup(group))).paused_at >= first
    await broker.close()
