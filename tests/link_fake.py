"""A server that answers as a test says: for versions, refusals and misbehaviour that no real server here shows.

Input: answers per command word, as bytes in RESP. Output: a port on 127.0.0.1, and the commands that came. It runs in threads of its own.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import hiredis

Answer = bytes | Callable[[list[bytes]], bytes | None]
"""What to send back; None closes the connection, b"" is silence."""


def bulk(text: str) -> bytes:
    data = text.encode()
    return b"$%d\r\n%s\r\n" % (len(data), data)


def hello(version: str) -> bytes:
    return b"%4\r\n" + bulk("server") + bulk("redis") + bulk("version") + bulk(version) + bulk("proto") + b":3\r\n" + bulk("id") + b":7\r\n"


def usual_answers(version: str = "7.2.4", *, valkey: str = "") -> dict[str, Answer]:
    """Return what a server of this version answers while a link connects, and to ECHO."""
    info = f"# Server\r\nredis_version:{version}\r\nrun_id:{'a' * 40}\r\n" + (
        f"server_name:valkey\r\nvalkey_version:{valkey}\r\n" if valkey else ""
    )
    return {
        "HELLO": hello(version),
        "INFO": bulk(info),
        "PING": b"+PONG\r\n",
        "SELECT": b"+OK\r\n",
        "CLIENT": bulk("id=7 addr=127.0.0.1:5 laddr=127.0.0.1:6 name=redisaq\n"),
        "ECHO": lambda command: b"$%d\r\n%s\r\n" % (len(command[1]), command[1]),
    }


class FakeServer:
    """Answers each command with given bytes, and keeps the commands.

    Attributes:
        port: where it listens.
        commands: all that came so far, over all connections.
    """

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.answers = dict(answers)
        self.commands: list[list[bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="fake server")]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listener.close()
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def words(self) -> list[str]:
        """Return the first word of each command that came."""
        return [command[0].decode() for command in self.commands]

    def send(self, data: bytes) -> None:
        """Send bytes that answer nothing, on the newest connection."""
        self._sockets[-1].sendall(data)

    def drop(self) -> None:
        """Break the newest connection."""
        self._sockets[-1].shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), name="fake server")
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        reader = hiredis.Reader()
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(65536):
                try:
                    reader.feed(data)
                    while (command := reader.gets()) is not False:
                        self.commands.append(command)
                        if not self._answer(sock, command):
                            return
                except hiredis.HiredisError:  # not RESP at all: TLS, say
                    return

    def _answer(self, sock: socket.socket, command: list[bytes]) -> bool:
        answer = self.answers.get(command[0].decode(), b"-ERR unknown command\r\n")
        data = answer(command) if callable(answer) else answer
        if data:
            sock.sendall(data)
        return data is not None
