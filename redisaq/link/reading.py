"""A connection for commands that block in the server: one per owned partition (docs/understand/link.md, rule T3).

It runs a blocking read and returns its reply. A reply is never dropped. When a read is cancelled, it is ended on the server with CLIENT
UNBLOCK over the shared connection, repeated, since a single one may arrive before the block. What the read still returned is kept in
`leftover`. While a read has no reply, `settled` is False, and the connection has to be closed and killed before anything relies on it.

One command that does not block may be sent ahead, so that the server works on it while the caller works on the previous reply. Its reply is
owed until `reply_ahead` or `finish` has it, however often waiting for it is cancelled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import anyio
from anyio.lowlevel import checkpoint

from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link.greeting import Greeting
from redisaq.link.line import Line
from redisaq.link.resp import Command

UNBLOCK_WITHIN = 1.0
FINISH_WITHIN = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05
_ONE_UNBLOCK_WITHIN = 0.25


class ReadingConnection:
    """A connection whose reads may block and may be cancelled without losing a reply.

    It is for one task at a time, except that any task may call `close` and `abort`.

    Attributes:
        client_id: of this connection, in this run of the server.
        client_address: as the server sees it (there may be a proxy between); "" if we may not ask.
        run_id: of the run of the server.
        leftover: the reply of a read that was cancelled; it may be a ServerError. None if there was nothing.
        ahead: True while the reply of the command sent ahead is owed.
    """

    def __init__(
        self,
        line: Line,
        greeting: Greeting,
        call: Callable[..., Awaitable[list[object]]],
        forget: Callable[[ReadingConnection], None],
    ) -> None:
        """Take over a line.

        Args:
            line: a line that is logged in.
            greeting: the greeting of that line.
            call: runs a command on the shared connection.
            forget: called when this connection is closed.
        """
        self.client_id = greeting.client_id
        self.client_address = greeting.client_address
        self.run_id = greeting.run_id
        self.leftover: object | None = None
        self.ahead = False
        self._line = line
        self._call_shared = call
        self._forget = forget
        self._reading = False  # a read's reply is owed

    @property
    def settled(self) -> bool:
        """True if every command has its reply."""
        return self._line.owed == 0

    @property
    def url(self) -> str:
        """The server's URL for errors, without a password."""
        return self._line.url

    def give_up(self, reason: str) -> None:
        """Break the connection; the next call raises ConnectionFailed with `reason`."""
        self._line.fail(reason)

    async def call(self, *commands: Command) -> list[object]:
        """Run commands that do not block, on this connection; the replies are those of `Link.call`.

        If cancelled, the commands may or may not be executed, and the next call skips their replies.

        Raises:
            ConnectionFailed: it broke (`maybe_executed` says whether they may have been executed), or a read has no reply yet.
        """
        await self._pass_over()
        return await self._line.ask(*commands)

    async def read(self, command: Command, block: float = 0.0) -> object:
        """Run one command that blocks for at most `block` seconds; return its reply (a ServerError instance if that is an error).

        If cancelled, the read is first ended on the server, for at most a second. What it still returned is then in `leftover`; if
        `settled` is False, even this failed. The cancellation propagates in any case.

        Raises:
            ConnectionFailed: it broke; entries may have been delivered unseen.
        """
        if self.leftover is not None:
            raise RuntimeError("take_leftover() before the next read")
        await self._pass_over()
        self._line.send(command, block=block)
        self._reading = True
        try:
            reply = await self._line.reply()
        except anyio.get_cancelled_exc_class():
            # In a child task: a shield does not protect this task from a second native cancellation, but it does protect a child.
            async with anyio.create_task_group() as group:
                group.start_soon(self._bring_to_end)
            raise
        self._reading = False
        return reply

    def send_ahead(self, command: Command) -> None:
        """Send a command that does not block, without waiting. If that breaks the connection, the next call raises the error."""
        with contextlib.suppress(ConnectionFailed):
            self._line.send(command)
            self.ahead = True

    async def reply_ahead(self) -> object:
        """Return the reply of the command sent ahead, as `read` does. If cancelled, the reply is still owed."""
        reply = await self._line.reply()
        self.ahead = False
        return reply

    async def finish(self) -> None:
        """Wait for the reply of the command sent ahead, for at most a second, and put it in `leftover`. It cannot be cancelled."""
        if self.ahead:
            with anyio.move_on_after(FINISH_WITHIN, shield=True), contextlib.suppress(ConnectionFailed):
                self.leftover = await self.reply_ahead()

    def take_leftover(self) -> object | None:
        """Return the leftover, once; None after that."""
        leftover, self.leftover = self.leftover, None
        return leftover

    async def close(self) -> None:
        """Close it; a read under way raises ConnectionFailed. Any task may call it, any number of times."""
        self.abort()
        await checkpoint()

    def abort(self) -> None:
        """Close it, without a checkpoint."""
        self._line.fail("the reading connection was closed")
        self._forget(self)

    async def _pass_over(self) -> None:
        if self.ahead:
            raise RuntimeError("take the reply of what was sent ahead first")
        if self._reading:
            raise ConnectionFailed(self._line.url, "a cancelled read has no reply yet: close this reading connection")
        while self._line.owed:
            await self._line.reply()

    async def _bring_to_end(self) -> None:
        pause = _FIRST_PAUSE
        with anyio.move_on_after(UNBLOCK_WITHIN, shield=True):
            while self._line.broken is None:
                with anyio.move_on_after(_ONE_UNBLOCK_WITHIN):
                    with contextlib.suppress(ConnectionFailed):  # the reply may come without it
                        (answer,) = await self._call_shared(("CLIENT", "UNBLOCK", self.client_id))
                        if isinstance(answer, ServerError) and answer.forbidden:  # T4: it ends when it has blocked for long enough
                            return
                with anyio.move_on_after(pause):
                    try:
                        self.leftover = await self._line.reply()
                    except ConnectionFailed:
                        return
                    self._reading = False
                    return
                pause = min(2 * pause, _LONGEST_PAUSE)
