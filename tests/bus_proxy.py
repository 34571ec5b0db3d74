"""Proxies for the bus of a cluster's nodes, to cut a node off from the other nodes while clients still reach it.

Input: the bus port of each node. Output: a port to announce in its place. Each connection begins with a message that names its sender, so
both directions of a node can be cut. It runs in one thread with plain sockets.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from dataclasses import dataclass, field

SENDER = slice(40, 80)
"""Where a message of the bus names the node that sends it (clusterMsg, since Redis 3)."""


@dataclass(eq=False)
class _Way:
    """One connection between two nodes."""

    port: int
    ours: socket.socket
    theirs: socket.socket
    begun: bytes = b""
    sender: str = ""


@dataclass
class BusProxies:
    """The proxies of one cluster. Methods may be called from any thread."""

    _targets: dict[int, int] = field(default_factory=dict)  # our port -> the node's
    _isolated: set[tuple[str, int]] = field(default_factory=set)
    _ways: set[_Way] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._listeners: list[socket.socket] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="bus proxies", daemon=True)
        self._thread.start()

    def add(self, port: int) -> int:
        """Return a port at which the bus port of a node can be reached."""
        listener = socket.create_server(("127.0.0.1", 0))
        own: int = listener.getsockname()[1]
        with self._lock:
            self._targets[own] = port
            self._listeners.append(listener)
            self._selector.register(listener, selectors.EVENT_READ)
        self._waker.send(b"x")
        return own

    def isolate(self, name: str, port: int) -> None:
        """Cut a node off, by its name and its announced bus port: nothing of the bus goes to it or comes from it."""
        with self._lock:
            self._isolated.add((name, port))
            for way in [way for way in self._ways if self._is_cut(way)]:
                self._close(way)

    def heal(self) -> None:
        """Let everybody reach everybody again."""
        with self._lock:
            self._isolated.clear()

    def close(self) -> None:
        """End; all connections break."""
        self._waker.close()
        self._thread.join()
        for way in list(self._ways):
            self._close(way)
        for listener in self._listeners:
            listener.close()
        self._selector.close()
        self._woken.close()

    def _is_cut(self, way: _Way) -> bool:
        return any(way.port == port or way.sender == name for name, port in self._isolated)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select(1.0):
                if key.fileobj is self._woken:
                    if not self._woken.recv(64):
                        return
                    continue
                with self._lock, contextlib.suppress(OSError):
                    self._serve(key)

    def _serve(self, key: selectors.SelectorKey) -> None:
        sock = key.fileobj
        assert isinstance(sock, socket.socket)
        if key.data is None:
            ours, _ = sock.accept()
            self._accept(sock.getsockname()[1], ours)
            return
        way: _Way = key.data
        if way not in self._ways:
            return
        try:
            data = sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._close(way)
            return
        if sock is way.ours and not way.sender:
            way.begun += data
            way.sender = way.begun[SENDER].decode("ascii", "replace") if len(way.begun) >= SENDER.stop else ""
        if self._is_cut(way):
            self._close(way)
            return
        (way.theirs if sock is way.ours else way.ours).sendall(data)

    def _accept(self, port: int, ours: socket.socket) -> None:
        try:
            theirs = socket.create_connection(("127.0.0.1", self._targets[port]))
        except OSError:
            ours.close()
            return
        way = _Way(port, ours, theirs)
        self._ways.add(way)
        for one in (ours, theirs):
            self._selector.register(one, selectors.EVENT_READ, way)

    def _close(self, way: _Way) -> None:
        self._ways.discard(way)
        for one in (way.ours, way.theirs):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(one)
            one.close()
