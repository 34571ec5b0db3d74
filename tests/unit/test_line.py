"""A line to a server: what it owes, when it is silent, and what it sends by itself. In virtual time, on no socket."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from redisaq.environment import current_environment
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link.line import Line
from redisaq.link.reading import ReadingConnection
from redisaq.link.resp import NOTHING, Command, PushNotification, pack
from redisaq.testing import virtual_run

SILENCE = 6.0
PING = pack((("PING",),))
MANY = 500
"""More than any of these stories needs: a line that asks so often goes round in circles, and virtual time stands still."""


class Socket:
    """A socket that takes everything, or nothing while it is `full`; the test lets replies arrive.

    Attributes:
        sent: what was written, and when.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[float, bytes]] = []
        self.taken = 0
        self.full = self.closed = self.reset = False
        self.error: OSError | None = None
        self._queued = b""
        self._flushes = 0
        self._arrived, self._parsed = deque[object](), deque[object]()
        self._event = anyio.Event()

    def put(self, data: bytes) -> None:
        self._queued += data

    def flush(self) -> bool:
        self._flushes += 1
        assert self._flushes < MANY
        if self.full:
            return False
        if self.error is not None and self._queued:
            raise self.error
        if self._queued:
            self.sent.append((anyio.current_time(), self._queued))
            self._queued = b""
        return True

    def let_arrive(self, *items: object, seen: bool = True) -> None:
        """Let these arrive; unless `seen`, the task that waits for them has not been woken yet."""
        self._arrived.extend(items)
        if seen:
            self.wake()

    def arrived(self) -> bool:
        return bool(self._arrived) or self.reset

    def receive(self) -> bool:
        if self.reset:
            raise ConnectionResetError("it ended")
        self.taken += len(self._arrived)
        self._parsed.extend(self._arrived)
        self._arrived.clear()
        return False

    def next_reply(self) -> object:
        return self._parsed.popleft() if self._parsed else NOTHING

    async def wait_readable(self) -> None:
        if not self._arrived:
            await self.wait_writable()

    async def wait_writable(self) -> None:
        self._event = anyio.Event()
        await self._event.wait()

    def wake(self) -> None:
        self._event.set()

    def close(self) -> None:
        self.closed = True
        self.wake()


class Scene:
    """A line over such a socket, and the timers that it has set."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self.socket = Socket()
        self.timers: list[float] = []
        self.line = Line(cast("Any", self.socket), "redis://test")
        self.environment = replace(current_environment(), timers=lambda: self._call_later)
        self._tasks = tasks

    def watch(self, *, listening: bool = False) -> None:
        if listening:
            self.line.watch(SILENCE, self.environment, listening=True)
        else:
            self.line.watch(SILENCE, self.environment)

    def later(self, seconds: float, function: Callable[..., object], *arguments: object, **named: object) -> None:
        """Call the function after this many seconds."""

        async def later() -> None:
            await anyio.sleep(seconds)
            function(*arguments, **named)

        self._tasks.start_soon(later)

    def _call_later(self, seconds: float, function: Callable[[], object]) -> None:
        self.timers.append(seconds)
        assert seconds < math.inf
        assert len(self.timers) < MANY
        self.later(seconds, function)

    def reading(self) -> ReadingConnection:
        async def call(*_: Command) -> list[object]:
            await anyio.sleep(0.25)
            return [1]

        greeting = cast("Any", SimpleNamespace(client_id=7, client_address="", run_id=""))
        return ReadingConnection(self.line, greeting, call, lambda _: None)


def play(story: Callable[[Scene], Awaitable[None]]) -> Scene:
    async def main() -> Scene:
        async with anyio.create_task_group() as tasks:
            scene = Scene(tasks)
            await story(scene)
            tasks.cancel_scope.cancel()
        return scene

    return virtual_run(main, backend="asyncio")


def push(*words: bytes) -> PushNotification:
    return PushNotification(words)


# -- how long nothing may arrive ------------------------------------------------------------------------------------------------------


def test_it_breaks_when_a_reply_has_been_owed_for_too_long_and_never_while_nothing_is() -> None:
    async def story(scene: Scene) -> None:
        line, socket = scene.line, scene.socket
        scene.watch()
        scene.later(1.0, socket.let_arrive, b"PONG")
        assert await line.ask(("PING",)) == [b"PONG"]
        await anyio.sleep(99.0)
        line.send(("ECHO", "a"))
        timers = len(scene.timers)
        await anyio.sleep(3.0)
        line.send(("ECHO", "b"))  # what is asked later puts nothing off, and sets no other timer
        assert len(scene.timers) == timers
        assert socket.sent == [(0.0, PING), (100.0, pack((("ECHO", "a"),))), (103.0, pack((("ECHO", "b"),)))]
        with pytest.raises(ConnectionFailed, match="silent for 6 s") as raised:
            await line.reply()
        assert (anyio.current_time(), raised.value.silent, raised.value.maybe_executed) == (106.0, True, True)
        assert (line.broken, socket.closed) == (raised.value.reason, True)
        with pytest.raises(ConnectionFailed, match="silent for 6 s") as raised:
            line.send(("ECHO", "c"))
        assert (raised.value.silent, raised.value.maybe_executed) == (True, False)

    play(story)


@pytest.mark.parametrize(
    ("block", "heard", "broken"),
    [
        (0.0, None, 6.0),
        (10.0, None, 16.0),
        (0.0, (), 6.0),  # the socket is readable, and nothing comes of it
        (0.0, (push(b"invalidate"),), 9.0),  # any byte counts
    ],
)
def test_it_may_be_silent_from_when_it_was_heard_last_and_while_it_blocks(
    block: float, heard: tuple[object, ...] | None, broken: float
) -> None:
    async def story(scene: Scene) -> None:
        scene.watch()
        scene.line.send(("XREAD",), block=block)
        if heard is not None:
            scene.later(3.0, scene.socket.let_arrive, *heard)
        with pytest.raises(ConnectionFailed, match=f"silent for {SILENCE + block:g} s"):
            await scene.line.reply()
        assert anyio.current_time() == broken

    play(story)


def test_without_a_limit_it_waits_forever() -> None:
    async def story(scene: Scene) -> None:
        scene.line.watch(math.inf, scene.environment)
        scene.later(1e6, scene.socket.let_arrive, b"late")
        assert await scene.line.ask(("ECHO", "late")) == [b"late"]

    assert play(story).timers == []


@pytest.mark.parametrize("along", [False, True])
def test_a_reply_that_has_arrived_is_not_owed_however_late_somebody_takes_it(along: bool) -> None:
    """The server was not silent. It may have arrived along with the one before, and nothing comes after it."""

    async def story(scene: Scene) -> None:
        line, socket = scene.line, scene.socket
        scene.watch()
        line.send(("ECHO", "a"), ("ECHO", "b"))
        scene.later(1.0, socket.let_arrive, b"a", *((b"b",) if along else ()))
        assert await line.reply() == b"a"
        if not along:
            scene.later(1.0, socket.let_arrive, push(b"invalidate"), b"b")
        await anyio.sleep(100.0)
        assert line.broken is None
        assert line.owed == 1
        assert await line.reply() == b"b"
        assert line.owed == 0
        line.send(("ECHO", "c"))
        with pytest.raises(ConnectionFailed, match="silent"):
            await line.reply()
        assert anyio.current_time() == 101.0 + SILENCE

    play(story)


def test_a_timer_takes_what_has_arrived_and_wakes_the_task_that_waits_for_it() -> None:
    """The loop may run the timer first."""

    async def story(scene: Scene) -> None:
        scene.watch()
        scene.later(3.0, scene.socket.let_arrive, b"there", seen=False)
        assert await scene.line.ask(("ECHO", "there")) == [b"there"]
        assert anyio.current_time() == SILENCE

    play(story)


def test_what_could_not_be_written_is_written_later_though_nobody_waits() -> None:
    async def story(scene: Scene) -> None:
        line, socket = scene.line, scene.socket
        scene.watch()
        line.send(("ECHO", "a"))
        socket.full = True
        line.send(("ECHO", "b"))
        await anyio.sleep(3.0)
        socket.full = False
        socket.let_arrive(b"a")
        await anyio.sleep(4.0)
        assert socket.sent[1:] == [(SILENCE, pack((("ECHO", "b"),)))]

    play(story)


def test_a_socket_that_takes_nothing_is_waited_for() -> None:
    async def story(scene: Scene) -> None:
        line, socket = scene.line, scene.socket
        socket.full = True

        def take() -> None:
            socket.full = False
            socket.wake()

        scene.later(3.0, take)
        scene.later(4.0, socket.let_arrive, b"a")
        assert await line.ask(("ECHO", "a")) == [b"a"]
        assert socket.sent == [(3.0, pack((("ECHO", "a"),)))]

    play(story)


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("way", ["reading", "writing"])
def test_a_timer_that_meets_the_end_of_the_connection_breaks_it(way: str, listening: bool) -> None:
    async def story(scene: Scene) -> None:
        line, socket = scene.line, scene.socket
        scene.watch(listening=listening)
        socket.full = way == "writing"
        if not listening:
            line.send(("ECHO", "a"))
        socket.full, socket.reset = False, way == "reading"
        socket.error = OSError("it ended")
        await anyio.sleep(20.0)
        assert (line.broken, socket.closed) == ("it ended", True)
        assert len(scene.timers) == 1

    play(story)


def test_an_end_is_not_a_silence_and_leaves_open_what_was_executed() -> None:
    async def story(scene: Scene) -> None:
        scene.watch()
        scene.later(1.0, scene.line.fail, "it was closed")
        with pytest.raises(ConnectionFailed, match="it was closed") as raised:
            await scene.line.ask(("ECHO", "a"))
        assert (raised.value.silent, raised.value.maybe_executed) == (False, True)

    play(story)


def test_an_end_that_the_task_meets_leaves_that_open_too() -> None:
    async def story(scene: Scene) -> None:
        scene.socket.reset = True
        scene.later(1.0, scene.socket.wake)
        with pytest.raises(ConnectionFailed, match="it ended") as raised:
            await scene.line.ask(("ECHO", "a"))
        assert (raised.value.silent, raised.value.maybe_executed) == (False, True)

    play(story)


# -- who only listens -----------------------------------------------------------------------------------------------------------------


def test_who_only_listens_asks_after_five_quiet_seconds_whether_the_server_is_there() -> None:
    async def story(scene: Scene) -> None:
        line, socket = scene.line, scene.socket

        async def listen() -> None:
            while True:
                heard.append(await line.item())

        heard: list[object] = []
        scene.watch(listening=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            scene.later(6.0, socket.let_arrive, b"PONG")
            scene.later(10.5, socket.let_arrive, push(b"smessage"))
            scene.later(16.5, socket.let_arrive, b"PONG")
            await anyio.sleep(17.0)
            assert line.owed == 0
            await anyio.sleep(5.0)
            tasks.cancel_scope.cancel()
        assert socket.sent == [(5.0, PING), (15.5, PING), (21.5, PING)]
        assert heard == [push(b"smessage")]

    play(story)


def test_who_gets_no_answer_to_that_breaks_the_connection() -> None:
    async def story(scene: Scene) -> None:
        scene.watch(listening=True)
        with pytest.raises(ConnectionFailed, match="silent for 6 s") as raised:
            await scene.line.item()
        assert raised.value.silent
        assert anyio.current_time() == 5.0 + SILENCE
        assert scene.socket.sent == [(5.0, PING)]

    play(story)


def test_who_listens_and_is_owed_an_answer_asks_for_no_other() -> None:
    async def story(scene: Scene) -> None:
        scene.watch(listening=True)
        with pytest.raises(ConnectionFailed, match="silent for 6 s"):
            await scene.line.ask(("SSUBSCRIBE", "bell"))
        assert anyio.current_time() == SILENCE
        assert len(scene.socket.sent) == 1

    play(story)


NO_PING = ServerError("NOPERM User x has no permissions to run the 'ping' command")
NO_OTHER = ServerError("NOPERM User x has no permissions to run the 'ssubscribe' command")
ANOTHER = ServerError("ERR 'ping' is not what you asked for")


@pytest.mark.parametrize("answer", [b"PONG", NO_PING])
def test_the_answer_to_its_own_question_is_nobodys_reply(answer: object) -> None:
    async def story(scene: Scene) -> None:
        line, socket = scene.line, scene.socket
        scene.watch(listening=True)
        await anyio.sleep(5.5)
        assert socket.sent == [(5.0, PING)]
        line.send(("ECHO", "PONG"))
        assert line.owed == 2
        socket.let_arrive(answer, b"PONG", push(b"smessage"), NO_PING)
        assert await line.reply() == b"PONG"
        assert line.owed == 0
        assert line.poll() == push(b"smessage")
        assert line.poll() is NO_PING  # nothing was asked any more

    play(story)


@pytest.mark.parametrize("answer", [NO_OTHER, ANOTHER, b"OK"])
def test_another_reply_is_handed_over_while_that_answer_is_owed(answer: object) -> None:
    async def story(scene: Scene) -> None:
        scene.watch(listening=True)
        await anyio.sleep(5.5)
        scene.socket.let_arrive(answer)
        assert await scene.line.item() is answer

    play(story)


# -- a reading connection over it -----------------------------------------------------------------------------------------------------


def test_a_read_passes_over_the_replies_of_a_cancelled_call() -> None:
    async def story(scene: Scene) -> None:
        reading = scene.reading()
        with anyio.move_on_after(1.0):
            await reading.call(("ECHO", "a"), ("ECHO", "b"))
        assert not reading.settled
        scene.socket.let_arrive(b"a", b"b", b"c")
        assert await reading.read(("XREAD",)) == b"c"
        assert reading.settled

    play(story)


@pytest.mark.parametrize("moment", [0.5, math.inf])
def test_finishing_waits_a_second_at_most_for_what_was_sent_ahead_and_cannot_be_cancelled(moment: float) -> None:
    async def story(scene: Scene) -> None:
        reading = scene.reading()
        await reading.finish()
        assert anyio.current_time() == 0.0
        reading.send_ahead(("XREAD",))
        assert reading.ahead
        with pytest.raises(RuntimeError, match="sent ahead"):
            await reading.call(("PING",))
        with pytest.raises(RuntimeError, match="sent ahead"):
            await reading.read(("XREAD",))
        if moment < math.inf:
            scene.later(moment, scene.socket.let_arrive, b"entries")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await reading.finish()
        assert anyio.current_time() == min(moment, 1.0)
        assert reading.take_leftover() == (b"entries" if moment < math.inf else None)
        assert reading.settled == (moment < math.inf)
        assert reading.ahead == (moment == math.inf)

    play(story)


def test_closing_a_reading_connection_is_a_checkpoint_and_it_is_closed_all_the_same() -> None:
    async def story(scene: Scene) -> None:
        reading = scene.reading()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await reading.close()
        assert scope.cancelled_caught
        assert scene.socket.closed

    play(story)


def test_a_reading_connection_that_is_given_up_says_why() -> None:
    async def story(scene: Scene) -> None:
        reading = scene.reading()
        scene.later(1.0, reading.give_up, "not wanted any more")
        with pytest.raises(ConnectionFailed, match="not wanted any more"):
            await reading.read(("XREAD",))
        reading.abort()
        assert scene.line.broken == "not wanted any more"

    play(story)
