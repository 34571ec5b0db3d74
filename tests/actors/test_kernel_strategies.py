"""Which actors restart together, and in which order."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import pytest

from redisaq.actors import ActorStopped, RestartPolicy, Supervisor
from redisaq.actors.supervisor import Strategy
from redisaq.testing import virtual_run
from tests.actors.kernel import Recorder, until

Backend = Literal["trio", "asyncio"]
RESTART = RestartPolicy(backoff=1.0, max_restarts=100)

pytestmark = pytest.mark.parametrize("backend", ["trio", "asyncio"])


def moves(log: list[Any]) -> str:
    """Return the starts as capitals and the stops as small letters, in order."""
    return "".join(name.upper() if what == "start" else name for name, what in log if what in {"start", "stop"})


async def four(strategy: Strategy, failing: str, log: list[Any]) -> None:
    async with Supervisor(strategy) as supervisor:
        refs = {name: await supervisor.start(Recorder(log, name=name, restart=RESTART)) for name in "abcd"}
        await refs[failing].tell(ConnectionError())
        await until(lambda: supervisor.tree().children["abcd".index(failing)].restarts)
        await anyio.sleep(5)
        assert all(node.status == "running" for node in supervisor.tree().children)
        assert [node.restarts for node in supervisor.tree().children] == [log.count((name, "start")) - 1 for name in "abcd"]


@pytest.mark.parametrize(
    ("strategy", "failing", "expected"),
    [
        ("one_for_one", "b", "ABCDbBdcba"),
        ("rest_for_one", "b", "ABCDbdcBCDdcba"),
        ("rest_for_one", "d", "ABCDdDdcba"),
        ("rest_for_one", "a", "ABCDadcbABCDdcba"),
        ("one_for_all", "b", "ABCDbdcaABCDdcba"),
        ("one_for_all", "d", "ABCDdcbaABCDdcba"),
    ],
)
def test_order(backend: Backend, strategy: Strategy, failing: str, expected: str) -> None:
    for seed in range(10):
        log: list[Any] = []
        virtual_run(four, strategy, failing, log, seed=seed, backend=backend)
        assert moves(log) == expected, seed


def test_a_sibling_taken_down_keeps_its_mailbox_and_gets_its_message_back(backend: Backend) -> None:
    async def main() -> None:
        log: list[Any] = []
        error = ConnectionError()
        async with Supervisor("rest_for_one") as supervisor:
            first = await supervisor.start(Recorder(log, name="a", restart=RESTART))
            second = await supervisor.start(Recorder(log, name="b"))  # no policy of its own: the strategy concerns it all the same
            await second.tell(anyio.sleep_forever)
            await second.tell("kept")
            await anyio.sleep(1)
            await first.tell(error)
            await until(lambda: ("b", "kept") in log)
            (lost,) = [what for name, what in log if name == "b" and what[0] == "lost"]
            assert lost[1] is anyio.sleep_forever
            assert isinstance(lost[2], ActorStopped)
            assert lost[2].__cause__ is error
            assert [node.restarts for node in supervisor.tree().children] == [1, 1]
            assert supervisor.tree().children[1].last_error is None

    virtual_run(main, backend=backend)


def test_nobody_comes_up_before_the_one_it_builds_on(backend: Backend) -> None:
    """The one that failed fails again while it comes up, for a while: those after it wait, those before it go on."""

    async def main(strategy: Strategy) -> str:
        log: list[Any] = []
        async with Supervisor(strategy) as supervisor:
            actors = {name: Recorder(log, name=name, restart=RESTART) for name in "abc"}
            for actor in actors.values():
                await supervisor.start(actor)
            actors["b"].start_failures = [ConnectionError() for _ in range(3)]
            await actors["b"].ref.tell(ConnectionError())
            await anyio.sleep(60)
            assert all(node.status == "running" for node in supervisor.tree().children)
            log.append(("-", "start"))
        assert log.count(("b", "start failed")) == 3
        return moves(log).split("-", maxsplit=1)[0]

    assert virtual_run(main, "rest_for_one", backend=backend) == "ABCbcBC"
    assert virtual_run(main, "one_for_all", backend=backend) == "ABCbcaAaAaAaABC", "each failure takes all down"


def test_failures_at_the_same_time(backend: Backend) -> None:
    """If several fail at the same time, all are up in the end, and nothing hangs."""

    async def main(strategy: Strategy) -> str:
        log: list[Any] = []
        async with Supervisor(strategy) as supervisor:
            refs = [await supervisor.start(Recorder(log, name=name, restart=RESTART)) for name in "abcd"]
            for ref in refs:
                ref.tell_nowait(ConnectionError())
            await anyio.sleep(1.5)
            for ref in reversed(refs):
                await ref.tell(ConnectionError())
            await anyio.sleep(60)
            assert all(node.status == "running" for node in supervisor.tree().children)
            assert all(node.depth == 0 for node in supervisor.tree().children)
        return moves(log)

    for strategy in ("one_for_one", "rest_for_one", "one_for_all"):
        for seed in range(25):
            log = virtual_run(main, strategy, seed=seed, backend=backend)
            for name in "abcd":
                assert log.upper().count(name.upper()) == 2 * log.count(name), "each start has its stop"


def test_a_failure_that_nobody_forgives_ends_all(backend: Backend) -> None:
    log: list[Any] = []

    async def main(strategy: Strategy) -> None:
        async with Supervisor(strategy) as supervisor:
            refs = [await supervisor.start(Recorder(log, name=name, restart=RESTART)) for name in "abc"]
            await refs[1].tell(ConnectionError())
            await refs[2].tell(ValueError("bug"))
            await anyio.sleep_forever()

    for strategy in ("one_for_one", "rest_for_one", "one_for_all"):
        for seed in range(10):
            with pytest.raises(ValueError, match="bug"):
                virtual_run(main, strategy, seed=seed, backend=backend)
            for name in "abc":
                assert log.count((name, "start")) == log.count((name, "stop")) > 0, seed


def test_one_that_finished_stays_finished(backend: Backend) -> None:
    class Brief(Recorder):
        async def run(self) -> None:
            self.note("done")

    async def main() -> None:
        log: list[Any] = []
        async with Supervisor("one_for_all") as supervisor:
            await supervisor.start(Brief(log, name="a"))
            ref = await supervisor.start(Recorder(log, name="b", restart=RESTART))
            await anyio.sleep(1)
            await ref.tell(ConnectionError())
            await anyio.sleep(10)
            assert [node.status for node in supervisor.tree().children] == ["finished", "running"]
        assert moves(log) == "AaBbBb" or moves(log) == "ABabBb"

    virtual_run(main, backend=backend)


def test_started_while_an_earlier_one_is_down(backend: Backend) -> None:
    """It may build on the earlier one, so it waits for that."""

    async def main() -> None:
        log: list[Any] = []
        async with Supervisor("rest_for_one") as supervisor:
            ref = await supervisor.start(Recorder(log, name="a", restart=RestartPolicy(backoff=100, max_backoff=100)))
            await ref.tell(ConnectionError())
            await anyio.sleep(0.001)
            await supervisor.start(Recorder(log, name="b"))
        assert moves(log) == "AaABba"

    virtual_run(main, backend=backend)


def test_stopping_one_lets_those_after_it_come_up(backend: Backend) -> None:
    async def main() -> None:
        log: list[Any] = []
        async with Supervisor("rest_for_one") as supervisor:
            first = await supervisor.start(Recorder(log, name="a", restart=RestartPolicy(backoff=1e9, max_backoff=1e9)))
            await supervisor.start(Recorder(log, name="b"))
            await first.tell(ConnectionError())
            await until(lambda: supervisor.tree().children[1].status == "restarting")
            await anyio.sleep(10)
            assert supervisor.tree().children[1].status == "restarting"
            await supervisor.stop(first)
            await until(lambda: supervisor.tree().children[1].status == "running")
        assert moves(log) == "ABabBb"

    virtual_run(main, backend=backend)
