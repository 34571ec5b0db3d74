"""Ownership over real processes that join, leave, are killed and are paused past their lease, on all event loops in one group."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from redisaq import Producer
from tests.chaos.crew import Crew, until
from tests.ticks import Ticks

if TYPE_CHECKING:
    from tests.servers import Server

PARTITIONS = 6
HEARTBEAT = 20.0
"""Seconds, where waiting for one would show: a tenth of it is time enough for what happens at once, on a busy machine, too."""


@pytest.fixture
def crew(valkey_server: Server, namespace: str) -> Iterator[Crew]:
    crew = Crew(valkey_server.url, "jobs", namespace)
    yield crew
    crew.close()


class Load:
    """Produces all the time, to every partition."""

    def __init__(self, crew: Crew) -> None:
        self.producer = Producer(crew.base.topic, crew.base.url, namespace=crew.base.namespace, init_partitions=PARTITIONS)
        self.ids: list[str] = []
        self.on = True

    async def run(self) -> None:
        async with self.producer:
            while self.on:
                self.ids += await self.producer.batch_enqueue([{}] * PARTITIONS)
                await anyio.sleep(0.04)


def owned_by(crew: Crew, name: str) -> dict[int, int]:
    """Return the partitions that a member says it has."""
    owned: dict[int, int] = {}
    for line in crew.members[name].lines:
        if line.what == "PartitionAcquired":
            owned[line.partition] = line.token
        elif line.what in ("PartitionRevoked", "LeaseLost"):
            owned.pop(line.partition, None)
    return owned


def at_work(crew: Crew, name: str) -> bool:
    """Return whether a handler of the member runs, as far as it has told."""
    return crew.members[name].lines[-1].what in ("start", "step")


def test_no_two_members_work_on_one_partition(crew: Crew) -> None:
    async def main() -> None:
        load = Load(crew)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load.run)
            for name, backend in (("a", "asyncio"), ("b", "trio"), ("c", "uvloop")):
                crew.start(name, backend)
            await until(lambda: all(len(owned_by(crew, name)) == 2 for name in "abc"), 30, "even shares")

            with Ticks() as ticks:
                began = time.monotonic()
                crew.kill("a")
                await until(lambda: len(owned_by(crew, "b")) == len(owned_by(crew, "c")) == 3, 30, "takeover of a killed member")
            taken = max(line.at for line in crew.lines() if line.what == "PartitionAcquired")
            assert ticks.between(began, taken) < crew.base.ttl + 0.5

            crew.start("d", "asyncio")
            crew.start("e", "trio")
            await until(lambda: all(owned_by(crew, name) for name in "bcde"), 30, "shares for the joiners")

            for name in "bcd":  # one on each event loop, past its lease
                await until(lambda name=name: at_work(crew, name), 30, f"a handler of {name}")  # type: ignore[misc]
                await crew.pause(name, crew.base.ttl + 1.0)
                await until(lambda name=name: bool(owned_by(crew, name)), 30, f"{name} back at work")  # type: ignore[misc]
            await crew.pause("e", 0.5)  # shorter than the lease: nothing happens

            await crew.leave("b")
            crew.kill("c")
            await anyio.sleep(crew.base.ttl + 1.0)
            load.on = False
            await until(lambda: set(load.ids) <= crew.done(), 30, "every message handled")
            for name in "de":
                await crew.leave(name)

    anyio.run(main)
    assert crew.overlaps() == []
    words = crew.after_waking()
    assert words, "no handler was running when its member was stopped"
    for said in words.values():  # at most one more step, its first await raises, nothing begins under the old token
        assert said in (["cancelled"], ["step", "cancelled"], ["step", "done"], ["done"]), words
    for (name, msg_id), said in words.items():  # and nothing of it is settled: the next owner gets it
        if "done" in said:
            assert any(line.msg_id == msg_id and line.what == "done" and line.name != name for line in crew.lines())


def test_a_killed_member_is_taken_over_within_ttl_and_half_a_second(crew: Crew) -> None:
    async def main() -> float:
        load = Load(crew)
        async with anyio.create_task_group() as tasks, contextlib.AsyncExitStack() as stack:
            tasks.start_soon(load.run)
            crew.start("a", "asyncio")
            crew.start("b", "trio")
            await until(lambda: len(owned_by(crew, "a")) == len(owned_by(crew, "b")) == 3, 30, "even shares")
            partitions = set(owned_by(crew, "a"))
            ticks = stack.enter_context(Ticks())
            crew.kill("a")
            killed = time.monotonic()

            def first_starts() -> dict[int, float]:
                starts: dict[int, float] = {}
                for line in list(crew.members["b"].lines):
                    if line.what == "start" and line.partition in partitions and line.at > killed:
                        starts.setdefault(line.partition, line.at)
                return starts

            await until(lambda: len(first_starts()) == 3, 30, "a message of each partition")
            load.on = False
            taken = ticks.between(killed, max(first_starts().values()))
            await crew.leave("b")
        return taken

    assert anyio.run(main) < crew.base.ttl + 0.5


def test_leaves_and_joins_take_moments(crew: Crew) -> None:
    """If no handler runs longer than 0.1 s, no member waits for a heartbeat: neither the successor of one that left, nor one that joins."""
    crew.base = msgspec.structs.replace(crew.base, interval=HEARTBEAT, ttl=4 * HEARTBEAT)

    async def main() -> tuple[float, float]:
        load = Load(crew)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load.run)
            crew.start("a", "trio")
            await until(lambda: len(owned_by(crew, "a")) == PARTITIONS, 30, "all partitions")
            joiner = crew.start("b", "asyncio")
            await until(lambda: len(owned_by(crew, "b")) == 3 and bool(joiner.said("start")), 30, "a joiner at work")
            first = joiner.said("start")[0].at - joiner.said("joined")[0].at
            await crew.leave("b")
            revoked = max(line.at for line in joiner.said("PartitionRevoked"))
            await until(lambda: len(owned_by(crew, "a")) == PARTITIONS, 30, "all partitions again")
            acquired = max(line.at for line in crew.members["a"].said("PartitionAcquired"))
            load.on = False
            await crew.leave("a")
        return first, acquired - revoked

    first, handed_over = anyio.run(main)
    assert first < HEARTBEAT / 10
    assert handed_over < HEARTBEAT / 10
