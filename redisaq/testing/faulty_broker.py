"""A memory broker behind a network with faults, and its readers.

All calls of the Broker protocol pass `_operate`. They return an answer, or raise ConnectionFailed as the fault plan says. Shared calls use
one connection, which is replaced once it has broken; each reader has its own (T3). Settlements are reported to the record at the moment at
which the server makes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast

import anyio

from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.memory.clients import ReadingClient, WaitingRead
from redisaq.brokers.memory.reader import MemoryDoorbell
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.administration import END, Seek
from redisaq.brokers.steps.growing import ReplicateRun
from redisaq.brokers.steps.leases import Install, Installed
from redisaq.brokers.steps.settling import Acknowledge, Resolve
from redisaq.brokers.terms import Doorbell, GroupName, Reader, ReaderMark
from redisaq.core.entry_ids import START, EntryId, parse_id
from redisaq.core.records import Entry
from redisaq.environment import Environment, silence_within, time_is_up_at
from redisaq.errors import ConnectionFailed
from redisaq.testing.fault_source import FaultSource, Growing
from redisaq.testing.faults import Kind
from redisaq.testing.network import Connection, Network, WaitLimits
from redisaq.testing.nodes import Nodes
from redisaq.testing.outsiders import Grower
from redisaq.testing.record import Record

R = TypeVar("R")
T = TypeVar("T")

OPENING = {"connect", "make_topic", "announce", "name_stream", "replicate", "publish"}
"""Operations without faults until another one is called: if a first connection fails, the client's creator gets the error at once."""

READS = {"connect", "kill", "anchors", "find", "read_topic", "read_mark", "backlog", "heartbeat"}
"""Operations of producers and coordinators that write nothing for which a replica could be waited for (C7)."""

GROWING: dict[tuple[bool, str], Growing] = {
    (False, "name_stream"): "cuts",
    (True, "name_stream"): "grower cuts",
    **{(True, name): "grower" for name in ("announce", "replicate", "publish")},
}
"""Operations with which a topic grows; True: of a process of `Simulation.grow`."""

UNBLOCK_LIMIT = 1.0
"""Seconds for which a cancelled read waits until the server has ended it."""


class Process(Protocol):
    """The process that makes the calls."""

    @property
    def name(self) -> str:
        """Its name in the trace."""
        ...

    @property
    def ttl(self) -> float:
        """The ttl of its lease in seconds; 0 if it has none."""
        ...

    @property
    def time(self) -> float:
        """Seconds that one call may take if nothing else limits it."""
        ...

    async def suffer(self, befalls: Mapping[Kind, float]) -> None:
        """Apply faults of the process. It may crash or pause here, and then returns late or never."""
        ...


class FaultyBroker(MemoryBroker):
    """The broker of one simulated process, with the faults of the plan."""

    def __init__(
        self,
        name: str,
        namespace: str,
        environment: Environment | None,
        *,
        network: Network,
        source: FaultSource,
        owner: Process,
        record: Record,
        confirmed: bool = False,
    ) -> None:
        super().__init__(name, namespace, environment)
        self._network = network
        self._source = source
        self._owner = owner
        self._record = record
        self._confirmed = confirmed  # C7: each step returns only once a replica has what its connection wrote
        self._connections: dict[int, Connection] = {}  # by node
        self._opened = False

    @property
    def store(self) -> Nodes:
        """The one store of the simulation."""
        return self._network.store

    @property
    def run_id(self) -> str:
        """The run id of the server to which the connection was made."""
        connection = self._connections.get(0)
        return "" if connection is None else connection.mark.run_id

    async def _operate(self, name: str, step: Callable[[MemoryStore], T]) -> T:
        return await self._operate_at(0, name, step)

    async def _operate_at(self, node: int, name: str, step: Callable[[MemoryStore], T]) -> T:
        self._opened = self._opened or name not in OPENING
        while True:
            try:
                return await self._operate_once(node, name, step)
            except ConnectionFailed:  # a failover; see OPENING
                if (isinstance(self._owner, Grower) and self._owner.crashed) or self._opened or self._network.now() >= time_is_up_at():
                    raise

    async def _operate_once(self, node: int, name: str, step: Callable[[MemoryStore], T]) -> T:
        owner = self._owner
        growing = GROWING.get((isinstance(owner, Grower), name), "no")
        befalls = self._source.operation(owner.name, owner.ttl, heartbeat=name == "heartbeat", faults=self._opened, growing=growing)
        await owner.suffer(befalls)
        self._enter()
        connection = self._connections.get(node)
        if connection is None or connection.broken:
            connection = self._connections[node] = self._network.connect(owner.name, node)
        answer = await self._network.call(connection, name, step, befalls, self._limits())
        if name == ReplicateRun.name:
            await self._network.replicated(node)
        if self._confirmed:
            await self._network.confirm(connection, reads=name in READS)
        return answer

    def _limits(self) -> WaitLimits:
        """Return how long to wait for an answer: until the call's time is up or, without one, for the process's time for any call."""
        until = time_is_up_at()
        left = until - self._network.now() if until < math.inf else self._owner.time
        return WaitLimits(silence_within(self._owner.ttl or min(self._owner.time, 60.0)), max(0.0, left))

    async def close(self) -> None:
        """Close the connections. What was sent may still arrive."""
        for connection in self._connections.values():
            connection.cut(self._network.store.url, "the broker was closed", keeps=True)
        self._connections.clear()
        await super().close()

    # -- reported to the record, or different from memory ------------------------------------------------------------------------------

    async def do(self, step: Step[R]) -> R:
        """Do one step; report when an owner learns of a seek by the answer (S5)."""
        answer = await super().do(step)
        if isinstance(step, Install) and isinstance(answer, Installed) and answer.moved is not None and answer.holder == step.incarnation:
            self._record.noticed(step.group, step.partition, answer.token)
        return answer

    def _carry_out(self, store: MemoryStore, step: Step[R]) -> R:
        before = _position(store, step)
        answer = super()._carry_out(store, step)
        self._tell(store, step, answer, before)
        if isinstance(step, ReplicateRun):
            return cast("R", answer and not self._network.lags(self.store.node_of(step.place)))
        return answer

    def _tell(self, store: MemoryStore, step: Step[Any], answer: Any, before: EntryId) -> None:  # noqa: ANN401 -- of whatever class the step is
        record, owner = self._record, self._owner
        match step:
            case Install():
                record.installed(owner, step.group, step.partition, step.token, answer)
            case Acknowledge():
                record.settled(owner, step.group, step, answer)
            case Resolve():
                record.resolved(owner, step.group, step.partition, step.token, resolutions=step.resolutions, answer=answer)
            case Seek():
                last = store.streams[step.place].last_id
                record.sought(step.group, step.partition, before, last if step.position == END else min(parse_id(step.position), last))
            case _:
                pass

    async def kill(self, marks: Sequence[ReaderMark]) -> bool:
        """Kill shared connections (E1)."""
        return await self._operate("kill", lambda store: self._kill_there(store, marks))

    def _kill_there(self, store: MemoryStore, marks: Sequence[ReaderMark]) -> bool:
        if not store.kill(marks):
            return False
        self._network.kill(marks)
        return True

    async def listen(self, group: GroupName) -> Doorbell:
        """Return the notifications of the group and its topic, over a connection that may fall silent."""
        return self._adopted(await super().listen(group))

    async def listen_partition(self, topic: str, partition: int) -> Doorbell:
        """Return the partition's notifications, over a connection that may fall silent."""
        return self._adopted(await super().listen_partition(topic, partition))

    def _adopted(self, bell: Doorbell) -> Doorbell:
        if isinstance(bell, MemoryDoorbell):
            self._network.adopt_bell(self._owner.name, bell.subscription)
        return bell

    def _reader(self, store: MemoryStore, client: ReadingClient) -> Reader:
        del store
        return FaultyReader(self._network, self._source, client, self._owner)


def _position(store: MemoryStore, step: Step[Any]) -> EntryId:
    """Return the position of a Seek's group before the seek."""
    cursor = store.cursor(step.group, step.partition) if isinstance(step, Seek) else None
    return START if cursor is None else cursor.last_delivered


class FaultyReader:
    """A Reader with a faulty connection of its own."""

    def __init__(self, network: Network, source: FaultSource, client: ReadingClient, owner: Process) -> None:
        self._network = network
        self._source = source
        self._client = client
        self._owner = owner
        self._connection = Connection(owner.name, client.mark, network.store.node_of((client.group.topic, client.partition)))
        network.adopt(self._connection)
        self._leftover: list[Entry] = []
        self._unanswered = False

    async def read(self, count: int, block: float) -> Sequence[Entry]:
        """Return new entries; see Reader."""
        network, owner = self._network, self._owner
        befalls = self._source.operation(owner.name, owner.ttl, heartbeat=False)
        await owner.suffer(befalls)
        self._unanswered = True
        request = await network.send(self._connection, "read", lambda store: store.read(self._client, count, block), befalls)
        taken = False
        try:
            await request.answered.wait()
            answer: Any = await network.answer_of(request)
            if isinstance(answer, WaitingRead):
                with anyio.move_on_after(block):
                    await answer.answered.wait()
                network.store.stop_waiting(answer)
                await network.heard(self._connection)
            taken = True
        except ConnectionFailed:
            taken = True
            raise
        finally:
            if not taken:  # cancelled: CLIENT UNBLOCK brings the read to its end
                with anyio.move_on_after(UNBLOCK_LIMIT, shield=True):
                    await request.answered.wait()
                    if self._connection.silent:
                        await self._connection.over.wait()
                self._take_back(request.answered.is_set(), request.answer, request.error)
        if isinstance(answer, WaitingRead):
            if answer.error is not None:
                raise answer.error
            answer = answer.entries
        self._unanswered = False
        entries: Sequence[Entry] = answer
        return entries

    def _take_back(self, answered: bool, answer: WaitingRead | Sequence[Entry], error: Exception | None) -> None:  # noqa: FBT001 -- one caller
        if not answered or error is not None or self._connection.silent:
            return
        if isinstance(answer, WaitingRead):
            self._network.store.stop_waiting(answer)
            if answer.error is not None:
                return
            answer = answer.entries
        self._leftover.extend(answer)
        self._unanswered = False

    def ask_ahead(self, count: int) -> None:
        """Do nothing, as in memory."""

    async def finish(self) -> None:
        """Do nothing, because no read was sent ahead."""
        await anyio.lowlevel.checkpoint()

    def take_leftover(self) -> Sequence[Entry]:
        """Return, once, the entries that a cancelled read received all the same."""
        leftover, self._leftover = self._leftover, []
        return leftover

    @property
    def mark(self) -> ReaderMark:
        """The mark that was registered for this reader."""
        return self._client.mark

    @property
    def settled(self) -> bool:
        """True if every read has its answer."""
        return not self._unanswered

    async def close(self) -> None:
        """Close the connection. The server sees this after everything that was sent before."""
        self._connection.cut(self._network.store.url, "the reader was closed", keeps=True)
        self._network.hang_up(self._connection, lambda store: store.disconnect(self._client, "the reader was closed"))
        await anyio.lowlevel.checkpoint()
