"""TLS: verified by default, client certificates, and the rules of the shared connection over it."""

from __future__ import annotations

import ast
import contextlib
import random
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, load_pem_private_key

from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed, ServerError, SettingsError
from redisaq.link import Address, Link, ReadingConnection, TLSOptions, dial, parse_address
from redisaq.link.dial import make_context
from redisaq.link.greeting import Greeting
from redisaq.link.line import Line
from redisaq.link.wire import RECEIVE_SIZE, SecureWire
from tests.breaking_proxy import BreakingProxy
from tests.cancellation.test_link_shared import Callers, connect
from tests.link_fake import FakeServer, usual_answers
from tests.link_proxy import DRIBBLE, Proxy
from tests.link_tls import Authority, Terminator
from tests.server_fixtures import ServerPool
from tests.servers import Server, free_port
from tests.ticks import Ticks

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls_port(valkey_server: Server, authority: Authority) -> Iterator[int]:
    """A port that takes TLS, with a certificate for 127.0.0.1."""
    with Terminator(valkey_server.port, authority.server_context()) as terminator:
        yield terminator.port


@pytest.fixture(scope="module")
def asking_port(valkey_server: Server, authority: Authority) -> Iterator[int]:
    """The same, and it asks for the client's certificate."""
    with Terminator(valkey_server.port, authority.server_context(ask=True)) as terminator:
        yield terminator.port


@contextlib.asynccontextmanager
async def opened(url: str, **files: Any) -> AsyncIterator[Link]:
    address = parse_address(url)
    assert address.tls is not None or not files
    link = Link(replace(address, tls=replace(address.tls, **files)) if address.tls is not None else address)
    try:
        yield link
    finally:
        await link.close()


async def refusal(url: str, **files: Any) -> ConnectionFailed:
    async with opened(url, **files) as link:
        with pytest.raises(ConnectionFailed) as caught:
            await link.connect()
    assert not caught.value.maybe_executed
    return caught.value


async def test_it_works_with_the_right_authority(tls_port: int, authority: Authority) -> None:
    url = f"rediss://127.0.0.1:{tls_port}"
    async with opened(url, ca_file=authority.ca_file) as link:
        assert await link.call(("ECHO", "x" * 1_000_000), ("ECHO", "y")) == [b"x" * 1_000_000, b"y"]
        assert link._connector.live is not None
        assert link._connector.live._wire.taken > 1_000_000
    async with opened(f"{url}?ssl_ca_certs={authority.ca_file}") as link:
        assert await link.call(("PING",)) == [b"PONG"]


async def test_the_certificate_is_verified_by_default(tls_port: int) -> None:
    error = await refusal(f"rediss://127.0.0.1:{tls_port}")
    assert error.permanent
    assert "certificate was not accepted" in error.reason
    assert "ssl_ca_certs=FILE in the URL" in error.reason
    async with opened(f"rediss://127.0.0.1:{tls_port}?ssl_cert_reqs=none") as link:
        assert await link.call(("PING",)) == [b"PONG"]


async def test_the_host_is_verified_by_default(tls_port: int, authority: Authority) -> None:
    url = f"rediss://localhost:{tls_port}"  # the certificate is for 127.0.0.1
    error = await refusal(url, ca_file=authority.ca_file)
    assert error.permanent
    assert "it is for a name other than localhost" in error.reason
    assert "ssl_ca_certs" not in error.reason, "the authority is the right one"
    assert "ssl_check_hostname=false" in error.reason
    async with opened(f"{url}?ssl_check_hostname=false", ca_file=authority.ca_file) as link:
        assert await link.call(("PING",)) == [b"PONG"]


async def test_client_certificates(asking_port: int, authority: Authority, tmp_path: Path) -> None:
    url = f"rediss://127.0.0.1:{asking_port}"
    error = await refusal(url, ca_file=authority.ca_file)
    assert error.permanent
    assert "asks for one" in error.reason
    assert "ssl_certfile=FILE and ssl_keyfile=FILE in the URL" in error.reason
    cert_file, key_file = authority.issue("client")
    async with opened(url, ca_file=authority.ca_file, cert_file=cert_file, key_file=key_file) as link:
        assert await link.call(("PING",)) == [b"PONG"]
    both = tmp_path / "both.pem"
    both.write_bytes(Path(key_file).read_bytes() + Path(cert_file).read_bytes())
    async with opened(f"{url}?ssl_ca_certs={authority.ca_file}&ssl_certfile={both}") as link:
        assert await link.call(("PING",)) == [b"PONG"]
    stranger = Authority(tmp_path)
    cert_file, key_file = stranger.issue("stranger")
    error = await refusal(url, ca_file=authority.ca_file, cert_file=cert_file, key_file=key_file)
    assert error.permanent
    assert "did not accept our certificate" in error.reason


async def test_renewed_certificates_are_used(asking_port: int, authority: Authority, tmp_path: Path) -> None:
    """A connection that fails has the files read again; while they are being replaced, what was read before is used."""
    cert_file, key_file = Authority(tmp_path).issue("client")
    async with opened(f"rediss://127.0.0.1:{asking_port}", ca_file=authority.ca_file, cert_file=cert_file, key_file=key_file) as link:
        for _ in range(2):
            with pytest.raises(ConnectionFailed, match="did not accept our certificate"):
                await link.connect()
            Path(cert_file).write_text("half of a certif")
        for renewed, file in zip(authority.issue("client"), (cert_file, key_file), strict=True):
            Path(file).write_bytes(Path(renewed).read_bytes())
        await link.connect()
        assert await link.call(("PING",)) == [b"PONG"]


async def test_files_that_cannot_be_used(authority: Authority, tmp_path: Path) -> None:
    cert_file, key_file = authority.issue("client")
    encrypted = tmp_path / "encrypted.key"
    key = load_pem_private_key(Path(key_file).read_bytes(), None)
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    for files, words in (
        ({"ca_file": str(nonsense)}, "nonsense.pem"),
        ({"cert_file": str(nonsense)}, "nonsense.pem"),
        ({"cert_file": cert_file, "key_file": str(encrypted)}, "encrypted.key.*give an unencrypted one"),  # nobody is asked on the terminal
        ({"cert_file": cert_file, "key_file": str(tmp_path / "none.key")}, "none.key"),
    ):
        async with opened("rediss://127.0.0.1", **files) as link:
            with pytest.raises(SettingsError, match=words):
                await link.connect()


async def test_the_wrong_scheme(tls_port: int, valkey_server: Server) -> None:
    error = await refusal(f"redis://127.0.0.1:{tls_port}")
    assert "rediss://" in error.reason or "closed the connection" in error.reason
    with FakeServer(usual_answers()) as fake:
        error = await refusal(fake.url.replace("redis://", "rediss://"))
    assert "TLS" in error.reason
    error = await refusal(f"rediss://127.0.0.1:{valkey_server.port}?socket_connect_timeout=0.2")
    assert "does the server speak TLS on this port? Without TLS the URL begins with redis://" in error.reason
    assert "firewall" not in error.reason


HINTS = re.compile(r"\b([a-z]+_[a-z_]+)\b")


def test_hints_name_what_there_is() -> None:
    """Whatever an error of the link's tells people to set is an option of the URL, or of the server's configuration."""
    known = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname", "socket_connect_timeout"}
    texts = [
        node.value
        for name in ("dial", "greeting", "address")
        for node in ast.walk(ast.parse(Path(f"redisaq/link/{name}.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value and "\n" not in node.value
    ]
    assert {word for text in texts for word in HINTS.findall(text)} - {"run_id"} <= known  # a line of INFO: nothing that one could set
    for option in known:
        values = {"ssl_cert_reqs": "none", "ssl_check_hostname": "false", "socket_connect_timeout": "1", "ssl_keyfile": "k&ssl_certfile=c"}
        parse_address(f"rediss://h?{option}={values.get(option, 'f')}")


async def test_an_end_is_seen_before_anything_is_sent(tls_port: int, authority: Authority) -> None:
    with Proxy(tls_port) as proxy:
        async with opened(proxy.url.replace("redis://", "rediss://"), ca_file=authority.ca_file) as link:
            assert await link.call(("ECHO", 1)) == [b"1"]
            proxy.cut()
            assert await link.call(("ECHO", 2)) == [b"2"]
            assert proxy.accepted == 2


async def test_the_end_of_tls_is_the_end(tls_port: int, authority: Authority) -> None:
    """The server says goodbye in TLS and leaves the socket open."""
    async with opened(f"rediss://127.0.0.1:{tls_port}", ca_file=authority.ca_file) as link:
        reading = await link.open_reading()
        await link.call(("CLIENT", "KILL", "ID", reading.client_id))
        with anyio.fail_after(30), pytest.raises(ConnectionFailed, match="closed the connection"):
            await reading.read(("BLPOP", "none", 0))


async def test_what_was_not_sent_is_distinguished(tls_port: int, authority: Authority) -> None:
    """Nothing is encrypted before what went before has gone, so a small call behind a large one was not sent."""
    maybe_executed: dict[str, bool] = {}

    async def call(text: str) -> None:
        with pytest.raises(ConnectionFailed) as caught:
            await link.call(("ECHO", text))
        maybe_executed[text[:5]] = caught.value.maybe_executed

    with Proxy(tls_port) as proxy:
        async with opened(proxy.url.replace("redis://", "rediss://"), ca_file=authority.ca_file) as link:
            await link.connect()
            proxy.freeze()
            with anyio.fail_after(30):
                async with anyio.create_task_group() as group:
                    group.start_soon(call, "large" * 6_000_000)
                    await anyio.wait_all_tasks_blocked()
                    group.start_soon(call, "small")
                    await anyio.wait_all_tasks_blocked()
                    await link.close()
            proxy.thaw()
    assert maybe_executed == {"large": True, "small": False}


async def test_what_comes_along_with_the_handshake_is_read(authority: Authority) -> None:
    """A server at its limit answers before it was asked: its words may arrive together with the last of the handshake."""
    context = authority.server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # here the server's part comes last
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    wire = SecureWire(ours, bytearray(RECEIVE_SIZE), make_context(TLSOptions(ca_file=authority.ca_file)), "127.0.0.1")
    with theirs, anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(wire.handshake)
            agreed = False
            while not agreed:
                await anyio.wait_readable(theirs)
                incoming.write(theirs.recv(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    server.do_handshake()
                    agreed = True
                    server.write(b"-ERR max number of clients reached\r\n")
                theirs.send(outgoing.read())
        assert wire.agreed
        reply = wire.next_reply()
        assert isinstance(reply, ServerError)
        assert reply.text == "ERR max number of clients reached"
        wire.close()


async def test_a_server_whose_certificate_we_refuse_learns_that_once_the_socket_takes_it(authority: Authority) -> None:
    """It logs the reason, and need not guess why we closed. Before that, the socket takes nothing for a while."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = authority.server_context("another").wrap_bio(incoming, outgoing, server_side=True)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    wire = SecureWire(ours, bytearray(RECEIVE_SIZE), make_context(TLSOptions(ca_file=authority.ca_file)), "127.0.0.1")
    filling = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filling += ours.send(b"x" * 4096)

    async def fail() -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            await wire.handshake()
        wire.close()

    async def serve() -> None:
        while True:
            await anyio.wait_readable(theirs)
            assert incoming.write(theirs.recv(65536)), "it closed without a word"
            with contextlib.suppress(ssl.SSLWantReadError):
                server.do_handshake()
            theirs.send(outgoing.read())

    with theirs, anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            await anyio.wait_all_tasks_blocked()
            while filling:
                await anyio.wait_readable(theirs)
                filling -= len(theirs.recv(min(filling, 65536)))
            with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
                await serve()
    assert not wire.agreed


async def test_what_tls_itself_owes_is_sent_though_nobody_calls(authority: Authority) -> None:
    """A server may ask for the client's certificate at any time."""
    server_context, context = authority.server_context(ask=True), make_context(TLSOptions(ca_file=authority.ca_file))
    server_context.verify_mode = ssl.CERT_OPTIONAL
    context.post_handshake_auth = True
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(incoming, outgoing, server_side=True)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    wire = SecureWire(ours, bytearray(RECEIVE_SIZE), context, "127.0.0.1")

    async def move(step: Callable[[], object]) -> None:
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                theirs.send(outgoing.read())
                await anyio.wait_readable(theirs)
                incoming.write(theirs.recv(65536))
            else:
                theirs.send(outgoing.read())
                return

    with theirs, anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(wire.handshake)
            await move(server.do_handshake)
        server.verify_client_post_handshake()
        await move(server.do_handshake)
        await wire.wait_readable()
        wire.receive()
        assert theirs.recv(65536)
        wire.close()


async def test_certificate_files_are_read_once(tls_port: int, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes some milliseconds. After a failure, they are read for the next connection, and for that one alone."""
    reads: list[TLSOptions] = []

    def read(options: TLSOptions) -> ssl.SSLContext:
        reads.append(options)
        return make_context(options)

    async def greet(line: Line, address: Address, _name: str) -> Greeting:
        if failing:
            raise ConnectionFailed(address.display, "for this test")
        return Greeting(1, "", "run")

    monkeypatch.setattr(dial, "make_context", read)
    dialer = dial.Dialer(parse_address(f"rediss://127.0.0.1:{tls_port}?ssl_ca_certs={authority.ca_file}"), greet=greet)
    for failing, count in ((False, 1), (False, 1), (True, 1), (False, 2), (False, 2)):
        if failing:
            with pytest.raises(ConnectionFailed, match="for this test"):
                await dialer.dial(Environment())
        else:
            line, _ = await dialer.dial(Environment())
            line.fail("that was all")
        assert len(reads) == count


async def test_reading_and_subscribing(tls_port: int, authority: Authority, namespace: str) -> None:
    async with opened(f"rediss://127.0.0.1:{tls_port}", ca_file=authority.ca_file) as link:
        reading = await link.open_reading()
        bell = await link.listen(namespace)
        with anyio.fail_after(30):
            with anyio.move_on_after(0.02):
                await reading.read(("BLPOP", namespace, 0))
            assert reading.settled
            assert await link.call(("SPUBLISH", namespace, "x")) == [1]
            await bell.wait()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("seed", range(3))
async def test_random_cancellation_over_tls(valkey_server: Server, authority: Authority, seed: int, version: ssl.TLSVersion) -> None:
    """Rules 1 to 5 over a wire that dribbles ciphertext."""
    context = authority.server_context()
    context.maximum_version = version
    with Terminator(valkey_server.port, context) as terminator, Proxy(terminator.port, seed=seed, chunks=DRIBBLE) as proxy:
        link = await connect(proxy.url.replace("redis://", "rediss://") + f"?ssl_ca_certs={authority.ca_file}")
        try:
            callers = Callers(link, random.Random(seed), native=False)
            await callers.run()
            assert (callers.count["hung"], callers.count["wrong"]) == (0, 0)
            assert callers.count["cancelled"] >= 1
            assert callers.count["right"] >= 20
            assert await link.call(("ECHO", "after")) == [b"after"]
            assert proxy.accepted == 1
        finally:
            await link.close()


async def test_a_server_that_speaks_tls_itself(server_pool: ServerPool, authority: Authority) -> None:
    """Redis 7 as distributions build it, which asks for the client's certificate unless told otherwise."""
    cert_file, key_file = authority.issue("127.0.0.1")
    port = free_port()
    server = server_pool.new("redis7")
    try:
        for name, value in (("cert", cert_file), ("key", key_file), ("ca-cert", authority.ca_file)):
            server.command("CONFIG", "SET", f"tls-{name}-file", value)
        server.command("CONFIG", "SET", "tls-port", port)
        url = f"rediss://127.0.0.1:{port}"
        async with opened(url, ca_file=authority.ca_file, cert_file=cert_file, key_file=key_file) as link:
            assert await link.call(("ECHO", "x" * 1_000_000)) == [b"x" * 1_000_000]
        error = await refusal(url, ca_file=authority.ca_file)
        # Its alert may be lost: it resets the connection when it closes with our first commands unread.
        assert "asks for one" in error.reason if error.permanent else "ask for a client certificate" in error.reason
    finally:
        server.close()


async def test_a_silent_server_behind_tls(tls_port: int, authority: Authority) -> None:
    """Rule 10: shared and reading connections break, and closing has nothing to wait for."""
    proxy = BreakingProxy(tls_port)
    link = Link(parse_address(f"rediss://127.0.0.1:{proxy.port}?ssl_ca_certs={authority.ca_file}"), silence=0.5)
    try:
        await link.connect()
        reading = await link.open_reading()
        proxy.swallow()
        failures: list[ConnectionFailed] = []

        async def call(connection: Link | ReadingConnection) -> None:
            with pytest.raises(ConnectionFailed, match="silent") as caught:
                await connection.call(("ECHO", "x" * 100_000))
            failures.append(caught.value)

        with Ticks() as ticks:
            began = time.monotonic()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, link)
                tasks.start_soon(call, reading)
            silent = time.monotonic()
            await link.close()
            closed = time.monotonic()
        assert silent - began >= 0.5
        assert ticks.between(began, silent) < 1.0
        assert [failure.maybe_executed for failure in failures] == [True, True]
        assert ticks.between(silent, closed) < 0.5
    finally:
        proxy.close()
