"""Kill -9, or stop and wake, directly before and directly after each step of growing and of moving what is delayed or dead (G).

A process lets a topic grow, redrives all dead letters and then works. At its step it dies, or it stops until its lease has run out and
others have done everything, after another growth. The next grower, a producer, or an owner completes what it began; nothing is left
over, and what it does after it was woken harms nothing: no message is missing, each key's messages begin in order, and none is done twice
but for what the process itself had done and not acknowledged.

`REDISAQ_KILLS=all` runs every step on every event loop with every server, and every heir of a grower.
"""

from __future__ import annotations

import signal
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import anyio.to_thread
import msgspec
import pytest

from redisaq import Producer
from redisaq.brokers.growth import make_or_grow
from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.steps.producing import Delayed, delay
from redisaq.brokers.steps.retrying import ReadDead
from redisaq.brokers.steps.settling import ReadRemaining, Resolve
from redisaq.brokers.steps.topics import ReadTopic
from redisaq.core.partitioner import partition_for
from redisaq.core.records import Body, Failure, Resolution
from tests.chaos.doomed import GROUP, Doom, Doomed, Line, Order, broker_of, consumer_of, handler, open_doomed, redrive_all
from tests.chaos.test_killed_between_steps import BEFORE_ALL, EVERYWHERE
from tests.server_fixtures import ServerPool
from tests.servers import Server

Heir = Literal["grower", "producer", "owner"]
HEIRS: tuple[Heir, ...] = ("grower", "producer", "owner")

FEW, MORE, MOST = 2, 5, 8
KEYS = [f"k{number}" for number in range(8)]
SHORT = 2.0
"""Seconds that the lease of a member lasts that stops; the others' leases outlast the test."""

DEAD, UNREAD, DELAYED, LATER = range(4)
"""What there is of each key: `n` of a message is four times the number of its key, and this."""

GROWING = [("announce", 1), *(("name_stream", nth) for nth in range(1, MORE + 1)), ("replicate", 1), ("publish", 1)]
MOVING = [
    *(("dead_page", 1), ("redrive", 1), ("take_in", 1), ("drop_taken_in", 1), ("take_in", 3), ("drop_taken_in", 3)),
    *(("due", 1), ("list_delayed", 1), ("adopt", 1), ("adopt", 2), ("drop_adopted", 1), ("drop_adopted", 2), ("set_swept", 1)),
    *(("read_passed", 1), ("open_barrier", 1)),
]
SIDES: tuple[Literal["before", "after"], ...] = ("before", "after")
DOOMS = [Doom(kind=kind, side=side, nth=nth, stops=stops) for kind, nth in (*GROWING, *MOVING) for side in SIDES for stops in (False, True)]
STRIDES = {("trio", "valkey9"): (0, 11), ("asyncio", "valkey9"): (6, 11)}
"""Which are run on which event loop with which server, if not all are: from which one on, and each how manyth."""

AT_ONCE = 4
FAILURE = Failure("ValueError", "before", "", 1, 1000, 1000, "A")


@dataclass
class Case:
    """One end, or one stop."""

    doom: Doom
    heir: Heir
    server: Server
    doomed: Doomed
    namespace: str = field(default_factory=lambda: f"m{uuid.uuid4().hex[:12]}")
    first: list[Line] = field(default_factory=list[Line])
    second: list[Line] = field(default_factory=list[Line])

    def message(self, key: int, what: int) -> dict[str, Any]:
        """Return a payload."""
        return {"n": 4 * key + what, "failures": 0, "key": KEYS[key]}

    async def send(self, what: int) -> None:
        """Send a message of each key."""
        async with Producer("jobs", self.server.url, namespace=self.namespace, init_partitions=FEW, send_timeout=60.0) as producer:
            await producer.batch_enqueue([self.message(key, what) for key in range(len(KEYS))], partition_key="key")

    async def prepare(self, broker: RedisBroker) -> None:
        """Let there be a dead letter of each key, then an unread message, and one that is delayed and due."""
        await self.send(DEAD)
        await make_groups(broker, GROUP, range(FEW), latest=False)
        for partition in range(FEW):
            await broker.do(Install(GROUP, partition, BEFORE_ALL, "A", foreign=True))
            reader = await broker.open_reader(GROUP, partition, BEFORE_ALL, "A")
            read = [Body(entry_id, tuple(fields or ()), 0, 1, FAILURE) for entry_id, fields in await reader.read(100, 0)]
            moves = [Resolution("stream", "dead", body) for body in read]
            assert all((await broker.do(Resolve(GROUP, partition, BEFORE_ALL, moves, dead_maxlen=None))).moved)
            await reader.close()
            # Else its successor would wait until nobody can hold the partition any more (M8): that is shown elsewhere.
            self.server.command("HDEL", self.key(partition, f"g:{GROUP.group}:lease"), "holder")
        await self.send(UNREAD)
        for number, key in enumerate(KEYS):
            msg_id = b"late-%d" % number
            fields = [b"i", msg_id, b"d", msgspec.json.encode(self.message(number, DELAYED)), b"k", key.encode()]
            assert await delay(broker, "jobs", [Delayed(partition_for(key, FEW), msg_id, BEFORE_ALL, fields)])

    @property
    def group(self) -> str:
        """How the names of the group's keys begin."""
        return f"{{{self.namespace}:jobs}}:g:{GROUP.group}"

    def key(self, partition: int, name: str) -> str:
        """Return the name of a partition's key."""
        return f"{{{self.namespace}:jobs:{partition}}}:{name}"

    async def run(self) -> None:
        """Prepare, let the process come to its step, let others do everything; then look."""
        with anyio.fail_after(120):
            async with broker_of(self.server.url, self.namespace) as broker:
                await self.prepare(broker)
                ttl = SHORT if self.doom.stops else 60.0
                order = Order(doom=self.doom, url=self.server.url, namespace=self.namespace, partitions=MORE, ttl=ttl)
                self.first, status = await self.doomed.obey(order, lambda: self.inherit(broker))
                if self.doom.stops:
                    assert "stopped" in [line.what for line in self.first], f"{self.doom}: it never came to this step"
                    assert status == 0, f"{self.doom}: it went on, and ended with {status}"
                    await self.work()
                else:
                    assert status == -signal.SIGKILL, f"{self.doom}: it never came to this step, and ended with {status}"
                    self.let_the_lease_run_out()
                    await self.inherit(broker)
                await self.judge(broker)
        self.server.command("DEL", *self.server.command("KEYS", f"*{self.namespace}:*"))

    def let_the_lease_run_out(self) -> None:
        """Do to the dead process's lease what time would do, as tests.chaos.test_killed_between_steps does."""
        for incarnation in self.server.command("ZRANGE", f"{self.group}:members", 0, -1):
            self.server.command("ZADD", f"{self.group}:members", "XX", 0, incarnation)

    async def work(self) -> None:
        """Work until nothing is left, as one whose lease outlasts the test."""
        if self.server.command("EXISTS", f"{self.group}:state"):
            self.server.command("HSET", f"{self.group}:state", "born", 1)  # else M8 would wait for as long as such a lease lasts
        consumer = consumer_of(self.server.url, self.namespace, blocking=False)
        await consumer.process(handler(self.second.append), until_empty=True)

    async def inherit(self, broker: RedisBroker) -> None:
        """Complete what was begun, each heir in its way; then do all the rest. Who stopped finds that the topic has grown once more."""
        begun = any(self.server.command("TYPE", self.key(partition, "0")) in ("string", b"string") for partition in range(FEW))
        match self.heir:
            case "grower":
                await make_or_grow(broker, "jobs", MORE)
            case "producer":
                await self.send(LATER)
            case "owner":
                await self.work()
        state = await broker.do(ReadTopic("jobs"))
        assert state is not None
        assert state.history == (FEW, MORE) or not (begun or self.heir == "grower"), f"{self.doom}: {self.heir} found {state}"
        if self.heir != "producer":
            await self.send(LATER)
        await redrive_all(broker, MORE)
        if self.doom.stops:
            await make_or_grow(broker, "jobs", MOST)
        await self.work()

    async def judge(self, broker: RedisBroker) -> None:
        """Say whether anything was lost, left over, doubled, or done out of order."""
        about = f"{self.doom} {self.heir}: {self.first} then {self.second}"
        state = await broker.do(ReadTopic("jobs"))
        assert state is not None
        assert state.history == ((FEW, MORE, MOST) if self.doom.stops else (FEW, MORE)), about
        assert state.pending is None, about
        assert all(left.empty for left in await broker.do_each([ReadRemaining(GROUP, number) for number in range(state.partitions)])), about
        for partition in range(state.partitions):
            assert await broker.do(ReadDead(GROUP, partition, b"", 9)) == [], about
            assert self.server.command("EXISTS", self.key(partition, "delayed"), self.key(partition, "delayed:body")) == 0, about
        until_then = [line.what for line in self.first].index(self.doom.side)
        before, woken = self.first[:until_then], self.first[until_then:]
        done = Counter(line.n for line in (*self.first, *self.second) if line.what == "done")
        assert done.keys() == set(range(4 * len(KEYS))), about
        own = Counter(line.n for line in before if line.what == "done")
        assert all(times == 1 or own[number] for number, times in done.items()), about
        assert not {line.n for line in woken if line.what == "start"} & {line.n for line in self.second}, about
        began = list(dict.fromkeys(line.n for line in (*before, *self.second, *woken) if line.what == "start"))
        for key in range(len(KEYS)):
            assert began.index(4 * key + UNREAD) < began.index(4 * key + LATER), about


@pytest.mark.anyio
@pytest.mark.parametrize("program", ["valkey9", "redis8", "redis7"])
async def test_others_complete_it(server_pool: ServerPool, anyio_backend: tuple[str, dict[str, Any]], program: str) -> None:
    """G1 to G5, G8."""
    loop = "uvloop" if anyio_backend[1].get("use_uvloop") else anyio_backend[0]
    if not EVERYWHERE and (loop, program) not in STRIDES:
        pytest.skip("REDISAQ_KILLS=all runs every event loop with every server")
    first, stride = (0, 1) if EVERYWHERE else STRIDES[loop, program]
    server = await anyio.to_thread.run_sync(server_pool.shared, program)
    growing = {kind for kind, _ in GROWING}
    cases = [
        (doom, heir)
        for number, doom in list(enumerate(DOOMS))[first::stride]
        for heir in (HEIRS if EVERYWHERE and doom.kind in growing else [HEIRS[number % len(HEIRS)]])
    ]
    left = iter(cases)

    async def some() -> None:
        async with open_doomed(loop) as doomed:
            for doom, heir in left:
                await Case(doom, heir, server, doomed).run()

    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(some)
