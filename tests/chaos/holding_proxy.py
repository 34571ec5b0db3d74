"""A TCP proxy that can hold back what clients send, and let it through later: a request that executes late."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading


class HoldingProxy:
    """Forwards bytes both ways between its own port and a server's, from a thread."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peer: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._held: dict[socket.socket, bytes] = {}
        self._holding = self._ending = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def hold(self) -> None:
        """Keep what clients send from now on."""
        self._holding = True

    def held(self) -> bytes:
        """Return what is being kept, of all clients."""
        with self._lock:
            return b"".join(self._held.values())

    def release(self) -> None:
        """Let it through."""
        with self._lock:
            self._holding = False
            for client, data in self._held.items():
                with contextlib.suppress(OSError):  # the server has closed that connection
                    self._peer[client].sendall(data)
            self._held.clear()

    def close(self) -> None:
        """End it, and every connection through it."""
        self._ending = True
        self._thread.join(5)
        for one in (self._listener, *self._peer):
            one.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._ending:
            for key, _ in self._selector.select(0.05):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._forward(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._server_port))
        self._clients.add(client)
        self._peer[client], self._peer[server] = server, client
        for one in (client, server):
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, source: socket.socket) -> None:
        with self._lock:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            if not data:
                self._selector.unregister(source)
                if not (self._holding and source in self._clients):
                    with contextlib.suppress(OSError):
                        self._peer[source].shutdown(socket.SHUT_WR)
            elif self._holding and source in self._clients:
                self._held[source] = self._held.get(source, b"") + data
            else:
                with contextlib.suppress(OSError):
                    self._peer[source].sendall(data)
