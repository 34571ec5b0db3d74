"""What a consumer's trimmer checks, when, and what it reports (E3). In virtual time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest

from redisaq import Consumer, Producer, events
from redisaq.brokers.terms import GroupName
from redisaq.consuming.trimmer import Trimmer
from redisaq.errors import ServerError
from tests.actors.group import Backend, Notebook, on_both, play, quick, store_of
from tests.actors.hooked import hooked

MAIN, AWAY = GroupName("jobs", "main"), GroupName("jobs", "away")
PATROL = 60.0


def lengths(url: str) -> list[int]:
    return [len(store_of(url).streams["jobs", partition]) for partition in range(2)]


def producer(url: str, **more: Any) -> Producer:
    return Producer("jobs", url, **{"init_partitions": 2, "retention": "acked", "send_timeout": 1.0, **more})


def member(url: str, group: str = "main", **more: Any) -> Consumer[Any]:
    return quick(url, group_name=group, **{"heartbeat_interval": 0.5, "heartbeat_ttl": 4.0, **more})


async def nothing(_message: object) -> None:
    """Do nothing."""


@on_both
def test_what_is_done_with_goes_once_it_is_old_enough_and_not_before(backend: Backend) -> None:
    """E3: twice the producers' time limit, and one entry before that stays."""

    async def scenario(url: str) -> list[list[int]]:
        seen: list[list[int]] = []
        consumer, looks = member(url), 0

        async def before(name: str) -> None:
            nonlocal looks
            looks += name == "keeping"

        hooked(consumer, url).before = before
        async with producer(url) as sender, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, nothing)
            await sender.batch_enqueue([{"n": n} for n in range(40)])
            for pause in (1.8, 1.2):
                await anyio.sleep(pause)
                seen.append(lengths(url))
            await consumer.stop()
        assert looks <= 3.0 / 0.5 + 2, "one look each quarter of the time for which all is kept"
        return seen

    assert play(scenario, backend) == [[20, 20], [1, 1]]


@on_both
def test_what_is_idle_is_looked_at_only_on_patrol(backend: Backend) -> None:
    async def scenario(url: str) -> tuple[int, int, int]:
        consumer, asked = member(url), Counter[str]()

        async def before(name: str) -> None:
            asked[name] += 1

        hooked(consumer, url).before = before
        async with producer(url) as sender, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, nothing)
            await sender.batch_enqueue([{"n": n} for n in range(40)])
            await anyio.sleep(10)
            first = asked["trim"]
            await anyio.sleep(PATROL - 20)
            second = asked["trim"]
            await anyio.sleep(3 * PATROL)
            third = asked["trim"]
            await consumer.stop()
        return first, second, third

    first, second, third = play(scenario, backend)
    assert first == second
    assert 3 * 2 <= third - second <= 4 * 2


@on_both
def test_what_another_group_does_is_noticed_on_patrol(backend: Backend) -> None:
    """Nothing moves here; a group that has never been in one of the streams lapses, and pins it no more."""

    async def scenario(url: str) -> tuple[list[int], list[int], list[str]]:
        told = Notebook()
        consumer = member(url, on_event=told.note)
        async with producer(url, retention_idle=90.0) as sender, anyio.create_task_group() as tasks:
            await member(url, "away").process(nothing, until_empty=True)
            store_of(url).forget_cursor(AWAY, 1)
            tasks.start_soon(consumer.process, nothing)
            await sender.batch_enqueue([{"n": n} for n in range(40)])
            await anyio.sleep(85)
            pinned = lengths(url)
            await anyio.sleep(10 + PATROL)
            lapsed = [event.lapsed for event in told.of(events.GroupLapsed)]
            await consumer.stop()
        return pinned, lengths(url), lapsed

    pinned, trimmed, lapsed = play(scenario, backend)
    assert pinned == [20, 20]
    assert trimmed == [1, 1]
    assert lapsed == ["away"]


@on_both
def test_a_group_that_comes_back_and_lapses_again_is_reported_again(backend: Backend) -> None:
    async def scenario(url: str) -> list[str]:
        told, consumer = Notebook(), None
        consumer = member(url, on_event=told.note)
        async with producer(url, retention_idle=20.0) as sender, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, nothing)
            for _ in range(2):
                await member(url, "away").process(nothing, until_empty=True)
                for _ in range(60):
                    await sender.enqueue({"n": 0})
                    await anyio.sleep(1)
            await consumer.stop()
        return [event.lapsed for event in told.of(events.GroupLapsed)]

    assert play(scenario, backend) == ["away", "away"]


@on_both
@pytest.mark.parametrize("step", ["trim", "keeping", "view_streams"])
def test_a_refusal_is_reported_once_until_it_is_over(backend: Backend, step: str) -> None:
    """Access rules may forbid it: then nothing is trimmed, and the work goes on."""

    async def scenario(url: str) -> tuple[list[int], list[int], int]:
        told, notebook, consumer = Notebook(), Notebook(), None
        consumer = member(url, on_event=told.note)
        refused = True

        async def before(name: str) -> None:
            if refused and name == step:
                raise ServerError(f"NOPERM no permission for {step}")

        hooked(consumer, url).before = before
        counts: list[int] = []
        untrimmed = 0
        async with producer(url) as sender, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, notebook.handle)
            for refused in (True, False, True):
                for n in range(20):
                    await sender.enqueue({"n": n})
                    await anyio.sleep(0.5)
                counts.append(len(told.of(events.TrimmingRefused)))
                untrimmed = untrimmed or sum(lengths(url))
                if not refused:
                    await anyio.sleep(5)
                    assert sum(lengths(url)) == 2
            await consumer.stop()
        assert all(step in event.reason for event in told.of(events.TrimmingRefused))
        return counts, [untrimmed], len(notebook.messages)

    assert play(scenario, backend) == ([1, 1, 2], [20], 60)


@on_both
def test_without_retention_nothing_is_looked_at(backend: Backend) -> None:
    async def scenario(url: str) -> tuple[Counter[str], int]:
        consumer, asked = member(url), Counter[str]()

        async def before(name: str) -> None:
            asked[name] += 1

        hooked(consumer, url).before = before
        async with producer(url, retention=None) as sender, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, nothing)
            await sender.batch_enqueue([{"n": n} for n in range(40)])
            await anyio.sleep(2 * PATROL)
            await consumer.stop()
        return asked, sum(lengths(url))

    asked, length = play(scenario, backend)
    assert not {"trim", "keeping", "view_streams"} & asked.keys()
    assert length == 40


@on_both
def test_a_spare_member_looks_seldom(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """It owns nothing, so there is nothing to trim; it looks again in case that changes."""
    looks = Counter[int]()
    look = Trimmer._look

    async def counted(trimmer: Trimmer) -> None:
        looks[len(trimmer._owned())] += 1
        await look(trimmer)

    monkeypatch.setattr(Trimmer, "_look", counted)

    async def scenario(url: str) -> None:
        async with producer(url, init_partitions=1) as sender, anyio.create_task_group() as tasks:
            await sender.connect()
            consumers = [member(url), member(url)]
            for consumer in consumers:
                tasks.start_soon(consumer.process, nothing)
            await anyio.sleep(10.0)
            looks.clear()
            await anyio.sleep(60.0)
            for consumer in consumers:
                await consumer.stop()

    play(scenario, backend)
    assert 10 <= looks[0] <= 14
