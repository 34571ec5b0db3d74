"""Delivery where things go wrong: members that are killed while handlers fail, and a server whose memory is full."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer, RetryPolicy
from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.retrying import ReadDead
from redisaq.brokers.steps.settling import ReadRemaining
from redisaq.brokers.terms import GroupName
from redisaq.errors import ServerError
from redisaq.link import Link, parse_address
from tests.chaos.crew import Crew
from tests.server_fixtures import KINDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from redisaq.core.records import Body
    from tests.server_fixtures import ServerPool
    from tests.servers import Server

PARTITIONS = 3
GROUP = GroupName("jobs", "default_group")
ATTEMPTS = 3
KILLS = 6
FOREVER = 1 << 30


def broker_of(url: str, namespace: str) -> Broker:
    return RedisBroker(Link(parse_address(url)), namespace)


async def dead_of(broker: Broker) -> list[Body]:
    """Return all dead letters."""
    return [dead.body for p in range(PARTITIONS) for dead in await broker.do(ReadDead(GROUP, p, after=b"", count=100_000))]


async def is_empty(broker: Broker) -> bool:
    """Tell whether the group has nothing left."""
    return all(left.empty for left in await broker.do_each([ReadRemaining(GROUP, number) for number in range(PARTITIONS)]))


# -- killed members ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def crew(valkey_server: Server, namespace: str) -> Iterator[Crew]:
    crew = Crew(valkey_server.url, "jobs", namespace, interval=0.25, ttl=2.0)
    yield crew
    crew.close()


async def kill_members_until_empty(
    crew: Crew, broker: Broker, chance: random.Random, produce: Callable[[], Awaitable[None]], **more: object
) -> None:
    """Keep two members at work and kill KILLS of them, one after the other at random points with work left; then let it be done.

    However quickly they work and late they are killed: where nothing is left before the last kill, `produce` is called for more.
    """
    kills = started = 0
    names: list[str] = []
    with anyio.fail_after(90):
        while kills < KILLS or not await is_empty(broker):
            if await is_empty(broker):
                await produce()
            while len(names) < 2:
                names.append(f"m{started}")
                crew.start(names[-1], ("asyncio", "trio", "uvloop")[started % 3], step=0.004, steps=1, attempts=ATTEMPTS, **more)
                started += 1
            victim, most = crew.members[names[0]], chance.randrange(1, 40)
            while len(victim.lines) < most + 3 and not await is_empty(broker):
                await anyio.sleep(0.002)
            await anyio.sleep(chance.uniform(0.0, 0.02))
            if kills < KILLS and not await is_empty(broker):
                crew.kill(names.pop(0))
                kills += 1
    for name in names:
        if crew.members[name].said("joined"):
            await crew.leave(name)


@pytest.mark.parametrize("blocking", [False, True], ids=["parked", "blocking"])
def test_kills_while_handlers_fail_lose_and_double_nothing(crew: Crew, blocking: bool) -> None:
    """S1, S3, T5: each message is dead once, or done; no life has more than max_attempts + 1 handlers begun."""
    failing: list[str] = []
    mended: list[str] = []

    async def main() -> list[Body]:
        broker = broker_of(crew.base.url, crew.base.namespace)
        await broker.connect()
        async with Producer("jobs", crew.base.url, namespace=crew.base.namespace, init_partitions=PARTITIONS) as producer:

            async def produce() -> None:
                failing.extend(await producer.batch_enqueue([{"failures": FOREVER}] * 60))
                mended.extend(await producer.batch_enqueue([{"failures": 1}] * 30))

            await produce()
            await make_groups(broker, GROUP, range(PARTITIONS), latest=False)
            await kill_members_until_empty(crew, broker, random.Random(blocking), produce, blocking=blocking)
        dead = await dead_of(broker)
        await broker.close()
        return dead

    dead = anyio.run(main)
    lines = crew.lines()
    starts = Counter(line.msg_id for line in lines if line.what == "start")
    assert max(starts.values()) <= ATTEMPTS + 1
    assert max(line.attempt for line in lines) <= ATTEMPTS
    died = Counter(body.fields[1].decode() for body in dead)
    assert set(died.values()) == {1}, "doubled in the dead letters"
    assert set(failing) <= set(died)
    done = crew.done()
    assert set(failing).isdisjoint(done)
    for msg_id in mended:
        if msg_id in died:  # only where a kill met it again and again
            assert starts[msg_id] >= ATTEMPTS
        else:
            assert msg_id in done
    assert all(body.failure is not None and body.failure.attempts <= ATTEMPTS for body in dead)
    assert crew.overlaps() == []


# -- memory is full ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=KINDS)
def own_server(request: pytest.FixtureRequest, server_pool: ServerPool) -> Iterator[Server]:
    server = server_pool.new(request.param, "--maxmemory-policy", "noeviction")
    yield server
    server.close()


@pytest.mark.anyio
@pytest.mark.parametrize("blocking", [False, True], ids=["parked", "blocking"])
async def test_at_full_memory_what_is_there_is_worked_off_and_nothing_enters(own_server: Server, namespace: str, blocking: bool) -> None:
    """S2: acks, retries, dead letters, heartbeats and reads go on; enqueueing is refused by name, and later goes on, too."""
    began, full = anyio.Event(), anyio.Event()
    done: list[int] = []

    async def handle(message: Message[Any]) -> None:
        began.set()
        await full.wait()
        if message.attempt <= message.payload["failures"]:
            raise ValueError("as the payload says")
        done.append(message.payload["n"])

    def consumer() -> Consumer[Any]:
        policy = RetryPolicy(max_attempts=ATTEMPTS, backoff=0.05, blocking=blocking)
        return Consumer("jobs", own_server.url, namespace=namespace, heartbeat_interval=0.1, heartbeat_ttl=10.0, retry=policy)

    broker = broker_of(own_server.url, namespace)
    await broker.connect()
    async with Producer("jobs", own_server.url, namespace=namespace, init_partitions=PARTITIONS) as producer:
        failures = [0, 1, FOREVER]
        await producer.batch_enqueue([{"n": n, "failures": failures[n // 3 % 3]} for n in range(90)])
        await producer.enqueue({"n": 90, "failures": 0}, delay=0.5)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                first, second = consumer(), consumer()
                await tasks.start(first.process, handle)
                await began.wait()
                own_server.command("CONFIG", "SET", "maxmemory", 1)
                full.set()
                for more in ({}, {"delay": 60.0}, {"dedup_id": "once"}, {"dedup_id": "later", "delay": 60.0}):
                    with pytest.raises(ServerError) as refused:
                        await producer.enqueue({"n": -1, "failures": 0}, **more)
                    assert refused.value.code == "OOM"
                await tasks.start(second.process, handle)  # a member joins, and partitions move
                await until_empty(broker)
                await first.stop()
                assert await dead_numbers(broker) == {n for n in range(90) if n // 3 % 3 == 2}
                own_server.command("CONFIG", "SET", "maxmemory", 0)
                await producer.enqueue({"n": 91, "failures": 1}, dedup_id="once")
                await until_empty(broker)
                await second.stop()
    assert sorted(done) == [*(n for n in range(90) if n // 3 % 3 != 2), 90, 91]
    assert len(await dead_of(broker)) == 30
    await broker.close()


async def until_empty(broker: Broker) -> None:
    while not await is_empty(broker):
        await anyio.sleep(0.02)


async def dead_numbers(broker: Broker) -> set[int]:
    """Return the numbers of the dead letters' payloads."""
    return {int(body.fields[3].split(b":")[1].split(b",")[0]) for body in await dead_of(broker)}
