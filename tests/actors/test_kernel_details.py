"""What the kernel promises in passing: figures, log lines, and what a mailbox says of itself before, at and after its end."""

from __future__ import annotations

import logging
import math
from random import Random
from typing import Any, Literal

import anyio
import pytest

from redisaq.actors import Actor, ActorStopped, Reply, RestartPolicy, Supervisor
from redisaq.actors.restart import RestartRecord
from redisaq.actors.tree import Node
from redisaq.actors.waiting import Asked
from redisaq.testing import virtual_run
from redisaq.testing.freezing import OWNER, current_freezer
from tests.actors.kernel import QUICK, Recorder, until

Backend = Literal["trio", "asyncio"]
both = pytest.mark.parametrize("backend", ["trio", "asyncio"])
FOREVER = 1000.0  # seconds that nobody waits in these tests, unless something is wrong


def test_what_is_not_given_is_as_documented() -> None:
    policy = RestartPolicy()
    assert (policy.on, policy.max_restarts, policy.within) == ((ConnectionError,), 5, 60.0)
    assert (policy.backoff, policy.max_backoff, policy.reset_after) == (0.1, 30.0, 60.0)
    assert Actor[int]().mailbox.capacity == 64
    node = Node("a", "a", "new")
    assert (node.depth, node.capacity, node.handled, node.restarts, node.last_error, node.busy_since) == (0, 0, 0, 0, None, None)


def test_before_it_is_started_a_mailbox_is_empty() -> None:
    mailbox = Recorder(capacity=1).mailbox
    assert (mailbox.depth, mailbox.handled, mailbox.leftover, mailbox.closed, mailbox.opened) == (0, 0, 0, False, False)
    assert not mailbox.in_use


def test_the_ends_of_a_policys_times_belong_to_them() -> None:
    """A restart is forgotten once it is `within` seconds old; after `reset_after` seconds up, the rests are short again."""
    random = Random(1)
    record = RestartRecord(RestartPolicy(max_restarts=2, within=50.0, backoff=0.0))
    assert [record.grant(now, None, random) for now in (0.0, 10.0, 49.9, 50.0)] == [0.0, 0.0, None, 0.0]

    class Most(Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    record = RestartRecord(RestartPolicy(backoff=1.0, reset_after=20.0))
    assert [record.grant(now, up_since, Most()) for now, up_since in ((0, None), (1, None), (20, 0.5), (40, 20))] == [1.0, 2.0, 4.0, 1.0]


def test_a_reply_says_whether_the_asker_gets_it() -> None:
    reply: Reply[int] = Reply()
    assert reply.wanted
    assert not reply.answered
    assert reply.set(1)
    assert not reply.set(2)
    assert not reply.fail(ValueError("too late"))
    assert reply.answered
    assert reply.result() == 1
    refused: Reply[int] = Reply()
    assert refused.deadline == math.inf
    assert refused.fail(ValueError("no"))
    assert not refused.fail(KeyError("later"))
    assert not refused.set(3)
    with pytest.raises(ValueError, match="no"):
        refused.result()
    assert not Asked("question", reply).taken


@both
def test_only_the_last_sixteen_that_ended_stay_in_the_tree(backend: Backend) -> None:
    async def main() -> list[str]:
        async with Supervisor() as supervisor:
            await supervisor.start(Recorder(name="keeper"))
            for number in range(18):
                await supervisor.stop(await supervisor.start(Recorder(name=f"n{number}")))
            return [node.name for node in supervisor.tree().children]

    assert virtual_run(main, backend=backend) == ["keeper", *(f"n{number}" for number in range(2, 18))]


@both
@pytest.mark.parametrize(("late", "stalled"), [(0.75, False), (1.0, True), (2.0, True)])
def test_a_clean_up_that_is_cut_a_second_late_was_held_up_by_a_standstill(
    backend: Backend, late: float, caplog: pytest.LogCaptureFixture, *, stalled: bool
) -> None:
    class Slow(Recorder):
        async def on_stop(self) -> None:
            await anyio.sleep(FOREVER)

    async def supervise() -> None:
        OWNER.set("process")
        async with Supervisor(stop_timeout=8.0) as supervisor:
            await supervisor.start(Slow())

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervise)
            await anyio.sleep(4.0)
            current_freezer().freeze("process")
            await anyio.sleep(4.0 + late)
            current_freezer().thaw("process")

    with caplog.at_level(logging.INFO, logger="redisaq.actors"):
        virtual_run(main, backend=backend)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "actor supervisor/slow: the process was stalled during its clean-up, which was then cancelled")
        if stalled
        else ("WARNING", "actor supervisor/slow: its clean-up took longer than 8 s and was cancelled")
    ]


@both
def test_failures_that_are_survived_are_logged(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """That it runs again, and when; that a clean-up failed; that it failed while it was being stopped."""

    async def main() -> None:
        actor = Recorder(restart=RestartPolicy(backoff=0))
        actor.stop_failures = [ConnectionError("clean-up")]
        async with Supervisor() as supervisor:
            ref = await supervisor.start(actor)
            await ref.tell(ConnectionError("work"))
            await until(lambda: supervisor.tree().children[0].restarts)
            assert str(supervisor.tree().children[0].last_error) == "clean-up"
            await ref.tell(ConnectionError("end"))
        assert str(supervisor.tree().children[0].last_error) == "end"

    with caplog.at_level(logging.INFO, logger="redisaq.actors"):
        virtual_run(main, backend=backend)
    (again, stop, end) = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert again[0] == "INFO"
    assert again[1].startswith("actor supervisor/recorder failed and runs again in 0 s: ")
    assert "work" in again[1]
    assert stop[0] == "WARNING"
    assert stop[1].startswith("actor supervisor/recorder: on_stop failed: ")
    assert "clean-up" in stop[1]
    assert end[0] == "WARNING"
    assert end[1].startswith("actor supervisor/recorder failed while it was being stopped: ")
    assert "end" in end[1]


class Distracted(Actor[Any]):
    """Reads its mailbox for a while, and then does something else for good."""

    def __init__(self, way: str) -> None:
        super().__init__(restart=QUICK)
        self.way = way
        self.failed = False
        self.away = anyio.Event()

    async def run(self) -> None:
        if self.way == "polls":
            await self.mailbox.receive()
            with pytest.raises(anyio.WouldBlock):
                self.mailbox.receive_nowait()
        elif not self.failed:
            self.failed = True
            await self.mailbox.receive()
            raise ConnectionError
        self.away.set()
        await anyio.sleep_forever()


@both
@pytest.mark.parametrize("way", ["polls", "restarted"])
def test_one_that_does_not_read_its_mailbox_any_more_is_not_waited_for(backend: Backend, way: str) -> None:
    async def main() -> float:
        actor = Distracted(way)
        async with Supervisor(stop_timeout=FOREVER) as supervisor:
            ref = await supervisor.start(actor)
            await ref.tell(1)
            await actor.away.wait()
            assert supervisor.tree().children[0].busy_since is None
            began = anyio.current_time()
        return anyio.current_time() - began

    assert virtual_run(main, backend=backend) < 1


@both
def test_who_is_cancelled_hears_of_that_first_and_not_that_the_actor_is_gone(backend: Backend) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            ref = await supervisor.start(Recorder())
            await supervisor.stop(ref)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ref.tell(1)
        assert scope.cancelled_caught

    virtual_run(main, backend=backend)


@both
def test_a_block_that_a_failure_ends_hears_of_that_and_not_that_nothing_is_started_any_more(backend: Backend) -> None:
    refusals: list[ActorStopped] = []

    async def main() -> None:
        async with Supervisor() as supervisor:
            ref = await supervisor.start(Recorder())
            await ref.tell(ValueError("bug"))
            try:
                await anyio.sleep_forever()
            finally:
                try:
                    await supervisor.start(Recorder())
                except ActorStopped as error:
                    refusals.append(error)

    with pytest.raises(ValueError, match="bug"):
        virtual_run(main, backend=backend)
    assert not refusals


@both
def test_one_that_is_cancelled_before_its_turn_is_stopped_for_all(backend: Backend) -> None:
    """It waits for one that it may build on; nothing of it has run, and who tells it something learns that."""

    async def main() -> None:
        log: list[Any] = []
        waiting = Recorder(log, name="b")
        async with Supervisor("rest_for_one") as supervisor:
            first = await supervisor.start(Recorder(log, name="a", restart=RestartPolicy(backoff=FOREVER, max_backoff=FOREVER)))
            await first.tell(ConnectionError())
            await anyio.sleep(0.001)
            with anyio.move_on_after(1):
                await supervisor.start(waiting)
            await anyio.sleep(0.001)
            assert supervisor.tree().children[1].status == "stopped"
            assert waiting.ref.stopped
            with anyio.fail_after(1), pytest.raises(ActorStopped):
                await waiting.ref.tell(1)
        assert not any(name == "b" for name, _ in log)

    virtual_run(main, backend=backend)


@both
def test_one_that_waits_for_its_turn_is_not_hurried_by_another_failure(backend: Backend) -> None:
    async def main() -> list[Any]:
        log: list[Any] = []
        rest = RestartPolicy(backoff=100.0, max_backoff=100.0)
        async with Supervisor("rest_for_one") as supervisor:
            first = Recorder(log, name="a", restart=rest)
            await supervisor.start(first)
            first.start_failures = [ConnectionError(), ConnectionError()]
            await first.ref.tell(ConnectionError())
            await anyio.sleep(0.001)
            with anyio.fail_after(FOREVER):
                await supervisor.start(Recorder(log, name="b"))
        return [(name, what) for name, what in log if isinstance(what, str)]

    assert virtual_run(main, backend=backend) == [
        ("a", "start"),
        ("a", "stop"),
        ("a", "start failed"),
        ("a", "start failed"),
        ("a", "start"),
        ("b", "start"),
        ("b", "stop"),
        ("a", "stop"),
    ]


@both
def test_a_question_that_waits_in_the_mailbox_outlives_a_restart(backend: Backend) -> None:
    class Question:
        def __init__(self, reply: Reply[int]) -> None:
            self.reply = reply

    class Clumsy(Actor[Question]):
        fell = False

        async def receive(self, message: Question) -> None:
            await anyio.sleep(1)
            if not self.fell:
                self.fell = True
                raise ConnectionError
            message.reply.set(42)

    async def main() -> list[object]:
        answers: list[object] = []

        async def ask() -> None:
            try:
                answer: int = await ref.ask(Question, timeout=None)
                answers.append(answer)
            except ConnectionError as error:
                answers.append(type(error))

        async with Supervisor() as supervisor:
            ref = await supervisor.start(Clumsy(restart=QUICK))
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(ask)
        return answers

    assert virtual_run(main, backend=backend) == [ConnectionError, 42, 42]


@both
def test_a_mailbox_that_is_not_open_says_why(backend: Backend) -> None:
    async def main() -> None:
        actor = Recorder()
        with pytest.raises(RuntimeError, match="has not been started"):
            actor.mailbox.receive_nowait()
        async with Supervisor() as supervisor:
            await supervisor.start(actor)
        with pytest.raises(anyio.EndOfStream):
            actor.mailbox.receive_nowait()

    virtual_run(main, backend=backend)


@both
def test_receiving_lets_others_run_and_hears_of_a_cancellation_though_messages_wait(backend: Backend) -> None:
    class Busy(Actor[int]):
        seen: tuple[int, bool, int] | None = None

        async def run(self) -> None:
            first = await self.mailbox.receive()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await self.mailbox.receive()
            self.seen = first, scope.cancelled_caught, self.mailbox.depth

    async def main() -> None:
        actor = Busy()
        async with Supervisor() as supervisor:
            ref = await supervisor.start(actor)
            ref.tell_nowait(1)
            ref.tell_nowait(2)
        assert actor.seen == (1, True, 1)

    virtual_run(main, backend=backend)


@both
def test_one_is_stopping_while_it_empties_its_mailbox(backend: Backend) -> None:
    async def main() -> list[str]:
        statuses: list[str] = []
        async with Supervisor() as supervisor, anyio.create_task_group() as tasks:
            ref = await supervisor.start(Recorder(restart=QUICK))
            for message in (lambda: anyio.sleep(2), ConnectionError(), lambda: anyio.sleep(2)):
                await ref.tell(message)
            await anyio.sleep(1)
            tasks.start_soon(supervisor.stop, ref)
            for _ in range(3):
                await anyio.sleep(1.5)
                statuses.append(supervisor.tree().children[0].status)
        return statuses

    assert virtual_run(main, backend=backend) == ["stopping", "stopping", "stopped"]


@both
def test_a_sibling_that_has_stopped_is_a_failure_for_one_that_needs_it_before_the_end(backend: Backend) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            second = await supervisor.start(Recorder(name="second"))
            first = await supervisor.start(Recorder(name="first"))
            await supervisor.stop(second)
            await first.tell(lambda: second.tell(1))
            await anyio.sleep(1)

    with pytest.raises(ActorStopped, match="supervisor/second stopped"):
        virtual_run(main, backend=backend)


@both
def test_a_sibling_that_has_stopped_is_none_while_the_block_is_cancelled_and_not_left_yet(backend: Backend) -> None:
    async def main() -> list[Any]:
        log: list[Any] = []
        second = Recorder(log, name="second")

        class First(Recorder):
            async def run(self) -> None:
                try:
                    await anyio.sleep_forever()
                finally:
                    log.append("tells")
                    second.ref.tell_nowait(1)

        with anyio.move_on_after(1):
            async with Supervisor() as supervisor:
                await supervisor.start(First(log, name="first"))
                await supervisor.start(second)
                try:
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(5)
        return log[2:]

    assert virtual_run(main, backend=backend) == [("second", "stop"), "tells", ("first", "stop")]


@both
def test_one_that_comes_later_waits_until_an_earlier_one_has_cleaned_up_and_is_up_again(backend: Backend) -> None:
    class Slow(Recorder):
        async def on_stop(self) -> None:
            await anyio.sleep(5)
            await super().on_stop()

    async def main() -> list[Any]:
        log: list[Any] = []
        async with Supervisor("rest_for_one") as supervisor:
            ref = await supervisor.start(Slow(log, name="a", restart=QUICK))
            await ref.tell(ConnectionError())
            await anyio.sleep(1)
            await supervisor.start(Recorder(log, name="b"))
        return [(name, what) for name, what in log if isinstance(what, str)][:4]

    assert virtual_run(main, backend=backend) == [("a", "start"), ("a", "stop"), ("a", "start"), ("b", "start")]


@both
def test_a_failure_of_a_start_that_nobody_waits_for_any_more_leaves_the_supervisor(backend: Backend) -> None:
    class Stuck(Recorder):
        async def on_start(self) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("bug")

    async def main() -> None:
        async with Supervisor() as supervisor:
            with anyio.move_on_after(1):
                await supervisor.start(Stuck())
            await anyio.sleep(1)

    with pytest.raises(ValueError, match="bug"):
        virtual_run(main, backend=backend)


@both
def test_one_that_cannot_be_cancelled_holds_up_the_others_for_twice_the_time_of_a_clean_up(backend: Backend) -> None:
    """Once for what it is doing, and once for on_lost or on_stop."""

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(100)

    async def main() -> list[tuple[str, float]]:
        stops: list[tuple[str, float]] = []

        class Timed(Recorder):
            async def on_stop(self) -> None:
                stops.append((self.name, anyio.current_time() - began))

        with anyio.move_on_after(1):
            async with Supervisor(stop_timeout=3.0) as supervisor:
                await supervisor.start(Timed(name="a"))
                ref = await supervisor.start(Timed(name="b"))
                await ref.tell(stubborn)
                began = anyio.current_time() + 1
                await anyio.sleep_forever()
        return stops

    (first, second) = virtual_run(main, backend=backend)
    assert [first[0], second[0]] == ["a", "b"]
    assert [first[1], second[1]] == pytest.approx([6.0, 99.0])


@both
@pytest.mark.parametrize("way", ["returns", "fails", "is forgiven"])
def test_in_the_last_clean_up_the_mailbox_is_closed_and_a_failure_is_known(backend: Backend, way: str) -> None:
    seen: list[tuple[bool, str, str]] = []

    class Looking(Recorder):
        async def run(self) -> None:
            await self.mailbox.receive()
            if way != "returns":
                raise ConnectionError("for this test")

        async def on_stop(self) -> None:
            tree = supervisors[0].tree()
            seen.append((self.mailbox.closed, tree.status, tree.children[0].status))

    async def main() -> None:
        async with Supervisor() as supervisor:
            supervisors.append(supervisor)
            ref = await supervisor.start(Looking(restart=QUICK if way == "is forgiven" else None))
            await ref.tell(1)
            await anyio.sleep(1)

    supervisors: list[Supervisor] = []
    if way == "fails":
        with pytest.raises(ConnectionError, match="for this test"):
            virtual_run(main, backend=backend)
        assert seen == [(True, "stopping", "failed")]
    else:
        virtual_run(main, backend=backend)
        forgiven = [(False, "running", "running"), (True, "stopping", "stopping")]
        assert seen == (forgiven if way == "is forgiven" else [(True, "running", "running")])
