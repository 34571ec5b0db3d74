"""A herd: hundreds of members of one group, each with its real coordinator, heartbeats and doorbell, and owners that do nothing.

They meet at a memory store that does one step after the other, and takes as long for each as a real server does (`Costs`). In virtual time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import anyio

from redisaq.actors import Actor, Supervisor
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.coordination import Beat, Commit, Heartbeat
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import GroupName
from redisaq.consuming.context import Surroundings
from redisaq.consuming.coordinator import RebalanceCoordinator
from redisaq.consuming.doorbell import SignalListener
from redisaq.consuming.heartbeat import HeartbeatEmitter
from redisaq.consuming.member import Member
from redisaq.consuming.owner import Ended
from redisaq.consuming.partitions import Acquire, Lose, Order, Revoke
from redisaq.core.membership import decode_document
from redisaq.environment import current_environment
from redisaq.errors import ActorStopped, ConnectionFailed
from redisaq.settings import ConsumerSettings

R = TypeVar("R")
GROUP = GroupName("jobs", "default_group")


@dataclass(frozen=True)
class Costs:
    """Microseconds that steps take, as `python -m tests.bench.herd` has measured them on Valkey 9.1 (INFO commandstats, and the wire).

    Attributes:
        beat: a heartbeat that brings nothing.
        beat_kb: more of it for each kB of document or deltas.
        commit: a change of an empty document.
        commit_kb: more of it for each kB of document.
        refused: a change that is refused, but for its way.
        wire_kb: each kB on its way to or from the server.
        other: any other step.
        client_kb: what a member takes for each kB of document that it reads, or computes and writes.
        way: on the way there, and again back.
    """

    beat: float = 38.0
    beat_kb: float = 1.1
    commit: float = 40.0
    commit_kb: float = 1.6
    refused: float = 30.0
    wire_kb: float = 0.8
    other: float = 30.0
    client_kb: float = 30.0
    way: float = 150.0


@dataclass
class Server:
    """The one server: what it has done, and for how long.

    Attributes:
        calls: how often each step was done; "refused" for commits that were.
        busy: seconds that it was busy.
        moved: kB that it has sent and received.
    """

    costs: Costs = field(default_factory=Costs)
    calls: Counter[str] = field(default_factory=Counter[str])
    busy: float = 0.0
    moved: float = 0.0
    turn: anyio.Lock = field(default_factory=anyio.Lock)


Trouble = Literal["dies before", "dies after", "loses request", "loses reply"]


class SlowBroker(MemoryBroker):
    """A memory broker at that server.

    Attributes:
        trouble: what befalls its caller at which of its steps, by number.
        die: ends the caller there and then.
        steps: the names of the steps so far.
    """

    def __init__(self, name: str, server: Server) -> None:
        super().__init__(name, "redisaq")
        self._server = server
        self.trouble: tuple[int, Trouble] | None = None
        self.die: Callable[[], None] = lambda: None
        self.steps: list[str] = []

    async def do(self, step: Step[R]) -> R:
        """Do one step, unless there is trouble."""
        self.steps.append(step.name)
        number, trouble = self.trouble or (0, None)
        if trouble is None or len(self.steps) - 1 != number:
            return await self._done(step)
        answer = None if trouble in {"dies before", "loses request"} else await self._done(step)
        if trouble.startswith("dies"):
            self.die()
            await anyio.sleep_forever()
        raise ConnectionFailed(self.store.url, trouble, maybe_executed=answer is not None)

    async def _done(self, step: Step[R]) -> R:
        """Do one step, when it is its turn."""
        server, costs = self._server, self._server.costs
        there = len(self.store.members(GROUP).state.document) / 1000 if self.store.members(GROUP).state else 0.0  # type: ignore[union-attr]
        if isinstance(step, Commit):
            await anyio.sleep(there * costs.client_kb / 1e6)
        await anyio.sleep(costs.way / 1e6)
        async with server.turn:
            answer = await super().do(step)
            state = self.store.members(GROUP).state
            kb = len(state.document) / 1000 if state is not None else 0.0
            moved, name = 0.1, step.name
            if isinstance(step, Commit):
                moved, name = kb, "commit" if answer else "refused"
                took = costs.commit + costs.commit_kb * kb if answer else costs.refused
            elif isinstance(step, Heartbeat) and isinstance(answer, Beat):
                moved = kb if answer.document is not None else 0.3 if answer.deltas else 0.1
                took = costs.beat + costs.beat_kb * moved
            else:
                took = costs.other
            took += costs.wire_kb * moved
            server.calls[name] += 1
            server.busy += took / 1e6
            server.moved += moved
            await anyio.sleep(took / 1e6)
        await anyio.sleep(costs.way / 1e6)
        if isinstance(answer, Beat) and answer.document is not None:
            await anyio.sleep(kb * costs.client_kb / 1e6)
        return answer


class Owners(Actor[Order]):
    """Owners of partitions: they own, and give back what they are asked for."""

    def __init__(self) -> None:
        super().__init__(name="partitions", capacity=1 << 17)
        self.coordinator: RebalanceCoordinator | None = None
        self.owned: dict[int, Acquire] = {}

    async def receive(self, message: Order) -> None:
        """Carry out one order."""
        match message:
            case Acquire(partition=partition):
                self.owned[partition] = message
            case Revoke(partition=partition) | Lose(partition=partition) if partition in self.owned:
                order = self.owned.pop(partition)
                assert self.coordinator is not None
                ended = Ended(partition, order.token, order.lease.incarnation, released=isinstance(message, Revoke))
                await self.coordinator.ref.tell(ended)
            case _:
                pass


class HerdMember:
    """One member of the herd, from its start to its end."""

    def __init__(self, name: str, server: Server, **settings: Any) -> None:
        environment = current_environment()
        self.broker = SlowBroker(name, server)
        options = ConsumerSettings(**settings)
        self.around = Surroundings("jobs", options, self.broker, environment, logging.getLogger("herd"), self.broker)
        self.member = Member(None, options.heartbeat_ttl, environment)
        self.owners = Owners()
        self.left = anyio.Event()
        self.joined = anyio.Event()
        self.scope = anyio.CancelScope()
        self.broker.die = self.scope.cancel
        self.coordinator: RebalanceCoordinator | None = None

    async def run(self) -> None:
        """Run until it has left, or is cancelled: then it is gone without a word."""
        try:
            with self.scope:
                await self._run()
        except ActorStopped:  # it was gone before all its actors had started
            if not self.scope.cancel_called:
                raise

    async def _run(self) -> None:
        coordinator = RebalanceCoordinator(
            self.around, self.member, self.owners.ref, ready=lambda _: self.joined.set() if self.member.joined else None, left=self.left.set
        )
        self.owners.coordinator = self.coordinator = coordinator
        async with Supervisor("one_for_one", name="member") as supervisor:
            await supervisor.start(self.owners)
            await supervisor.start(coordinator)
            await supervisor.start(SignalListener(lambda: self.broker.listen(GROUP), coordinator.look, lambda _: None))
            await supervisor.start(HeartbeatEmitter(self.around, self.member, coordinator.look))
            await self.left.wait()


@dataclass
class Outcome:
    """What a start of a herd took.

    Attributes:
        joined: seconds until all were members.
        settled: seconds until all partitions were owned, evenly.
        server: what the server did meanwhile.
    """

    joined: float
    settled: float
    server: Server


async def start_herd(count: int, *, there: int = 0, each: int = 4, within: float = 1.0, name: str = "herd") -> Outcome:
    """Start members of a group; return when all is settled.

    Args:
        count: how many.
        there: how many are members before; what these have cost is not in the outcome.
        each: partitions of the topic, for each of all members.
        within: seconds over which they start.
        name: of the memory store.
    """
    server = Server()
    setup = MemoryBroker(name, "redisaq")
    partitions = (there + count) * each
    await setup.do(MakeTopic("jobs", partitions))
    environment = current_environment()
    members = [HerdMember(name, server) for _ in range(there + count)]

    async def start(member: HerdMember, within: float) -> None:
        await anyio.sleep(environment.random.random() * within)
        await member.run()

    async def settle(some: Sequence[HerdMember]) -> None:
        while not is_settled(setup, some, partitions):
            await anyio.sleep(0.005)

    async with anyio.create_task_group() as tasks:
        for member in members[:there]:
            tasks.start_soon(start, member, 0.0)
        if there:
            await settle(members[:there])
            await anyio.sleep(10.0)
            server.calls.clear()
            server.busy = server.moved = 0.0
        began = anyio.current_time()
        for member in members[there:]:
            tasks.start_soon(start, member, within)
        for member in members[there:]:
            await member.joined.wait()
        joined = anyio.current_time() - began
        await settle(members)
        outcome = Outcome(joined, anyio.current_time() - began, server)
        tasks.cancel_scope.cancel()
    return outcome


def is_settled(broker: MemoryBroker, members: Sequence[HerdMember], partitions: int) -> bool:
    """Return whether these members, and no others, own all partitions, evenly."""
    loads = [len(member.owners.owned) for member in members]
    state = broker.store.members(GROUP).state
    return (
        state is not None
        and sum(loads) == partitions
        and max(loads) - min(loads) <= 1
        and len(decode_document(state.document).members) == len(members)
    )
