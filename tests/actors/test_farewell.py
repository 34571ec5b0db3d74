"""A consumer that ends, even by a failure, leaves its group, so that no member waits for its leases to run out."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message
from redisaq.actors import Actor
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.steps.coordination import Commit
from redisaq.errors import ConnectionFailed, ConsumerError, ServerError
from tests.actors.group import IN_VIRTUAL_TIME, Notebook, fresh_url, produce
from tests.actors.hooked import hooked
from tests.changing_steps import Do, change_step

LONG: dict[str, Any] = {"heartbeat_interval": 5.0, "heartbeat_ttl": 60.0}


class Fuse(Actor[None]):
    """Fails on request."""

    def __init__(self) -> None:
        super().__init__(name="fuse")
        self.lit = anyio.Event()

    async def run(self) -> None:
        await self.lit.wait()
        raise ZeroDivisionError("a bug")


@IN_VIRTUAL_TIME
async def test_the_next_member_need_not_wait() -> None:
    url, notebook = fresh_url(), Notebook()
    ids = await produce(url, 6, partitions=3)
    fuse = Fuse()

    async def handle(_message: Message[Any]) -> None:
        fuse.lit.set()
        await anyio.sleep_forever()

    consumer = Consumer("jobs", url, **LONG)
    consumer.attach(fuse)
    with anyio.fail_after(5):
        with pytest.raises(ConsumerError):
            await consumer.process(handle)
        await Consumer("jobs", url, **LONG).process(notebook.handle, until_empty=True)
    assert set(notebook.counts) == set(ids)


@IN_VIRTUAL_TIME
async def test_a_server_that_is_silent_does_not_hold_up_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is waited for: what the others would be spared, they have the lease for."""
    url = fresh_url()
    await produce(url, 1)
    fuse, operate = Fuse(), MemoryBroker._operate

    async def silent(broker: MemoryBroker, name: str, step: Any) -> Any:
        if fuse.lit.is_set():
            await anyio.sleep_forever()
        return await operate(broker, name, step)

    async def handle(_message: Message[Any]) -> None:
        fuse.lit.set()
        await anyio.sleep_forever()

    monkeypatch.setattr(MemoryBroker, "_operate", silent)
    consumer = Consumer("jobs", url, **LONG)
    consumer.attach(fuse)
    began = anyio.current_time()
    with pytest.raises(ConsumerError):
        await consumer.process(handle)
    assert anyio.current_time() - began < 5


@IN_VIRTUAL_TIME
async def test_a_server_that_refuses_the_farewell_does_not_take_the_place_of_the_error() -> None:
    """What was handled until then stays counted, though no owner has given its partition back."""
    url = fresh_url()
    await produce(url, 3)
    fuse, notebook, refused = Fuse(), Notebook(), set[str]()

    async def handle(message: Message[Any]) -> None:
        await notebook.handle(message)
        if len(notebook.messages) == 3:
            fuse.lit.set()
            await anyio.sleep_forever()

    async def before(name: str) -> None:
        if fuse.lit.is_set() and name in ("release", "commit"):
            refused.add(name)
            raise ServerError("NOPERM for this test")

    consumer = Consumer("jobs", url, **LONG)
    consumer.attach(fuse)
    hooked(consumer, url).before = before
    with pytest.raises(ConsumerError) as caught:
        await consumer.process(handle)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert refused == {"release", "commit"}
    assert consumer.statistics().handled == 2


@IN_VIRTUAL_TIME
async def test_an_actor_that_a_run_without_a_connection_has_not_started_is_started_by_the_next() -> None:
    url, fuse, away = fresh_url(), Fuse(), True
    await produce(url, 1)

    async def before(name: str) -> None:
        if away and name == "connect":
            raise ConnectionFailed(url, "for this test")

    consumer = Consumer("jobs", url, **LONG)
    consumer.attach(fuse)
    hooked(consumer, url).before = before
    with pytest.raises(ConnectionFailed):
        await consumer.process(lambda _message: fuse.lit.set())
    away = False
    with anyio.fail_after(5), pytest.raises(ConsumerError, match="a bug"):
        await consumer.process(lambda _message: fuse.lit.set())


@pytest.mark.parametrize("fails", [False, True])
@IN_VIRTUAL_TIME
async def test_one_that_leaves_while_others_change_the_group_rests_between_its_tries(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """M3: the first retry is immediate."""
    url, fuse, tries = fresh_url(), Fuse(), list[float]()
    await produce(url, 1)

    async def overtaken(step: Commit, do: Do) -> Any:
        if not step.leaves:
            return await do(step)
        tries.append(anyio.current_time())
        return len(tries) > 6 and await do(step)

    async def handle(_message: Message[Any]) -> None:
        if fails:
            fuse.lit.set()
            await anyio.sleep_forever()
        await consumer.stop()

    change_step(monkeypatch, Commit, overtaken)
    consumer = Consumer("jobs", url, **LONG)
    consumer.attach(fuse)
    with pytest.raises(ConsumerError) if fails else contextlib.nullcontext():
        await consumer.process(handle)
    assert len(tries) == 7
    assert tries[1] == tries[0]
    assert 0.05 < tries[-1] - tries[0] < 2
