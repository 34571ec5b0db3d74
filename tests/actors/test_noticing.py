"""What a member notices without a notification, and how soon it tries again after recent and old failures. In virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from redisaq import Consumer, Producer
from redisaq.brokers.memory.reader import MemoryReader
from redisaq.brokers.terms import GroupName
from redisaq.errors import ConnectionFailed
from tests.actors.group import Backend, Notebook, on_both, play, produce, quick, store_of
from tests.actors.hooked import grow_at, hooked

GROUP = GroupName("jobs", "default_group")


def member(url: str, **more: Any) -> Consumer[Any]:
    return quick(url, **{"heartbeat_interval": 10.0, "heartbeat_ttl": 60.0, **more})


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> float:
    """Return how many seconds it took until the condition held."""
    began = anyio.current_time()
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.01)
    return anyio.current_time() - began


async def nothing(_message: object) -> None:
    """Do nothing."""


@on_both
def test_m9_a_growth_that_nobody_told_of_is_noticed_at_the_next_heartbeat(backend: Backend) -> None:
    async def scenario(url: str) -> float:
        await produce(url, 1)
        consumer = member(url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, nothing)
            await until(lambda: len(consumer.assignment) == 1)
            await anyio.sleep(3)
            store = store_of(url)
            store.topics["jobs"] = replace(store.topics["jobs"], partitions=2)
            store.make_stream("jobs", 1)
            took = await until(lambda: len(consumer.assignment) == 2)
            await consumer.stop()
        return took

    assert play(scenario, backend) < 10.1


@on_both
def test_failures_of_long_ago_do_not_slow_the_next_heartbeats_down(backend: Backend) -> None:
    """A lease is short: after the first failure it is tried again soon, however long the server was away before."""

    async def scenario(url: str) -> list[int]:
        await produce(url, 1)
        consumer = member(url)
        away, tries = False, list[int]()

        async def before(name: str) -> None:
            if away:
                if name == "heartbeat":
                    tries[-1] += 1
                raise ConnectionFailed(url, "for this test")

        hooked(consumer, url).before = before
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, nothing)
            await until(lambda: len(consumer.assignment) == 1)
            for seconds in (0.5, 30.0, 0.5):
                tries.append(0)
                away = True
                await until(lambda: tries[-1] > 0)
                await anyio.sleep(seconds)
                away = False
                await anyio.sleep(25)
            await consumer.stop()
        return tries

    for seed in range(3):
        short, long, short_again = play(scenario, backend, seed)
        assert 3 <= short <= 20
        assert 3 <= short_again <= 20
        assert long <= 20, "the longest pause is that between two heartbeats"


@on_both
def test_setbacks_of_long_ago_do_not_slow_the_next_change_down(backend: Backend) -> None:
    """The one that comes second looks again at once; only when that happens again and again does it rest."""

    async def scenario(url: str) -> list[float]:
        await produce(url, 1)
        consumer = member(url)
        setbacks, took = 0, list[float]()

        async def before(name: str) -> None:
            nonlocal setbacks
            if name == "commit" and setbacks:
                setbacks -= 1
                state = next(iter(store_of(url).coordination.values())).state
                assert state is not None
                state.version = f"somebody's {setbacks}"

        hooked(consumer, url).before = before
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, nothing)
            await until(lambda: len(consumer.assignment) == 1)
            for partitions, setbacks in ((2, 1), (3, 12), (4, 1)):  # noqa: B007 -- read by `before`
                grow_at(store_of(url), "jobs", partitions)
                took.append(await until(lambda: len(consumer.assignment) == len(took) + 2))
            await consumer.stop()
        return took

    for seed in range(3):
        once, often, once_again = play(scenario, backend, seed)
        assert once < 0.05
        assert often > 1.0
        assert once_again < 0.05


@on_both
def test_m5_a_member_that_was_taken_for_dead_joins_again_at_its_next_heartbeat(backend: Backend) -> None:
    """It has no partition whose end it would notice, and its lease would last for five more heartbeats."""

    async def scenario(url: str) -> float:
        await produce(url, 1)
        consumer, spare = member(url), member(url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, nothing)
            await until(lambda: len(consumer.assignment) == 1)
            members = store_of(url).coordination[GROUP].members
            (first,) = members
            tasks.start_soon(spare.process, nothing)
            await until(lambda: len(members) == 2)
            await anyio.sleep(1)
            (gone,) = set(members) - {first}
            del members[gone]
            took = await until(lambda: len(members) == 2)
            await spare.stop()
            await consumer.stop()
        return took

    assert play(scenario, backend) < 10.1


@on_both
def test_t3_what_a_broken_read_had_brought_is_handled_after_it_connects_again(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes had come, the read had not returned: the entries are recorded, so that no claim brings them a second time."""
    broke: list[int] = []
    read = MemoryReader.read

    async def read_that_breaks(self: MemoryReader, count: int, block: float) -> Any:
        entries = await read(self, count, block)
        if entries and not broke:
            broke.append(len(entries))
            self._leftover.extend(entries)
            raise ConnectionFailed("memory://noticing", "for this test")
        return entries

    monkeypatch.setattr(MemoryReader, "read", read_that_breaks)

    async def scenario(url: str) -> list[int]:
        await produce(url, 5)
        notebook = Notebook()
        with anyio.fail_after(60):
            await member(url).process(notebook.handle, until_empty=True)
        return notebook.numbers

    assert play(scenario, backend) == [0, 1, 2, 3, 4]
    assert broke == [5]


@on_both
def test_losses_are_looked_for_every_other_second_at_most(backend: Backend) -> None:
    async def scenario(url: str) -> list[float]:
        await produce(url, 1)
        consumer, looks = quick(url), list[float]()
        broker = hooked(consumer, url)

        async def before(name: str) -> None:
            if name == "sight":
                looks.append(anyio.current_time())

        broker.before = before
        async with Producer("jobs", url) as producer, anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, nothing)
            for number in range(200):
                await producer.enqueue({"n": number})
                await anyio.sleep(0.1)
            await consumer.stop()
        return looks[:-1]  # one more at the end of the partition

    looks = play(scenario, backend)
    assert len(looks) > 8
    assert min(after - one for one, after in itertools.pairwise(looks)) >= 2.0
