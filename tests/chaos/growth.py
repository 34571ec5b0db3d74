"""A topic grows 3 -> 5 -> 8 -> 64 under load while members join, leave and are killed (G, E6): as a function, and a command.

`python -m tests.chaos.growth [valkey9 | redis8 | redis7 | cluster | killed ...]` plays it on each server (all by default), prints what
happened, and ends with 1 if a guarantee was broken. Members are processes. Two producers run on asyncio, and two on trio. The cluster has
three masters with a replica each, so that a growth waits for replicas, too (G7). `killed` is a cluster of which one node is killed with -9
during each growth, and comes back as a replica of its successor. There producers wait for replicas, and what was done may be done once
more: a failover may forget that it was settled.

The first growth is begun by a grower that dies after its first cut. Four groups read the topic: one whose members come, go and are killed;
one that is far behind; one that has no member until the end; and one that asks for no order.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Literal, NamedTuple

import anyio
import anyio.to_thread

from redisaq import Producer
from redisaq.brokers import open_broker
from redisaq.brokers.steps.growing import Announce, NameStream
from redisaq.brokers.steps.topics import ReadTopic
from redisaq.errors import ConnectionFailed
from redisaq.link.slot_map import slot_of
from tests.chaos.crew import Crew, until
from tests.clusters import Cluster
from tests.servers import PROGRAMS, Server, Watchdog

Acks = Literal["primary", "replica"]

KEYS = [f"k{number}" for number in range(200)]
COUNTS = (3, 5, 8, 64)
PRODUCERS = 4
BILLING, BEHIND, LATE, UNORDERED = "billing", "behind", "late", "unordered"
GROUPS = (BILLING, BEHIND, LATE, UNORDERED)
TOGETHER = 10
"""Messages of one call."""


class Run(NamedTuple):
    """One run of a handler: when it began and ended, whether it was done, and whether its member lost the partition, or was killed."""

    msg_id: str
    begin: float
    end: float
    done: bool
    lost: bool


class Load:
    """Producers that count for each key; each has keys of its own."""

    def __init__(self, url: str, namespace: str, every: float, acks: Acks = "primary") -> None:
        """Begin with nothing sent.

        Args:
            url: the server.
            namespace: the topic's.
            every: seconds between two calls of a producer.
            acks: as of a Producer.
        """
        self.sent: dict[str, tuple[str, int]] = {}
        self.longest = 0.0
        self.on = True
        self._url, self._namespace, self._every, self._acks = url, namespace, every, acks
        self._threads = [threading.Thread(target=self._run, args=(backend,), daemon=True) for backend in ("asyncio", "trio")]
        self._failures: list[BaseException] = []

    def start(self) -> None:
        """Let two producers run on each backend, in a thread of their own."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop, and raise what made a producer fail."""
        self.on = False
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def _run(self, backend: str) -> None:
        try:
            anyio.run(self._produce, ("asyncio", "trio").index(backend), backend=backend)
        except BaseException as error:  # noqa: BLE001 -- raised in the thread that waits
            self._failures.append(error)

    async def _produce(self, half: int) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(half, PRODUCERS, 2):
                tasks.start_soon(self._send, number)

    async def _send(self, number: int) -> None:
        random, keys, count = Random(number), KEYS[number::PRODUCERS], 0
        options: dict[str, Any] = {"namespace": self._namespace, "init_partitions": COUNTS[0], "acks": self._acks, "send_timeout": 60.0}
        async with Producer("orders", self._url, **options) as producer:
            while self.on:
                batch = [(random.choice(keys), count + place) for place in range(TOGETHER)]
                count += TOGETHER
                began = time.monotonic()
                ids = await producer.batch_enqueue([{"key": key, "n": sent} for key, sent in batch], partition_key="key")
                self.longest = max(self.longest, time.monotonic() - began)
                self.sent.update(zip(ids, batch, strict=True))
                await anyio.sleep(self._every)


@dataclass
class Judged:
    """What one group did wrong: each a message or a key."""

    missing: int = 0
    twice: int = 0
    disordered: list[str] = field(default_factory=list[str])
    together: list[str] = field(default_factory=list[str])

    def broken(self, *, ordered: bool, forgets: bool) -> bool:
        """Tell whether a guarantee was broken.

        Args:
            ordered: the group asks for order.
            forgets: a server may have forgotten what was settled: then that may be done once more, beside a later message.
        """
        more = not forgets and (self.twice or (ordered and self.together))
        return bool(self.missing or more or (ordered and self.disordered))


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        messages: how many were sent.
        growths: seconds that each growth took its caller; the first was completed by producers.
        longest: the longest call of a producer, in seconds.
        rest: seconds from the last message sent until all groups had all.
        groups: what each did wrong.
        forgets: see Judged.broken.
    """

    messages: int
    growths: list[float]
    longest: float
    rest: float
    groups: dict[str, Judged]
    forgets: bool = False

    @property
    def broken(self) -> bool:
        """Tell whether a guarantee was broken."""
        return any(judged.broken(ordered=name != UNORDERED, forgets=self.forgets) for name, judged in self.groups.items())

    def __str__(self) -> str:
        grown = ", ".join(f"{seconds * 1e3:.0f}" for seconds in self.growths)
        head = f"{self.messages} messages; grown in {grown} ms; longest call {self.longest * 1e3:.0f} ms; all done after {self.rest:.1f} s"
        wrong = [
            f"{name}: missing {one.missing}, twice {one.twice}, out of order {len(one.disordered)}, together {len(one.together)}"
            for name, one in self.groups.items()
        ]
        return "; ".join([head, *wrong])


class Killer:
    """Kills a node of a cluster during each growth, and lets it come back when its replica has taken its place."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        """Kill nothing yet."""
        self._cluster = cluster
        tag = f"{namespace}:orders"
        self._slots = [slot_of(f"{{{name}}}".encode()) for name in (f"{tag}:0", tag, f"{tag}:1")]
        self.took: list[float] = []

    async def kill(self, growth: int) -> None:
        """Kill -9 the node of the first partition, of the topic, or of the second partition, and start it again."""
        await anyio.to_thread.run_sync(self._kill, self._slots[growth])

    def _kill(self, slot: int) -> None:
        node, began = self._cluster.serves(slot), time.monotonic()
        node.kill()
        self._cluster.wait_for_another(slot, node)
        self.took.append(time.monotonic() - began)
        node.start()
        self._cluster.wait_until_whole()


async def play(  # noqa: PLR0915 -- one story
    url: str,
    namespace: str,
    *,
    every: float = 0.1,
    counts: Sequence[int] = COUNTS,
    during: Callable[[int], Awaitable[object]] | None = None,
) -> Outcome:
    """Play it once on the server with this URL.

    Args:
        url: the server.
        namespace: one that nobody else uses.
        every: seconds between two calls of a producer.
        counts: the numbers of partitions.
        during: given the number of a growth, from 0, does to servers what is to happen to them meanwhile.
    """
    load, growths = Load(url, namespace, every, "replica" if during else "primary"), list[float]()
    crew = Crew(url, "orders", namespace, interval=0.5, ttl=6.0)
    start = partial(crew.start, steps=1, step=0.0005, ordering="key")

    async def happen(growth: int) -> None:
        if during is not None:
            await during(growth)

    async def grow(growth: int) -> None:
        async with Producer("orders", url, namespace=namespace) as producer, anyio.create_task_group() as tasks:
            tasks.start_soon(happen, growth)
            began, partitions = time.monotonic(), counts[growth + 1]
            assert await producer.request_partition_increase(partitions) == partitions
            growths.append(time.monotonic() - began)

    def at_work(*names: str) -> bool:
        return all(crew.members[name].said("done") for name in names)

    def has_some(name: str) -> bool:  # what it does there may have to wait for older partitions (G4)
        return bool(crew.members[name].said("PartitionAcquired"))

    try:
        load.start()
        for name, backend in (("b1", "asyncio"), ("b2", "trio")):
            start(name, backend, group=BILLING)
        start("u1", "uvloop", group=UNORDERED, ordering="none")
        start("h1", "asyncio", group=BEHIND)
        await until(lambda: at_work("b1", "b2", "u1", "h1"), 60, "members at work")
        crew.kill("h1")
        began = time.monotonic()
        await _grow_and_die(url, namespace, counts)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(happen, 0)
            await _until_grown(url, namespace, counts[:2])
        growths.append(time.monotonic() - began)
        start("b3", "uvloop", group=BILLING)
        await until(lambda: has_some("b3"), 60, "the joiner at work")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(grow, 1)
            crew.kill("b1")
        start("b4", "trio", group=BILLING)
        await until(lambda: has_some("b4"), 60, "the next joiner at work")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(grow, 2)
            await crew.leave("b2")
        start("b5", "asyncio", group=BILLING)
        await until(lambda: has_some("b5"), 60, "the last joiner at work")
        crew.kill("b3")
        await anyio.sleep(2.0)
        await anyio.to_thread.run_sync(load.end)
        ended = time.monotonic()
        start("h2", "trio", group=BEHIND)
        start("l1", "asyncio", group=LATE)
        await until(lambda: all(load.sent.keys() <= _done(crew, group) for group in GROUPS), 300, "every message handled by every group")
        rest = time.monotonic() - ended
        for name in ("b4", "b5", "u1", "h2", "l1"):
            await crew.leave(name)
    finally:
        load.on = False
        crew.close()
    judged = {group: _judge(crew, group, load.sent) for group in GROUPS}
    return Outcome(len(load.sent), growths, load.longest, rest, judged, forgets=during is not None)


async def _grow_and_die(url: str, namespace: str, counts: Sequence[int]) -> None:
    """Do what a grower does, until its first cut."""
    broker = open_broker(url, namespace=namespace)
    await broker.connect()
    await broker.do(Announce("orders", 0, counts[1]))
    for partition in (*range(counts[0], counts[1]), 0):
        await broker.do(NameStream("orders", partition, tuple(counts[:2])))
    await broker.close()


async def _until_grown(url: str, namespace: str, history: Sequence[int]) -> None:
    broker = open_broker(url, namespace=namespace)
    await broker.connect()
    found: tuple[int, ...] = ()
    with anyio.fail_after(60):
        while found != tuple(history):
            await anyio.sleep(0.01)
            with contextlib.suppress(ConnectionFailed):  # a node may just have been killed
                state = await broker.do(ReadTopic("orders"))
                found = () if state is None else state.history
    await broker.close()


def _done(crew: Crew, group: str) -> set[str]:
    members = [member for member in crew.members.values() if member.order.group == group]
    return {line.msg_id for member in members for line in list(member.lines) if line.what == "done"}


def _runs(crew: Crew, group: str) -> Iterator[Run]:
    """Yield every run of a group's handlers; one that never ended, ended with its process."""
    for member in crew.members.values():
        if member.order.group == group:
            lost = {(line.partition, line.token) for line in member.said("LeaseLost")}
            running: dict[str, float] = {}
            for line in member.lines:
                if line.what == "start":
                    running[line.msg_id] = line.at
                elif line.what in ("done", "failed", "cancelled") and line.msg_id in running:
                    abrupt = member.killed_at is not None or (line.partition, line.token) in lost
                    yield Run(line.msg_id, running.pop(line.msg_id), line.at, line.what == "done", abrupt)
            for msg_id, at in running.items():
                yield Run(msg_id, at, member.killed_at or at, done=False, lost=True)


def _judge(crew: Crew, group: str, sent: dict[str, tuple[str, int]]) -> Judged:
    """Judge what a group did: the order in which the messages of a key began, and whether two of a key ran at once.

    What a member had done and not acknowledged when it was killed, or when its lease ran out, may be done once more.
    """
    runs = sorted(_runs(crew, group), key=lambda run: run.begin)
    done = Counter(run.msg_id for run in runs if run.done and not run.lost)
    judged = Judged(missing=len(sent.keys() - {run.msg_id for run in runs if run.done}), twice=sum(times > 1 for times in done.values()))
    first = dict.fromkeys(run.msg_id for run in runs)  # in the order in which they first began
    last, until_then = dict[str, int](), dict[str, float]()
    for key, number in (sent[msg_id] for msg_id in first):
        if number < last.get(key, -1):
            judged.disordered.append(key)
        last[key] = max(number, last.get(key, -1))
    for run in runs:
        key, _ = sent[run.msg_id]
        if run.begin < until_then.get(key, 0.0):
            judged.together.append(key)
        until_then[key] = max(run.end, until_then.get(key, 0.0))
    return judged


def main() -> None:
    """Play it on each server."""
    kinds = sys.argv[1:] or [*sorted(PROGRAMS), "cluster", "killed"]
    watchdog, broken = Watchdog(), False
    for kind in kinds:
        server: Any = (
            Cluster("valkey9", PROGRAMS["valkey9"](), watchdog, replicas=1)
            if kind in ("cluster", "killed")
            else Server(kind, PROGRAMS[kind](), watchdog)
        )
        with closing(server):
            server.start()
            killer = Killer(server, "growth") if kind == "killed" else None
            outcome = anyio.run(partial(play, server.url, "growth", during=None if killer is None else killer.kill))
        print(f"{kind}: {outcome}", flush=True)
        broken = broken or outcome.broken
    watchdog.close()
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
