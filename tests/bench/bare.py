"""The yardstick: the plainest program that does the same Redis work, hiredis over one connection and nothing else.

Two of them, over a non-blocking socket with anyio's readiness, and over an anyio byte stream; the faster one counts. It neither makes ids
nor decodes payloads, retries, reconnects or fences.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import anyio
import hiredis
from anyio.abc import ByteStream

CHUNK = 1 << 18
Command = Sequence[Any]


class Bare(Protocol):
    """A connection that sends bytes and returns so many replies."""

    async def call(self, data: bytes, replies: int) -> list[Any]:
        """Send, and return the replies."""
        ...

    async def close(self) -> None:
        """Close it."""
        ...


class BareSocket:
    """Over a non-blocking socket."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._socket.setblocking(False)
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)

    async def call(self, data: bytes, replies: int) -> list[Any]:
        """Send, and return the replies."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
        got: list[Any] = []
        while len(got) < replies:
            reply = self._reader.gets()
            if reply is not Ellipsis:
                got.append(reply)
                continue
            await anyio.wait_readable(self._socket)
            self._reader.feed(self._socket.recv(CHUNK))
        return got

    async def close(self) -> None:
        """Close it."""
        anyio.notify_closing(self._socket)
        self._socket.close()


class BareStream:
    """Over an anyio stream."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)

    async def call(self, data: bytes, replies: int) -> list[Any]:
        """Send, and return the replies."""
        await self._stream.send(data)
        got: list[Any] = []
        while len(got) < replies:
            reply = self._reader.gets()
            if reply is not Ellipsis:
                got.append(reply)
            else:
                self._reader.feed(await self._stream.receive(CHUNK))
        return got

    async def close(self) -> None:
        """Close it."""
        await self._stream.aclose()


async def over_socket(path: str) -> Bare:
    """Connect over a socket."""
    return BareSocket(path)


async def over_stream(path: str) -> Bare:
    """Connect over a stream."""
    return BareStream(await anyio.connect_unix(path))


BARE: dict[str, Callable[[str], Awaitable[Bare]]] = {"socket": over_socket, "stream": over_stream}


def pack(*commands: Command) -> bytes:
    """Return commands as bytes."""
    return b"".join(hiredis.pack_command(tuple(command)) for command in commands)


async def append(bare: Bare, key: str, count: int, size: int) -> None:
    """Append `count` entries, `size` in one round trip."""
    for begin in range(0, count, size):
        numbers = range(begin, min(begin + size, count))
        data = pack(*(("XADD", key, "NOMKSTREAM", "*", "i", f"0123456789abcdef-{n:x}", "d", b'{"n":%d}' % n) for n in numbers))
        await bare.call(data, len(numbers))


async def consume(bare: Bare, keys: Sequence[str], group: str, size: int) -> int:
    """Read and acknowledge everything, `size` entries in one round trip, partition by partition; return how many there were."""
    count = 0
    for key in keys:
        while True:
            (answer,) = await bare.call(pack(("XREADGROUP", "GROUP", group, "owner", "COUNT", size, "STREAMS", key, ">")), 1)
            if not answer:
                break
            ids = [entry[0] for entry in answer[0][1]]
            await bare.call(pack(("XACK", key, group, *ids)), 1)
            count += len(ids)
    return count
