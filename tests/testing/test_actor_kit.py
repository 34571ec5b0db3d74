"""ActorKit: an actor under a real supervisor, and what that decides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import pytest

from redisaq.actors import Actor, ActorRef, Reply, RestartPolicy, RestartsExceeded
from redisaq.errors import ActorStopped, SettingsError
from redisaq.testing import ActorKit, Probe, virtual_run
from tests.conftest import Backend

Virtual = Callable[[Callable[[], Awaitable[None]]], None]
POLICY = RestartPolicy(on=(ConnectionError,), max_restarts=2, within=600.0, backoff=30.0, max_backoff=300.0)


@pytest.fixture(params=["trio", "asyncio"])
def virtually(request: pytest.FixtureRequest) -> Virtual:
    backend: Literal["trio", "asyncio"] = request.param

    def run(main: Callable[[], Awaitable[None]]) -> None:
        for seed in range(5):
            virtual_run(main, seed=seed, backend=backend)

    return run


@dataclass
class Count:
    reply: Reply[int]


class Flusher(Actor[Any]):
    def __init__(self, sink: ActorRef[str] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.sink = sink
        self.count = 0
        self.given_back: list[Any] = []

    async def receive(self, message: Any) -> None:
        if isinstance(message, Exception):
            raise message
        if isinstance(message, Count):
            message.reply.set(self.count)
            return
        await anyio.sleep(5)
        self.count += 1
        if self.sink is not None:
            await self.sink.tell(f"flushed {message}")

    async def on_lost(self, message: Any, error: BaseException) -> None:
        self.given_back.append(message)


def test_tell_ask_and_what_it_sent(virtually: Virtual) -> None:
    async def main() -> None:
        sink = Probe(name="sink")
        async with ActorKit(Flusher(sink.ref), before=[sink]) as kit:
            await kit.tell("a")
            await kit.tell("b")
            await kit.idle()
            assert sink.messages == ["flushed a", "flushed b"]
            assert anyio.current_time() - kit._began == 10.0
            assert await kit.ask(Count) == 2
            assert (kit.node.status, kit.node.handled) == ("running", 3)
            assert [node.name for node in kit.tree().children] == ["sink", "flusher"]
        assert [step.what for step in kit.history if step.actor == "flusher"] == ["starts", "up", "stops"]

    virtually(main)


def test_restarts_have_rests_and_what_was_in_hand_is_lost(virtually: Virtual) -> None:
    async def main() -> None:
        first, second = ConnectionError("first"), ConnectionError("second")
        actor = Flusher(restart=POLICY)
        async with ActorKit(actor) as kit:
            await kit.tell("a")
            await kit.tell(first)
            await kit.tell(second)
            await kit.idle()
            one, two = kit.restarts
            assert (one.error, two.error) == (first, second)
            assert 0.0 <= one.rest <= 30.0
            assert 0.0 <= two.rest <= 60.0
            assert one.time == 5.0 + one.rest
            assert two.time == one.time + two.rest
            assert kit.lost == actor.given_back == [first, second]
            assert kit.node.restarts == 2
            assert kit.escalated is None

    virtually(main)


def test_what_nobody_survives_escalates_and_the_test_goes_on(virtually: Virtual) -> None:
    async def main() -> None:
        bug = ValueError("a bug")
        async with ActorKit(Flusher(restart=POLICY)) as kit:
            await kit.tell(bug)
            await kit.idle()
            await anyio.sleep(1)
            assert kit.escalated is bug
            assert kit.node.status == "failed"
            assert kit.ref.stopped

    virtually(main)


def test_too_many_restarts_escalate(virtually: Virtual) -> None:
    async def main() -> None:
        async with ActorKit(Flusher(restart=POLICY)) as kit:
            for _ in range(3):
                await kit.tell(ConnectionError())
            await kit.idle()
            assert isinstance(kit.escalated, RestartsExceeded)
            assert len(kit.restarts) == 2

    virtually(main)


def test_an_escalation_that_nobody_looked_at_is_raised(virtually: Virtual) -> None:
    async def main() -> None:
        async with ActorKit(Flusher()) as kit:
            await kit.tell(ValueError("a bug"))
            await kit.idle()

    with pytest.raises(ValueError, match="a bug"):
        virtually(main)


def test_a_start_that_fails(virtually: Virtual) -> None:
    class Broken(Actor[str]):
        async def on_start(self) -> None:
            raise OSError("no disk")

    async def main() -> None:
        async with ActorKit(Broken()) as kit:
            await kit.idle()
            assert isinstance(kit.escalated, OSError)
            assert [step.what for step in kit.history] == ["starts", "fails"]

    virtually(main)


def test_siblings_go_down_with_it(virtually: Virtual) -> None:
    async def main() -> None:
        after = Probe(name="after")
        before = Probe(name="before")
        async with ActorKit(Flusher(restart=POLICY), before=[before], after=[after], strategy="rest_for_one") as kit:
            await kit.tell(ConnectionError())
            await kit.idle()
            assert [(one.actor, type(one.error)) for one in kit.restarts] == [("flusher", ConnectionError), ("after", type(None))]

    virtually(main)


def test_an_actor_that_finishes_is_idle(virtually: Virtual) -> None:
    class Once(Actor[str]):
        async def run(self) -> None:
            await self.mailbox.receive()

    async def main() -> None:
        async with ActorKit(Once()) as kit:
            await kit.tell("go")
            await kit.idle()
            await anyio.sleep(1)
            assert kit.node.status == "finished"

    virtually(main)


def test_one_that_is_never_idle_and_a_test_that_fails(virtually: Virtual) -> None:
    class Busy(Actor[str]):
        async def run(self) -> None:
            await anyio.sleep_forever()

    async def main() -> None:
        async with ActorKit(Busy()) as kit:
            with pytest.raises(TimeoutError):
                await kit.idle(timeout=60)
            raise KeyError("the test's own")

    with pytest.raises(KeyError, match="the test's own"):
        virtually(main)


@pytest.mark.anyio
async def test_in_a_loop(anyio_backend: Backend) -> None:
    probe = Probe(lambda message: message.reply.set(7))
    async with ActorKit(probe) as kit:
        assert await kit.ask(Count) == 7
        await kit.idle()
    assert len(probe.messages) == 1


def test_a_test_that_fails_by_an_escalation_shows_it(virtually: Virtual) -> None:
    """The actor has stopped: that alone would not say why."""

    async def main() -> None:
        async with ActorKit(Flusher()) as kit:
            await kit.tell(ValueError("a bug"))
            await kit.idle()
            await kit.tell("more")

    with pytest.raises(ActorStopped) as caught:
        virtually(main)
    assert caught.value.__notes__ == ["what left the supervisor before: ValueError: a bug"]


def test_who_is_not_idle(virtually: Virtual) -> None:
    class Slow(Actor[str]):
        async def receive(self, message: str) -> None:
            await anyio.sleep(100)

    async def main() -> None:
        async with ActorKit(Slow(), before=[Probe()]) as kit:
            await kit.tell("a")
            await kit.tell("b")
            with pytest.raises(TimeoutError, match=r"^after 10 s still at work: slow \(1 in its mailbox\)$"):
                await kit.idle(timeout=10)

    virtually(main)


def test_what_is_no_actor() -> None:
    with pytest.raises(SettingsError, match="not an Actor: 'actor'"):
        ActorKit("actor")  # type: ignore[arg-type]
