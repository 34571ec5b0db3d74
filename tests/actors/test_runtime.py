"""What the runtime of a consumer makes for a partition, when it is ready, and what it counts."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq.consuming.handler_pool import BatchPool, LanePool, SerialPool
from redisaq.consuming.handling import Execution
from redisaq.consuming.owner import Ended, PartitionOwner
from redisaq.consuming.partitions import Acquire
from redisaq.consuming.pulling import PullPool
from redisaq.consuming.runtime import ConsumerRuntime, Plan, for_pulling
from redisaq.core.codec import EntryDecoder
from redisaq.settings import ConsumerSettings, RetryPolicy
from tests.actors.group import IN_VIRTUAL_TIME
from tests.actors.scripted import around

pytestmark = IN_VIRTUAL_TIME


def runtime_for(mode: Any, count: int, **settings: Any) -> ConsumerRuntime:
    surroundings, _, _ = around(**settings)
    return ConsumerRuntime(surroundings, Plan(mode, None, count, batch_size=count), EntryDecoder("jobs"), ())


def owner_of(runtime: ConsumerRuntime) -> PartitionOwner:
    lease = runtime.member.lease
    lease.begin(anyio.current_time())

    def ended(_ended: Ended) -> None:
        """Do nothing."""

    return runtime._owner_for(Acquire(3, 7, lease), ended)


@pytest.mark.parametrize(
    ("mode", "settings", "count", "kind", "window"),
    [
        ("one", {}, 10, SerialPool, 20),
        ("one", {"concurrency": 50}, 10, SerialPool, 20),
        ("one", {"ordering": "key"}, 10, LanePool, 20),
        ("one", {"ordering": "key", "concurrency": 50}, 10, LanePool, 100),
        ("one", {"ordering": "none"}, 1, LanePool, 2),
        ("one", {"ordering": "none", "concurrency": 2}, 1, LanePool, 4),
        ("batch", {"ordering": "key", "concurrency": 50}, 10, BatchPool, 20),
        ("pull", {"ordering": "key", "concurrency": 50}, 10, PullPool, 31),
    ],
)
async def test_two_reads_may_wait_or_twice_as_many_as_run_at_once(
    mode: Any, settings: Any, count: int, kind: type[Any], window: int
) -> None:
    """What is read here cannot be handled elsewhere. A loop may hold one read more, and one message, that it has not entered."""
    runtime = runtime_for(mode, count, **settings)
    owner = owner_of(runtime)
    flights = owner.owned.flights
    execution = Execution(runtime.around, owner.owned, None, timeout=None)
    assert isinstance(runtime._workers_for(execution), kind)
    assert flights.most_waiting(0) == window
    assert flights.coming == count
    assert (owner.owned.partition, owner.owned.token, flights.member) == (3, 7, runtime.member.lease.incarnation)
    assert owner.owned.may_start
    runtime.stop()
    assert not owner_of(runtime).owned.may_start, "no handler begins in what is taken while it ends"


async def test_a_loop_holds_as_many_as_one_read_brings_and_lets_no_lane_wait() -> None:
    settings = for_pulling(ConsumerSettings(batch_size=7, concurrency=3, retry=RetryPolicy(max_attempts=4, blocking=True)))
    assert (settings.concurrency, settings.retry) == (7, RetryPolicy(max_attempts=4, blocking=False))


@pytest.mark.parametrize("taken", ["before", "afterwards", "both"])
async def test_it_is_ready_once_all_of_its_first_partitions_are_taken(taken: str) -> None:
    runtime = runtime_for("one", 1)
    first = {"before": [0, 1], "afterwards": [], "both": [1]}[taken]
    for partition in first:
        runtime._taken(partition)
    assert not runtime._ready.is_set()
    runtime._assigned([0, 1])
    for partition in {0, 1} - set(first):
        assert not runtime._ready.is_set()
        runtime._taken(partition)
    assert runtime._ready.is_set()
    runtime._assigned([0, 1, 2])
    assert runtime._ready.is_set()


async def test_one_without_partitions_is_ready_at_once() -> None:
    runtime = runtime_for("one", 1)
    assert not runtime._ready.is_set()
    runtime._assigned([])
    assert runtime._ready.is_set()


async def test_who_waits_for_credit_gets_it_when_another_partition_is_taken() -> None:
    runtime = runtime_for("one", 1, ordering="none")
    concurrency = runtime.around.concurrency
    await concurrency.enter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(concurrency.enter)
        await anyio.wait_all_tasks_blocked()
        runtime._changed(1)
        assert concurrency.running == 1
        runtime._changed(2)
        assert concurrency.running == 2


async def test_nothing_is_counted_before_it_runs_and_all_of_what_has_ended() -> None:
    runtime = runtime_for("one", 1)
    assert runtime.counts() == (0, 0, 0)
    assert runtime.owned() == []
    assert not runtime.stopping
    for flights in (owner_of(runtime).owned, owner_of(runtime).owned):
        flights.flights.handled, flights.flights.failures, flights.flights.trimmed = 5, 3, 2
        with anyio.move_on_after(1):
            await runtime._ended(Ended(3, 7, "me", released=True), flights)
    assert runtime.counts() == (10, 6, 4)
    runtime.stop(urgent=True)
    assert runtime.stopping


async def test_stopping_gives_the_drain_timeout_and_less_if_it_becomes_urgent() -> None:
    runtime = runtime_for("one", 1, drain_timeout=5.0)
    began = anyio.current_time()
    ends: list[float] = []
    for urgent in (False, False, True, False, True):
        runtime.stop(urgent=urgent)
        ends.append(runtime._patience.deadline - began)
        await anyio.sleep(1)
    assert ends == [15.0, 15.0, 12.0, 12.0, 12.0]
