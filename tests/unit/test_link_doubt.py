"""A shared connection whose server is silent asks whether that is still the server to talk to (docs/link.md, rule 13). In virtual time."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Literal, cast

import anyio
import pytest

from redisaq.environment import current_environment, time_limit
from redisaq.errors import ConnectionFailed
from redisaq.link.resp import NOTHING
from redisaq.link.shared import SharedConnection
from redisaq.link.wire import Wire
from redisaq.testing import virtual_run

Backend = Literal["trio", "asyncio"]
BACKENDS: tuple[Backend, ...] = ("trio", "asyncio")
SILENCE = 6.0


class StubWire:
    """A socket that takes everything, or nothing while it is `full`, and on which the test lets replies arrive."""

    def __init__(self) -> None:
        self.queued = self.handed = self.taken = 0
        self.full = self.closed = False
        self._inbox: deque[object] = deque()
        self._event = anyio.Event()

    def put(self, data: bytes) -> None:
        self.queued += len(data)

    def flush(self) -> bool:
        if self.full:
            return False
        self.handed = self.queued
        return True

    def let_arrive(self, reply: object) -> None:
        self._inbox.append(reply)
        self.wake()

    def arrived(self) -> bool:
        return bool(self._inbox)

    def receive(self) -> bool:
        self.taken += len(self._inbox)
        return False

    def next_reply(self) -> object:
        return self._inbox.popleft() if self._inbox else NOTHING

    async def wait_readable(self) -> None:
        self._event = anyio.Event()
        await self._event.wait()

    wait_writable = wait_readable

    def wake(self) -> None:
        self._event.set()

    def close(self) -> None:
        self.closed = True
        self._event.set()


class Scene:
    """A connection over such a wire, and the questions that were asked about its server."""

    def __init__(self, tasks: anyio.abc.TaskGroup, question: Callable[[Scene], Awaitable[None]] | None) -> None:
        self.tasks = tasks
        self.wire = StubWire()
        self.asked: list[float] = []
        self.cancelled = 0
        self._question = question
        self.connection = SharedConnection(
            cast("Wire", self.wire),
            "redis://test",
            (7, "there", "run"),
            environment=replace(current_environment(), timers=lambda: self._call_later),
            silence=SILENCE,
            on_silence=self._ask if question else None,
        )

    async def _ask(self) -> None:
        assert self._question is not None
        self.asked.append(anyio.current_time())
        try:
            await self._question(self)
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise

    def _call_later(self, seconds: float, function: Callable[[], object]) -> None:
        async def later() -> None:
            await anyio.sleep(seconds)
            function()

        self.tasks.start_soon(later)

    def later(self, seconds: float, reply: object) -> None:
        self._call_later(seconds, lambda: self.wire.let_arrive(reply))


async def answer_at_once(_: Scene) -> None:
    """It is still the one."""


async def never_answer(_: Scene) -> None:
    await anyio.sleep_forever()


async def name_another(scene: Scene) -> None:
    await anyio.sleep(0.25)
    scene.connection.fail("others have replaced it")


def play(
    backend: Backend, question: Callable[[Scene], Awaitable[None]] | None, story: Callable[[Scene], Coroutine[Any, Any, None]]
) -> Scene:
    async def main() -> Scene:
        async with anyio.create_task_group() as tasks:
            scene = Scene(tasks, question)
            await story(scene)
            tasks.cancel_scope.cancel()
        return scene

    return virtual_run(main, backend=backend)


each_backend = pytest.mark.parametrize("backend", BACKENDS)


@each_backend
def test_it_asks_each_second_until_the_answer_comes(backend: Backend) -> None:
    async def story(scene: Scene) -> None:
        scene.later(3.5, b"late")
        assert await scene.connection.call(b"x", 1) == [b"late"]
        scene.later(0.9, b"soon")
        assert await scene.connection.call(b"x", 1) == [b"soon"]

    assert play(backend, answer_at_once, story).asked == [1.0, 2.0, 3.0]


@each_backend
def test_an_answer_that_comes_meanwhile_is_handed_over_at_once_and_ends_the_question(backend: Backend) -> None:
    async def story(scene: Scene) -> None:
        scene.later(2.25, b"late")
        assert await scene.connection.call(b"x", 1) == [b"late"]
        assert anyio.current_time() == 2.25

    scene = play(backend, never_answer, story)
    assert (scene.asked, scene.cancelled) == ([1.0], 1)  # one at a time


@each_backend
@pytest.mark.parametrize("full", [False, True], ids=["sent", "not-sent"])
def test_a_server_that_others_have_replaced_fails_all_callers(backend: Backend, full: bool) -> None:
    async def story(scene: Scene) -> None:
        async def call() -> None:
            with pytest.raises(ConnectionFailed if not full else Exception, match="replaced") as raised:
                await scene.connection.call(b"x", 1)
            ended.append((anyio.current_time(), getattr(raised.value, "maybe_executed", False)))

        ended: list[tuple[float, bool]] = []
        scene.wire.full = full
        async with anyio.create_task_group() as callers:
            callers.start_soon(call)
            callers.start_soon(call)
        assert ended == [(1.25, not full)] * 2
        assert scene.wire.closed

    play(backend, name_another, story)


@each_backend
def test_a_caller_that_leaves_does_not_end_the_asking_for_the_others(backend: Backend) -> None:
    async def story(scene: Scene) -> None:
        async def impatient() -> None:
            with pytest.raises(ConnectionFailed, match="no answer within the time"), time_limit(1.5):
                await scene.connection.call(b"x", 1)

        scene.later(4.5, b"first")
        scene.later(4.75, b"second")
        async with anyio.create_task_group() as callers:
            callers.start_soon(impatient)
            await anyio.sleep(0.5)
            assert await scene.connection.call(b"x", 1) == [b"second"]

    scene = play(backend, never_answer, story)
    assert scene.asked == [1.0, 2.0]


@each_backend
def test_a_plain_server_is_asked_about_by_nobody(backend: Backend) -> None:
    async def story(scene: Scene) -> None:
        scene.later(5.0, b"late")
        assert await scene.connection.call(b"x", 1) == [b"late"]
        with pytest.raises(ConnectionFailed, match="silent for 6 s"):
            await scene.connection.call(b"x", 1)
        assert anyio.current_time() == 5.0 + SILENCE

    play(backend, None, story)


@each_backend
def test_asking_does_not_keep_a_silent_connection_from_breaking(backend: Backend) -> None:
    async def story(scene: Scene) -> None:
        with pytest.raises(ConnectionFailed, match="silent for 6 s"):
            await scene.connection.call(b"x", 1)
        assert anyio.current_time() == SILENCE

    assert play(backend, answer_at_once, story).asked == [1.0, 2.0, 3.0, 4.0, 5.0]
