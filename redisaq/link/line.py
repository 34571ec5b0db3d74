"""A wire for one user at a time: the set-up of every connection, the reading connection, the subscribed one.

In: commands. Out: replies in order, and pushed messages. What always holds: each await waits for readiness only, so cancelling anywhere
loses nothing; a reply that was not waited for to the end is still owed, and comes first next time.
"""

from __future__ import annotations

from redisaq.errors import ConnectionFailed
from redisaq.link.resp import NOTHING, PARSE_ERRORS, Command, PushNotification, pack
from redisaq.link.wire import Wire


class Line:
    """See the module.

    Attributes:
        wire: the socket.
        owed: replies that were asked for and have not come.
        broken: why it is of no more use, None while it is.
        url: the server's, for errors, without a password.
    """

    def __init__(self, wire: Wire, url: str) -> None:
        self.wire = wire
        self.owed = 0
        self.broken: str | None = None
        self.url = url

    def send(self, *commands: Command) -> None:
        """Queue commands and send what the socket takes; the rest goes while replies are waited for."""
        data = pack(commands)
        self._check(maybe_executed=False)
        self.wire.put(data)
        self.owed += len(commands)
        try:
            self.wire.flush()
        except OSError as error:
            raise self.fail(str(error)) from error

    async def item(self) -> object:
        """Return what comes next: a reply, or a PushNotification.

        Raises:
            ConnectionFailed: the connection broke; with `maybe_executed`, since what is owed may have been carried out.
        """
        while True:
            item = self._next()
            if item is not NOTHING:
                return item
            try:
                if self.wire.flush():
                    await self.wire.wait_readable()
                else:
                    await self.wire.wait_writable()
                if self.broken is None:
                    self.wire.receive()
            except (OSError, *PARSE_ERRORS) as error:
                raise self.fail(str(error) or repr(error)) from error

    def poll(self) -> object:
        """Return what has already been received, as `item` does; NOTHING if nothing has."""
        return self._next()

    async def reply(self) -> object:
        """Return the next reply, passing over pushed messages; see `item`."""
        while type(item := await self.item()) is PushNotification:
            pass
        return item

    async def ask(self, *commands: Command) -> list[object]:
        """Send commands and return their replies. Cancelled, their replies stay owed."""
        self.send(*commands)
        return [await self.reply() for _ in commands]

    def fail(self, reason: str) -> ConnectionFailed:
        """Break the connection; return the error to raise."""
        if self.broken is None:
            self.broken = reason
            self.wire.close()
        return ConnectionFailed(self.url, self.broken, maybe_executed=True)

    def _next(self) -> object:
        self._check(maybe_executed=True)
        try:
            item = self.wire.next_reply()
        except PARSE_ERRORS as error:
            raise self.fail(str(error) or repr(error)) from error
        if item is not NOTHING and type(item) is not PushNotification:
            self.owed -= 1
        return item

    def _check(self, *, maybe_executed: bool) -> None:
        if self.broken is not None:
            raise ConnectionFailed(self.url, self.broken, maybe_executed=maybe_executed)
