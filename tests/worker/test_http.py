"""The parent's HTTP server: what it answers, and that no client can hurt it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from redisaq.errors import SettingsError
from redisaq.worker import http
from redisaq.worker.http import Answer, listen, serve_http
from redisaq.worker.settings import Address, address_of

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def a_server(seconds: float = 30.0) -> AsyncGenerator[int]:
    """Serve, with time for each connection on a busy machine, too; give the port."""
    listener = await listen(Address("127.0.0.1", 0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_http, listener, lambda path: Answer(200, f"you asked for {path}\n".encode()), seconds)
        yield listener.extra(SocketAttribute.local_port)  # noqa: S610 -- of a socket
        tasks.cancel_scope.cancel()


async def rest_of(stream: SocketStream) -> bytes:
    """Return everything until the server closes the connection."""
    data = b""
    with anyio.fail_after(90), contextlib.suppress(anyio.BrokenResourceError):
        async for more in stream:
            data += more
    return data


async def ask(port: int, request: bytes) -> bytes:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(request)
        return await rest_of(stream)


async def test_it_answers_one_request_a_connection() -> None:
    async with a_server() as port:
        answer = await ask(port, b"GET /live?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in head.lower()
        assert body == b"you asked for /live\n"
        answer = await ask(port, b"HEAD /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.endswith(b"\r\n\r\n")
        assert b"content-length: 20" in answer.lower()
        assert (await ask(port, b"POST /live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")).startswith(b"HTTP/1.1 405")


@pytest.mark.parametrize(
    "request_",
    [b"\x16\x03\x01\x02", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * (1 << 15)],
)
async def test_what_is_no_request_is_refused(request_: bytes) -> None:
    """A TLS greeting, no version, no host, too long."""
    async with a_server() as port:
        answer = await ask(port, request_ + b"\r\n\r\n")
        assert answer[:10] in (b"HTTP/1.1 4", b"")  # the rest of what is too long is not read, which resets the connection
        assert b"200" in await ask(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


async def test_others_are_answered_while_a_request_trickles() -> None:
    async with a_server() as port, await anyio.connect_tcp("127.0.0.1", port) as slow:
        await slow.send(b"GET")
        assert b"200" in await ask(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


async def test_a_request_that_trickles_comes_to_an_end() -> None:
    async with a_server(seconds=0.3) as port, await anyio.connect_tcp("127.0.0.1", port) as slow, anyio.create_task_group() as tasks:

        async def trickle() -> None:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                while True:
                    await slow.send(b"G")
                    await anyio.sleep(0.05)

        tasks.start_soon(trickle)
        assert await rest_of(slow) == b""
        tasks.cancel_scope.cancel()


async def test_an_answer_that_fails_hurts_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def answer(path: str) -> Answer:
        if path == "/bad":
            raise ZeroDivisionError
        return Answer(200, path.encode())

    listener = await listen(Address("127.0.0.1", 0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_http, listener, answer, 30.0)
        port: int = listener.extra(SocketAttribute.local_port)  # noqa: S610 -- of a socket
        assert b" 500 " in await ask(port, b"GET /bad HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in await ask(port, b"GET /good HTTP/1.1\r\nHost: localhost\r\n\r\n")
        tasks.cancel_scope.cancel()
    assert "cannot answer /bad" in caplog.text


async def test_a_connection_that_cannot_be_accepted_ends_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The first error is what asyncio raises, the second what trio does."""
    monkeypatch.setattr(http, "PAUSE", 0.0)
    listener = await listen(Address("127.0.0.1", 0))
    errors = [OSError(errno.EMFILE, "Too many open files"), anyio.BrokenResourceError()]
    serve = listener.serve

    async def failing(*args: Any) -> None:
        if errors:
            raise errors.pop(0)
        await serve(*args)

    monkeypatch.setattr(listener, "serve", failing)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_http, listener, lambda _: Answer(200, b""), 30.0)
        assert b" 200 " in await ask(listener.extra(SocketAttribute.local_port), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")  # noqa: S610 -- of a socket
        tasks.cancel_scope.cancel()
    assert "Too many open files" in caplog.text


async def test_more_connections_than_it_serves_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_CONNECTIONS", 1)
    async with a_server() as port, await anyio.connect_tcp("127.0.0.1", port) as one:
        await one.send(b"GET")
        assert await ask(port, b"") == b""
        await one.send(b" / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" in await rest_of(one)


async def test_an_address_that_is_taken_is_a_sentence() -> None:
    async with a_server() as port:
        with pytest.raises(SettingsError, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*in use"):
            await listen(Address("127.0.0.1", port))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", Address("127.0.0.1", 8080)),
        ("8080", Address("127.0.0.1", 8080)),
        ("0.0.0.0:80", Address("0.0.0.0", 80)),  # noqa: S104 -- asked for explicitly
        ("[::1]:80", Address("::1", 80)),
        ("::1:80", None),
        ("host", None),
        (":65536", None),
        ("", None),
        (":٣", None),
    ],
)
def test_addresses(text: str, address: Address | None) -> None:
    if address is not None:
        assert address_of(text) == address
        assert address_of(str(address)) == address
    else:
        with pytest.raises(SettingsError, match="HOST:PORT"):
            address_of(text)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, b"200") for host in (b"localhost", b"LocalHost:8080", b"127.0.0.1:8080", b"[::1]:80", b"[::1]", b"10.1.2.3:80")),
        *((host, b"403") for host in (b"evil.example", b"evil.example:80", b"localhost.evil.example", b"localhost:x", b"127.0.0.1.evil")),
    ],
)
async def test_a_name_that_leads_here_is_refused(host: bytes, status: bytes) -> None:
    """A page of evil.example whose name is suddenly that of 127.0.0.1 must not read what a worker says (DNS rebinding)."""
    async with a_server() as port:
        answer = await ask(port, b"GET /status HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 " + status)


async def test_names_are_free_where_others_may_ask() -> None:
    """In a cluster, Prometheus asks by the name of a service."""
    listener = await listen(Address("0.0.0.0", 0))  # noqa: S104 -- as a pod does
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_http, listener, lambda _: Answer(200, b"yes"), 30.0)
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 -- of a socket
        assert (await ask(port, b"GET /metrics HTTP/1.1\r\nHost: worker.prod.svc\r\n\r\n")).startswith(b"HTTP/1.1 200")
        tasks.cancel_scope.cancel()
