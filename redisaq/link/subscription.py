"""The subscribed connection: a doorbell, never the truth (docs/link.md).

In: sharded channels. Out: `wait` returns when something was published there, or may have been missed. What always holds: messages that
come together ring once; after every gap in the subscription it rings, so who waits looks for itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import anyio
from anyio.lowlevel import checkpoint

from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link.backoff import Backoff
from redisaq.link.dial import Dialer
from redisaq.link.line import Line
from redisaq.link.resp import NOTHING, push_kind


class Subscription:
    """See the module. For one waiting task at a time; `close` and `abort` from any."""

    def __init__(
        self,
        dialer: Dialer,
        channels: Sequence[str],
        environment: Environment,
        url: str,
        forget: Callable[[Subscription], None],
        *,
        silence: float = math.inf,
    ) -> None:
        """Make one; `begin` subscribes.

        Args:
            dialer: makes its connections.
            channels: sharded channels of one slot.
            environment: clock and randomness.
            url: for errors, without a password.
            forget: called when this one is closed.
            silence: seconds after which a connection is given up that owes something.
        """
        self._dialer = dialer
        self._subscribe = ("SSUBSCRIBE", *channels)
        self._environment = environment
        self._url = url
        self._forget = forget
        self._silence = silence
        self._backoff = Backoff(environment.random)
        self._not_before = self._since = 0.0  # when to connect again at the earliest; since when it is connected
        self._line: Line | None = None
        self._beginning: anyio.CancelScope | None = None
        self._rung = False
        self._closed = False

    async def begin(self) -> None:
        """Connect and subscribe, in one attempt.

        Raises:
            ConnectionFailed: it failed, or it was closed meanwhile.
            ServerError: the server does not let us listen.
        """
        self._check_open()
        await self._reach()

    async def wait(self) -> None:
        """Return at the next message, or at once if one came since the last call; also after each renewed subscription.

        A broken connection is made again here, for ever, with back-off. Cancelled, nothing is lost.

        Raises:
            ConnectionFailed: it was closed.
            ServerError: the server does not let us listen any more.
        """
        await checkpoint()
        while True:
            self._check_open()
            if self._line is None:
                await self._begin_again()
                continue
            try:
                while not self._rung:
                    self._take(self._line, await self._line.item())
                while (item := self._line.poll()) is not NOTHING:
                    self._take(self._line, item)
            except ConnectionFailed:
                self._line, now = None, self._environment.clock()
                self._not_before = now + self._backoff.broke(now - self._since)
            if self._rung:
                self._check_open()
                self._rung = False
                return

    async def close(self) -> None:
        """Stop listening; `wait` raises ConnectionFailed. From any task, as often as wanted."""
        self.abort()
        await checkpoint()

    def abort(self) -> None:
        """Stop listening, without a checkpoint."""
        self._closed = True
        if self._line is not None:
            self._line.fail("the subscription was closed")
        if self._beginning is not None:
            self._beginning.cancel()
        self._forget(self)

    async def _connect(self) -> Line:
        line, _ = await self._dialer.dial(self._environment)
        line.watch(self._silence, self._environment, listening=True)
        try:
            line.send(self._subscribe)
            for _ in self._subscribe[1:]:
                item = await line.item()
                if push_kind(item) != b"ssubscribe":
                    # A refusal comes as a value.
                    raise item if isinstance(item, ServerError) else line.fail("the subscription was not confirmed")  # noqa: TRY301
        except BaseException:
            line.fail("the subscription failed")
            raise
        return line

    async def _begin_again(self) -> None:
        try:
            await self._reach()
        except (ConnectionFailed, ServerError) as error:
            if isinstance(error, ServerError) and error.forbidden:
                raise
            self._not_before = self._environment.clock() + self._backoff.failed()
        else:
            self._rung = True

    async def _reach(self) -> None:
        with anyio.CancelScope() as scope:
            self._beginning = scope
            try:
                await anyio.sleep(max(0.0, self._not_before - self._environment.clock()))
                self._line = await self._connect()
                self._since = self._environment.clock()
            finally:
                self._beginning = None
        if self._closed and self._line is not None:  # closed after its last wait
            self._line.fail("the subscription was closed")
        self._check_open()

    def _take(self, line: Line, item: object) -> None:
        kind = push_kind(item)
        if kind in {b"smessage", b"ssubscribe"}:
            self._rung = True
        elif kind == b"sunsubscribe":
            # Nobody asked for it: the slot has moved, or our permission has changed.
            line.send(self._subscribe)
        elif kind is None:
            raise line.fail("the server refused to subscribe again")

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionFailed(self._url, "the subscription was closed")
