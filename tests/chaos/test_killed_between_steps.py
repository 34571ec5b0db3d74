"""Kill -9 directly before and directly after each step of retrying, dead-lettering and taking over, in a real process.

Each script is atomic, so what can be lost or doubled is what stands between two of them. A second consumer then finishes the work. What
must hold: no message is lost, none is twice among the dead letters, and a kill counts as an attempt only if the message's handler had
begun, or was about to: the attempt is written down just before, and a member may die between.
"""

from __future__ import annotations

import itertools
import os
import signal
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest

from redisaq import Producer
from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.steps.producing import Delayed, delay
from redisaq.brokers.steps.retrying import ReadDead, redrive
from redisaq.brokers.steps.settling import ReadRemaining, Resolve
from redisaq.core.records import Body, Failure, Resolution
from tests.chaos.doomed import ATTEMPTS, GROUP, Doom, Doomed, Line, Order, broker_of, consumer_of, handler, open_doomed
from tests.server_fixtures import ServerPool
from tests.servers import Server

EVERYWHERE = os.environ.get("REDISAQ_KILLS") == "all"
"""Every kill on every event loop with every server, instead of each at least once with Valkey."""

STRIDES = {
    ("trio", "valkey9"): (0, 3),
    ("asyncio", "valkey9"): (1, 3),
    ("uvloop", "valkey9"): (2, 3),
    ("asyncio", "redis8"): (0, 20),
    ("trio", "redis7"): (4, 20),
}
"""Which kills are run, otherwise: from which one on, and each how manyth."""

FOREVER = 1 << 30
AT_ONCE = 3  # processes
BEFORE_ALL = 1_700_000_000_000_000  # a token, and due times that have passed
FAILURE = Failure("ValueError", "before", "", 1, 1000, 1000, "A")

PARKED = [
    *("redrive", "heartbeat", "commit", "install", "fence", "claim", "open_reader", "read", "set_deliveries", "settle", "due"),
    *("start_retry", "resolve retry", "resolve dead", "resolve done", "release"),
]
BLOCKING = ["claim", "due", "read", "set_deliveries", "start_retry", "settle", "resolve dead", "resolve done"]
LATER = ["settle", "due", "start_retry", "set_deliveries", "resolve retry", "resolve dead"]
"""Steps that are tried at their second time, too."""

DOOMS = [
    Doom(kind=kind, side=side, nth=nth, blocking=blocking)
    for blocking, kinds in ((False, PARKED), (True, BLOCKING))
    for kind in kinds
    for side in ("before", "after")
    for nth in ((1, 2) if kind in LATER and not blocking else (1,))
]
NEVER, ONCE, ALWAYS = range(3)
FAILURES = [0, 1, FOREVER]
UNREAD, PENDING, RETRY = ([3 * place + kind for kind in (NEVER, ONCE, ALWAYS)] for place in range(3))
DELAYED, DEAD = 9, 10
ALL = range(11)


@dataclass
class Case:
    """One kill: what is there before it, what each process did, and what is there at the end."""

    doom: Doom
    server: Server
    doomed: Doomed
    namespace: str = field(default_factory=lambda: f"k{uuid.uuid4().hex[:12]}")
    dead_id: bytes = b""
    first: list[Line] = field(default_factory=list[Line])
    second: list[Line] = field(default_factory=list[Line])
    dead: list[Body] = field(default_factory=list[Body])

    async def prepare(self, broker: RedisBroker) -> None:
        """Let an owner have left messages in every place: pending, to be tried again, delayed, dead, never read."""
        async with Producer("jobs", self.server.url, namespace=self.namespace) as producer:
            order = [DEAD, *RETRY, *PENDING, *UNREAD]
            await producer.batch_enqueue([{"n": n, "failures": 0 if n == DEAD else FAILURES[n % 3]} for n in order])
        await make_groups(broker, GROUP, [0], latest=False)
        await broker.do(Install(GROUP, 0, BEFORE_ALL, "A", foreign=True))
        reader = await broker.open_reader(GROUP, 0, BEFORE_ALL, "A")
        read = [Body(entry_id, tuple(fields or ()), 0, 1, FAILURE) for entry_id, fields in await reader.read(7, 0)]
        moves = [Resolution("stream", "dead", read[0]), *(Resolution("stream", "retry", body, due=BEFORE_ALL) for body in read[1:4])]
        assert all((await broker.do(Resolve(GROUP, 0, BEFORE_ALL, moves, dead_maxlen=None))).moved)
        (grave,) = await broker.do(ReadDead(GROUP, 0, after=b"", count=9))
        self.dead_id = grave.dead_id
        late = [b"i", b"late", b"d", b'{"n":%d,"failures":%d}' % (DELAYED, FOREVER)]
        await delay(broker, "jobs", [Delayed(0, b"late", BEFORE_ALL, late)])
        await reader.close()
        # Else its successor would wait until nobody can hold the partition any more (M8): that is shown elsewhere.
        self.server.command("HDEL", f"{{{self.namespace}:jobs:0}}:g:{GROUP.group}:lease", "holder")

    async def run(self) -> None:
        """Prepare, let the first process die, finish the work, look."""
        with anyio.fail_after(60):
            async with broker_of(self.server.url, self.namespace) as broker:
                await self.prepare(broker)
                await self.die()
                self.let_the_lease_run_out()
                await redrive(broker, GROUP, 0, [self.dead_id], count=1)  # as one does who does not know whether it was done
                consumer = consumer_of(self.server.url, self.namespace, blocking=self.doom.blocking)
                await consumer.process(handler(self.second.append), until_empty=True)
                self.dead = [one.body for one in await broker.do(ReadDead(GROUP, 0, after=b"", count=100))]
                (left,) = await broker.do_each([ReadRemaining(GROUP, 0)])
        self.judge(left.empty)
        self.server.command("DEL", *self.server.command("KEYS", f"*{self.namespace}:*"))

    async def die(self) -> None:
        """Run the process that is to kill itself."""
        order = Order(doom=self.doom, url=self.server.url, namespace=self.namespace, dead_id=self.dead_id)
        self.first, status = await self.doomed.obey(order)
        assert status == -signal.SIGKILL, f"{self.doom}: it never came to this step, and ended with {status}"

    def let_the_lease_run_out(self) -> None:
        """Do to the dead process's lease what time would do, two minutes later; what the server does then is shown elsewhere.

        A lease as short as a test can wait for runs out on a busy machine before the process comes to its step.
        """
        group = f"{{{self.namespace}:jobs}}:g:{GROUP.group}"
        for incarnation in self.server.command("ZRANGE", f"{group}:members", 0, -1):
            self.server.command("ZADD", f"{group}:members", "XX", 0, incarnation)
        self.server.command("HSET", f"{group}:state", "born", 1)

    def judge(self, empty: bool) -> None:
        """Say whether anything was lost, doubled, or wrongly counted."""
        lines, about = [*self.first, *self.second], f"{self.doom}: {self.first} then {self.second}"
        attempts: dict[int, list[int]] = defaultdict(list)
        for line in lines:
            if line.what == "start":
                attempts[line.n].append(line.attempt)
        assert empty, about
        died = sorted(msgspec.json.decode(body.fields[3])["n"] for body in self.dead)
        assert died == sorted([UNREAD[ALWAYS], PENDING[ALWAYS], RETRY[ALWAYS], DELAYED]), about
        assert all(body.failure is not None and body.failure.attempts == ATTEMPTS for body in self.dead), about
        done = {line.n for line in lines if line.what == "done"}
        assert done == set(ALL) - set(died), about
        assert sum(self.judge_attempts(n, attempts[n], about) for n in ALL) <= 1, about
        self.judge_last_step(about)

    def judge_attempts(self, n: int, begun: list[int], about: str) -> int:
        """One after the other, but for what the kill explains: one number given twice, or left out; return how many are left out."""
        before = 1 if n in RETRY else 0
        last = ATTEMPTS if FAILURES[n % 3] == FOREVER or n == DELAYED else None
        numbers = [before, *begun, *([last] if last else [])]
        steps = [after - earlier for earlier, after in itertools.pairwise(numbers)]
        about = f"message {n} began {begun}. {about}"
        assert all(step in (0, 1, 2) for step in steps), about
        assert steps.count(2) <= (n in self.noted_in_vain()), about
        if begun.count(1) > 1:  # a first delivery counts when the message is read: one whose handler died with it is the first once more
            assert [line.attempt for line in self.first if line.what == "start" and line.n == n] == [1], about
        assert all(begun.count(number) == 1 for number in set(begun) - {1}), about
        assert begun.count(1) <= 2, about
        return steps.count(2)

    def noted_in_vain(self) -> set[int]:
        """Return messages whose attempt had been written down, or was about to be, and no handler began on them any more."""
        open_: set[str] = set()
        for line in self.first:
            if line.what == "noted":
                open_.update(line.entries)
            elif line.what == "start":
                open_.difference_update(line.entries)
        return {line.n for line in [*self.first, *self.second] if line.what == "start" and open_.intersection(line.entries)}

    def judge_last_step(self, about: str) -> None:
        """What the step has settled never runs again."""
        end = self.first[-1]
        if self.doom.side == "after" and self.doom.kind in ("settle", "resolve dead", "resolve done"):
            assert end.what == "after", about
            assert end.entries, about
            assert not {entry for line in self.second for entry in line.entries} & set(end.entries), about


@pytest.mark.anyio
@pytest.mark.parametrize("program", ["valkey9", "redis8", "redis7"])
async def test_nothing_is_lost_or_doubled(server_pool: ServerPool, anyio_backend: tuple[str, dict[str, Any]], program: str) -> None:
    """S1, S2, S3, T1, T5: kills before and after each step, with parked and with blocking retries."""
    loop = "uvloop" if anyio_backend[1].get("use_uvloop") else anyio_backend[0]
    if not EVERYWHERE and (loop, program) not in STRIDES:
        pytest.skip("REDISAQ_KILLS=all runs every event loop with every server")
    first, stride = (0, 1) if EVERYWHERE else STRIDES[loop, program]
    server = await anyio.to_thread.run_sync(server_pool.shared, program)
    dooms = iter(DOOMS[first::stride])

    async def some() -> None:
        async with open_doomed(loop) as doomed:
            for doom in dooms:
                await Case(doom, server, doomed).run()

    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(some)
