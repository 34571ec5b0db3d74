"""Starting in order, stopping in reverse; messages in the mailboxes are finished, within a time limit."""

from __future__ import annotations

import logging
from typing import Any, Literal

import anyio
import pytest

from redisaq.actors import Actor, ActorStopped, Supervisor
from redisaq.errors import SettingsError
from redisaq.testing import virtual_run
from redisaq.testing.freezing import OWNER, current_freezer
from tests.actors.kernel import Recorder, until

pytestmark = pytest.mark.anyio


async def test_start_in_order_stop_in_reverse() -> None:
    log: list[Any] = []
    async with Supervisor() as supervisor:
        for name in "abc":
            ref = await supervisor.start(Recorder(log, name=name))
            assert (name, "start") in log, "start returns after on_start"
            await ref.tell(1)
    assert log[:1] == [("a", "start")]
    assert [entry for entry in log if entry[1] == "stop"] == [("c", "stop"), ("b", "stop"), ("a", "stop")]
    for name in "abc":
        assert log.index((name, 1)) < log.index((name, "stop")), "what is in the mailbox is finished first"


async def test_leaving_does_not_wait_for_an_actor_to_end_by_itself() -> None:
    """One that never reads its mailbox is cancelled at once: it has no way of learning that it should end."""

    class Ticker(Actor[int]):
        cancelled = False

        async def run(self) -> None:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                self.cancelled = True
                raise

    ticker = Ticker()
    with anyio.fail_after(10):
        async with Supervisor(stop_timeout=1000) as supervisor:
            await supervisor.start(ticker)
    assert ticker.cancelled


async def test_a_reader_learns_of_the_end_and_may_finish() -> None:
    class Collector(Actor[int]):
        flushed: list[int]

        async def run(self) -> None:
            self.flushed = []
            gathered = [message async for message in self.mailbox]
            await anyio.sleep(0.01)
            self.flushed = gathered

    collector = Collector()
    async with Supervisor() as supervisor:
        ref = await supervisor.start(collector)
        for number in range(5):
            await ref.tell(number)
    assert collector.flushed == list(range(5))
    assert supervisor.tree().children[0].status == "stopped"


async def test_the_end_of_its_own_mailbox_is_no_failure() -> None:
    class Careless(Actor[int]):
        async def run(self) -> None:
            while True:
                await self.mailbox.receive()

    async with Supervisor() as supervisor:
        await supervisor.start(Careless())
    assert supervisor.tree().status == "stopped"


async def test_after_the_deadline_it_is_cancelled() -> None:
    actor = Recorder()
    async with Supervisor(stop_timeout=0.05) as supervisor:
        ref = await supervisor.start(actor)
        await ref.tell(anyio.sleep_forever)
        await until(lambda: actor.mailbox.hand)
        for number in range(3):
            await ref.tell(number)
    assert actor.log == [("recorder", "start"), ("recorder", "stop")]
    with pytest.raises(ActorStopped) as caught:
        await ref.tell(4)
    assert caught.value.leftover == 3
    assert actor.mailbox.handled == 0


async def test_what_is_left_can_be_taken_in_on_stop() -> None:
    class Saver(Recorder):
        async def on_stop(self) -> None:
            assert self.mailbox.closed
            while True:
                self.note(self.mailbox.receive_nowait())

    actor = Saver()
    async with Supervisor(stop_timeout=0) as supervisor:
        ref = await supervisor.start(actor)
        await ref.tell(anyio.sleep_forever)
        await until(lambda: actor.mailbox.hand)
        await ref.tell("saved")
    assert actor.log == [("saver", "start"), ("saver", "saved")]
    with pytest.raises(ActorStopped) as caught:
        ref.tell_nowait(4)
    assert caught.value.leftover == 0


async def test_stopping_one_leaves_the_others() -> None:
    log: list[Any] = []
    async with Supervisor() as supervisor:
        first = await supervisor.start(Recorder(log, name="first"))
        actor = Recorder(log, name="second")
        await supervisor.start(actor)
        await actor.ref.tell(2)
        assert await supervisor.stop(actor) == 0
        assert log[-2:] == [("second", 2), ("second", "stop")]
        await first.tell(1)
        await until(lambda: log[-1] == ("first", 1))
        assert [node.status for node in supervisor.tree().children] == ["running", "stopped"]
        await supervisor.start(Recorder(log, name="second"))  # the name is free again


async def test_stop_takes_a_timeout_of_its_own() -> None:
    actor = Recorder()
    async with Supervisor(stop_timeout=1000) as supervisor:
        ref = await supervisor.start(actor)
        await ref.tell(anyio.sleep_forever)
        await until(lambda: actor.mailbox.hand)
        assert await supervisor.stop(ref, timeout=0.01) == 0


async def test_a_cancelled_stop_cancels_the_actor() -> None:
    actor = Recorder()
    async with Supervisor(stop_timeout=1000) as supervisor:
        ref = await supervisor.start(actor)
        await ref.tell(anyio.sleep_forever)
        await until(lambda: actor.mailbox.hand)
        with anyio.move_on_after(0.01):
            await supervisor.stop(ref)
        await until(lambda: actor.log[-1] == ("recorder", "stop"))


async def test_an_actor_does_not_stop_itself() -> None:
    async with Supervisor() as supervisor:
        actor = Recorder()
        ref = await supervisor.start(actor)

        async def stop() -> None:
            with pytest.raises(RuntimeError, match="let its run return"):
                await supervisor.stop(ref)
            actor.note("refused")

        await ref.tell(stop)
    assert ("recorder", "refused") in actor.log


async def test_an_actor_that_returns_is_finished() -> None:
    class Brief(Recorder):
        async def run(self) -> None:
            self.note(await self.mailbox.receive())

    actor = Brief()
    async with Supervisor() as supervisor:
        ref = await supervisor.start(actor)
        await ref.tell(1)
        await until(lambda: actor.log[-1] == ("brief", "stop"))
        await until(lambda: supervisor.tree().children[0].status == "finished")
        (node,) = supervisor.tree().children
        assert (node.restarts, node.handled) == (0, 1)
        assert ref.stopped
    assert actor.log == [("brief", "start"), ("brief", 1), ("brief", "stop")]


async def test_on_stop_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    class Slow(Recorder):
        async def on_stop(self) -> None:
            self.note("stopping")
            await anyio.sleep_forever()

    actor = Slow()
    with caplog.at_level(logging.WARNING), anyio.fail_after(10):
        async with Supervisor(stop_timeout=0.05) as supervisor:
            await supervisor.start(actor)
    assert actor.log[-1] == ("slow", "stopping")
    assert "supervisor/slow: its clean-up took longer than 0.05 s" in caplog.text


async def test_a_cancelled_start_cancels_the_actor() -> None:
    class Stuck(Recorder):
        async def on_start(self) -> None:
            self.note("starting")
            await anyio.sleep_forever()

    actor = Stuck()
    async with Supervisor() as supervisor:
        with anyio.move_on_after(0.01) as scope:
            await supervisor.start(actor)
        assert scope.cancelled_caught
        await until(lambda: supervisor.tree().children[0].status == "stopped")
    assert actor.log == [("stuck", "starting")], "no on_stop without a completed on_start"


async def test_stopped_while_it_starts() -> None:
    class Stuck(Recorder):
        async def on_start(self) -> None:
            self.note("starting")
            await anyio.sleep_forever()

    actor = Stuck()
    async with Supervisor() as supervisor, anyio.create_task_group() as tasks:

        async def start() -> None:
            with pytest.raises(ActorStopped, match="was stopped before it came up"):
                await supervisor.start(actor)

        tasks.start_soon(start)
        await until(lambda: actor.log)
        await supervisor.stop(actor)


async def test_an_actor_may_start_and_stop_siblings() -> None:
    log: list[Any] = []
    async with Supervisor() as supervisor:
        boss = await supervisor.start(Recorder(log, name="boss"))

        async def hire() -> None:
            child = await supervisor.start(Recorder(log, name="child"))
            await child.tell("hello")
            await supervisor.stop(child)

        await boss.tell(hire)
        await until(lambda: ("child", "stop") in log)
    assert log == [("boss", "start"), ("child", "start"), ("child", "hello"), ("child", "stop"), ("boss", "stop")]


async def test_a_sibling_that_stopped_first_is_no_failure_on_the_way_out() -> None:
    """The one started first is stopped last, so it may well tell something to one that is gone."""
    log: list[Any] = []
    async with Supervisor() as supervisor:
        first = Recorder(log, name="first")
        await supervisor.start(first)
        second = await supervisor.start(Recorder(log, name="second"))

        async def tell_too_late() -> None:
            await until(lambda: second.stopped)
            await second.tell("too late")

        await first.ref.tell(tell_too_late)
    assert {name for name, what in log if what == "stop"} == {"first", "second"}


async def test_nothing_is_started_on_the_way_out() -> None:
    log: list[Any] = []
    async with Supervisor() as supervisor:
        boss = await supervisor.start(Recorder(log, name="boss"))

        async def hire() -> None:
            await until(lambda: supervisor.tree().status == "stopping")
            try:
                await supervisor.start(Recorder(log, name="child"))
            except ActorStopped as error:
                log.append(str(error))
                raise

        await boss.tell(hire)
    assert log == [("boss", "start"), "actor supervisor is being stopped and starts no more actors", ("boss", "stop")]


@pytest.mark.parametrize("name", ["", "a/b", "a\nb"])
async def test_names_that_cannot_stand_in_a_path(name: str) -> None:
    with pytest.raises(SettingsError, match="name"):
        Recorder(name=name)
    with pytest.raises(SettingsError, match="name"):
        Supervisor(name=name)


async def test_misuse_is_reported() -> None:
    supervisor = Supervisor()
    actor = Recorder(name="one")
    with pytest.raises(RuntimeError, match="not running"):
        await supervisor.start(actor)
    async with supervisor:
        await supervisor.start(actor)
        with pytest.raises(RuntimeError, match="started before"):
            await supervisor.start(actor)
        with pytest.raises(SettingsError, match="already has an actor named one"):
            await supervisor.start(Recorder(name="one"))
        with pytest.raises(RuntimeError, match="entered once"):
            await supervisor.__aenter__()
        assert await supervisor.stop(Recorder()) == 0, "one that is not here"
    with pytest.raises(RuntimeError, match="not running"):
        await supervisor.start(Recorder())
    with pytest.raises(SettingsError, match="strategy"):
        Supervisor("all_for_one")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="stop_timeout"):
        Supervisor(stop_timeout=-1)
    with pytest.raises(SettingsError, match="stop_timeout"):
        Supervisor(stop_timeout="1")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="name"):
        Supervisor(name=5)  # type: ignore[arg-type]


async def test_a_message_that_cannot_be_handled() -> None:
    with pytest.raises(NotImplementedError, match="Actor overrides neither receive nor run; int cannot be handled"):  # noqa: PT012
        async with Supervisor() as supervisor:
            ref = await supervisor.start(Actor[int]())
            await ref.tell(1)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("still", [False, True])
def test_a_process_that_stood_still_is_not_slow_to_clean_up(
    caplog: pytest.LogCaptureFixture, backend: Literal["trio", "asyncio"], *, still: bool
) -> None:
    class Slow(Recorder):
        async def on_stop(self) -> None:
            self.note("stopping")
            await anyio.sleep(1.0 if still else 100.0)
            self.note("cleaned up")  # if its own time and the limit both pass meanwhile, the event loop chooses

    slow = Slow()

    async def supervise() -> None:
        OWNER.set("process")
        async with Supervisor() as supervisor:
            await supervisor.start(slow)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervise)
            await anyio.sleep(0.5)
            assert slow.log[-1] == ("slow", "stopping")
            if still:
                current_freezer().freeze("process")
                await anyio.sleep(20.0)
                current_freezer().thaw("process")

    with caplog.at_level(logging.INFO):
        virtual_run(main, backend=backend)
    assert ("its clean-up took longer than 10 s" in caplog.text) is not still
    cancelled = slow.log[-1] != ("slow", "cleaned up")
    assert ("the process was stalled during its clean-up" in caplog.text) is (still and cancelled)
    assert cancelled or (still and backend == "asyncio")
