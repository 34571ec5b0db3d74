"""When the retry timer asks what is due, and what it makes of the answers. In virtual time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from redisaq import events
from redisaq.actors import Supervisor
from redisaq.brokers.steps.leases import Installed
from redisaq.brokers.steps.retrying import Due, SetAside, TakeDue
from redisaq.consuming import retry_timer
from redisaq.consuming.doorbell import ring
from redisaq.consuming.owned import OwnedPartition
from redisaq.consuming.retry_timer import RetryTimer
from redisaq.core.records import Body
from redisaq.errors import LeaseLostError
from tests.actors.group import IN_VIRTUAL_TIME
from tests.actors.scripted import Highest, Lowest, around
from tests.actors.test_hand_over import Workers
from tests.unit.owning import FIELDS, owned_partition, read

pytestmark = IN_VIRTUAL_TIME

TTL = 60.0


def in_seconds(seconds: float | None, **more: Any) -> Due:
    """Answer that nothing is due, and in how many seconds something will be."""
    now = 5_000_000
    return Due((), 0, None if seconds is None else now + round(seconds * 1e6), now, **more)


class Bench:
    """One timer with its partition and its workers; it runs for some seconds."""

    def __init__(self, answer: Callable[[Any], Any], random: Random | None = None, count: int = 3) -> None:
        surroundings, self.broker, self.notebook = around(answer, random=random)
        self.rung: list[OwnedPartition] = []
        self.owned = owned_partition(window=4, ring=self.rung.append)
        self.owned.lease.deadline = anyio.current_time() + 10 * TTL
        self.workers = Workers()
        self.timer = RetryTimer(surroundings, self.owned, self.workers.ref, count=count)
        self.ended = False

    async def run(self, seconds: float, *then: Callable[[], object]) -> None:
        """Let it run for so long, again after each call."""
        async with Supervisor() as supervisor:
            await supervisor.start(self.workers)
            await supervisor.start(self.timer)
            await anyio.sleep(seconds)
            for call in then:
                call()
                await anyio.sleep(seconds)
            (_, node) = supervisor.tree().children
            self.ended = node.status == "finished"

    @property
    def times(self) -> list[float]:
        """Return when it asked, counted from its first question."""
        times = self.broker.times(TakeDue)
        return [round(time - times[0], 6) for time in times]


async def test_it_asks_at_each_due_time_and_at_each_ring() -> None:
    answers = [in_seconds(0.25), in_seconds(0.0), in_seconds(-1.0), in_seconds(2.5), in_seconds(None), in_seconds(None)]
    bench = Bench(lambda _step: answers.pop(0))
    await bench.run(10, lambda: ring(bench.timer.ref))
    assert bench.times == [0.0, 0.25, 0.25, 0.25, 2.75, 10.0]


@pytest.mark.parametrize(("random", "seconds"), [(Lowest(), 0.75 * TTL), (Highest(), TTL)])
async def test_without_a_ring_it_asks_within_each_ttl(random: Random, seconds: float) -> None:
    """A notification may never come; not all partitions ask in the same moment."""
    answers = [in_seconds(None), in_seconds(3 * TTL), in_seconds(None)]
    bench = Bench(lambda _step: answers.pop(0), random)
    await bench.run(2.2 * seconds)
    assert bench.times == [0.0, seconds, 2 * seconds]


async def test_after_a_sweep_it_asks_at_once_and_then_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """G8: a sweep in vain means that another process has to make the topic again."""
    swept: list[int] = []

    async def sweep(_around: object, partition: int) -> None:
        await anyio.lowlevel.checkpoint()
        swept.append(partition)

    monkeypatch.setattr(retry_timer, "sweep", sweep)
    unswept = in_seconds(None, unswept=True)
    answers = [unswept, unswept, unswept, in_seconds(3.0), unswept, in_seconds(None)]
    bench = Bench(lambda _step: answers.pop(0))
    await bench.run(20)
    assert bench.times == [0.0, 0.0, 1.0, 2.0, 5.0, 5.0]
    assert swept == [0] * 4


async def test_what_is_due_goes_to_the_handlers_and_what_is_damaged_is_reported() -> None:
    damaged = Body(b"9-0", [b"color", b"red"], attempt=1)
    found = Due((Body(b"7-0", FIELDS, attempt=1), damaged), 0, None, 0, set_aside=(SetAside(b"8-0", "no body"),))
    answers = [found, in_seconds(None)]
    bench = Bench(lambda _step: answers.pop(0))
    await bench.run(1)
    assert [[flight.entry for flight in batch] for batch in bench.workers.got] == [[b"7-0"]]
    assert bench.rung == [bench.owned], "what cannot be read is to be settled"
    assert [(event.entry_id, event.reason, event.partition) for event in bench.notebook.of(events.EntryUnreadable)] == [
        ("8-0", "no body", 0)
    ]


async def test_it_asks_for_as_many_as_there_is_room_for_beside_those_in_hand() -> None:
    """S3: what is in flight is due, too, and would be named again."""
    answers = [Due((Body(b"7-0", FIELDS, attempt=1),), 0, None, 0), in_seconds(None)]
    bench = Bench(lambda _step: answers.pop(0))
    await bench.run(1, lambda: ring(bench.timer.ref))
    assert [step.count for step in bench.broker.of(TakeDue)] == [3, 4]


@pytest.mark.parametrize("closed", [True, False], ids=["paused", "full"])
async def test_it_asks_for_nothing_while_the_group_is_paused_or_there_is_no_room(*, closed: bool) -> None:
    bench = Bench(lambda _step: in_seconds(None))
    if closed:
        bench.owned.gate.move(closed=True)
    else:
        waiting = read(bench.owned, 1, 2)

    def go_on() -> None:
        if closed:
            bench.owned.gate.move(closed=False)
        else:
            bench.owned.flights.start(waiting[0])
            bench.owned.changed()

    await bench.run(1, go_on)
    began = bench.broker.times(TakeDue)
    assert len(began) == 1
    assert anyio.current_time() - began[0] == pytest.approx(1)


@pytest.mark.parametrize("left", ["to another", "to itself"])
async def test_a_refusal_ends_it_unless_a_seek_has_left_another_token(left: str) -> None:
    """S5."""
    asked: list[Any] = []

    def answer(step: Any) -> Any:
        if isinstance(step, TakeDue):
            asked.append(step.token)
            return LeaseLostError("another token is current") if len(asked) == 1 else in_seconds(None)
        if type(step).__name__ == "Resolve":
            return type("Answer", (), {"spent": left == "to itself"})
        if step.token == 1:
            return Installed(done=False, token=5, holder="me", moved=(b"0-0", b"0-0"))
        return Installed(done=True, token=5, holder="me")

    bench = Bench(answer)
    await bench.run(1)
    if left == "to itself":
        assert asked == [1, 5]
        assert not bench.owned.lost
        assert not bench.ended
    else:
        assert asked == [1]
        assert bench.owned.lost == "another token is current"
        assert bench.ended
