"""A proxy between a producer and its server that breaks connections at a given byte, from a thread of its own.

Orders hold for the connections that stand when they are given; those made afterwards are whole, but for `swallow`. Invariant: bytes pass
unchanged and in order until a break.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading


class _Pair:
    """One connection: the client's socket, the server's, and what is to happen to it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.cut_up: int | None = None  # bytes from the client that still pass; then both directions are cut
        self.cut_down: int | None = None  # bytes from the server that still pass; then both are cut
        self.hold_up: bytes | None = None  # keep what the client sends, from where this is in it; the client is deserted, the server not
        self.hold_down = False
        self.swallow = False  # nothing passes, either way; if the client closes, it is deserted
        self.held_up = b""
        self.held_down = b""


class BreakingProxy:
    """A proxy whose connections break on request. Methods may be called from any thread."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._pairs: list[_Pair] = []
        self._deserted: list[_Pair] = []
        self._upstream = 0
        self._swallow = False  # for connections to come
        self._ending = False
        self.lock = threading.RLock()
        self._thread = threading.Thread(target=self._run, name="breaking proxy", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The server's URL through the proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    def count_upstream(self) -> int:
        """Return how many bytes clients have sent so far."""
        with self.lock:
            return self._upstream

    def cut_after(self, count: int) -> None:
        """Cut each connection once `count` more bytes of its client have passed."""
        with self.lock:
            for pair in self._pairs:
                pair.cut_up = count

    def drop_answers_after(self, count: int) -> None:
        """Let everything reach the server, and cut each connection once `count` more bytes have come back."""
        with self.lock:
            for pair in self._pairs:
                pair.cut_down = count

    def hold_and_desert(self, word: bytes = b"") -> None:
        """Keep what clients send next (if it contains the word), close on the client, and leave the server's side open."""
        with self.lock:
            for pair in self._pairs:
                pair.hold_up = word

    def swallow(self) -> None:
        """Let nothing pass any more, on connections to come either, and leave all of them open."""
        with self.lock:
            self._swallow = True
            for pair in self._pairs:
                pair.swallow = True

    def admit(self) -> None:
        """Let connections to come be whole again; those that stand go on swallowing."""
        with self.lock:
            self._swallow = False

    def let_through(self) -> None:
        """Send what was kept of deserted connections on to the server, and of the others either way, which are whole again."""
        with self.lock:
            self._swallow = False
            for pair in self._pairs:
                if pair.swallow:
                    pair.swallow = False
                    pair.server.sendall(pair.held_up)
                    pair.client.sendall(pair.held_down)
                    pair.held_up = pair.held_down = b""
            for pair in self._deserted:
                with contextlib.suppress(OSError):
                    pair.server.sendall(pair.held_up)
                pair.server.close()
            self._deserted.clear()

    def hold_answers(self) -> None:
        """Keep what the server sends next."""
        with self.lock:
            for pair in self._pairs:
                pair.hold_down = True

    def answers_held(self) -> int:
        """Return how many bytes of answers are kept."""
        with self.lock:
            return sum(len(pair.held_down) for pair in self._pairs)

    def cut_now(self) -> None:
        """Cut every connection."""
        with self.lock:
            for pair in list(self._pairs):
                self._cut(pair)

    def close(self) -> None:
        """End it, and every connection through it."""
        self._ending = True
        self._thread.join(5)
        self.cut_now()
        self.let_through()
        self._listener.close()
        self._selector.close()

    # -- its thread ----------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ending:
            for key, _ in self._selector.select(0.05):
                with self.lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket) and key.data in self._pairs:
                        self._move(key.fileobj, key.data)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        pair = _Pair(client, socket.create_connection(("127.0.0.1", self._server_port)))
        pair.swallow = self._swallow
        self._pairs.append(pair)
        for one in (pair.client, pair.server):
            self._selector.register(one, selectors.EVENT_READ, pair)

    def _move(self, source: socket.socket, pair: _Pair) -> None:
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        if not data and pair.swallow and source is pair.client:
            self._desert(pair)
        elif not data:
            self._cut(pair)
        elif source is pair.client:
            self._up(pair, data)
        else:
            self._down(pair, data)

    def _up(self, pair: _Pair, data: bytes) -> None:
        self._upstream += len(data)
        if pair.swallow:
            pair.held_up += data
            return
        if pair.hold_up is not None and pair.hold_up in data:
            pair.held_up += data
            self._desert(pair)
            return
        passing = data if pair.cut_up is None else data[: pair.cut_up]
        with contextlib.suppress(OSError):
            pair.server.sendall(passing)
        if pair.cut_up is not None:
            pair.cut_up -= len(passing)
            if pair.cut_up <= 0:
                self._cut(pair)

    def _down(self, pair: _Pair, data: bytes) -> None:
        if pair.hold_down or pair.swallow:
            pair.held_down += data
            return
        passing = data if pair.cut_down is None else data[: pair.cut_down]
        with contextlib.suppress(OSError):
            pair.client.sendall(passing)
        if pair.cut_down is not None:
            pair.cut_down -= len(passing)
            if pair.cut_down <= 0:
                self._cut(pair)

    def _desert(self, pair: _Pair) -> None:
        self._forget(pair)
        pair.client.close()
        self._deserted.append(pair)

    def _cut(self, pair: _Pair) -> None:
        self._forget(pair)
        pair.client.close()
        pair.server.close()

    def _forget(self, pair: _Pair) -> None:
        self._pairs.remove(pair)
        for one in (pair.client, pair.server):
            self._selector.unregister(one)
