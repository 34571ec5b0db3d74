"""The mailbox: bounded, in order, and no message is lost to a timeout or a cancellation."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from redisaq.actors import Actor, ActorStopped, Mailbox, RestartPolicy, Supervisor
from redisaq.errors import SettingsError
from tests.actors.kernel import until

pytestmark = pytest.mark.anyio


class Gated(Actor[int]):
    """Takes one message each time the gate is opened."""

    def __init__(self, capacity: int = 2, restart: RestartPolicy | None = None) -> None:
        super().__init__(capacity=capacity, restart=restart)
        self.gate = anyio.Semaphore(0)
        self.seen: list[int] = []

    async def receive(self, message: int) -> None:
        await self.gate.acquire()
        self.seen.append(message)


@pytest.mark.parametrize("capacity", [0, -1, "5", 1.5, math.nan, True, None])
def test_capacity_is_a_number_and_at_least_one(capacity: Any) -> None:
    with pytest.raises(SettingsError, match="capacity"):
        Mailbox[int](capacity)


async def test_what_cannot_work_is_refused_when_it_is_given() -> None:
    """A policy is looked at when the actor fails: that would be too late to hear of it."""
    policy: Any
    for policy in (ConnectionError, RestartPolicy):
        with pytest.raises(SettingsError, match="restart"):
            Gated(restart=policy)
    async with Supervisor() as supervisor:
        actor: Any
        for actor in (Gated, None):
            with pytest.raises(SettingsError, match="takes an Actor"):
                await supervisor.start(actor)


async def test_tell_waits_for_room() -> None:
    actor = Gated(capacity=2)
    async with Supervisor() as supervisor:
        ref = await supervisor.start(actor)
        await ref.tell(0)
        await until(lambda: actor.mailbox.hand)
        ref.tell_nowait(1)
        ref.tell_nowait(2)
        assert actor.mailbox.depth == 2
        with pytest.raises(anyio.WouldBlock):
            ref.tell_nowait(3)
        told = anyio.Event()

        async def tell() -> None:
            await ref.tell(3)
            told.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell)
            await anyio.wait_all_tasks_blocked()
            assert not told.is_set()
            for _ in range(4):
                actor.gate.release()
            await told.wait()
    assert actor.seen == [0, 1, 2, 3]


async def test_many_tellers_keep_their_own_order() -> None:
    class Keeper(Actor[tuple[int, int]]):
        seen: list[tuple[int, int]]

        async def on_start(self) -> None:
            self.seen = []

        async def receive(self, message: tuple[int, int]) -> None:
            self.seen.append(message)

    actor = Keeper(capacity=3)
    async with Supervisor() as supervisor:
        ref = await supervisor.start(actor)

        async def tell(teller: int) -> None:
            for number in range(50):
                await ref.tell((teller, number))

        async with anyio.create_task_group() as tasks:
            for teller in range(5):
                tasks.start_soon(tell, teller)
    for teller in range(5):
        assert [number for who, number in actor.seen if who == teller] == list(range(50))


async def test_a_cancelled_receive_takes_nothing() -> None:
    """A message that arrives in the very round in which the receiver is cancelled stays in the mailbox."""

    class Impatient(Actor[int]):
        seen: list[int]
        scope: anyio.CancelScope | None = None

        async def run(self) -> None:
            self.seen = []
            while True:
                with anyio.CancelScope() as self.scope:
                    try:
                        self.seen.append(await self.mailbox.receive())
                    except anyio.EndOfStream:
                        return

    actor = Impatient()
    async with Supervisor() as supervisor:
        ref = await supervisor.start(actor)
        for number in range(50):
            await until(lambda: actor.mailbox._arrival)
            assert actor.scope is not None
            if number % 2:
                ref.tell_nowait(number)
                actor.scope.cancel()
            else:
                actor.scope.cancel()
                ref.tell_nowait(number)
    assert actor.seen == list(range(50))


async def test_receive_nowait_and_many() -> None:
    class Reader(Actor[int]):
        def __init__(self) -> None:
            super().__init__()
            self.empty, self.go, self.done = anyio.Event(), anyio.Event(), anyio.Event()

        async def run(self) -> None:
            with pytest.raises(anyio.WouldBlock):
                self.mailbox.receive_nowait()
            self.empty.set()
            await self.go.wait()
            assert self.mailbox.receive_nowait() == 0
            assert tuple(self.mailbox.hand) == (0,)
            assert await self.mailbox.receive_many(3) == [1, 2, 3]
            assert tuple(self.mailbox.hand) == (1, 2, 3)
            assert self.mailbox.handled == 1
            assert await self.mailbox.receive_many(3) == [4]
            with pytest.raises(anyio.EndOfStream):
                await self.mailbox.receive_many(3)
            with pytest.raises(anyio.EndOfStream):
                self.mailbox.receive_nowait()
            self.done.set()

    actor = Reader()
    async with Supervisor() as supervisor:
        ref = await supervisor.start(actor)
        await actor.empty.wait()
        for number in range(5):
            ref.tell_nowait(number)
        actor.go.set()
    assert actor.done.is_set()
    assert actor.mailbox.handled == 5


async def test_several_readers_share_what_comes() -> None:
    class Pool(Actor[int]):
        seen: list[int]

        async def run(self) -> None:
            self.seen = []
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(self.read)

        async def read(self) -> None:
            async for message in self.mailbox:
                self.seen.append(message)
                await checkpoint()

    actor = Pool(capacity=4)
    async with Supervisor() as supervisor:
        ref = await supervisor.start(actor)
        for number in range(60):
            await ref.tell(number)
    assert sorted(actor.seen) == list(range(60))


async def test_tell_before_the_start_waits_for_it() -> None:
    actor = Gated()
    with pytest.raises(anyio.WouldBlock):
        actor.ref.tell_nowait(7)
    async with Supervisor() as supervisor, anyio.create_task_group() as tasks:
        tasks.start_soon(actor.ref.tell, 7)
        await anyio.wait_all_tasks_blocked()
        await supervisor.start(actor)
        actor.gate.release()
    assert actor.seen == [7]


async def test_a_stopped_actor_says_so() -> None:
    actor = Gated(capacity=3)
    async with Supervisor(stop_timeout=0.0) as supervisor:
        ref = await supervisor.start(actor)
        for number in range(3):
            await ref.tell(number)
        await until(lambda: actor.mailbox.hand)
        ref.tell_nowait(3)
        blocked: list[ActorStopped] = []

        async def tell() -> None:
            try:
                await ref.tell(4)
            except ActorStopped as error:
                blocked.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell)
            await anyio.wait_all_tasks_blocked()
            assert not ref.stopped
            assert await supervisor.stop(ref) == 3
        assert len(blocked) == 1
        assert ref.stopped
        for attempt in (ref.tell(5), ref.ask(lambda reply: 5, timeout=1)):  # noqa: ARG005 -- a reply that nobody needs
            with pytest.raises(ActorStopped, match=r"supervisor/gated stopped, 3 message\(s\) left") as caught:
                await attempt
            assert caught.value.leftover == 3
            assert caught.value.path == "supervisor/gated"
        with pytest.raises(ActorStopped):
            ref.tell_nowait(5)
        assert await supervisor.stop(ref) == 0, "a second time changes nothing"
