"""Scripts faults of the simulated network where chance would take too long: a certain request of a process is lost, or arrives later.

The operations that a script names raise the same errors as under the network's own faults; all others are unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import anyio
from anyio.lowlevel import checkpoint

from redisaq.brokers.memory.store import MemoryStore
from redisaq.testing import Simulation
from redisaq.testing.faults import Kind
from redisaq.testing.network import Connection, Request

Step = Callable[[MemoryStore], Any]


@dataclass
class _Order:
    who: str
    operation: str  # "" for all
    what: Literal["lose", "lose reply", "hold"]
    times: float
    seconds: float = 0.0
    skip: int = 0  # so many pass first
    when: Callable[[], bool] | None = None
    cuts: bool = False


class Wire:
    """The network of one simulation, with faults for named operations."""

    def __init__(self, simulation: Simulation) -> None:
        """Stand between the processes and the network."""
        self._simulation = simulation
        simulation.record.disturb(math.inf)  # whatever takes long from now on may be our doing
        self._network = network = simulation._network
        self._send: Callable[..., Awaitable[Request]] = network.send
        self._orders: list[_Order] = []
        self._slow: dict[tuple[str, str], float] = {}
        self._answer_of: Callable[[Request], Awaitable[Any]] = network.answer_of
        self.befallen: list[str] = []
        # No subclass: the simulation makes its own network.
        setattr(network, "send", self._pass)  # noqa: B010
        setattr(network, "answer_of", self._answer)  # noqa: B010

    def lose(self, who: str, operation: str = "", times: float = 1) -> None:
        """Let the next `times` requests never arrive; their caller cannot notice."""
        self._orders.append(_Order(who, operation, "lose", times))

    def lose_reply(self, who: str, operation: str, times: float = 1, *, cuts: bool = False) -> None:
        """Let the next `times` requests be executed, and their answers be lost; if it `cuts`, nothing of that process arrives then."""
        self._orders.append(_Order(who, operation, "lose reply", times, cuts=cuts))

    def hold(self, who: str, operation: str, seconds: float, times: float = 1, skip: int = 0) -> None:
        """Let the next `times` requests (after `skip` others) break for their caller at once, and be executed later."""
        self._orders.append(_Order(who, operation, "hold", times, seconds, skip))

    def hold_until(self, who: str, operation: str, when: Callable[[], bool], seconds: float) -> None:
        """Let the next one break for its caller at once, and be done right after the step that makes `when` true, or when time is up."""
        self._orders.append(_Order(who, operation, "hold", 1, seconds, when=when))

    def cut(self, who: str) -> None:
        """Let nothing of it arrive from now on."""
        self.lose(who, times=math.inf)

    def slow(self, who: str, seconds: float, operation: str = "") -> None:
        """Let every answer to it, or those to one operation, take so much longer."""
        self._slow[who, operation] = seconds

    def mend(self, who: str, operation: str = "") -> None:
        """Let everything of it arrive again, or one operation."""
        self._orders = [order for order in self._orders if order.who != who or operation not in ("", order.operation)]

    async def _pass(self, connection: Connection, name: str, step: Step, befalls: Mapping[Kind, float]) -> Request:
        for order in self._orders:
            if order.who == connection.who and order.operation in ("", name) and order.times > 0 and not connection.broken:
                if order.skip:
                    order.skip -= 1
                    continue
                order.times -= 1
                self.befallen.append(f"{order.what} {connection.who} {name}")
                return await self._befall(order, connection, name, step)
        return await self._send(connection, name, step, befalls)

    async def _answer(self, request: Request) -> Any:
        who = request.connection.who
        if (more := self._slow.get((who, request.name), self._slow.get((who, ""), 0.0))) > 0:
            await anyio.sleep(more)
        return await self._answer_of(request)

    async def _befall(self, order: _Order, connection: Connection, name: str, step: Step) -> Request:
        network, url = self._network, self._network.store.url
        if order.what == "lose reply":
            request = Request(connection, name, step, loses_reply=True)
            network._push(request, 0.0)
            if order.cuts:
                self.cut(order.who)
            return request
        if order.when is not None:
            self._simulation._start(self._do_when, order, step)
        elif order.what == "hold":
            network._push(Request(connection, name, step, loses_reply=False), order.seconds)
        connection.cut(url, "the wire was cut", keeps=True)
        await checkpoint()
        raise connection.failure(url, "the wire was cut", maybe_executed=True)

    async def _do_when(self, order: _Order, step: Step) -> None:
        network, before, due = self._network, self._network.stepped, anyio.Event()
        done = False

        def look(who: str, operation: str) -> None:
            nonlocal done
            before(who, operation)
            if not done and (due.is_set() or (order.when is not None and order.when())):
                done = True
                network.stepped = before
                step(network.store)
                before("wire", "late step")

        network.stepped = look
        await anyio.sleep(order.seconds)
        due.set()
        look("wire", "nothing")
