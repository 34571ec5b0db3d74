"""What leaves a supervisor: the error as it is, siblings ended first, the block cancelled; and nothing but that."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from redisaq.actors import ActorStopped, RestartPolicy, RestartsExceeded, Supervisor
from tests.actors.kernel import QUICK, Recorder, until

pytestmark = pytest.mark.anyio


class Odd(Exception):
    """An error that no policy names."""


async def test_the_error_leaves_as_it_is_once_the_siblings_have_ended() -> None:
    log: list[Any] = []
    error = Odd("bug")
    cancelled = False
    with pytest.raises(Odd) as caught:  # noqa: PT012 -- it is the block that raises
        async with Supervisor() as supervisor:
            for name in "abc":
                await supervisor.start(Recorder(log, name=name, restart=QUICK))
            ref = await supervisor.start(Recorder(log, name="d", restart=QUICK))
            await ref.tell(error)
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                cancelled = True
                raise
    assert caught.value is error
    assert cancelled
    assert ("d", ("lost", error, error)) in log
    stops = [name for name, what in log if what == "stop"]
    assert sorted(stops) == ["a", "b", "c", "d"]
    assert [name for name in stops if name != "d"] == ["c", "b", "a"]
    assert [node.status for node in supervisor.tree().children] == ["stopped"] * 3 + ["failed"]
    assert supervisor.tree().status == "failed"


async def test_a_policy_names_what_it_forgives() -> None:
    with pytest.raises(Odd):  # noqa: PT012 -- it is the block that raises
        async with Supervisor() as supervisor:
            actor = Recorder(restart=QUICK)
            ref = await supervisor.start(actor)
            await ref.tell(ConnectionResetError())
            await until(lambda: actor.log.count(("recorder", "start")) == 2)
            await ref.tell(Odd())
            await anyio.sleep_forever()


@pytest.mark.parametrize("inner", [[ConnectionError(1)], [ConnectionError(1), ConnectionResetError(2)]])
async def test_a_group_of_forgiven_errors_is_forgiven(inner: list[ConnectionError]) -> None:
    async with Supervisor() as supervisor:
        actor = Recorder(restart=QUICK)
        ref = await supervisor.start(actor)
        await ref.tell(ExceptionGroup("from a task group", [ExceptionGroup("nested", inner)]))
        await until(lambda: actor.log.count(("recorder", "start")) == 2)


async def test_a_mixed_group_is_not() -> None:
    group = ExceptionGroup("from a task group", [ConnectionError(), Odd()])
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 -- it is the block that raises
        async with Supervisor() as supervisor:
            ref = await supervisor.start(Recorder(restart=QUICK))
            await ref.tell(group)
            await anyio.sleep_forever()
    assert caught.value is group


async def test_the_bodys_own_error_leaves_as_it_is() -> None:
    actor, error = Recorder(), Odd("mine")
    with pytest.raises(Odd) as caught:  # noqa: PT012 -- it is the block that raises
        async with Supervisor() as supervisor:
            await supervisor.start(actor)
            raise error
    assert caught.value is error
    assert actor.log == [("recorder", "start"), ("recorder", "stop")]


async def test_several_errors_leave_as_a_group() -> None:
    first, second, mine = Odd("first"), Odd("second"), Odd("mine")
    one, two = Recorder(name="one"), Recorder(name="two")
    one.stop_failures, two.stop_failures = [first], [second]
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 -- it is the block that raises
        async with Supervisor() as supervisor:
            await supervisor.start(one)
            await supervisor.start(two)
            raise mine
    assert set(caught.value.exceptions) == {first, second, mine}
    assert one.log[-1] == ("one", "stop")


async def test_a_failure_on_the_way_out() -> None:
    one, two = Recorder(name="one"), Recorder(name="two")
    two.stop_failures = [Odd("late")]
    with pytest.raises(Odd, match="late"):  # noqa: PT012 -- it is the block that raises
        async with Supervisor() as supervisor:
            await supervisor.start(one)
            await supervisor.start(two)
    assert one.log[-1] == ("one", "stop")


async def test_a_forgiven_failure_on_the_way_out() -> None:
    """What the policy names does not end anything: not when it is too late for a restart, either."""
    actor = Recorder(restart=QUICK)
    actor.stop_failures = [ConnectionError("too late")]
    async with Supervisor() as supervisor:
        ref = await supervisor.start(actor)
        await ref.tell(anyio.sleep_forever)
        await until(lambda: actor.mailbox.hand)
        await supervisor.stop(ref, timeout=0)
    assert supervisor.tree().status == "stopped"


async def test_a_failure_while_the_mailbox_is_emptied() -> None:
    actor = Recorder(restart=QUICK)
    error = ConnectionError()
    async with Supervisor() as supervisor:
        ref = await supervisor.start(actor)
        await ref.tell(1)
        await ref.tell(error)
        await ref.tell(2)
    assert actor.log == [("recorder", what) for what in ("start", 1, ("lost", error, error), "stop", "start", 2, "stop")]
    assert actor.mailbox.leftover == 0


async def test_a_failure_with_the_last_message() -> None:
    """Nothing is left to do, so it need not run again."""
    actor = Recorder(restart=QUICK)
    error = ConnectionError()
    async with Supervisor() as supervisor:
        ref = await supervisor.start(actor)
        await ref.tell(error)
    assert actor.log == [("recorder", what) for what in ("start", ("lost", error, error), "stop")]


async def test_failing_until_the_deadline() -> None:
    """What is left when time is up is counted."""
    actor = Recorder(restart=RestartPolicy(backoff=1000, max_backoff=1000))
    async with Supervisor(stop_timeout=0.05) as supervisor:
        ref = await supervisor.start(actor)
        for message in (ConnectionError(), 1, 2):
            await ref.tell(message)
    assert actor.mailbox.leftover == 2


async def test_on_lost_may_fail_too() -> None:
    class Clumsy(Recorder):
        async def on_lost(self, message: object, error: BaseException) -> None:
            raise Odd("lost it")

    original = ConnectionError()
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 -- it is the block that raises
        async with Supervisor() as supervisor:
            ref = await supervisor.start(Clumsy(restart=QUICK))
            await ref.tell(original)
            await anyio.sleep_forever()
    assert caught.value.exceptions[0] is original
    assert isinstance(caught.value.exceptions[1], Odd)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_what_is_no_exception_passes_through(error: BaseException) -> None:
    log: list[Any] = []
    actor = Recorder(log, restart=RestartPolicy(on=(Exception,), backoff=0))
    with pytest.raises(type(error)) as caught:  # noqa: PT012 -- it is the block that raises
        async with Supervisor() as supervisor:
            await supervisor.start(Recorder(log, name="other"))
            ref = await supervisor.start(actor)
            with pytest.raises(ActorStopped):
                await ref.ask(lambda reply: error, timeout=5)  # noqa: ARG005 -- a reply that nobody needs
            await anyio.sleep_forever()
    assert caught.value is error
    assert log[-2:] == [("recorder", "stop"), ("other", "stop")] or log[-2:] == [("other", "stop"), ("recorder", "stop")]


async def test_an_error_in_the_first_on_start_is_the_starters() -> None:
    actor = Recorder()
    actor.start_failures = [Odd("cannot")]
    async with Supervisor() as supervisor:
        with pytest.raises(Odd, match="cannot"):
            await supervisor.start(actor)
        assert supervisor.tree().children == ()
        assert actor.ref.stopped
        await supervisor.start(Recorder())  # the supervisor goes on
    assert actor.log == [("recorder", "start failed")], "no on_stop without a completed on_start"


async def test_a_forgiven_error_in_the_first_on_start_is_tried_again() -> None:
    actor = Recorder(restart=QUICK)
    actor.start_failures = [ConnectionError(1), ConnectionError(2)]
    async with Supervisor() as supervisor:
        await supervisor.start(actor)
        assert [what for _, what in actor.log] == ["start failed", "start failed", "start"]
        assert supervisor.tree().children[0].restarts == 2


async def test_a_first_on_start_that_fails_too_often() -> None:
    actor = Recorder(restart=RestartPolicy(max_restarts=2, backoff=0))
    actor.start_failures = [ConnectionError(number) for number in range(5)]
    async with Supervisor() as supervisor:
        with pytest.raises(RestartsExceeded, match=r"supervisor/recorder failed again after 2 restart\(s\)") as caught:
            await supervisor.start(actor)
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert caught.value.__cause__.args == (2,)


async def test_the_intensity_is_bounded() -> None:
    actor = Recorder(restart=RestartPolicy(max_restarts=3, within=1000, backoff=0))
    errors = [ConnectionError(number) for number in range(6)]
    with pytest.raises(RestartsExceeded) as caught:  # noqa: PT012 -- it is the block that raises
        async with Supervisor() as supervisor:
            ref = await supervisor.start(actor)
            for error in errors:
                await ref.tell(error)
            await anyio.sleep_forever()
    assert (caught.value.path, caught.value.restarts) == ("supervisor/recorder", 3)
    assert caught.value.__cause__ is errors[3]
    assert actor.log.count(("recorder", "start")) == 4
    assert actor.mailbox.leftover == 2


async def test_nested_supervisors_pass_errors_up() -> None:
    class Parent(Recorder):
        async def run(self) -> None:
            async with Supervisor(name="below", parent=self) as below:
                ref = await below.start(Recorder(self.log, name="child"))
                await ref.tell(error)
                await anyio.sleep_forever()

    error = Odd("deep")
    actor = Parent()
    with pytest.raises(Odd) as caught:  # noqa: PT012 -- it is the block that raises
        async with Supervisor() as supervisor:
            await supervisor.start(actor)
            await anyio.sleep_forever()
    assert caught.value is error
    assert [entry for entry in actor.log if entry[1] == "stop"] == [("child", "stop"), ("parent", "stop")]


async def test_awaiting_what_was_cancelled_does_not_end_it_unseen(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    """On asyncio that raises CancelledError in a task that was not cancelled; a task group would end as if there were no error."""
    if anyio_backend[0] != "asyncio":
        pytest.skip("trio has no such thing")
    log: list[Any] = []

    async def await_cancelled() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(ActorStopped, match="supervisor/b was cancelled, and not by its supervisor") as caught:  # noqa: PT012
        async with Supervisor() as supervisor:
            await supervisor.start(Recorder(log, name="a"))
            ref = await supervisor.start(Recorder(log, name="b", restart=QUICK))
            await ref.tell(await_cancelled)
            await anyio.sleep_forever()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert {name for name, what in log if what == "stop"} == {"a", "b"}
    assert supervisor.tree().children[1].status == "failed"


async def test_a_refusal_to_start_another_actor_is_an_error_unless_an_actor_has_failed() -> None:
    """Then it says nothing new."""
    refusal = ActorStopped("supervisor", "is being stopped and starts no more actors")
    with pytest.raises(ActorStopped) as caught:
        async with Supervisor(name="supervisor"):
            raise refusal
    assert caught.value is refusal
    with pytest.raises(Odd):  # noqa: PT012 -- it is the block that raises
        async with Supervisor(name="supervisor") as supervisor:
            ref = await supervisor.start(Recorder())
            await ref.tell(Odd())
            try:
                await anyio.sleep_forever()
            finally:
                raise refusal
