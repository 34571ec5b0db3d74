"""What a consumer's trimmer checks, when, and what it reports (E3). In virtual time."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from msgspec import structs

from redisaq import Consumer, Producer, events
from redisaq.actors import Supervisor
from redisaq.brokers.steps.administration import ViewStream
from redisaq.brokers.steps.retention import Keeping, ReadKeeping, Trim, Trimmed
from redisaq.brokers.terms import GroupName
from redisaq.consuming.owned import OwnedPartition
from redisaq.consuming.trimmer import Trimmer
from redisaq.errors import ServerError
from tests.actors.group import IN_VIRTUAL_TIME, Backend, Notebook, on_both, play, quick, store_of
from tests.actors.hooked import hooked
from tests.actors.scripted import around
from tests.unit.owning import owned_partition, read

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


# -- one trimmer whose server a test plays --------------------------------------------------------------------------------------------


class Played:
    """A trimmer for some partitions, with what the server says of the topic's retention."""

    def __init__(self, kept_for: float, owned: list[OwnedPartition]) -> None:
        self.keeping = Keeping(acked=True, now=0, kept_for=kept_for, idle=60.0, alone={})
        self.trimmed = [Trimmed()]
        self.member = SimpleNamespace(retention=True, on_retention=lambda: None)
        surroundings, self.broker, self.notebook = around(self.answer, group_name="main")
        self.trimmer = Trimmer(surroundings, cast("Any", self.member), lambda: owned)

    def answer(self, step: Any) -> Any:
        """Answer as the server does."""
        match step:
            case ViewStream():
                return SimpleNamespace(groups=["main", "away"])
            case ReadKeeping():
                return self.keeping
            case _:
                return self.trimmed.pop(0) if len(self.trimmed) > 1 else self.trimmed[0]

    def looks(self) -> list[float]:
        """Return when it looked at what is kept, counted from the first time."""
        times = self.broker.times(ViewStream)
        return [round(time - times[0], 6) for time in times]

    async def run(self, *seconds: float, between: Any = None) -> None:
        """Let it run for so long."""
        async with Supervisor() as supervisor:
            await supervisor.start(self.trimmer)
            for pause in seconds:
                await anyio.sleep(pause)
                if between is not None:
                    between()


@IN_VIRTUAL_TIME
@pytest.mark.parametrize(("kept_for", "pause"), [(0.1, 0.2), (0.8, 0.2), (2.0, 0.5), (20.0, 5.0), (100.0, 5.0)])
async def test_it_looks_again_after_a_quarter_of_the_time_for_which_all_is_kept(kept_for: float, pause: float) -> None:
    """E3: but five times a second at most, and every five seconds at least. What makes no progress is not looked at."""
    owned = owned_partition()
    played = Played(kept_for, [owned])
    played.trimmed = [Trimmed(later=True)]  # some entries are too young
    await played.run(4.5 * pause)
    assert played.looks() == pytest.approx([number * pause for number in range(5)])


@IN_VIRTUAL_TIME
async def test_what_is_trimmed_is_looked_at_when_it_has_moved_and_each_minute() -> None:
    owned, still = owned_partition(), owned_partition(partition=1)
    played = Played(2.0, [owned, still])
    await played.run(10.25, 60.0, between=lambda: read(owned, 1, 1) if len(played.looks()) == 1 else None)
    assert played.looks() == [0.0, 10.5, 60.0]
    trims = played.broker.of(Trim)
    assert [step.partition for step in trims] == [0, 1, 0, 0, 1]
    assert all(step.groups == ["away", "main"] for step in trims)
    assert [step.partition for step in played.broker.of(ViewStream)] == [0] * 3, "each group is in the first partition (G6)"
    assert [step.group.group for step in played.broker.of(ReadKeeping)] == ["away", "main"] * 3


@IN_VIRTUAL_TIME
async def test_what_one_step_cannot_trim_is_trimmed_by_the_next() -> None:
    played = Played(20.0, [owned_partition()])
    played.trimmed = [Trimmed(more=True), Trimmed(more=True, later=True), Trimmed()]
    await played.run(1.0)
    assert len(played.broker.of(Trim)) == 3
    assert played.looks() == [0.0]


@IN_VIRTUAL_TIME
async def test_a_member_without_partitions_asks_nothing_and_a_lost_retention_ends_it_until_it_is_heard_of_again() -> None:
    owned: list[OwnedPartition] = []
    played = Played(20.0, owned)
    await played.run(100.0)
    assert played.broker.asked == []
    owned.append(owned_partition())
    played = Played(20.0, owned)
    played.keeping = structs.replace(played.keeping, acked=False, alone={"away": 90.0})

    def again() -> None:
        played.keeping = structs.replace(played.keeping, acked=True)
        played.member.retention = True
        played.member.on_retention()

    await played.run(200.0, 1.0, between=again)
    assert played.looks() == [0.0, 200.0]
    assert len(played.broker.of(Trim)) == 1
    assert [(event.lapsed, event.alone) for event in played.notebook.of(events.GroupLapsed)] == [("away", 90.0)], "while it trims"


@IN_VIRTUAL_TIME
async def test_a_member_without_partitions_looks_less_and_less_often() -> None:
    played, times = Played(20.0, []), list[float]()

    def owned() -> list[OwnedPartition]:
        times.append(anyio.current_time())
        return []

    played.trimmer._owned = owned
    await played.run(20.0)
    assert [time - times[0] for time in times] == pytest.approx([0.0, 0.4, 1.2, 2.8, 6.0, 11.0, 16.0])
