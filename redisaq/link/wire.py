"""One socket with its output buffer and its parser: bytes out, replies in.

Everything but the two waits for readiness is synchronous, so a cancelled caller can never leave half a request behind: unsent bytes belong
to the wire (docs/understand/link.md). One connection object uses a wire, and throws it away whole (rule 6).

The input is packed commands. The output is replies, parsed by hiredis; an error of the server is a ServerError *instance* among them.
Errors of the socket and of TLS are raised as OSError, those of the parser as PARSE_ERRORS.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, cast

import anyio

from redisaq.environment import when_forked
from redisaq.link.resp import make_parser

# recv_into a buffer that is made once: recv() would allocate as much each time, five times slower at 60 kB a reply (measured).
# What is in it is parsed before anything else runs, so all wires of one event loop may share it.
RECEIVE_SIZE = 256 * 1024
_ENCRYPT_SIZE = 64 * 1024
_ENDED = "the server closed the connection"


class Inherited:
    """The sockets of this process, so that a child made by fork can close its copies of them.

    The parent and its event loop still use them. So nothing is shut down or unregistered, since both would affect the parent's sockets.
    """

    def __init__(self) -> None:
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        when_forked(self)

    def add(self, sock: socket.socket) -> None:
        """Remember a socket for as long as it lives."""
        self._sockets.add(sock)

    def forked(self) -> None:
        """Close this process's copies."""
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):  # it was closed before
                os.close(sock.detach())


inherited = Inherited()


class Wire:
    """A plain socket.

    Args:
        sock: connected, or about to be.
        buffer: of RECEIVE_SIZE bytes, to receive into; wires of one event loop may share it.

    Attributes:
        queued: bytes of commands given to `put` so far.
        handed: how many of them the kernel has taken, or may have.
        taken: bytes received from the socket so far.
        closed: True if the wire cannot be used any more.
    """

    def __init__(self, sock: socket.socket, buffer: bytearray) -> None:
        sock.setblocking(False)  # noqa: FBT003 -- as the standard library has it
        self._socket = sock
        self._pieces: list[bytes] = []
        self._head: memoryview | None = None
        self._buffer = buffer
        self._parked = False
        self._woken = False
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        self._poll = partial(poll.poll, 0)
        self.queued = 0
        self.handed = 0
        self.taken = 0
        self.closed = False
        self._parser = make_parser(RECEIVE_SIZE)
        self.next_reply = self._parser.gets

    def put(self, data: bytes) -> None:
        """Queue packed commands."""
        self._pieces.append(data)
        self.queued += len(data)

    def flush(self) -> bool:
        """Send what the socket takes now; return True if nothing is left."""
        while True:
            head = self._head
            if head is None:
                if not self._pieces:
                    return True
                head = self._head = memoryview(self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces))
                self._pieces.clear()
            try:
                count = self._send(head)
            except (BlockingIOError, InterruptedError):
                return False
            self.handed += count
            self._head = head[count:] if count < len(head) else None

    def receive(self) -> bool:
        """Feed what has arrived, at most one bufferful, into the parser; return True if more may be there already.

        Raises:
            ConnectionResetError: the other side has closed. Everything that came before has been parsed by earlier calls.
        """
        try:
            count = self._socket.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return False
        if not count:
            raise ConnectionResetError(_ENDED)
        self.taken += count
        self._parser.feed(self._buffer, 0, count)
        return count == RECEIVE_SIZE

    def arrived(self) -> bool:
        """Return True if `receive` would find something, including the end of the connection. It costs a third of `receive`."""
        return bool(self._poll())

    def wait_readable(self) -> Coroutine[Any, Any, None]:
        """Wait until `receive` can read something, or `wake` is called, or the wire is closed."""
        return self._wait(anyio.wait_readable)

    def wait_writable(self) -> Coroutine[Any, Any, None]:
        """Wait until `flush` can send something, or `wake` is called, or the wire is closed."""
        return self._wait(anyio.wait_writable)

    async def _wait(self, ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        if self.closed:
            return
        self._parked, self._woken = True, False
        try:
            await ready(self._socket)
        except anyio.ClosedResourceError:
            if not self.closed and not self._woken:
                raise
        finally:
            self._unpark()

    def wake(self) -> None:
        """Make the task that waits for readiness check again, if there is one."""
        if self._parked and not self.closed:
            self._woken = True
            anyio.notify_closing(self._socket)

    def close(self) -> None:
        """Close it, and wake the task that waits for readiness. May be called twice.

        While a task waits for readiness, that task closes the descriptor on its way out, rather than this call. If the descriptor were
        freed here, its number could be given to a new socket before that task has run. The task's clean-up under asyncio would then remove
        the *new* socket's registration, and a wait for the new socket would last forever.
        """
        if self.closed:
            return
        self.closed = True
        self._pieces.clear()
        self._head = None
        if self._parked:
            anyio.notify_closing(self._socket)
        else:
            self._socket.close()

    def _unpark(self) -> None:
        self._parked = False
        if self.closed:
            self._socket.close()

    def _send(self, data: memoryview) -> int:
        return self._socket.send(data)


class SecureWire(Wire):
    """A wire through TLS: an SSLObject between memory buffers, over the same non-blocking socket."""

    def __init__(self, sock: socket.socket, buffer: bytearray, context: ssl.SSLContext, server_hostname: str) -> None:
        super().__init__(sock, buffer)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._encrypted = memoryview(b"")
        self._ended = False
        self.agreed = False  # the TLS handshake is done

    async def handshake(self) -> None:
        """Agree on keys and check the certificates; raise ssl.SSLError if that fails. If cancelled, the wire cannot be used any more."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                self._push()  # the alert that tells the server why
                raise
            else:
                done = True
            while not self._push():
                await self.wait_writable()
            if done:
                self.agreed = True
                self._decrypt()  # what arrived with the last part of the handshake
                return
            await self.wait_readable()
            self._take()

    def flush(self) -> bool:
        """Send what the socket takes now; return True if nothing is left, neither plain nor encrypted."""
        return super().flush() and self._push()

    async def wait_readable(self) -> None:
        """Wait as Wire does. It also returns when TLS has ended, since the socket may stay open, and silent, forever."""
        if not self._ended:
            await super().wait_readable()

    def receive(self) -> bool:
        """Receive and decrypt what has arrived; see Wire."""
        if self._ended:
            raise ConnectionResetError(_ENDED)
        more = self._take()
        self._decrypt()
        self._push()  # TLS itself may owe an answer (a key update)
        return more or self._ended

    def _decrypt(self) -> None:
        while not self._ended:
            try:
                count = cast("int", self._tls.read(RECEIVE_SIZE, self._buffer))  # a number, given a buffer
            except ssl.SSLWantReadError:
                return
            if count:
                self._parser.feed(self._buffer, 0, count)
            else:
                self._ended = True

    def _take(self) -> bool:
        try:
            count = self._socket.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return False
        if not count:
            raise ConnectionResetError(_ENDED)
        self.taken += count
        self._incoming.write(memoryview(self._buffer)[:count])
        return count == RECEIVE_SIZE

    def _send(self, data: memoryview) -> int:
        # Encrypt the next piece only when the last one has been sent, so that `handed` does not run ahead of the socket.
        if not self._push():
            raise BlockingIOError
        return self._tls.write(data[:_ENCRYPT_SIZE])

    def _push(self) -> bool:
        """Send what is encrypted; return True if nothing of it is left."""
        while True:
            if not self._encrypted:
                if not self._outgoing.pending:
                    return True
                self._encrypted = memoryview(self._outgoing.read())
            try:
                count = super()._send(self._encrypted)
            except (BlockingIOError, InterruptedError):
                return False
            self._encrypted = self._encrypted[count:]
