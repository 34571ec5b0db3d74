"""Actors that tell, ask, fail, start, stop and are cancelled at random, in virtual time, from seeds: the invariants are always true.

Each start that completed has its stop; no asker waits forever (that would be a VirtualDeadlock); each message told was handled, lost to a
failure, or left over; one message is handled at a time; no task is left; and only what was meant to leave the supervisor leaves it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint

from redisaq.actors import Actor, ActorRef, ActorStopped, Reply, RestartPolicy, RestartsExceeded, Supervisor
from redisaq.actors.supervisor import Strategy
from redisaq.environment import current_environment
from redisaq.testing import virtual_run

STRATEGIES: tuple[Strategy, ...] = ("one_for_one", "rest_for_one", "one_for_all")


class Bug(Exception):
    """What no policy names."""


@dataclass(eq=False)
class Work:
    """A message; with a reply it is a question."""

    reply: Reply[int] | None = None


@dataclass
class World:
    """What one run has come to."""

    random: Random
    bugs: bool
    actors: list[Chaotic] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)


class Chaotic(Actor[Work]):
    """Does something else each time."""

    def __init__(self, world: World) -> None:
        policy = RestartPolicy(on=(ConnectionError, TimeoutError), max_restarts=world.random.choice([3, 1000]), within=10, max_backoff=2.0)
        super().__init__(capacity=world.random.randint(1, 4), restart=policy)
        self.world = world
        self.told = self.unsure = self.starts = self.stops = self.busy = 0
        self.friends = list(world.actors)
        world.actors.append(self)

    async def rest(self) -> None:
        if self.world.random.random() < 0.5:
            await anyio.sleep(self.world.random.random() * 0.2)
        else:
            await checkpoint()

    async def on_start(self) -> None:
        await self.rest()
        if self.world.random.random() < 0.1:
            raise ConnectionError
        self.starts += 1

    async def on_stop(self) -> None:
        self.stops += 1
        await self.rest()
        if self.world.random.random() < 0.05:
            raise ConnectionError

    async def on_lost(self, message: Work, error: BaseException) -> None:
        self.world.seen["lost"] += 1
        await self.rest()

    async def receive(self, message: Work) -> None:
        assert self.busy == 0
        self.busy += 1
        try:
            await self.rest()
            chance = self.world.random.random()
            if chance < 0.08:
                raise ConnectionError
            if chance < 0.085 and self.world.bugs:
                raise Bug
            if chance < 0.3 and self.friends:  # the earlier ones only: a ring of askers would wait for itself
                await ask(self.world.random.choice(self.friends), timeout=1.0)
            if message.reply is not None:
                message.reply.set(1)
        finally:
            self.busy -= 1


async def tell(actor: Chaotic) -> None:
    """Tell, and count what is certain and what is not."""
    actor.unsure += 1
    await actor.ref.tell(Work())
    actor.unsure -= 1
    actor.told += 1


async def ask(actor: Chaotic, timeout: float | None) -> None:
    """Ask; nobody outside can know how many of those got through."""
    actor.unsure += 1
    try:
        await actor.ref.ask(Work, timeout=timeout)
        actor.world.seen["answered"] += 1
    except ActorStopped:
        actor.world.seen["stopped"] += 1


async def client(world: World) -> None:
    for _ in range(30):
        actor = world.random.choice(world.actors)
        try:
            if world.random.random() < 0.6:
                with anyio.move_on_after(0.3):
                    await tell(actor)
            else:
                await ask(actor, timeout=world.random.choice([0.1, 1.0, None]))
        except ActorStopped:
            await anyio.sleep(0.1)
        except (TimeoutError, ConnectionError) as error:
            world.seen[type(error).__name__] += 1


async def chaos(world: World, supervisor: Supervisor) -> None:
    for _ in range(6):
        await anyio.sleep(world.random.random())
        actor = world.random.choice(world.actors)
        if world.random.random() < 0.5:
            with anyio.move_on_after(world.random.choice([0.05, 5.0])):
                await supervisor.stop(actor, timeout=world.random.choice([0.0, 0.5]))
            world.seen["stop"] += 1
        else:
            await start(world, supervisor)


async def start(world: World, supervisor: Supervisor) -> ActorRef[Work] | None:
    with anyio.move_on_after(world.random.choice([0.1, 100.0])):
        try:
            return await supervisor.start(Chaotic(world))
        except RestartsExceeded:
            world.seen["gave up"] += 1
    return None


async def story(world: World) -> None:
    with anyio.move_on_after(world.random.choice([0.5, 3.0, 1000.0])) as scope:
        async with Supervisor(world.random.choice(STRATEGIES), stop_timeout=world.random.choice([0.1, 3.0])) as supervisor:
            for _ in range(world.random.randint(2, 4)):
                await start(world, supervisor)
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(client, world)
                tasks.start_soon(chaos, world, supervisor)
    world.seen["cancelled"] += scope.cancelled_caught


async def run(*, bugs: bool) -> Counter[str]:
    world = World(current_environment().random, bugs)
    try:
        await story(world)
    except* Bug:
        assert bugs
        world.seen["bug"] += 1
    except* RestartsExceeded:
        world.seen["exceeded"] += 1
    for actor in world.actors:
        mailbox = actor.mailbox
        assert actor.starts == actor.stops
        assert actor.busy == 0
        assert mailbox.closed == mailbox.opened
        assert actor.told <= mailbox.handled + mailbox._lost + mailbox.leftover <= actor.told + actor.unsure
        world.seen["handled"] += mailbox.handled
        world.seen["left"] += mailbox.leftover
        world.seen["restarts"] += max(0, actor.starts - 1)
    assert len([task for task in anyio.get_running_tasks() if "supervisor" in (task.name or "")]) == 0
    return world.seen


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("bugs", [False, True])
def test_what_must_hold_holds(backend: Literal["trio", "asyncio"], bugs: bool) -> None:
    async def main() -> Counter[str]:
        return await run(bugs=bugs)

    seen: Counter[str] = Counter()
    for seed in range(60):
        seen += virtual_run(main, seed=seed, backend=backend)
    everything = {"handled", "left", "restarts", "lost", "answered", "stopped", "stop", "cancelled", "exceeded", "TimeoutError"}
    assert everything <= set(seen), f"a simulation that never comes to this shows nothing: {everything - set(seen)}"
    assert ("bug" in seen) == bugs
