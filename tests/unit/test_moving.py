"""Messages that move to another partition are in one of the two at every moment, whichever process or server ends (G8).

Here every combination is played: a process ends at each step, and a replica that lags takes over before or after it. With one server, a
replica is behind in all; in a cluster, in what one node has.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from redisaq.brokers.growth import move
from redisaq.brokers.memory.holdings import Holdings
from redisaq.brokers.memory.registry import carry_out
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.growing import Adopt, DropAdopted, DropTakenIn, NameStream, Publish, ReplicateRun, TakeIn
from redisaq.brokers.steps.messages import ListDelayed
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import GroupName
from redisaq.consuming.sweep import sweep
from redisaq.core.partitioner import partition_for
from redisaq.core.records import Body, encode_dead, encode_delayed
from redisaq.environment import current_environment
from redisaq.testing.nodes import Nodes

GROUP = GroupName("jobs", "billing")
OLD, NEW = 0, 1
MOST = 8
"""Steps that a process does at most, and one more."""

NEVER = 1 << 30


class Dies(Exception):
    """The process ends."""


class Process:
    """A broker of a process that ends before a step, at servers of which one is behind for some steps, and then fails over."""

    def __init__(self, store: Nodes, *, ends: int, node: int, behind: int, fails: int) -> None:
        """Number steps from 0; `behind` is the first that the node's replica does not hear of, `fails` the first that it answers."""
        self.store = store
        self.ends, self.node, self.behind, self.fails = ends, node, behind, fails
        self.steps = 0
        self.replica: Holdings | None = None

    @property
    def run_id(self) -> str:
        """The run of the server, or of the nodes."""
        return self.store.run_id

    def happen(self) -> None:
        """Let happen what happens before the next step."""
        if self.steps == self.behind:
            self.replica = self.store.copied()
        if self.steps == self.fails and self.replica is not None:
            if self.store.count == 1:
                self.store.fail_over(self.replica)
            else:
                self.store.fail_over_node(self.node, self.replica)
            self.replica = None

    async def do_each(self, steps: Sequence[Step[Any]]) -> list[Any]:
        """Do several steps; those of this module do not change anything."""
        return [carry_out(self.store, step) for step in steps]

    async def do(self, step: Step[Any]) -> Any:
        """Do one step."""
        self.happen()
        if self.steps == self.ends:
            raise Dies
        self.steps += 1
        lags = isinstance(step, ReplicateRun) and self.replica is not None and self.node in (-1, self.store.node_of(step.place))
        return carry_out(self.store, step) and not lags if lags else carry_out(self.store, step)


def redriven(store: MemoryStore) -> tuple[Any, Callable[[str], Any], Callable[[], tuple[int, int]]]:
    """Let there be a dead letter; return how it is put and dropped, and what counts it at its two places."""
    dead_id = store.shelf(GROUP, OLD).dead.append(encode_dead(Body(b"5-0", (b"i", b"m"))), 5, None)
    put = TakeIn(GROUP, NEW, OLD, [(b"%d-%d" % dead_id, Body(b"5-%d" % (1 << 40), (b"i", b"m"), life=1))], 0)
    drop = partial(DropTakenIn, GROUP, OLD, [b"%d-%d" % dead_id])
    return put, drop, lambda: (len(store.shelf(GROUP, OLD).dead), len(store.shelf(GROUP, NEW).retry))


def swept(store: MemoryStore) -> tuple[Any, Callable[[str], Any], Callable[[], tuple[int, int]]]:
    """Let there be a delayed message; as above."""
    store.delayed["jobs", OLD] = {b"m": (9, b"body")}
    put, drop = Adopt("jobs", NEW, OLD, [(b"m", b"9", b"body")], 0), partial(DropAdopted, "jobs", OLD, [b"m"])
    return put, drop, lambda: (len(store.delayed.get(("jobs", OLD), ())), len(store.delayed.get(("jobs", NEW), ())))


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("kind", [redriven, swept])
def test_no_end_and_no_failover_takes_a_message_with_it(kind: Callable[[MemoryStore], Any], nodes: int) -> None:
    anyio.run(_play_all, kind, nodes)


async def _play_all(kind: Callable[[MemoryStore], Any], nodes: int) -> None:
    played = 0
    for node in (-1,) if nodes == 1 else (1 + OLD, 1 + NEW):
        for behind, fails, ends in itertools.product(range(MOST + 1), range(MOST + 2), (*range(MOST), NEVER)):
            if behind > fails:
                continue
            store = Nodes("memory://moving", current_environment())
            if nodes > 1:
                store.spread(nodes)
            put, drop, count = kind(store)
            process: Any = Process(store, ends=ends, node=node, behind=behind, fails=fails)
            with contextlib.suppress(Dies):
                assert await move(process, put, drop) is not None
            while process.steps < MOST + 2:  # what happens to the server later
                process.happen()
                process.steps += 1
            about = f"{behind=} {fails=} {ends=} {node=}"
            assert sum(count()) > 0, f"lost: {about}"
            heir: Any = Process(store, ends=NEVER, node=node, behind=NEVER, fails=NEVER)
            await move(heir, put, drop)
            assert count() == (0, 1), f"not completed: {about}"
            played += 1
    assert played > 400


@pytest.mark.parametrize("nodes", [1, 3])
def test_no_failover_lets_a_sweep_pass_over_a_message(nodes: int) -> None:
    """G8: it is noted that nothing belongs elsewhere, by no server that has forgotten what was dropped."""
    anyio.run(_sweep_all, nodes)


async def _sweep_all(nodes: int) -> None:
    again = 0
    for node in (-1,) if nodes == 1 else (1 + OLD, 1 + NEW):
        for behind, fails, ends in itertools.product(range(MOST + 1), range(MOST + 2), (*range(MOST), NEVER)):
            if behind > fails:
                continue
            store = grown(nodes)
            process = Process(store, ends=ends, node=node, behind=behind, fails=fails)
            with contextlib.suppress(Dies):
                await sweep(around(process), OLD)
            while process.steps < MOST + 2:
                process.happen()
                process.steps += 1
            about = f"{behind=} {fails=} {ends=} {node=}"
            while store.naming(("jobs", OLD)).swept < 1:  # the owner, or another, hears that it is not swept, and begins again
                await sweep(around(Process(store, ends=NEVER, node=node, behind=NEVER, fails=NEVER)), OLD)
                again += 1
            assert not store.delayed["jobs", OLD], f"it would be handled there: {about}"
            assert store.delayed["jobs", NEW].keys() == {b"m"}, f"lost: {about}"
    assert again


def grown(nodes: int) -> Nodes:
    """Return a topic that has grown, with a delayed message that belongs into the new partition."""
    store = Nodes("memory://moving", current_environment())
    if nodes > 1:
        store.spread(nodes)
    key = next(b"%d" % number for number in range(9) if partition_for(b"%d" % number, 2) == NEW)
    store.delayed["jobs", OLD] = {b"m": (9, encode_delayed([b"i", b"m", b"k", key]))}
    for step in (
        MakeTopic("jobs", 1),
        NameStream("jobs", NEW, (1, 2)),
        NameStream("jobs", OLD, (1, 2)),
        Publish("jobs", 0, (1, 2)),
    ):
        carry_out(store, step)
    return store


class Overtaken(Process):
    """A process that is still about to put what it has listed when a server takes over where another owner has moved it into the stream."""

    async def do(self, step: Step[Any]) -> Any:
        """Do one step."""
        answer = await super().do(step)
        if isinstance(step, ListDelayed) and answer.rows:
            self.store.fail_over(self.store.copied())
            self.store.delayed["jobs", OLD].clear()
        return answer


async def _list_early() -> None:
    store = grown(1)
    await sweep(around(Overtaken(store, ends=NEVER, node=-1, behind=NEVER, fails=NEVER)), OLD)
    assert not store.delayed.get(("jobs", NEW))
    assert store.naming(("jobs", OLD)).swept == 0, "it is to be swept again"


def test_what_was_listed_before_a_failover_is_not_put_after_it() -> None:
    """G8: else a message that an owner has moved into the stream meanwhile, since the growth was forgotten, would run twice."""
    anyio.run(_list_early)


def around(process: Process) -> Any:
    """Return what a sweep needs of a consumer's surroundings."""
    return SimpleNamespace(broker=process, group=GROUP, environment=current_environment())


async def _redrive_late() -> None:
    store = Nodes("memory://moving", current_environment())
    put, drop, count = redriven(store)
    sleeper: Any = Process(store, ends=NEVER, node=-1, behind=NEVER, fails=NEVER)
    assert await move(sleeper, put, drop) == 1
    store.shelf(GROUP, NEW).retry.clear()  # it is handled
    assert await move(sleeper, put, drop) == 0
    assert count() == (0, 0)


def test_a_redrive_that_stops_before_it_puts_and_wakes_late_puts_nothing() -> None:
    """G8: another has redriven the letter meanwhile, and it was handled."""
    anyio.run(_redrive_late)


async def _wait_on() -> None:
    store = Nodes("memory://moving", current_environment())
    store.spread(3)
    put, drop, count = redriven(store)
    waited = 0

    class Broker:
        async def do(self, step: Step[Any]) -> Any:
            nonlocal waited
            if isinstance(step, ReplicateRun):
                store.shelf(GROUP, NEW).retry.clear()  # it is handled meanwhile
                waited += 1
                return waited == 3
            return carry_out(store, step)

    lagging: Any = Broker()
    assert await move(lagging, put, drop) == 1
    assert count() == (0, 0)
    assert waited == 3


def test_what_is_handled_while_a_replica_lags_is_not_put_again() -> None:
    """G8: else it is handled once more for each time that the replica was waited for."""
    anyio.run(_wait_on)
