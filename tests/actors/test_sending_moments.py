"""When a producer tries again, what it asks for by the way, and how exactly its time is up. In virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from redisaq import Producer
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.producing import Confirm
from redisaq.brokers.steps.topics import NoteHeldUp
from redisaq.core.partitioner import partition_for
from redisaq.environment import current_environment, use_environment
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, QueueFull, ServerError
from tests.actors.group import play, store_of
from tests.actors.hooked import HookedBroker
from tests.actors.test_sending import Wire, ids_in, opened
from tests.changing_steps import Do, change_step
from tests.link_chance import Longest

MOVED = next(f"k{number}" for number in range(100) if partition_for(f"k{number}", 2) == 1)
"""A key that leaves partition 0 when a topic of one partition grows to two."""


def test_what_the_first_call_asks_for_and_what_a_later_one() -> None:
    async def scenario(url: str) -> list[list[str]]:
        producer, asked = Producer("jobs", url), list[list[str]]()
        wire = Wire(url, producer)
        for pause in (0.0, 0.4, 0.2):
            await anyio.sleep(pause)
            await producer.enqueue({"n": 0})
            asked.append(wire.asked)
            wire.asked = []
        await producer.close()
        return asked

    assert play(scenario, "asyncio") == [["connect", "make_topic", "anchors", "append"], ["append"], ["topic", "append"]]


def test_the_bound_of_the_pauses_doubles_up_to_two_seconds() -> None:
    async def scenario(url: str) -> list[float]:
        with use_environment(replace(current_environment(), random=Longest(0))):
            producer, _, _ = await opened(url, send_timeout=30.0)
            began, times = anyio.current_time(), list[float]()
            broker = producer._access.broker
            assert isinstance(broker, HookedBroker)

            async def before(name: str) -> None:
                if name == "append":
                    times.append(anyio.current_time() - began)
                    if len(times) < 9:
                        raise ConnectionFailed(url, "for this test")

            broker.before = before
            await producer.enqueue({"n": 1})
            assert producer.statistics().retried == 8
            await producer.close()
            return times

    assert play(scenario, "asyncio") == pytest.approx([0.0, 0.05, 0.15, 0.35, 0.75, 1.55, 3.15, 5.15, 7.15])


def test_growing_pauses_like_that_too_and_what_it_learns_is_used_at_once() -> None:
    async def scenario(url: str) -> tuple[list[float], list[str], int]:
        with use_environment(replace(current_environment(), random=Longest(0))):
            producer, wire, _ = await opened(url)
            began, times = anyio.current_time(), list[float]()
            broker = producer._access.broker
            assert isinstance(broker, HookedBroker)

            async def before(name: str) -> None:
                wire.asked.append(name)
                if name == "announce":
                    times.append(anyio.current_time() - began)
                    if len(times) < 4:
                        raise ConnectionFailed(url, "for this test")

            broker.before = before
            assert await producer.request_partition_increase(4) == 4
            assert producer.statistics().retried == 3
            assert producer.statistics().partitions == 4
            wire.asked = []
            await producer.batch_enqueue([{"n": n} for n in range(4)])
            asked = wire.asked
            await producer.close()
            return times, asked, sum(len(ids_in(url, partition)) for partition in range(1, 4))

    times, asked, elsewhere = play(scenario, "asyncio")
    assert times == pytest.approx([0.0, 0.05, 0.15, 0.35])
    assert (asked, elsewhere) == (["anchors", "append"], 3)


def test_a_growth_that_cannot_succeed_is_not_tried_again() -> None:
    async def scenario(url: str) -> None:
        producer, _, _ = await opened(url)
        broker = producer._access.broker
        assert isinstance(broker, HookedBroker)

        async def before(name: str) -> None:
            raise ConnectionFailed(url, "for this test", permanent=True)

        broker.before = before
        began = anyio.current_time()
        with pytest.raises(ConnectionFailed, match="for this test"):
            await producer.request_partition_increase(4)
        assert anyio.current_time() == began
        assert producer.statistics().retried == 0
        broker.before = broker.after
        await producer.close()

    play(scenario, "asyncio")


@pytest.mark.parametrize("step", ["kill", "find"])
def test_each_step_that_breaks_is_followed_by_a_pause(step: str) -> None:
    async def scenario(url: str) -> tuple[int, bool]:
        producer, wire, _ = await opened(url)
        wire.breaks = {"append": 1, step: 2}
        began = anyio.current_time()
        await producer.enqueue({"n": 1})
        retried, paused = producer.statistics().retried, anyio.current_time() > began
        await producer.close()
        return retried, paused

    assert play(scenario, "asyncio") == (3, True)


def test_a_call_whose_time_was_up_broke_no_connection() -> None:
    """What it sent arrives before anything that is sent after it, or the link kills it: the next call has nothing to kill."""

    async def scenario(url: str) -> list[str]:
        producer, wire, _ = await opened(url, send_timeout=10.0)
        broker = producer._access.broker
        assert isinstance(broker, HookedBroker)
        whole = broker.before

        async def before(name: str) -> None:
            await whole(name)
            if name == "append":
                broker.before = whole
                await anyio.sleep(10.0)
                error = ConnectionFailed(url, "no answer within the time of the call", maybe_executed=True, silent=True)
                error.connections = ((9, "there", broker.run_id),)
                raise error

        broker.before = before
        with pytest.raises(AmbiguousEnqueueError):
            await producer.enqueue({"n": 1})
        await producer.enqueue({"n": 2})
        await producer.close()
        return wire.steps()

    assert play(scenario, "asyncio") == ["append", "append"]


def test_closing_a_producer_ends_a_call_that_waits_for_an_earlier_one_at_once() -> None:
    async def scenario(url: str) -> list[tuple[float, str]]:
        producer, wire, _ = await opened(url)
        wire.breaks = {"append": 1, "kill": 1 << 30}
        ended: list[tuple[float, str]] = []

        async def call(n: int) -> None:
            try:
                await producer.enqueue({"n": n})
            except (ConnectionFailed, AmbiguousEnqueueError) as error:
                ended.append((anyio.current_time() - closed, str(error)))

        closed = -1.0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, 1)
            while wire.breaks["append"]:
                await anyio.lowlevel.checkpoint()
            tasks.start_soon(call, 2)
            await anyio.sleep(3.0)
            closed = anyio.current_time()
            await producer.close()
        return ended

    (first, later), (second, last) = play(scenario, "asyncio")
    assert first == 0.0
    assert 0.0 <= second <= 2.0
    assert "the result of an earlier call of this producer is still unknown" in later
    assert "closed" in last


@pytest.mark.parametrize(("window", "looks"), [(59.9, True), (60.0, False), (75.0, False)])
def test_e7_a_mark_is_sure_to_last_if_its_window_is_twice_the_time_of_a_call(window: float, *, looks: bool) -> None:
    async def scenario(url: str) -> list[str]:
        producer, wire, _ = await opened(url, send_timeout=30.0)
        wire.breaks = {"append_once": 1}
        await producer.enqueue({"n": 1}, dedup_id="a", dedup_window=window)
        await producer.close()
        return wire.steps()

    assert play(scenario, "asyncio") == (["append_once", "kill", "find"] if looks else ["append_once"] * 2)


@pytest.mark.parametrize(("later", "looks"), [(0.0, 1), (3699.5, 1), (3700.5, 0)])
def test_e7_a_mark_is_looked_for_at_a_former_place_for_its_window_and_an_hour(later: float, looks: int) -> None:
    """So much may the clocks differ."""

    async def scenario(url: str) -> int:
        producer, wire, _ = await opened(url)
        assert await producer.request_partition_increase(2) == 2
        grown = store_of(url).topics["jobs"].grown / 1000
        await anyio.sleep(grown - current_environment().wall_clock() + later)
        wire.asked = []
        await producer.enqueue({"n": 1}, dedup_id=MOVED, dedup_window=100.0)
        await producer.close()
        return wire.asked.count("read_mark")

    assert play(scenario, "asyncio") == looks


def test_c7_what_may_be_there_already_is_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a look found, and what a mark names, at its former place, too."""
    confirmed: list[int] = []

    async def confirm(step: Confirm, do: Do) -> Any:
        confirmed.append(step.partition)
        return await do(step)

    change_step(monkeypatch, Confirm, confirm)

    async def scenario(url: str) -> list[list[int]]:
        producer, wire, _ = await opened(url)
        found: list[list[int]] = []

        async def enqueue(**more: Any) -> str:
            confirmed.clear()
            sent = await producer.enqueue({"n": 1}, **more)
            found.append(confirmed[:])
            return sent

        first = await enqueue(dedup_id=MOVED, dedup_window=100.0)
        producer._sender._confirmed = True
        assert await enqueue(dedup_id=MOVED, dedup_window=100.0) == first
        wire.breaks = {"append": 1}
        await enqueue()
        await enqueue()
        assert await producer.request_partition_increase(2) == 2
        assert await enqueue(dedup_id=MOVED, dedup_window=100.0) == first
        await producer.close()
        return found

    assert play(scenario, "asyncio") == [[], [0], [0], [], [0]]


def test_a_producer_that_is_held_up_says_so_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[tuple[float, Step[Any]]] = []

    async def note(step: NoteHeldUp, do: Do) -> Any:
        noted.append((anyio.current_time(), step))
        return await do(step)

    change_step(monkeypatch, NoteHeldUp, note)

    async def scenario(url: str) -> float:
        async with Producer("jobs", url, max_backlog=2, send_timeout=25.0) as producer:
            await producer.batch_enqueue([{"n": 0}, {"n": 1}])
            began = anyio.current_time()
            with pytest.raises(QueueFull, match=r"partition 0 of jobs still holds 2 waiting messages \(max_backlog 2\)"):
                await producer.enqueue({"n": 2})
            with pytest.raises(QueueFull, match="3 messages for one partition of jobs: max_backlog allows 2 in all"):
                await producer.batch_enqueue([{"n": n} for n in range(3)])
        return began

    began = play(scenario, "asyncio")
    assert [time - began for time, _ in noted] == pytest.approx([0.0, 10.3, 20.6], abs=0.5)
    assert {step for _, step in noted} == {NoteHeldUp("jobs", 0, 2)}


def test_a_topic_that_is_lost_is_made_again_as_it_was_last_known() -> None:
    async def scenario(url: str) -> int:
        producer, _, _ = await opened(url)
        assert await producer.request_partition_increase(3) == 3
        store_of(url).flush()
        await producer.enqueue({"n": 1})
        await producer.close()
        return store_of(url).topics["jobs"].partitions

    assert play(scenario, "asyncio") == 3


def test_e4_a_caller_that_leaves_holds_up_nobody_any_more() -> None:
    async def scenario(url: str) -> tuple[float, list[str]]:
        producer, wire, first = await opened(url)
        wire.executed = False
        wire.breaks = {"append": 1, "kill": 1 << 30}
        later: list[tuple[float, str]] = []

        async def leave() -> None:
            with anyio.move_on_after(3.0) as scope:
                await producer.enqueue({"n": 1})
            assert scope.cancelled_caught

        async def call() -> None:
            sent = await producer.enqueue({"n": 2})
            later.append((anyio.current_time(), sent))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
            await anyio.sleep(1.0)
            tasks.start_soon(call)
            await anyio.sleep(2.5)
            wire.breaks = {}
        ((when, sent),) = later
        assert ids_in(url)[0] == first
        assert ids_in(url)[-1] == sent
        await producer.close()
        return when, wire.steps()[-2:]

    when, last = play(scenario, "asyncio")
    assert when < 10.0
    assert last == ["kill", "append"]


def test_e6_a_cut_that_a_growth_explains_makes_no_streams() -> None:
    async def scenario(url: str) -> list[str]:
        producer, wire, _ = await opened(url)
        async with Producer("jobs", url) as other:
            assert await other.request_partition_increase(2) == 2
        wire.asked = []
        await producer.enqueue({"n": 1}, key=MOVED)
        assert len(ids_in(url, 1)) == 1
        await producer.close()
        return wire.asked

    asked = play(scenario, "asyncio")
    assert asked[0] == "append"
    assert asked[-1] == "append"
    assert "make_topic" not in asked


def test_e2_after_a_failover_anchors_are_learned_from_the_server_that_took_over() -> None:
    async def scenario(url: str) -> list[str]:
        producer, wire, _ = await opened(url)
        store_of(url).run_id = "another"
        await producer.enqueue({"n": 1})
        await anyio.sleep(1.0)
        wire.asked = []
        await producer.enqueue({"n": 2})
        await producer.close()
        return wire.asked

    assert play(scenario, "asyncio") == ["topic", "anchors", "append"]


def test_a_refusal_of_a_part_says_which_part_is_there() -> None:
    async def scenario(url: str) -> Any:
        producer, _, _ = await opened(url)
        broker = producer._access.broker
        assert isinstance(broker, HookedBroker)

        async def after(name: str) -> None:
            if name == "append":
                raise ServerError("OOM the server is full", appended=[b"7-0", None])

        broker.after = after
        with pytest.raises(ServerError, match="OOM") as caught:
            await producer.batch_enqueue([{"n": 1}, {"n": 2}])
        await producer.close()
        return caught.value.appended

    assert play(scenario, "asyncio") == [b"7-0", None]
