"""A proxy between a link and its server that misbehaves on request: it dribbles, freezes, cuts.

Input: the server's TCP port. Output: a port of its own; `accepted` counts the connections made to it. It runs in a thread of its own with
plain sockets, so the tests of every event loop use it alike. Invariant: bytes pass unchanged and in order until a cut.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

WHOLE = (65536,)
DRIBBLE = (1, 2, 3, 5, 17, 100, 1000, 65536)


class _Pipe:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.held = b""


class Proxy:
    """A proxy that misbehaves on request. Methods may be called from any thread.

    Attributes:
        port: where it listens on 127.0.0.1.
        accepted: connections it has taken so far.
    """

    def __init__(self, target_port: int, *, seed: int = 0, chunks: Sequence[int] = WHOLE) -> None:
        self._target_port = target_port
        self._random = random.Random(seed)
        self._chunks = chunks
        self._pairs: list[tuple[_Pipe, _Pipe]] = []
        self._frozen = False
        self._orders: list[Callable[[], None]] = []
        self._done = threading.Condition()
        self._ending = False
        self.accepted = 0
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()
        self._wake_from, self._wake_to = socket.socketpair()
        self._selector.register(self._wake_from, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        """The URL of the server as seen through the proxy."""
        return f"redis://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._order(self._end)
        self._thread.join()
        self._selector.close()
        self._wake_from.close()
        self._wake_to.close()

    def cut(self) -> None:
        """Close every connection, what is on its way is lost; return when that is done."""
        self._order(self._cut)

    def freeze(self) -> None:
        """Let nothing pass any more, as a stopped server would."""
        self._order(lambda: setattr(self, "_frozen", True))

    def thaw(self) -> None:
        """Let bytes pass again."""
        self._order(lambda: setattr(self, "_frozen", False))

    def refuse(self) -> None:
        """Cut, and take no more connections."""
        self._order(self._refuse)

    def admit(self) -> None:
        """Take connections again, at the same port."""
        self._order(self._listen)

    def _order(self, order: Callable[[], None]) -> None:
        with self._done:
            self._orders.append(order)
            self._wake_to.send(b"x")
            assert self._done.wait_for(lambda: order not in self._orders, timeout=20), "the proxy does not answer"

    def _run(self) -> None:
        while not self._ending:
            moved = 0 if self._frozen else sum(self._move(pipe) for pair in list(self._pairs) for pipe in pair)
            for key, _ in self._selector.select(0 if moved else None if self._frozen else 0.05 if self._holding() else None):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wake_from:
                    self._wake_from.recv(100)
            with self._done:
                for order in list(self._orders):
                    order()
                    self._orders.remove(order)
                self._done.notify_all()

    def _holding(self) -> bool:
        return any(pipe.held for pair in self._pairs for pipe in pair)

    def _listen(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._chunks is not WHOLE:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that senders meet a full buffer
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(100)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            client, _ = self._listener.accept()
            self.accepted += 1
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                client.close()
                return
            for sock in (client, server):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._selector.register(sock, selectors.EVENT_READ)
            self._pairs.append((_Pipe(client, server), _Pipe(server, client)))

    def _move(self, pipe: _Pipe) -> bool:
        """Move one chunk; return True if something moved."""
        try:
            if not pipe.held:
                pipe.held = pipe.source.recv(self._random.choice(self._chunks))
                if not pipe.held:
                    self._drop(pipe)
                    return True
            count = pipe.target.send(pipe.held)
        except BlockingIOError:
            return False
        except OSError:
            self._drop(pipe)
            return True
        pipe.held = pipe.held[count:]
        return True

    def _drop(self, pipe: _Pipe) -> None:
        for pair in list(self._pairs):
            if pipe in pair:
                self._pairs.remove(pair)
                for sock in (pipe.source, pipe.target):
                    self._selector.unregister(sock)
                    sock.close()

    def _cut(self) -> None:
        for pair in list(self._pairs):
            self._drop(pair[0])

    def _refuse(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
        self._cut()

    def _end(self) -> None:
        self._refuse()
        self._ending = True
