"""A small HTTP server for probes: it answers GET and HEAD from memory, and lets no client hurt the process that it runs in.

If it listens on loopback only, a request must name this machine as its `Host`: otherwise a foreign page whose name leads here could read
what it says. h11 reads and writes the protocol. A request must be complete within SECONDS and below MOST_BYTES; a body is not read. At most
MOST_CONNECTIONS are served at a time, each for one request.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import h11
from anyio.abc import Listener, SocketAttribute, SocketStream

from redisaq.core.retry import sole
from redisaq.errors import SettingsError
from redisaq.worker.settings import Address

logger = logging.getLogger("redisaq.worker")

SECONDS = 5.0
"""How long one connection may take, from its beginning to its end."""
MOST_BYTES = 1 << 14
MOST_CONNECTIONS = 100
CHUNK = 1 << 14

PAUSE = 0.5
"""Seconds until connections are accepted again after that has failed."""

GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


@dataclass(frozen=True)
class Answer:
    """An answer: its status, its body, and the body's type."""

    status: int
    body: bytes
    kind: str = "text/plain; charset=utf-8"


async def listen(address: Address) -> Listener[SocketStream]:
    """Return a listener at the address; with port 0, the system chooses a port.

    Raises:
        SettingsError: it cannot listen there.
    """
    try:
        return await anyio.create_tcp_listener(local_host=address.host, local_port=address.port)
    except OSError as error:
        reason = error.strerror or str(error)
    raise SettingsError(f"cannot listen on {address}: {reason}")


async def serve_http(listener: Listener[SocketStream], answer: Callable[[str], Answer], seconds: float = SECONDS) -> None:
    """Answer requests until cancelled; then close the listener.

    Args:
        listener: where from.
        answer: returns the answer for a path, at once.
        seconds: how long one connection may take.
    """
    connections, local = 0, _is_loopback(str(listener.extra(SocketAttribute.local_address)[0]))  # noqa: S610 -- of a socket

    async def handle(stream: SocketStream) -> None:
        nonlocal connections
        connections += 1
        try:
            with anyio.move_on_after(seconds), contextlib.suppress(*GONE):
                async with stream:
                    if connections <= MOST_CONNECTIONS:
                        await _serve(stream, answer, local=local)
        finally:
            connections -= 1

    async with listener, anyio.create_task_group() as tasks:
        while True:
            try:
                await listener.serve(handle, tasks)
            except* (OSError, anyio.BrokenResourceError) as errors:  # too many files are open, or the connection is gone already
                logger.warning("cannot accept a connection: %r", sole(errors))
            await anyio.sleep(PAUSE)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def names_this_machine(host: bytes) -> bool:
    """Return whether a Host header is `localhost` or an address, with a port or without: no name that somebody else's server gives out."""
    text = host.decode("ascii", "replace").strip()
    name, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        name = text
    elif not port.isdigit():
        return False
    if name.lower() in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name[1:-1] if name[:1] == "[" and name[-1:] == "]" else name)
    except ValueError:
        return False
    return True


async def _serve(stream: SocketStream, answer: Callable[[str], Answer], *, local: bool) -> None:
    link = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_BYTES)
    try:
        while (event := link.next_event()) is h11.NEED_DATA:
            link.receive_data(await stream.receive(CHUNK))
    except h11.RemoteProtocolError as error:
        await _send(stream, link, Answer(error.error_status_hint, b"This is no request.\n"))
        return
    if not isinstance(event, h11.Request):
        return
    if event.method not in (b"GET", b"HEAD"):
        await _send(stream, link, Answer(405, b"Only GET and HEAD.\n"))
        return
    hosts = [value for name, value in event.headers if name == b"host"]
    if local and not all(map(names_this_machine, hosts)):
        await _send(stream, link, Answer(403, b"Ask localhost or an address: a listener on loopback answers to no other name.\n"))
        return
    path = event.target.partition(b"?")[0].decode("ascii", "backslashreplace")
    try:
        found = answer(path)
    except Exception:  # the children must not end because an answer cannot be made of what they report
        logger.exception("cannot answer %s", path)
        found = Answer(500, b"The log says what is wrong.\n")
    await _send(stream, link, found, body=event.method == b"GET")


async def _send(stream: SocketStream, link: h11.Connection, answer: Answer, *, body: bool = True) -> None:
    headers = [
        ("content-type", answer.kind),
        ("content-length", str(len(answer.body))),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("connection", "close"),
    ]
    data = link.send(h11.Response(status_code=answer.status, headers=headers)) or b""
    if body:
        data += link.send(h11.Data(answer.body)) or b""
    data += link.send(h11.EndOfMessage()) or b""
    await stream.send(data)
