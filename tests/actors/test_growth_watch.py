"""The watch over partitions that came by a growth: what it asks and when, what it opens and reports (G3, G4, G5). In virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from redisaq import events
from redisaq.actors import Supervisor
from redisaq.brokers.steps.growing import NameStream, OpenBarrier, Passed, ReadBarrier, ReadPassed
from redisaq.brokers.steps.settling import Resolve, Resolved
from redisaq.brokers.steps.topics import ReadTopic, TopicState
from redisaq.consuming.doorbell import ring
from redisaq.consuming.gate import Gate
from redisaq.consuming.growth_watch import GrowthWatch
from redisaq.consuming.member import Member
from redisaq.consuming.owned import Barrier, OwnedPartition
from tests.actors.answering import Answering, surroundings_of
from tests.actors.group import TRIO_ALONE, Notebook
from tests.unit.owning import owned_partition

pytestmark = TRIO_ALONE


class Growing:
    """A member of a group whose topic has grown, and its watch."""

    def __init__(self, history: tuple[int, ...], *owned: int, passed: bool | None = False) -> None:
        self.began = anyio.current_time()
        self.notebook = Notebook()
        self.passed: Callable[[ReadPassed], Passed] = lambda _: Passed(False)
        self.opens: Callable[[OpenBarrier], bool] = lambda _: True
        self.opened, self.state, self.lost = 0, TopicState(len(history), history[-1], history=history), False
        self.broker = Answering(self.answer)
        self.around = surroundings_of(self.broker, self.notebook)
        self.around.history = history
        self.member = Member(None, 60.0, self.around.environment)
        self.member.topic = self.state
        self.owned = [self.behind(partition, passed) for partition in owned]
        self.watch = GrowthWatch(self.around, self.member, lambda: self.owned)

    def behind(self, partition: int, passed: bool | None) -> OwnedPartition:
        owned = owned_partition(partition=partition, token=70 + partition)
        owned.wait_behind(Barrier(self.began, passed), Gate(closed=not passed))
        return owned

    def answer(self, step: Any) -> Any:
        answers: dict[Any, Callable[[], Any]] = {
            ReadPassed: lambda: self.passed(step),
            ReadBarrier: lambda: self.opened,
            OpenBarrier: lambda: self.opens(step),
            ReadTopic: lambda: None if self.lost else self.state,
            Resolve: lambda: Resolved(False, 99),
            NameStream: lambda: step.history,
        }
        return answers.get(type(step), lambda: None)()

    def asked(self) -> tuple[list[float], list[tuple[int, int, bytes]]]:
        """Return when and about which partitions it asked since the last call, for which growth and with what it knew."""
        found = [
            (time - self.began, (step.partition, step.growth, step.known))
            for time, step in self.broker.steps
            if isinstance(step, ReadPassed) and not step.most
        ]
        self.broker.steps.clear()
        return [time for time, _ in found], [step for _, step in found]

    @property
    def open(self) -> list[int]:
        return [owned.partition for owned in self.owned if not owned.gate.closed]


async def test_it_asks_less_and_less_often_and_at_once_where_there_is_progress() -> None:
    """G4, G5: about the one that it waits for, naming the message; then about all; and once more about all before it opens."""
    growing = Growing((3, 6), 4, 5)
    done = {0}
    growing.passed = lambda step: Passed(True) if step.partition in done else Passed(False, 1, b"%d-0" % step.partition)
    async with Supervisor() as supervisor:
        ref = await supervisor.start(growing.watch)
        await anyio.sleep(2.5)
        times, asked = growing.asked()
        later = [0.03, 0.075, 0.1425, 0.24375, 0.395625, 0.623437, 0.965156, 1.465156, 1.965156, 2.465156]
        assert times == pytest.approx([0.0] * 4 + later, abs=1e-5)
        assert asked == [(0, 1, b""), (1, 1, b""), (2, 1, b""), *[(1, 1, b"1-0")] * 11]
        assert [owned.barrier.waiting_for for owned in growing.owned if owned.barrier is not None] == [1, 1]
        done.add(1)
        await anyio.sleep(0.53)
        times, asked = growing.asked()
        assert times == pytest.approx([2.965156] * 3 + [2.995156], abs=1e-5), "and soon again"
        assert asked == [(1, 1, b"1-0"), (2, 1, b""), (2, 1, b"2-0"), (2, 1, b"2-0")]
        assert growing.open == []
        done.add(2)
        await anyio.sleep(10.0)
        times, asked = growing.asked()
        assert times == pytest.approx([3.040156] * 4, abs=1e-5)
        assert asked == [(2, 1, b"2-0"), (0, 1, b""), (1, 1, b""), (2, 1, b"")]
        assert growing.open == [4, 5]
        told = growing.notebook.of(events.PartitionOpened)
        assert [(event.partition, event.token, round(event.waited, 3)) for event in told] == [(4, 74, 3.04), (5, 75, 3.04)]
        for owned in growing.owned:
            barrier = owned.barrier
            assert barrier is not None
            assert (barrier.passed, barrier.waiting_for, barrier.messages) == (True, None, None)
        await supervisor.stop(ref)


async def test_what_waits_is_reported_after_ten_seconds_and_then_each_minute() -> None:
    growing = Growing((1, 4), 2, 3)
    counts = iter([3, 2])
    growing.passed = lambda step: Passed(False, next(counts) if step.most else 1, b"7-1")
    (first, one), (second, other) = waiting = growing.watch._behind_barriers()
    now = growing.began
    growing.around.environment = type(growing.around.environment)(clock=lambda: now)
    other.since += 0.5
    for seconds in (0.0, 9.99, 10.0, 10.25, 10.5, 69.99, 70.0):
        now = growing.began + seconds
        await growing.watch._tell_waiting(1, 0, waiting)
        if seconds == 10.25:
            counts = iter([3, 2])
            assert (one.messages, other.messages, one.waiting_for, other.waiting_for) == (3, None, 0, 0)
    assert [
        (event.partition, event.token, event.waiting_for, event.messages, event.oldest, round(event.waited, 3))
        for event in growing.notebook.of(events.PartitionWaiting)
    ] == [(2, 72, 0, 3, "7-1", 10.0), (3, 73, 0, 3, "7-1", 10.0), (2, 72, 0, 2, "7-1", 70.0)]
    assert (first.partition, second.partition, one.messages) == (2, 3, 2)
    assert [step.most for step in growing.broker.of(ReadPassed)] == [1000] * 3
    growing.passed = lambda _: Passed(True)
    now = growing.began + 500.0
    await growing.watch._tell_waiting(1, 0, waiting)
    assert len(growing.notebook.of(events.PartitionWaiting)) == 3, "it is worked off meanwhile"


async def test_each_growth_waits_for_what_was_there_before_it() -> None:
    """G4: a growth is opened when it may be, whatever a later one waits for; and that is asked about soon again."""
    growing = Growing((1, 2, 3), 1, 2)
    done = set[tuple[int, int]]()
    growing.passed = lambda step: Passed((step.partition, step.growth) in done, 1, b"1-0")
    async with Supervisor() as supervisor:
        ref = await supervisor.start(growing.watch)
        await anyio.sleep(2.0)
        growing.asked()
        done.add((0, 1))
        await anyio.sleep(0.51)
        times, asked = growing.asked()
        assert times == pytest.approx([2.465156] * 3 + [2.495156], abs=1e-5)
        assert asked == [(0, 1, b"1-0"), *[(0, 2, b"1-0")] * 3]
        assert growing.open == [1]
        done |= {(0, 2), (1, 2)}
        await anyio.sleep(1.0)
        assert growing.asked()[1] == [(0, 2, b"1-0"), (1, 2, b"")]
        assert growing.open == [1, 2]
        await supervisor.stop(ref)


async def test_a_growth_of_which_no_heartbeat_has_told_is_waited_for() -> None:
    growing = Growing((1, 2), 1, 2)
    growing.passed = lambda _: Passed(True)
    async with Supervisor() as supervisor:
        ref = await supervisor.start(growing.watch)
        await anyio.sleep(1.0)
        assert growing.open == [1]
        growing.around.history = (1, 2, 3)
        await anyio.sleep(1.0)
        assert growing.open == [1, 2]
        await supervisor.stop(ref)


@pytest.mark.parametrize(("opened", "open_at_once"), [(0, False), (1, True), (2, True)])
async def test_where_it_is_not_sure_it_asks_whether_the_group_has_opened_the_partition(*, opened: int, open_at_once: bool) -> None:
    growing = Growing((1, 2), 1, passed=None)
    growing.opened = opened
    async with Supervisor() as supervisor:
        ref = await supervisor.start(growing.watch)
        await anyio.sleep(0.01)
        assert growing.open == [1] * open_at_once
        assert growing.asked() == (([], []) if open_at_once else ([0.0], [(0, 1, b"")])), "and then it waits for it at once"
        await supervisor.stop(ref)


async def test_a_pause_closes_what_was_open_and_asks_again_afterwards() -> None:
    growing = Growing((1, 3), 1, 2)
    growing.passed = lambda _: Passed(True)
    growing.opened = 1
    async with Supervisor() as supervisor:
        ref = await supervisor.start(growing.watch)
        await anyio.sleep(1.0)
        assert growing.open == [1, 2]
        growing.owned[1].barrier = Barrier(growing.began, passed=False)
        growing.owned[1].gate.move(closed=True)
        growing.broker.steps.clear()
        growing.around.gate.move(closed=True)
        assert growing.open == []
        assert [owned.barrier.passed for owned in growing.owned if owned.barrier is not None] == [None, False]
        await anyio.sleep(10.0)
        assert growing.broker.steps == []
        growing.passed = lambda _: Passed(False)
        growing.around.gate.move(closed=False)
        await anyio.sleep(0.01)
        assert [step.partition for step in growing.broker.of(ReadBarrier)] == [1], "of the other it is known"
        assert growing.open == [1]
        await supervisor.stop(ref)


async def test_nothing_that_was_found_before_a_pause_counts_after_it() -> None:
    growing = Growing((3, 4), 3)
    growing.passed = lambda step: Passed(step.partition == 0, 1, b"7-0")
    async with Supervisor() as supervisor:
        ref = await supervisor.start(growing.watch)
        await anyio.sleep(1.0)
        growing.around.gate.move(closed=True)
        await anyio.sleep(1.0)
        growing.asked()
        growing.around.gate.move(closed=False)
        await anyio.sleep(0.01)
        assert growing.asked()[1][0] == (0, 1, b""), "an administrator may have moved the group"
        await supervisor.stop(ref)


async def test_what_cannot_be_opened_under_its_token_is_lost() -> None:
    growing = Growing((1, 3), 1, 2)
    growing.passed, growing.opens = lambda _: Passed(True), lambda step: step.partition == 2
    async with Supervisor() as supervisor:
        ref = await supervisor.start(growing.watch)
        await anyio.sleep(1.0)
        assert growing.open == [2]
        assert [owned.lost for owned in growing.owned] == ["another token is current", ""]
        assert [(step.partition, step.token, step.growth) for step in growing.broker.of(OpenBarrier)] == [(1, 71, 1), (2, 72, 1)]
        await supervisor.stop(ref)


@pytest.mark.parametrize("meanwhile", ["nothing", "completed", "lost", "another"])
async def test_a_growth_that_nobody_completes_for_five_seconds_is_completed_here(meanwhile: str) -> None:
    """G3. A ring does not hasten it."""
    growing = Growing((1,))
    began = anyio.current_time()
    growing.member.topic = growing.state = TopicState(3, 2, history=(1, 2), pending=4)

    async with Supervisor() as supervisor:
        ref = await supervisor.start(growing.watch)
        await anyio.sleep(4.5)
        ring(growing.watch.ref)
        await anyio.sleep(0.25)
        assert growing.broker.steps == []
        if meanwhile == "completed":
            growing.member.topic = TopicState(4, 4, history=(1, 2, 4))
            ring(growing.watch.ref)
        elif meanwhile == "another":
            growing.state = TopicState(4, 4, history=(1, 2, 4), pending=5)
        growing.lost = meanwhile == "lost"
        await anyio.sleep(0.5)
        times = [round(time - began, 3) for time, _ in growing.broker.steps]
        names = {type(step).__name__ for _, step in growing.broker.steps}
        if meanwhile == "completed":
            assert times == []
        else:
            assert set(times) == {5.0}
            assert ("NameStream" in names) == (meanwhile == "nothing")
        growing.lost = True
        growing.broker.steps.clear()
        await anyio.sleep(10.0)
        assert growing.broker.times(ReadTopic) == ([] if meanwhile == "completed" else [round(began + 15.0, 6)]), "and later again"
        await supervisor.stop(ref)


async def test_two_growths_that_are_announced_each_have_their_time() -> None:
    growing = Growing((1,))
    began = anyio.current_time()
    growing.lost = True
    async with Supervisor() as supervisor:
        ref = await supervisor.start(growing.watch)
        for generation, seconds in ((1, 3.0), (2, 3.0), (3, 4.9)):
            growing.member.topic = TopicState(generation, 1, pending=2)
            ring(growing.watch.ref)
            await anyio.sleep(seconds)
        assert growing.broker.steps == []
        await anyio.sleep(0.2)
        assert growing.broker.times(ReadTopic) == [round(began + 11.0, 6)]
        await supervisor.stop(ref)


async def test_a_growth_that_the_server_has_forgotten_is_asked_for_once() -> None:
    """G9."""
    growing = Growing((1, 2))
    growing.lost, growing.member.forgotten = True, True
    async with Supervisor() as supervisor:
        ref = await supervisor.start(growing.watch)
        await anyio.sleep(1.0)
        ring(growing.watch.ref)
        await anyio.sleep(1.0)
        assert len(growing.broker.of(ReadTopic)) == 1
        assert not growing.member.forgotten
        await supervisor.stop(ref)
