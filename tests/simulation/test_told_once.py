"""A message's result is reported once, even if the answer to its settlement was lost and the settlement is sent again."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import anyio
import pytest

from redisaq import DeadLetter, Message, RetryPolicy
from redisaq.events import Event
from redisaq.testing import Simulation
from tests.simulation.judged import simulate
from tests.simulation.variants.crowd import TOPIC, owned, topic, until
from tests.simulation.variants.variant import BACKENDS, Backend
from tests.simulation.variants.wire import Wire

both = pytest.mark.parametrize("backend", BACKENDS)


@both
@pytest.mark.parametrize("befalls", ["lost reply", "lost request"])
@pytest.mark.parametrize(("becomes", "event"), [("dead", "MessageDead"), ("retry", "MessageRetried"), ("unreadable", "EntryUnreadable")])
def test_each_settlement_is_reported_once(
    becomes: str, event: str, befalls: Literal["lost reply", "lost request"], backend: Backend
) -> None:
    told: Counter[str] = Counter()

    def note(one: Event) -> None:
        told[type(one).__name__] += 1

    async def handle(message: Message[Any]) -> None:
        if becomes == "dead":
            raise DeadLetter("no good")
        if becomes == "retry" and message.attempt == 1:
            raise ValueError("the first time")

    async def scenario(sim: Simulation) -> None:
        wire = Wire(sim)
        producer = await topic(sim, 1)
        sim.member("a", TOPIC, handle, on_event=note, retry=RetryPolicy(backoff=0.1))
        await until(lambda: owned(sim, "a") == {0})
        (wire.lose_reply if befalls == "lost reply" else wire.lose)("a", "resolve", 1)
        if becomes == "unreadable":
            sim.store.append(TOPIC, [(0, [b"foreign", b"1"])], None)
        else:
            await producer.enqueue({})
        await sim.until_quiet()
        await anyio.sleep(1.0)
        assert wire.befallen

    report = simulate(scenario, 1, backend)
    assert report.ok, report.violations
    assert told[event] == 1
