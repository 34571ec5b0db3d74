"""The link to one server: the shared connection, and the factory of reading and subscribed connections.

Everything above talks to Redis only through a Link: it sends commands and returns replies. A link belongs to no event loop and needs no
task of its own. You may use it in one event loop after another (not in two at once), and connect and close it from any task in any order.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from redisaq.environment import LONGEST_SILENCE, Environment, current_environment, time_is_up_at
from redisaq.errors import ConnectionFailed
from redisaq.link.address import Address
from redisaq.link.confirmed import ConfirmedConnection
from redisaq.link.connector import Connector
from redisaq.link.dial import Dialer, Greeter
from redisaq.link.greeting import Greeting, greet
from redisaq.link.line import Line
from redisaq.link.reading import ReadingConnection
from redisaq.link.resp import Command, pack, pack_command
from redisaq.link.shared import PASSED, Identity, NotSent, SharedConnection
from redisaq.link.switchboard import Bell, Switchboard

logger = logging.getLogger("redisaq.link")

T = TypeVar("T")


class Link:
    """A connection to one server that many tasks share, with connections of their own for readers and listeners. It is a Caller.

    Attributes:
        address: the server.
        run_id: of the run of the server to which the shared connection was last made, "" before.
        breaks: how often a shared connection broke that may still carry something.
    """

    def __init__(
        self,
        address: Address,
        environment: Environment | None = None,
        *,
        reach: Callable[[], Awaitable[Address]] | None = None,
        greet: Greeter = greet,
        on_silence: Callable[[], Awaitable[None]] | None = None,
        beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
        client: str | None = None,
        silence: float = LONGEST_SILENCE,
        time: float = math.inf,
        confirmed: bool = False,
        torn: list[SharedConnection] | None = None,
    ) -> None:
        """Make a link; nothing is connected yet.

        Args:
            address: the server.
            environment: clock and randomness; None uses the context's at each connection.
            reach: called before each connection. It ensures that the server runs and returns its address, if that is not `address`. Its
                errors propagate.
            greet: logs in on each new connection; its errors propagate.
            on_silence: called while a call on the shared connection has had no answer for a second, and again each second: it asks others
                whether this is still the server to talk to, and calls `give_up` if it is not. It raises nothing.
            beside: runs while somebody listens and nothing comes, and is cancelled when something does. It raises nothing.
            client: the user's label for the connections; None: the machine and the process.
            silence: seconds after which a connection breaks if replies are owed and nothing arrives. Making a connection takes no longer,
                either. Infinite: never.
            time: seconds that one call on the shared connection may take if nothing else limits it (see `time_limit`).
            confirmed: let calls return only once a replica has what they wrote (C7).
            torn: takes each connection that breaks with calls of which the server may have a part. Nodes of a cluster share one list.
        """
        self.address = address
        self._confirmed = confirmed
        self.run_id = ""
        self.breaks = 0
        self._environment = environment
        self._silence = silence
        self._time = time
        self._on_silence = on_silence
        self._deserted: dict[Identity, None] = {}  # connections that may still carry something (E1)
        self._torn: list[SharedConnection] = [] if torn is None else torn
        self._dialer = Dialer(address, reach, client=client, silence=silence, greet=greet)
        self._connector = Connector(self._connect_shared, address.display)
        self._switchboard = Switchboard(self._dialer, self._current_environment, address.display, silence, beside)
        self._opened: set[ReadingConnection] = set()
        self._eviction = ""  # the policy that the last warning named

    @property
    def url(self) -> str:
        """The server's URL for errors, without a password."""
        return self.address.display

    @property
    def connected(self) -> bool:
        """True while the shared connection is up."""
        return self._connector.live is not None

    def give_up(self, reason: str) -> None:
        """Break the shared connection; the next call connects again."""
        if self._connector.current is not None:
            self._connector.current.fail(reason)

    async def connect(self) -> None:
        """Make the shared connection if there is none. If cancelled, nothing is left behind.

        Raises:
            ConnectionFailed: the one attempt failed, or the time of the call is up (`time_limit`); says what to try.
            SettingsError: the certificate files cannot be used.
        """
        await checkpoint()
        await self._connection()

    async def close(self) -> None:
        """Close all connections of this link; calls under way raise ConnectionFailed.

        You may call it from any task, in any order, any number of times. You may use the link again afterwards: it connects again. If
        cancelled, it has closed all the same.
        """
        self.abort()
        await checkpoint()

    def abort(self, reason: str = "the link was closed") -> None:
        """Close all connections for this reason, without a checkpoint."""
        self._dialer.interrupt(reason)
        self._connector.close(reason)
        for opened in tuple(self._opened):
            opened.give_up(reason)
            opened.abort()
        self._switchboard.abort(reason)

    async def call(self, *commands: Command) -> list[object]:
        """Run commands on the shared connection, together with those of other tasks; never use it for a command that blocks.

        Args:
            *commands: each a tuple of its name and arguments.

        Returns:
            One reply per command, in order. If the server answered a command with an error, its reply is a ServerError instance. Texts are
            bytes, maps are dicts.

        Raises:
            ConnectionFailed: the server could not be reached, or the connection broke, or the time of the call is up; `maybe_executed` says
                whether the server may have executed the commands.

        If cancelled, the commands may or may not be executed; the connection is not harmed.
        """
        if len(commands) == 1 and isinstance(commands[0], tuple):
            return await self.call_packed(pack_command(commands[0]), 1)
        if not commands:
            await checkpoint()
            return []
        return await self.call_packed(pack(commands), len(commands))

    async def call_packed(self, data: bytes, replies: int, *, in_order: bool = False) -> list[object]:
        """Run commands that `pack` has packed; see `call`.

        Args:
            data: the packed commands, joined.
            replies: the number of commands, at least one.
            in_order: they must not pass what an earlier call may lack (E4): if a connection breaks with a call of which the server may have
                a part, raise ConnectionFailed instead of sending them over the next one.
        """
        connection = self._connector.current
        if connection is not None and connection.broken is None:
            era = self._connector.era
            try:
                return await connection.call(data, replies)
            except NotSent as broken:
                if self._connector.era != era or (in_order and broken.queued):
                    raise ConnectionFailed(self.address.display, str(broken)) from None
        if in_order and still_torn(self._torn):
            raise ConnectionFailed(self.address.display, PASSED)
        breaks = self.breaks
        connection = await self._connection()
        self._check_order(breaks if in_order else None)
        try:
            return await connection.call(data, replies)
        except NotSent as broken:
            raise ConnectionFailed(self.address.display, str(broken)) from None

    def call_keyed(self, packed: Sequence[bytes], of: Sequence[T], key: Callable[[T], bytes]) -> Awaitable[list[object]]:
        """Run packed commands; all keys are here. See Caller."""
        del of, key
        return self.call_packed(b"".join(packed), len(packed), in_order=True)

    def _check_order(self, breaks: int | None) -> None:
        """Refuse to send what was held up while a connection broke: what became of the calls there is asked first (E4)."""
        if breaks not in (None, self.breaks):
            raise ConnectionFailed(self.address.display, PASSED)

    async def kill(self, connections: Sequence[Identity], key: bytes | None = None) -> list[object]:
        """Kill those of these connections that belong to the server's current run (E1); return the replies. See Caller.

        Killing a connection that is already gone is no error: the server answers with a count. Connections of another run are not killed:
        the server that knew them is gone, and this one gives their ids to others.
        """
        del key
        await self.connect()  # only a connected link knows which run of the server answers
        return await self.call(*_kills(connections, self.run_id))

    async def watched(self) -> Mapping[str, str] | None:
        """Return None: no sentinel was asked. See Caller."""
        await checkpoint()
        return None

    async def nodes(self) -> Sequence[Link]:
        """Return this link: one server keeps all keys."""
        await checkpoint()
        return (self,)

    async def open_reading(self, key: bytes = b"") -> ReadingConnection:
        """Make a separate connection, for commands that block. One attempt; the caller closes it.

        Raises:
            ConnectionFailed: the attempt failed.
        """
        del key
        line, greeting = await self._dialer.dial(self._current_environment())
        line.watch(self._silence, self._current_environment())
        reading = ReadingConnection(line, greeting, self.call, self._opened.discard)
        self._opened.add(reading)
        return reading

    async def listen(self, *channels: str, moving: bool = False) -> Bell:
        """Listen to sharded channels, on the one connection that all bells of this link share. One attempt; the caller closes the bell.

        Args:
            *channels: their names.
            moving: they may move to another server; see Switchboard.

        Raises:
            ConnectionFailed: the attempt failed.
            ServerError: the server does not let us listen.
        """
        return await self._switchboard.listen(*channels, moving=moving)

    async def _connection(self) -> SharedConnection:
        until = time_is_up_at()
        if until == math.inf:
            return await self._connector.get()
        with anyio.move_on_after(until - self._current_environment().monotonic()):
            return await self._connector.get()
        raise ConnectionFailed(self.address.display, "no connection within the time of the call", silent=True)

    async def _connect_shared(self) -> SharedConnection:
        environment = self._current_environment()
        line, greeting = await self._dialer.dial(environment, self._kill_deserted)
        self._greeted(greeting)
        return (ConfirmedConnection if self._confirmed else SharedConnection)(
            line.wire,
            self.address.display,
            (greeting.client_id, greeting.client_address, greeting.run_id),
            environment=environment,
            silence=self._silence,
            time=self._time,
            deserted=self._desert,
            on_silence=self._on_silence,
        )

    def _desert(self, identity: Identity) -> None:
        self._deserted[identity] = None
        self.breaks += 1
        if self._connector.current is not None:
            still_torn(self._torn)  # only links that send in order ask that otherwise, and each one holds a whole connection
            self._torn.append(self._connector.current)

    async def _kill_deserted(self, line: Line, greeting: Greeting) -> None:
        """Kill what earlier shared connections may still carry, before anything is sent over the next one (E1).

        A caller that gets ConnectionFailed does so as well, before it checks what happened. But a call that was cancelled, or whose time
        was up, is reported to nobody.
        """
        deserted = tuple(self._deserted)
        if kills := _kills(deserted, greeting.run_id):
            await line.ask(*kills)  # without the permission for CLIENT KILL there is no such promise
        for identity in deserted:
            self._deserted.pop(identity, None)

    def _greeted(self, greeting: Greeting) -> None:
        self.run_id = greeting.run_id
        if greeting.eviction not in ("", "noeviction", self._eviction):
            self._eviction = greeting.eviction
            logger.warning(
                "%s evicts keys when its memory is full (maxmemory-policy %s): messages, retries and marks of deduplication may get lost; "
                "set it to noeviction",
                self.address.display,
                greeting.eviction,
            )

    def _current_environment(self) -> Environment:
        return self._environment or current_environment()


def still_torn(connections: list[SharedConnection]) -> bool:
    """Return whether a caller has not heard yet that one of these broke under it (E4); forget those of which all callers have."""
    connections[:] = [connection for connection in connections if connection.torn]
    return bool(connections)


def _kills(connections: Sequence[Identity], run_id: str) -> list[Command]:
    """Return the commands that kill those of the connections that belong to this run of the server."""
    return [
        ("CLIENT", "KILL", "ID", client_id, *(("ADDR", address) if address else ()))
        for client_id, address, run in connections
        if run == run_id
    ]
