"""Cancelling the task that holds the block: every on_stop has run, no task is left, and the cancellation propagates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint

from redisaq.actors import Supervisor
from redisaq.testing import virtual_run
from tests.actors.kernel import QUICK, Recorder, until

pytestmark = pytest.mark.anyio


class Flusher(Recorder):
    """Its on_stop takes some time."""

    async def on_stop(self) -> None:
        for _ in range(20):
            await checkpoint()
        self.note("stop")


STOPS = [("c", "stop"), ("b", "stop"), ("a", "stop")]


async def three(log: list[Any], ready: Callable[[], None]) -> None:
    """Hold a supervisor with three actors: one busy, one that fails and starts again all the time, one idle."""
    async with Supervisor() as supervisor:
        busy = await supervisor.start(Flusher(log, name="a"))
        await busy.tell(anyio.sleep_forever)
        await supervisor.start(Flusher(log, name="b", restart=QUICK))
        await supervisor.start(Flusher(log, name="c"))
        ready()
        await anyio.sleep_forever()


def names_of_tasks() -> set[str]:
    return {task.name or "" for task in anyio.get_running_tasks()}


async def test_a_scope_around_it() -> None:
    log: list[Any] = []
    async with anyio.create_task_group() as tasks:
        ready = anyio.Event()
        tasks.start_soon(three, log, ready.set)
        await ready.wait()
        await until(lambda: {"supervisor", "supervisor/a", "supervisor/b", "supervisor/c"} <= names_of_tasks())
        tasks.cancel_scope.cancel()
    assert [entry for entry in log if entry[1] == "stop"] == STOPS
    assert not any(name.startswith("supervisor") for name in names_of_tasks())


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_native_cancellation_twice(steps: int, anyio_backend: tuple[str, dict[str, Any]]) -> None:
    """The second one hits the task while it waits for the actors to end."""
    if anyio_backend[0] != "asyncio":
        pytest.skip("trio has no such thing")
    log: list[Any] = []
    ready = asyncio.Event()
    task = asyncio.ensure_future(three(log, ready.set))
    await ready.wait()
    await until(lambda: len(names_of_tasks()) >= 4)
    task.cancel()
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert [entry for entry in log if entry[1] == "stop"] == STOPS
    assert not any(name.startswith("supervisor") for name in names_of_tasks())


@pytest.mark.parametrize("steps", range(0, 24, 2))
async def test_cancelled_while_it_leaves(steps: int) -> None:
    """Leaving takes its time, since one actor is busy; cancelling ends that."""
    log: list[Any] = []
    async with anyio.create_task_group() as tasks:

        async def hold() -> None:
            async with Supervisor(stop_timeout=1000) as supervisor:
                await supervisor.start(Flusher(log, name="a"))
                ref = await supervisor.start(Flusher(log, name="b"))
                await supervisor.start(Flusher(log, name="c"))
                await ref.tell(anyio.sleep_forever)
            log.append("not reached")

        tasks.start_soon(hold)
        await until(lambda: ("c", "start") in log)
        for _ in range(steps):
            await checkpoint()
        tasks.cancel_scope.cancel()
    assert log[-3:] == STOPS


async def cancel_while_it_starts(steps: int) -> None:
    log: list[Any] = []

    class Slow(Flusher):
        async def on_start(self) -> None:
            for _ in range(3):
                await checkpoint()
            self.note("start")

    async def hold() -> None:
        async with Supervisor() as supervisor:
            for name in "abc":
                await supervisor.start(Slow(log, name=name))
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        for _ in range(steps):
            await checkpoint()
        tasks.cancel_scope.cancel()
    started = [name for name, what in log if what == "start"]
    assert [name for name, what in log if what == "stop"] == started[::-1]


@pytest.mark.parametrize("steps", range(0, 20, 2))
async def test_cancelled_while_it_starts(steps: int) -> None:
    """Exactly the actors whose on_start succeeded get their on_stop, and the block ends only with the cancellation."""
    await cancel_while_it_starts(steps)


async def test_on_stop_is_bounded_under_cancellation() -> None:
    class Stuck(Recorder):
        async def on_stop(self) -> None:
            self.note("stopping")
            await anyio.sleep_forever()

    log: list[Any] = []
    with anyio.fail_after(10), anyio.CancelScope() as scope:
        async with Supervisor(stop_timeout=0.05) as supervisor:
            for name in "ab":
                await supervisor.start(Stuck(log, name=name))
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert log[-2:] == [("b", "stopping"), ("a", "stopping")]


async def test_one_that_cannot_be_cancelled_does_not_keep_the_others_running() -> None:
    log: list[Any] = []
    release = anyio.Event()

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            log.append("held")
            await release.wait()

    async with anyio.create_task_group() as tasks:

        async def hold() -> None:
            async with Supervisor(stop_timeout=0.02) as supervisor:
                await supervisor.start(Recorder(log, name="a"))
                ref = await supervisor.start(Recorder(log, name="b"))
                await ref.tell(stubborn)
                await anyio.sleep_forever()

        tasks.start_soon(hold)
        await until(lambda: "held" in log)
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await until(lambda: ("a", "stop") in log)
            release.set()
    assert log[-1] == ("b", "stop")


async def test_ending_while_it_rests_after_a_failure() -> None:
    actor = Recorder(restart=QUICK.__class__(backoff=1000, max_backoff=1000))
    with anyio.fail_after(10):
        async with Supervisor() as supervisor:
            ref = await supervisor.start(actor)
            await ref.tell(ConnectionError())
            await until(lambda: supervisor.tree().children[0].status == "restarting")
    assert [what for _, what in actor.log if what in {"start", "stop"}] == ["start", "stop"]


async def test_a_nested_supervisor_ends_with_its_actor() -> None:
    log: list[Any] = []

    class Parent(Flusher):
        async def run(self) -> None:
            async with Supervisor(parent=self) as below:
                for name in "xy":
                    await below.start(Flusher(log, name=name))
                await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:

        async def hold() -> None:
            async with Supervisor() as supervisor:
                await supervisor.start(Flusher(log, name="a"))
                await supervisor.start(Parent(log, name="b"))
                await anyio.sleep_forever()

        tasks.start_soon(hold)
        await until(lambda: ("y", "start") in log)
        tasks.cancel_scope.cancel()
    assert [name for name, what in log if what == "stop"] == ["y", "x", "b", "a"]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_cancelled_while_it_starts_in_any_order(backend: Literal["trio", "asyncio"]) -> None:
    """The supervisor may be cancelled before the task that is about to start the next actor."""
    for seed in range(10):
        for steps in range(20):
            virtual_run(cancel_while_it_starts, steps, seed=seed, backend=backend)
