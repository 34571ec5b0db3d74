"""A shared connection over a scripted socket: what is written when, what is read, and what each caller hears. In virtual time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, cast

import anyio
import pytest

from redisaq.environment import current_environment, time_limit
from redisaq.errors import ConnectionFailed
from redisaq.link.resp import PushNotification
from redisaq.link.shared import NotSent, SharedConnection
from redisaq.link.wire import Wire
from redisaq.testing import virtual_run
from tests.unit.test_link_doubt import StubWire

SILENCE = 6.0
IDENTITY = (7, "there", "run")


class ScriptedWire(StubWire):
    """A socket that takes so many bytes, gives one batch of replies at a time, and breaks when the test says so.

    Attributes:
        room: how many bytes it takes.
        writes: how many it took each time.
        flushes: how often it was asked to.
        batches: replies that one `receive` after the other finds.
        broken: what it raises.
    """

    def __init__(self) -> None:
        super().__init__()
        self.room = 1 << 20
        self.writes: list[int] = []
        self.flushes = 0
        self.batches: deque[list[object]] = deque()
        self.broken: dict[str, OSError] = {}

    def _raise(self, where: str) -> None:
        if where in self.broken:
            raise self.broken[where]

    def flush(self) -> bool:
        self.flushes += 1
        self._raise("flush")
        took = min(self.queued - self.handed, self.room)
        if took:
            self.handed += took
            self.room -= took
            self.writes.append(took)
        return self.handed == self.queued

    def arrived(self) -> bool:
        return bool(self.batches) or "receive" in self.broken

    def receive(self) -> bool:
        self._raise("receive")
        if self.batches:
            batch = self.batches.popleft()
            self._inbox.extend(batch)
            self.taken += len(batch)
        return bool(self.batches)

    async def wait_readable(self) -> None:
        await super().wait_readable()
        self._raise("wait")

    async def wait_writable(self) -> None:
        await super().wait_readable()


class Scene:
    """A connection over such a socket.

    Attributes:
        timers: how often one was set.
    """

    def __init__(self, tasks: anyio.abc.TaskGroup, **options: Any) -> None:
        self.tasks = tasks
        self.wire = ScriptedWire()
        self.timers = 0
        environment = replace(current_environment(), timers=lambda: self.later)
        options = {"environment": environment, "silence": SILENCE, **options}
        self.connection = SharedConnection(cast("Wire", self.wire), "redis://test", IDENTITY, **options)

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        async def wait() -> None:
            await anyio.sleep(seconds)
            function()

        self.timers += 1
        self.tasks.start_soon(wait)

    def answer(self, *replies: object) -> None:
        self.wire.batches.append(list(replies))
        self.wire.wake()

    def fail(self, where: str) -> None:
        self.wire.broken[where] = ConnectionResetError("cut")
        self.wire.wake()

    async def failure(self, data: bytes = b"x") -> NotSent | ConnectionFailed:
        with pytest.raises((NotSent, ConnectionFailed)) as failed:
            await self.connection.call(data, 1)
        return cast("NotSent | ConnectionFailed", failed.value)

    async def abandoned(self, seconds: float = 1.0) -> None:
        """Call, and be cancelled after a while."""
        with anyio.move_on_after(seconds):
            await self.connection.call(b"x", 1)


def play(story: Callable[[Scene], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await story(Scene(tasks, **options))
            tasks.cancel_scope.cancel()

    virtual_run(main, backend="trio")


def test_calls_of_one_moment_are_one_write() -> None:
    """The first is written at once, and those that come while it is under way wait for no more than one turn of the event loop."""

    async def story(scene: Scene) -> None:
        async with anyio.create_task_group() as callers:
            for _ in range(2):
                before, asked = len(scene.wire.writes), scene.wire.flushes
                for count in (1, 3):
                    for _ in range(count):
                        callers.start_soon(scene.connection.call, b"x", 1)
                    await anyio.wait_all_tasks_blocked()
                    if count == 1:
                        asked = scene.wire.flushes
                assert scene.wire.writes[before:] == [1, 3]
                assert scene.wire.flushes == asked + 1
                scene.answer(b"1", b"2", b"3", b"4")
                await anyio.wait_all_tasks_blocked()

    play(story)


def test_a_call_is_written_at_once_though_the_one_that_waits_for_the_socket_has_yet_to_leave() -> None:
    async def story(scene: Scene) -> None:
        written: list[int] = []

        async def first() -> None:
            await scene.connection.call(b"x", 1)
            written.extend(scene.wire.writes)

        async with anyio.create_task_group() as callers:
            callers.start_soon(first)
            await anyio.wait_all_tasks_blocked()
            scene.wire.batches.append([b"1"])
            scene.connection._look(0.0)  # reads the reply, and wakes its caller
            scene.later(1.0, lambda: scene.answer(b"2"))
            await scene.connection.call(b"y", 1)
        assert written == [1, 1]

    play(story)


def test_replies_that_fill_a_buffer_are_read_on() -> None:
    async def story(scene: Scene) -> None:
        ended: list[float] = []

        async def call() -> None:
            await scene.connection.call(b"x", 1)
            ended.append(anyio.current_time())

        async with anyio.create_task_group() as callers:
            callers.start_soon(call)
            callers.start_soon(call)
            await anyio.sleep(1.0)
            scene.wire.batches.append([b"1"])
            scene.answer(b"2")
        assert ended == [1.0, 1.0]

    play(story)


def test_what_is_pushed_is_nobodys_reply_and_a_reply_that_nothing_asked_for_breaks_the_connection() -> None:
    """Else it would become the next call's."""

    async def story(scene: Scene) -> None:
        pushed = PushNotification([b"invalidate", None])
        scene.later(1.0, lambda: scene.answer(pushed, b"1", pushed))
        assert await scene.connection.call(b"x", 1) == [b"1"]
        scene.later(1.0, lambda: scene.answer(b"2"))
        assert await scene.connection.call(b"x", 1) == [b"2"]
        scene.answer(b"3")
        assert facts(await scene.failure()) == ("the server sent a reply that nothing asked for", False)

    play(story)


def facts(error: NotSent | ConnectionFailed) -> tuple[object, ...]:
    if isinstance(error, NotSent):
        return str(error), error.queued
    return error.reason, error.silent, error.maybe_executed, error.connections


def test_each_failure_says_what_happened() -> None:
    """Whether the server was silent, and whether it may have something, and over which connection."""

    async def silent(scene: Scene) -> None:
        assert facts(await scene.failure()) == ("the server has been silent for 6 s", True, True, (IDENTITY,))
        assert anyio.current_time() == SILENCE

    async def late(scene: Scene) -> None:
        with time_limit(2.0):
            assert facts(await scene.failure()) == ("no answer within the time of the call", True, True, (IDENTITY,))
        assert anyio.current_time() == 2.0

    async def out_of_time(scene: Scene) -> None:
        with time_limit(0.0):
            assert facts(await scene.failure()) == ("the time of the call is up", False)
        assert not scene.wire.queued

    async def unwritten(scene: Scene) -> None:
        scene.wire.room = 0
        scene.later(1.0, lambda: scene.connection.fail("closed"))
        assert facts(await scene.failure()) == ("closed", True), "it waited among others"

    async def closed_meanwhile(scene: Scene) -> None:
        scene.fail("receive")
        assert facts(await scene.failure()) == ("cut", False), "nobody was before it"
        assert not scene.wire.queued

    for story in (silent, late, out_of_time, unwritten, closed_meanwhile):
        play(story)


@pytest.mark.parametrize("where", ["receive", "wait"])
@pytest.mark.parametrize("asking", [False, True])
def test_an_error_of_the_socket_breaks_it_at_once(where: str, asking: bool) -> None:
    """Also while it asks others about a silent server."""

    async def story(scene: Scene) -> None:
        scene.later(1.5, partial(scene.fail, where))
        assert facts(await scene.failure()) == ("cut", False, True, (IDENTITY,))
        assert anyio.current_time() == 1.5
        assert scene.wire.closed

    play(story, on_silence=anyio.sleep_forever if asking else None)


def test_what_cannot_be_written_was_not_sent() -> None:
    async def story(scene: Scene) -> None:
        scene.fail("flush")
        assert facts(await scene.failure()) == ("cut", True)
        assert scene.wire.closed
        assert anyio.current_time() == 0.0

    play(story)


def test_silence_counts_from_the_first_call_that_is_owed_a_reply() -> None:
    """Neither does the time count in which nothing was owed, nor do later calls begin it again."""

    async def story(scene: Scene) -> None:
        await anyio.sleep(100.0)
        async with anyio.create_task_group() as callers:
            callers.start_soon(scene.failure)
            await anyio.sleep(3.0)
            callers.start_soon(scene.failure)
        assert anyio.current_time() == 100.0 + SILENCE

    play(story)


def test_a_server_that_takes_little_is_not_silent() -> None:
    """One that takes nothing is, however often its connection is looked at."""

    async def story(scene: Scene) -> None:
        def take(count: int) -> None:
            scene.wire.room = count
            scene.wire.wake()

        scene.wire.room = 0
        for number in range(1, 5):
            scene.later(4.0 * number, partial(take, 1))
        scene.later(20.0, partial(scene.answer, b"1"))
        assert await scene.connection.call(b"four", 1) == [b"1"]
        assert anyio.current_time() == 20.0
        scene.wire.room = 0
        for number in range(1, 5):
            scene.later(2.0 * number, partial(take, 0))
        assert facts(await scene.failure()) == ("the server has been silent for 6 s", True)
        assert anyio.current_time() == 26.0

    play(story)


def test_one_timer_serves_calls_of_one_moment() -> None:
    async def story(scene: Scene) -> None:
        async with anyio.create_task_group() as callers:
            for _ in range(3):
                callers.start_soon(scene.connection.call, b"x", 1)
            await anyio.wait_all_tasks_blocked()
            assert scene.timers == 1
            scene.answer(b"1", b"2", b"3")

    play(story)
    play(story, time=2.0)


def test_a_reply_that_nobody_waits_for_any_more_counts_as_heard() -> None:
    """And so does one that the task that waits has not read yet: the alarm reads it, and the task gets it."""

    async def story(scene: Scene) -> None:
        await scene.abandoned()
        scene.wire.batches.append([b"1"])
        await anyio.sleep(SILENCE)
        assert scene.connection.broken is None
        assert not scene.wire.arrived()
        scene.later(1.0, lambda: scene.wire.batches.append([b"2"]))
        began = anyio.current_time()
        assert await scene.connection.call(b"x", 1) == [b"2"]
        assert anyio.current_time() == began + SILENCE

    play(story)


def test_what_a_caller_left_unwritten_is_written_by_the_alarm() -> None:
    async def story(scene: Scene) -> None:
        scene.wire.room = 0
        await scene.abandoned()
        scene.wire.room = 10
        await anyio.sleep(0.5)
        assert scene.wire.writes == []
        await anyio.sleep(0.6)
        assert scene.wire.writes == [1]

    play(story, time=2.0)


@pytest.mark.parametrize("first", [math.inf, 2.0])
def test_each_call_ends_when_its_own_time_is_up(first: float) -> None:
    """Whether it waits for the socket or for the one that does; the others wait on."""

    async def story(scene: Scene) -> None:
        ended: list[tuple[float, float]] = []

        async def call(seconds: float) -> None:
            with time_limit(seconds):
                await scene.failure()
            ended.append((seconds, anyio.current_time()))

        async with anyio.create_task_group() as callers:
            for seconds in (first, 3.0, 1.0):
                callers.start_soon(call, seconds)
                await anyio.wait_all_tasks_blocked()
        assert ended == sorted([(1.0, 1.0), (3.0, 3.0), (first, min(first, SILENCE))], key=lambda pair: pair[1])

    play(story)
