"""Simulate the network between processes and the server: connections whose requests arrive in order, late, or not at all.

Input: requests, each a synchronous step at the memory store. Output: their answers, after the time that the way takes. Requests of one
connection are carried out in the order in which they were sent. Nothing of a connection is carried out after it was killed. A request that
has arrived is carried out even if its sender no longer waits, is paused, or is gone. A silence ends with a broken connection: nothing that
was sent during it is ever answered.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from redisaq.brokers.memory.clients import Subscription
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.terms import ReaderMark
from redisaq.errors import ConnectionFailed
from redisaq.testing.faults import SERVER, Kind
from redisaq.testing.nodes import Nodes

T = TypeVar("T")

Start = Callable[[Callable[..., Coroutine[Any, Any, None]], float, object], None]


def _start_nothing(_function: Callable[..., Coroutine[Any, Any, None]], _seconds: float, _whom: object) -> None:
    """Do nothing: `Network.start` has not been set yet."""


REFUSED = 0.1
"""Seconds until a call fails while the server is away: a failed attempt to connect, with the pause before it."""

CONFIRM_WITHIN = 1.0
"""Seconds that a replica has to confirm a write."""

FIRST_ID = 1_000_000
"""Ids of shared connections begin here; connections of readers have the small ids of the store."""


class WaitLimits(NamedTuple):
    """How many seconds to wait for an answer, as the link of a real broker does.

    Attributes:
        silence: if nothing is heard on the connection for this long, the connection is broken.
        time: after this long, the call is given up, and the connection stays.
    """

    silence: float
    time: float


class Request:
    """A step on its way to the server."""

    __slots__ = ("answer", "answered", "connection", "dropped", "error", "loses_reply", "name", "reply_delay", "step")

    def __init__(
        self, connection: Connection, name: str, step: Callable[[MemoryStore], Any], *, loses_reply: bool = False, reply_delay: float = 0.0
    ) -> None:
        """Create a request.

        Args:
            connection: the connection on which it is sent.
            name: the operation's name.
            step: the step to carry out at the store.
            loses_reply: whether its answer gets lost.
            reply_delay: seconds that its answer takes on the way back.
        """
        self.connection = connection
        self.name = name
        self.step = step
        self.loses_reply = loses_reply
        self.reply_delay = reply_delay
        self.dropped = False
        self.answered = anyio.Event()
        self.answer: Any = None
        self.error: Exception | None = None


class Connection:
    """One connection of one process: the requests under way on it, and whether it still works.

    Attributes:
        who: the process's name in the trace.
        mark: identifies the connection to the server, which can kill it.
        broken: why the connection is broken; "" while it works.
        ended: the server is gone, too: its answers that have not arrived yet never will.
        silent: nothing is heard on it any more; it will break.
        deaf: it is silent, and nothing that is sent on it arrives.
        over: set when it has broken.
        node: to which node of the server it goes.
        unconfirmed: no replica has what was last written on it.
    """

    def __init__(self, who: str, mark: ReaderMark, node: int = 0) -> None:
        """Open a connection.

        Args:
            who: the process's name in the trace.
            mark: identifies the connection to the server.
            node: to which node of the server it goes.
        """
        self.who = who
        self.mark = mark
        self.node = node
        self.broken = ""
        self.ended = False
        self.silent = False
        self.deaf = False
        self.over = anyio.Event()
        self.last_arrival = -math.inf
        self.unconfirmed = False
        self.under_way: list[Request] = []
        self.unheard: list[Request] = []

    def failure(self, url: str, reason: str, *, maybe_executed: bool) -> ConnectionFailed:
        """Return the error that a caller gets."""
        error = ConnectionFailed(url, reason, maybe_executed=maybe_executed)
        if maybe_executed:
            error.connections = ((self.mark.client_id, self.mark.address, self.mark.run_id),)
        return error

    def cut(self, url: str, reason: str, *, keeps: bool) -> None:
        """Break the connection: waiting callers get an error. If `keeps`, requests under way still arrive."""
        self.broken = self.broken or reason
        self.over.set()
        for request in (*self.under_way, *self.unheard):
            if not request.answered.is_set():
                request.error = self.failure(url, reason, maybe_executed=True)
                request.answered.set()
            request.dropped = request.dropped or not keeps
        self.unheard.clear()

    def end(self, url: str, reason: str) -> None:
        """Break the connection, since its server is gone: nothing of it arrives any more, either way."""
        self.cut(url, reason, keeps=False)
        self.ended = True


class Network:
    """Carry requests between the simulated processes and the server.

    Attributes:
        away: why nobody can connect; "" while everybody can.
        away_nodes: why nobody can connect to a node.
        lags: returns whether a node's replica is cut off.
        now: virtual time.
        start: starts a task that belongs to no process, with its two arguments.
        stepped: called after each step of the server, with the process and the operation.
        strike: applies faults of the server.
    """

    def __init__(self, store: Nodes, note: Callable[[str, str, str], None]) -> None:
        """Create a network without connections.

        Args:
            store: the server.
            note: called for each thing done, with the process, the operation and the result.
        """
        self.store = store
        self.now = store.environment.clock
        self._note = note
        self._heap: list[tuple[float, int, Request]] = []
        self._changed = anyio.Event()
        self._sent = 0
        self._made = FIRST_ID
        self._connections: dict[int, Connection] = {}
        self._readers: dict[Connection, None] = {}
        self._held_until = -math.inf
        self._silent: dict[str, float] = {}  # the processes whose network is silent, and until when
        self._silent_until = -math.inf  # until when the server is silent
        self._last_silent: dict[str | None, float] = {}  # when the last silence of a process is over, or will be
        self._bells: dict[Subscription, str] = {}
        self._muted: set[str] = set()  # the processes that get no notifications
        self.away = ""
        self.away_nodes: dict[int, str] = {}
        self.lags: Callable[[int], bool] = lambda _: False
        self._silent_nodes: dict[int, float] = {}
        self.start: Start = _start_nothing
        self.stepped: Callable[[str, str], None] = lambda _who, _operation: None
        self.strike: Callable[[Mapping[Kind, float], int], None] = lambda _befalls, _node: None

    # -- connections -----------------------------------------------------------------------------------------------------------------

    def connect(self, who: str, node: int = 0) -> Connection:
        """Open a shared connection to a node."""
        self._made += 1
        connection = Connection(who, ReaderMark(self._made, f"simulated:{self._made}", self.store.runs[node]), node)
        self._connections[self._made] = connection
        connection.silent = self._is_silent(who, node)
        return connection

    def adopt(self, connection: Connection) -> None:
        """Track a reader's connection until it hangs up."""
        self._readers[connection] = None
        connection.silent = self._is_silent(connection.who, connection.node)

    def adopt_bell(self, who: str, subscription: Subscription) -> None:
        """Track the connection of a subscription to notifications."""
        self._bells[subscription] = who
        if who in self._muted:
            subscription.channels = frozenset()

    def break_all(self, reason: str) -> None:
        """Replace the server by another: nothing that is under way arrives there, and client ids start again (E1, T3)."""
        for connection in (*self._connections.values(), *self._readers):
            connection.end(self.store.url, reason)
        self._connections.clear()
        self._readers.clear()
        self._made = FIRST_ID

    def break_node(self, node: int, reason: str) -> None:
        """Let a node be gone, as it was: nothing that is under way arrives there."""
        self._silent_nodes.pop(node, None)
        for number, connection in list(self._connections.items()):
            if connection.node == node:
                del self._connections[number]
                connection.end(self.store.url, reason)
        for connection in [one for one in self._readers if one.node == node]:
            del self._readers[connection]
            connection.end(self.store.url, reason)

    # -- silence ---------------------------------------------------------------------------------------------------------------------

    def stop_node(self, node: int, seconds: float) -> None:
        """Let a node do nothing for so long, as under SIGSTOP: then all connections to it break, and it does what was sent meanwhile."""
        self._silent_nodes[node] = until = self.now() + seconds
        self._note(SERVER, f"node {node}", f"stands still for {seconds:.3f} s")
        self._last_silent[None] = until
        for connection in self._all_of(None):
            if connection.node == node:
                connection.silent = True
        self._heap = [(max(at, until) if one.connection.node == node else at, number, one) for at, number, one in self._heap]
        heapq.heapify(self._heap)
        self._changed.set()
        self.start(self._wake_node, seconds, node)

    async def _wake_node(self, after: float, node: object) -> None:
        await anyio.sleep(after)
        if self._silent_nodes.pop(int(str(node)), None) is not None:
            self._break_silent(None, [one for one in self._all_of(None) if one.node == node and not one.broken], bells=False)

    def silence(self, who: str | None, seconds: float) -> None:
        """Let nothing be heard and nothing arrive on any connection of a process (None: of anybody) for this many seconds; then break them.

        What was sent meanwhile is carried out then. This has no effect while such a silence already lasts.
        """
        if self.away or self._silent_until > -math.inf or who in self._silent:
            return
        self._last_silent[who] = until = self.now() + seconds
        if who is None:
            self._silent_until = until
            self._note(SERVER, "silence", f"nothing is heard for {seconds:.3f} s")
            self.hold(until)
        else:
            self._silent[who] = until
            self._note(who, "network", "nothing is heard any more")
            self.hold(until, who)
        for connection in self._all_of(who):
            connection.silent = True
        for bell in self._bells_of(who):
            bell.channels = frozenset()
        self.start(self._end_silence, seconds, who)

    async def _end_silence(self, after: float, who: object) -> None:
        await anyio.sleep(after)
        name = who if isinstance(who, str) else None
        if name is None:
            self._silent_until = -math.inf
        else:
            self._silent.pop(name, None)
        self._break_silent(name, [connection for connection in self._all_of(name) if not connection.broken])

    def _break_silent(self, who: str | None, connections: Sequence[Connection], *, bells: bool = True) -> None:
        for connection in connections:
            connection.cut(self.store.url, "nothing was heard for too long", keeps=True)
        if bells:
            self.cut_bells(who, "nothing was heard for too long")

    def mute(self, who: str, seconds: float) -> None:
        """Let no notification reach a process for this many seconds; then break these connections. No effect while that already lasts."""
        if who in self._muted:
            return
        self._muted.add(who)
        self._note(who, "notifications", "none is heard any more")
        for bell in self._bells_of(who):
            bell.channels = frozenset()
        self.start(self._end_muting, seconds, who)

    async def _end_muting(self, after: float, who: object) -> None:
        await anyio.sleep(after)
        self._muted.discard(str(who))
        self.cut_bells(str(who), "nothing was heard for too long")

    def cut_bells(self, who: str | None, reason: str) -> None:
        """Break the connections on which a process gets notifications (None: those of all processes)."""
        for bell in self._bells_of(who):
            del self._bells[bell]
            self.store.unsubscribe(bell, reason)

    def _befall(self, connection: Connection, name: str, befalls: Mapping[Kind, float]) -> None:
        """Apply faults of the server, or silence the connection, from now on."""
        self.strike(befalls, connection.node)
        for kind in ("silent_request", "silent_reply"):
            if kind in befalls and not self.away and not connection.broken:
                self._silence(connection, name, befalls[kind], deaf=kind == "silent_request")

    def _silence(self, connection: Connection, name: str, seconds: float, *, deaf: bool) -> None:
        if connection.silent:
            return
        connection.silent, connection.deaf = True, deaf
        self._last_silent[connection.who] = max(self._last_silent.get(connection.who, -math.inf), self.now() + seconds)
        self._note(connection.who, name, "silent" if deaf else "silent, and carried out")
        self.start(self._end_one_silence, seconds, connection)

    async def _end_one_silence(self, after: float, connection: object) -> None:
        await anyio.sleep(after)
        if isinstance(connection, Connection) and not connection.broken:
            connection.cut(self.store.url, "nothing was heard for too long", keeps=not connection.deaf)

    def _is_silent(self, who: str, node: int) -> bool:
        return self._silent_until > -math.inf or who in self._silent or node in self._silent_nodes

    @property
    def server_silent(self) -> bool:
        """True while the server is paused."""
        return self._silent_until > -math.inf or bool(self._silent_nodes)

    def unheard(self) -> list[str]:
        """Return the processes that wait for answers that will not come, sorted."""
        return sorted(
            {connection.who for connection in self._all_of(None) if connection.silent and not connection.broken} | {*self._silent}
        )

    def was_silent(self, who: str, within: float) -> bool:
        """Return whether any part of a process's network is silent, or was during the given last seconds."""
        return max(self._last_silent.get(who, -math.inf), self._last_silent.get(None, -math.inf)) >= self.now() - within

    def _all_of(self, who: str | None) -> list[Connection]:
        return [connection for connection in (*self._connections.values(), *self._readers) if who in (None, connection.who)]

    def _bells_of(self, who: str | None) -> list[Subscription]:
        return [bell for bell, owner in self._bells.items() if who in (None, owner)]

    async def heard(self, connection: Connection) -> None:
        """Return at once if answers are heard; else raise ConnectionFailed when the connection breaks."""
        if connection.silent:
            await connection.over.wait()
            raise connection.failure(self.store.url, connection.broken, maybe_executed=True)

    def hold(self, until: float, who: str | None = None) -> None:
        """Let nothing arrive before the given time (for one process, if one is given)."""
        if who is None:
            self._held_until = max(until, self._held_until)
        held = [(max(arrival, until) if who in (None, one.connection.who) else arrival, number, one) for arrival, number, one in self._heap]
        self._heap = held
        heapq.heapify(self._heap)
        self._changed.set()

    def kill(self, marks: Sequence[ReaderMark]) -> None:
        """Kill shared connections: none of their requests is carried out after this (E1)."""
        for mark in marks:
            connection = self._connections.get(mark.client_id)
            if connection is not None and connection.mark == mark:
                connection.cut(self.store.url, "the connection was killed", keeps=False)

    # -- sending ---------------------------------------------------------------------------------------------------------------------

    async def call(
        self, connection: Connection, name: str, step: Callable[[MemoryStore], T], befalls: Mapping[Kind, float], limits: WaitLimits
    ) -> T:
        """Carry out one step, as far as its faults allow. Return the step's answer, or raise what it raised.

        A caller that gets no answer waits no longer than `limits` allows.
        """
        request = await self.send(connection, name, step, befalls)
        with anyio.move_on_after(min(limits)):
            await request.answered.wait()
            answer: T = await self.answer_of(request)
            return answer
        late: T = await self._out_of_patience(connection, request, limits)
        return late

    async def _out_of_patience(self, connection: Connection, request: Request, limits: WaitLimits) -> Any:  # noqa: ANN401 -- as `call`
        """Break a connection that was silent for too long, but not one whose caller has merely run out of time."""
        if limits.silence <= limits.time:
            if not connection.silent:  # the way is long, but bytes arrive
                await request.answered.wait()
                return await self.answer_of(request)
            connection.cut(self.store.url, "nothing was heard for too long", keeps=not connection.deaf)
        raise connection.failure(self.store.url, "the time of the call is up", maybe_executed=True)

    async def send(self, connection: Connection, name: str, step: Callable[[MemoryStore], Any], befalls: Mapping[Kind, float]) -> Request:
        """Send a step with its faults."""
        if befalls:
            self._befall(connection, name, befalls)
        away = self.away or self.away_nodes.get(connection.node, "")
        if away or connection.broken:
            await (anyio.sleep(REFUSED) if away else checkpoint())
            raise connection.failure(self.store.url, away or connection.broken, maybe_executed=False)
        if connection.deaf:
            request = Request(connection, name, step)
            connection.unheard.append(request)
            return request
        if not befalls:
            request = Request(connection, name, step)
            self._push(request, 0.0)
            return request
        if "lost_request" in befalls:
            await self._break(connection, name, "the request was lost", keeps=befalls["lost_request"] > 0, maybe_executed=True)
        if "disconnect" in befalls:
            await self._break(connection, name, "the connection broke", keeps=befalls["disconnect"] > 0, maybe_executed=False)
        if "late_request" in befalls:
            self._push(Request(connection, name, step), befalls["late_request"])
            connection.cut(self.store.url, "no answer came in time", keeps=True)
            self._note(connection.who, name, "late")
            await checkpoint()
            raise connection.failure(self.store.url, "no answer came in time", maybe_executed=True)
        back = befalls.get("reply_delay", 0.0)
        request = Request(connection, name, step, loses_reply="lost_reply" in befalls, reply_delay=back)
        self._push(request, befalls.get("delay", 0.0))
        return request

    async def answer_of(self, request: Request) -> Any:  # noqa: ANN401 -- whatever the step returned
        """Return the answer of a request, after its way back."""
        if request.error is not None:
            raise request.error
        if request.reply_delay:
            await anyio.sleep(request.reply_delay)
            if request.connection.ended:
                raise request.connection.failure(self.store.url, request.connection.broken, maybe_executed=True)
            await self.heard(request.connection)
        return request.answer

    async def _break(self, connection: Connection, name: str, reason: str, *, keeps: bool, maybe_executed: bool) -> None:
        connection.cut(self.store.url, reason, keeps=keeps)
        self._note(connection.who, name, reason)
        await checkpoint()
        raise connection.failure(self.store.url, reason, maybe_executed=maybe_executed)

    async def confirm(self, connection: Connection, *, reads: bool) -> None:
        """Wait until a replica has what the connection wrote, which never comes while the replica is cut off (C7).

        Raises:
            ConnectionFailed: none has, within CONFIRM_WITHIN, or before the connection broke.
        """
        connection.unconfirmed = connection.unconfirmed or not reads
        if not self.lags(connection.node):
            connection.unconfirmed = False
        if not connection.unconfirmed:
            return
        with anyio.move_on_after(CONFIRM_WITHIN):
            await connection.over.wait()
            raise connection.failure(self.store.url, connection.broken, maybe_executed=True)
        raise ConnectionFailed(self.store.url, "no replica has confirmed it", maybe_executed=True)

    async def replicated(self, node: int) -> None:
        """Wait for as long as one does that asks whether a replica has what a node has, and gets no answer (G8)."""
        if self.lags(node):
            await anyio.sleep(CONFIRM_WITHIN)

    def hang_up(self, connection: Connection, step: Callable[[MemoryStore], Any]) -> None:
        """Let the server see that the connection was closed, after everything that was sent before."""
        self._readers.pop(connection, None)
        self._push(Request(connection, "hang up", step), 0.0)

    def _push(self, request: Request, delay: float) -> None:
        connection = request.connection
        held = max(self._held_until, self._silent.get(connection.who, -math.inf), self._silent_nodes.get(connection.node, -math.inf))
        connection.last_arrival = arrival = max(connection.last_arrival, held, self.now() + delay)
        connection.under_way.append(request)
        self._sent += 1
        heapq.heappush(self._heap, (arrival, self._sent, request))
        if self._heap[0][2] is request:
            self._changed.set()

    # -- arriving --------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry out requests as they arrive, until cancelled."""
        while True:
            while self._heap and self._heap[0][0] <= self.now():
                self._carry_out(heapq.heappop(self._heap)[2])
            until = self._heap[0][0] if self._heap else math.inf
            self._changed = anyio.Event()
            with anyio.CancelScope(deadline=until):
                await self._changed.wait()

    def _carry_out(self, request: Request) -> None:
        connection = request.connection
        connection.under_way.remove(request)
        if request.dropped:
            self._note(connection.who, request.name, "dropped")
            return
        answer: Any = None
        error: Exception | None = None
        try:
            answer = request.step(self.store)
        except Exception as raised:  # noqa: BLE001 -- it is raised in the caller
            error = raised
        outcome = "done" if error is None else type(error).__name__
        late = request.answered.is_set()
        self._note(connection.who, request.name, f"{outcome}, nobody waits" if late else outcome)
        self.stepped(connection.who, request.name)
        if late:
            return
        if connection.silent:
            connection.unheard.append(request)
            return
        request.answer, request.error = answer, error
        if request.loses_reply:
            reason = "the reply was lost"
            self._note(connection.who, request.name, reason)
            request.error = connection.failure(self.store.url, reason, maybe_executed=True)
            connection.cut(self.store.url, reason, keeps=True)
        request.answered.set()
