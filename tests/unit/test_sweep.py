"""The sweep of delayed messages after a growth, step by step (G3, G8). In virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redisaq.brokers.steps.growing import Adopt, DropAdopted, ReadSeal, ReplicateRun, SetSwept
from redisaq.brokers.steps.messages import ListDelayed, Scheduled, ScheduledPage
from redisaq.brokers.steps.topics import ReadTopic, TopicState
from redisaq.consuming.sweep import sweep
from redisaq.core.partitioner import partition_for
from redisaq.core.records import encode_delayed
from tests.actors.answering import Answering, surroundings_of
from tests.actors.group import TRIO_ALONE

pytestmark = TRIO_ALONE
STATE = TopicState(1, 4, history=(2, 4))


def key_of(partition: int) -> str:
    """Return a key that belongs to this one of four partitions."""
    return next(f"k{number}" for number in range(100) if partition_for(f"k{number}", 4) == partition)


def row(number: int, *words: str, body: bytes | None = b"") -> Scheduled:
    return Scheduled(b"m%d" % number, b"%d" % number, number, encode_delayed([word.encode() for word in words]) if body == b"" else body)


class Sweeping:
    """A broker of a topic that has grown, with delayed messages in partition 0."""

    def __init__(self, pages: Sequence[Sequence[Scheduled]]) -> None:
        self.pages = list(pages)
        self.state: TopicState | None = STATE
        self.run: str | None = "run"
        self.moves = True
        self.broker = Answering(self.answer)

    def answer(self, step: Any) -> Any:
        answers: dict[Any, Any] = {ReadTopic: self.state, ReadSeal: (), ReplicateRun: True, SetSwept: True}
        if isinstance(step, ListDelayed):
            return ScheduledPage(0, tuple(self.pages.pop(0)) if self.pages else ())
        if isinstance(step, Adopt):
            return self.run if self.moves or not step.rows else None
        if isinstance(step, DropAdopted):
            return len(step.ids)
        return answers[type(step)]

    async def sweep(self) -> list[Any]:
        """Return the steps that it took, but for those that settle the growth."""
        await sweep(surroundings_of(self.broker), 0)
        return [step for _, step in self.broker.steps if not isinstance(step, ReadTopic | ReadSeal)]


async def test_what_belongs_elsewhere_is_adopted_there_and_dropped_here_page_by_page() -> None:
    rows = [
        row(1, "i", "1", "d", "{}", "k", key_of(3)),
        row(2, "k", key_of(0), "d", "{}"),
        row(3, "i", "3", "d", "{}"),
        row(4, body=None),
        row(5, body=b"no words"),
        row(6, "k", key_of(2), "d", "{}"),
        row(7, "i", "7", "k", key_of(3), "d", "{}"),
    ]
    steps = await Sweeping([rows[:5], rows[5:]]).sweep()
    listed = [step for step in steps if isinstance(step, ListDelayed)]
    assert [(step.partition, step.last, step.count) for step in listed] == [(0, None, 200), (0, rows[4], 200), (0, rows[6], 200)]
    adopted = [step for step in steps if isinstance(step, Adopt)]
    assert [(step.partition, step.origin, [each[0] for each in step.rows], step.cuts) for step in adopted] == [
        (0, 0, [], 1),
        (3, 0, [b"m1"], 1),
        (2, 0, [b"m6"], 1),
        (3, 0, [b"m7"], 1),
    ]
    assert adopted[1].rows[0] == (b"m1", b"1", rows[0].body)
    dropped = [step for step in steps if isinstance(step, DropAdopted)]
    assert [(step.partition, list(step.ids), step.run) for step in dropped] == [
        (0, [b"m1"], "run"),
        (0, [b"m6"], "run"),
        (0, [b"m7"], "run"),
    ]
    assert steps[-1] == SetSwept("jobs", 0, 1, "run")


async def test_nothing_is_noted_where_the_topic_is_lost_or_has_grown_once_more() -> None:
    lost, grown, here = (Sweeping([[row(1, "k", key_of(3))]]) for _ in range(3))
    lost.state = None
    assert await lost.sweep() == []
    here.run = None
    assert [step.name for step in await here.sweep()] == ["adopt"]
    grown.moves = False
    assert [step.name for step in await grown.sweep()] == ["adopt", "list_delayed", "adopt"]


async def test_g8_nothing_is_adopted_for_another_server() -> None:
    sweeping = Sweeping([[row(1, "k", key_of(3))]])
    whole = sweeping.answer

    def another(step: Any) -> Any:
        if isinstance(step, ListDelayed):
            sweeping.broker.run_id = "another run"
        return whole(step)

    sweeping.broker.answer = another
    assert [step.name for step in await sweeping.sweep()] == ["adopt", "list_delayed"]
