"""The broker of a simulated process whose server is a cluster: each step goes to the node of its slot, and calls may span nodes (C).

It does what ClusterLink does, with the same `Spreader`: a call over several nodes ends when all its parts have ended (C2). Each part has
its own faults, so a call may end in part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.producing import IN_ORDER
from redisaq.brokers.terms import ReaderMark
from redisaq.errors import ConnectionFailed
from redisaq.link.spread import Spreader
from redisaq.testing.faulty_broker import FaultyBroker
from redisaq.testing.nodes import Slot

R = TypeVar("R")
T = TypeVar("T")

ON_ITS_WAY = "TRYAGAIN the slot is on its way to another node"


class Refused:
    """The answer to an entry that a node refused (C1)."""


class ClusteredBroker(FaultyBroker):
    """A FaultyBroker of a cluster."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """See FaultyBroker."""
        super().__init__(*args, **options)
        self._spreader: Spreader[int] = Spreader(self._is_up, lambda: self.run_id, Refused)
        self._runs: dict[int, str] = {}
        self._places: dict[str, int] = {}
        self._changes = 0
        self._run_id = ""

    @property
    def run_id(self) -> str:
        """The runs of all nodes to which it has connected; see ClusterLink."""
        return self._run_id

    def _is_up(self, node: int) -> bool:
        connection = self._connections.get(node)
        return connection is not None and not connection.broken

    async def _operate_once(self, node: int, name: str, step: Callable[[MemoryStore], T]) -> T:
        try:
            return await super()._operate_once(node, name, step)
        except ConnectionFailed as error:
            self._spreader.breaks += error.maybe_executed
            error.of_node = True
            raise
        finally:
            self._note_run(node)

    def _note_run(self, node: int) -> None:
        connection = self._connections.get(node)
        if connection is not None and self._runs.get(node) != connection.mark.run_id:
            self._changes += node in self._runs
            self._runs[node] = connection.mark.run_id
            self._places[connection.mark.run_id] = node
            self._run_id = " ".join([str(self._changes), *sorted(self._runs.values())])

    async def connect(self) -> None:
        """Connect to each node that can be reached."""
        parts = {node: (node,) for node in range(self.store.count)}

        async def connect(node: int, places: Sequence[int]) -> Sequence[object]:
            return [await self._operate_at(node, "connect", lambda _: None) for _ in places]

        await self._spreader.send(parts, len(parts), connect)

    # -- steps -------------------------------------------------------------------------------------------------------------------------

    async def do(self, step: Step[R]) -> R:
        """Do one step at its node."""
        if type(step) in IN_ORDER:
            (answer,) = await self.do_each([step])
            return answer
        return await self._operate_at(self.store.node_of(step.place), step.name, partial(self._carry_out_there, step=step))

    async def do_each(self, steps: Sequence[Step[R]]) -> list[R]:
        """Do several steps of one class, each at its node; all at once."""
        if not steps:
            return await super().do_each(steps)
        parts, placing = self._parts([step.place for step in steps]), type(steps[0]) in IN_ORDER

        async def send(node: int, places: Sequence[int]) -> Sequence[object]:
            def carry_out(store: MemoryStore) -> list[R]:
                return [self._carry_out_there(store, steps[place]) for place in places]

            return await self._operate_at(node, steps[0].name, carry_out)

        if placing:
            self._spreader.check(self.store.url, parts, [step.place for step in steps], self._spreader.breaks)
            answers = await self._spreader.send_in_order(parts, len(steps), send, lambda place: steps[place].place)
        else:
            answers = await self._spreader.send(parts, len(steps), send)
        return cast("list[R]", answers)

    def _carry_out_there(self, store: MemoryStore, step: Step[R]) -> R:
        if self.store.refuses(step.place):
            raise ConnectionFailed(store.url, ON_ITS_WAY)
        return self._carry_out(store, step)

    def _parts(self, slots: Iterable[Slot]) -> dict[int, list[int]]:
        parts: dict[int, list[int]] = {}
        for place, slot in enumerate(slots):
            parts.setdefault(self.store.node_of(slot), []).append(place)
        return parts

    async def append(
        self, topic: str, entries: Sequence[tuple[int, Sequence[bytes]]], *, maxlen: int | None, approximate: bool, cuts: int = 0
    ) -> list[bytes | None]:
        """Append, in order at each node; what a node refuses may be sent again, unless a later entry of its stream was appended (C3)."""
        del approximate
        slots = [(topic, partition) for partition, _ in entries]
        parts = self._parts(slots)
        self._spreader.check(self.store.url, parts, slots, self._spreader.breaks)

        async def send(node: int, places: Sequence[int]) -> Sequence[object]:
            def append(store: MemoryStore) -> list[object]:
                answers: list[object] = []
                for place in places:
                    partition, _ = entry = entries[place]
                    refused = self.store.refuses_entry((topic, partition))
                    answers += [Refused()] if refused else store.append(topic, [entry], maxlen, cuts)
                return answers

            return await self._operate_at(node, "append", append)

        answers = await self._spreader.send_in_order(parts, len(entries), send, slots.__getitem__)
        appended = [None if isinstance(answer, Refused) else cast("bytes | None", answer) for answer in answers]
        if any(isinstance(answer, Refused) for answer in answers):
            return await self._redirected(topic, entries, answers, appended)
        return appended

    async def _redirected(
        self, topic: str, entries: Sequence[tuple[int, Sequence[bytes]]], answers: Sequence[object], appended: Sequence[bytes | None]
    ) -> list[bytes | None]:
        """Leave it to the caller to send again what was refused (C1)."""
        del topic, entries, answers
        error = ConnectionFailed(self.store.url, ON_ITS_WAY)
        error.appended = list(appended) if any(appended) else None
        raise error

    # -- connections -------------------------------------------------------------------------------------------------------------------

    async def kill(self, marks: Sequence[ReaderMark]) -> bool:
        """Kill connections where their runs are (E1). A run that another has replaced needs no kill (C4)."""
        by_node: dict[int, list[ReaderMark]] = {}
        for mark in marks:
            by_node.setdefault(self._places.get(mark.run_id, 0), []).append(mark)
        allowed = True
        for node, own in by_node.items():
            allowed = await self._kill_at(node, own) and allowed
        return allowed

    async def _kill_at(self, node: int, marks: Sequence[ReaderMark]) -> bool:
        return await self._operate_at(node, "kill", lambda store: self._kill_there(store, marks))

    async def _operate_where(self, slot: Slot, name: str, step: Callable[[MemoryStore], T]) -> T:
        return await self._operate_at(self.store.node_of(slot), name, step)
