"""Many bells on one connection to a scripted server: who waits for which confirmation, whom a refusal ends, and when it connects again."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import anyio
import pytest

from redisaq.environment import current_environment
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link.switchboard import CAP, Bell, Switchboard
from redisaq.testing import virtual_run
from tests.link_chance import Longest
from tests.link_script import ScriptedDialer


def confirmed(channel: bytes) -> bytes:
    return b">3\r\n+ssubscribe\r\n+%b\r\n:1\r\n" % channel


def ended(channel: bytes) -> bytes:
    return b">3\r\n+sunsubscribe\r\n+%b\r\n:0\r\n" % channel


class Scene:
    """A switchboard, and its server.

    Attributes:
        silent: channels whose subscription the server does not answer.
        refused: what it answers to the subscription of a channel.
    """

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self.tasks = tasks
        self.silent: set[bytes] = set()
        self.refused: dict[bytes, bytes] = {}
        self.dialer = ScriptedDialer(self._answer)
        environment = replace(current_environment(), random=Longest())
        self.board = Switchboard(self.dialer(), lambda: environment, "redis://test")

    def _answer(self, command: list[bytes]) -> bytes:
        word, channel = command
        if channel in self.silent:
            return b""
        if word == b"SSUBSCRIBE":
            return self.refused.get(channel) or confirmed(channel)
        return ended(channel)

    def say(self, data: bytes) -> None:
        self.dialer.wires[-1].say(data)

    async def listen(self, *channels: str) -> Bell:
        return await self.board.listen(*channels, moving=False)

    def keep_waiting(self, bell: Bell) -> list[float]:
        """Let a task wait for each of its rings; return when they come."""
        rings: list[float] = []

        async def wait() -> None:
            while True:
                await bell.wait()
                rings.append(anyio.current_time())

        self.tasks.start_soon(wait)
        return rings

    async def listening(self, *channels: str) -> anyio.Event:
        """Let a task listen; return what it sets once it does."""
        done = anyio.Event()

        async def listen() -> None:
            await self.listen(*channels)
            done.set()

        self.tasks.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        return done


def play(story: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await story(Scene(tasks))
            tasks.cancel_scope.cancel()

    virtual_run(main, backend="trio")


@pytest.mark.parametrize("how", ["its last bell was closed", "the connection broke"])
def test_who_listens_waits_until_the_server_has_confirmed_it_on_this_connection(how: str) -> None:
    """Not only once: a channel may be left and taken again, and a connection may be another one."""

    async def story(scene: Scene) -> None:
        keeper, bell = await scene.listen("keeper"), await scene.listen("a")
        scene.keep_waiting(keeper)
        scene.silent.add(b"a")
        if how == "the connection broke":
            scene.dialer.wires[-1].hang_up()
            await anyio.sleep(1.0)
            assert len(scene.dialer.dials) == 2
        else:
            await bell.close()
            await anyio.sleep(1.0)
        done = await scene.listening("a")
        assert not done.is_set()
        scene.say(confirmed(b"a"))
        await done.wait()

    play(story)


def test_without_bells_there_is_no_connection() -> None:
    async def story(scene: Scene) -> None:
        first, second = await scene.listen("a"), await scene.listen("b")
        (wire,) = scene.dialer.wires
        await first.close()
        assert not wire.closed
        assert wire.commands[-1] == [b"SUNSUBSCRIBE", b"a"]
        await second.close()
        assert wire.closed
        await scene.listen("a")
        assert scene.dialer.dials == [0.0, 0.0], "at once"

    play(story)


def test_a_connection_that_was_made_for_nobody_is_closed() -> None:
    """Its only bell was closed after the last wait of the dial."""

    async def story(scene: Scene) -> None:
        def leave() -> None:
            assert scene.board._driver is not None
            scene.board._driver.drop()

        scene.dialer.then = leave
        with pytest.raises(ConnectionFailed, match="closed"):
            await scene.listen("a")
        (wire,) = scene.dialer.wires
        assert wire.closed
        assert not wire.commands

    play(story)


def test_what_an_earlier_connection_left_unanswered_takes_no_answer_of_the_next() -> None:
    """A refusal names no channel: it belongs to what was asked first."""

    async def story(scene: Scene) -> None:
        keeper = await scene.listen("keeper")
        rings = scene.keep_waiting(keeper)
        scene.silent.add(b"a")
        done = await scene.listening("a")
        scene.dialer.wires[-1].hang_up()
        scene.silent.clear()
        await anyio.sleep(1.0)
        assert done.is_set()
        scene.refused[b"b"] = b"-NOPERM no permissions\r\n"
        with pytest.raises(ServerError, match="NOPERM"):
            await scene.listen("b")
        scene.say(b">3\r\n+smessage\r\n+keeper\r\n+x\r\n")
        await anyio.sleep(1.0)
        assert len(rings) == 2, "after the gap, and for the message"
        assert len(scene.dialer.dials) == 2

    play(story)


def test_a_refusal_ends_only_the_bell_that_it_is_about() -> None:
    """For a reason that may pass, too."""

    async def story(scene: Scene) -> None:
        rings = scene.keep_waiting(await scene.listen("keeper"))
        scene.refused[b"a"] = b"-ERR not now\r\n"
        with pytest.raises(ServerError, match="not now"):
            await scene.listen("a")
        assert scene.board._bells.keys() == {b"keeper"}
        assert (len(scene.dialer.dials), rings) == (1, [])
        del scene.refused[b"a"]
        await scene.listen("a")

    play(story)


def test_a_refusal_of_what_nobody_listens_to_any_more_ends_nothing() -> None:
    async def story(scene: Scene) -> None:
        rings = scene.keep_waiting(await scene.listen("keeper"))
        scene.silent.add(b"a")
        with anyio.move_on_after(1.0):
            await scene.listen("a")
        scene.say(b"-NOPERM no permissions\r\n" + ended(b"a"))
        await anyio.sleep(1.0)
        assert (len(scene.dialer.dials), rings) == (1, [])

    play(story)


def test_a_server_that_logs_us_out_fails_who_begins_to_listen_and_the_others_log_in_again() -> None:
    async def story(scene: Scene) -> None:
        rings = scene.keep_waiting(await scene.listen("keeper"))
        scene.refused[b"a"] = b"-NOAUTH Authentication required.\r\n"
        with pytest.raises(ConnectionFailed, match=r"not take this connection for logged in any more .*NOAUTH"):
            await scene.listen("a")
        await anyio.sleep(1.0)
        assert len(scene.dialer.dials) == 2
        assert len(rings) == 1
        assert scene.dialer.wires[-1].commands == [[b"SSUBSCRIBE", b"keeper"]]

    play(story)


def test_each_pause_before_it_connects_again_is_longer_until_a_connection_has_lasted() -> None:
    """The longest pauses, counted from the break: 0.05 s, 0.1 s, 0.2 s."""

    async def story(scene: Scene) -> None:
        def cut() -> None:
            scene.dialer.wires[-1].hang_up()

        scene.keep_waiting(await scene.listen("keeper"))
        scene.dialer.then = cut
        cut()
        await anyio.sleep(0.4)
        scene.dialer.then = lambda: None
        await anyio.sleep(10.0)
        assert scene.dialer.dials == pytest.approx([0.0, 0.05, 0.15, 0.35, 0.75])
        scene.dialer.wires[-1].hang_up()
        await anyio.sleep(1.0)
        assert scene.dialer.dials[5:] == pytest.approx([10.4]), "it lasted for longer than the longest pause"

    assert CAP < 9.0
    play(story)


def test_a_server_that_cannot_be_reached_is_dialled_with_the_same_pauses() -> None:
    """Who begins to listen has one attempt, and hears of it; who listens already waits on."""

    async def story(scene: Scene) -> None:
        rings = scene.keep_waiting(await scene.listen("keeper"))
        scene.dialer.error = ConnectionFailed("redis://test", "refused")
        scene.dialer.wires[-1].hang_up()
        await anyio.sleep(0.2)
        with pytest.raises(ConnectionFailed, match="refused"):
            await scene.listen("a")
        scene.dialer.error = None
        await anyio.sleep(5.0)
        assert scene.dialer.dials == pytest.approx([0.0, 0.05, 0.15, 0.35, 0.75])
        assert rings == pytest.approx([0.75])

    play(story)


def test_to_listen_and_to_close_are_checkpoints() -> None:
    """What was done before is done all the same."""

    async def story(scene: Scene) -> None:
        bell = await scene.listen("a")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bell.close()
        assert scope.cancelled_caught
        assert scene.dialer.wires[-1].closed
        await scene.listen("a")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await scene.listen("a")
        assert scope.cancelled_caught

    play(story)
