"""Connecting: what works on real servers, and what each refusal says. No error shows a password."""

from __future__ import annotations

import contextlib
import gc
import socket
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from redisaq.brokers import open_broker
from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.steps.topics import ReadTopics
from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed, ServerError, SettingsError
from redisaq.link import Link, parse_address
from redisaq.link.address import Address
from redisaq.link.dial import _open_unix
from tests.conftest import Backend
from tests.link_fake import Answer, FakeServer, bulk, hello, usual_answers
from tests.servers import Server, free_port

pytestmark = pytest.mark.anyio

PASSWORD = "p@ss/w:#%rd"  # noqa: S105 -- of a server that lives as long as a test
QUOTED = "p%40ss%2Fw%3A%23%25rd"


def link_to(url: str, *, connect_timeout: float = 5.0) -> Link:
    return Link(replace(parse_address(url), connect_timeout=connect_timeout))


async def refusal(url: str, *, connect_timeout: float = 5.0) -> ConnectionFailed:
    """Return the error of connecting to `url`, with what must hold for each."""
    link = link_to(url, connect_timeout=connect_timeout)
    with pytest.raises(ConnectionFailed) as caught:
        await link.connect()
    await link.close()
    error = caught.value
    assert isinstance(error, ConnectionError)
    assert link.address.display in str(error)
    assert not error.maybe_executed
    for shown in (PASSWORD, QUOTED):
        assert shown not in "".join(traceback.format_exception(error)) + repr(error)
    return error


async def test_over_tcp_and_unix(server: Server) -> None:
    for url in (server.url, f"redis://localhost:{server.port}/1", f"{server.unix_url}?db=2"):
        link = link_to(url)
        await link.connect()
        try:
            assert f"run_id:{link.run_id}" in server.command("INFO", "server").decode()
            (info,) = await link.call(("CLIENT", "INFO"))
            assert isinstance(info, bytes)
            words = dict(word.split("=", 1) for word in info.decode().split() if "=" in word)
            assert words["name"].startswith("redisaq:")
            assert (words["resp"], words["db"]) == ("3", str(link.address.database))
        finally:
            await link.close()


async def test_replies_as_python_values(server: Server, namespace: str) -> None:
    link = link_to(server.url)
    key = f"{namespace}:k"
    try:
        replies = await link.call(
            ("HSET", key, "a", 1, b"b", 2.5), ("HGETALL", key), ("INCR", key), ("GET", f"{key}:none"), ("EXISTS", key), ("DEL", key)
        )
        error = replies[2]
        assert isinstance(error, ServerError)
        assert error.code == "WRONGTYPE"
        assert [*replies[:2], *replies[3:]] == [2, {b"a": b"1", b"b": b"2.5"}, None, 1, 1]
        assert await link.call() == []
        with pytest.raises(TypeError):
            await link.call(("ECHO", None))  # type: ignore[arg-type]
        assert await link.call(("ECHO", "unharmed")) == [b"unharmed"]
    finally:
        await link.close()


async def test_nobody_listens() -> None:
    error = await refusal(f"redis://:{QUOTED}@127.0.0.1:{free_port()}")
    assert "refused" in error.reason.lower()
    assert "check host and port" in error.reason
    assert not error.permanent


async def test_every_address_of_a_name_is_tried(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert host == "many"
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", number)) for number in (free_port(), port)]

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    link = link_to(f"redis://many:{server.port}")
    try:
        assert await link.call(("PING",)) == [b"PONG"]
    finally:
        await link.close()


async def test_a_name_that_does_not_resolve() -> None:
    error = await refusal("redis://nobody.invalid")
    assert "cannot be resolved" in error.reason


async def test_no_such_socket(tmp_path: Path) -> None:
    error = await refusal(f"unix://{tmp_path}/none")
    assert "check the path" in error.reason


async def test_a_server_that_says_nothing() -> None:
    silent: dict[str, Answer] = dict.fromkeys(usual_answers(), b"")
    with FakeServer(silent) as fake:
        error = await refusal(fake.url, connect_timeout=0.1)
    assert "no answer within 0.1 s" in error.reason
    assert not error.permanent


async def test_something_that_is_no_redis() -> None:
    with FakeServer({"HELLO": b"HTTP/1.1 400 Bad Request\r\n\r\n"}) as fake:
        error = await refusal(fake.url)
    assert "not a Redis server's" in error.reason
    assert "rediss://" in error.reason


async def test_a_server_that_hangs_up() -> None:
    with FakeServer({"HELLO": lambda _: None}) as fake:
        error = await refusal(fake.url)
    assert "closed the connection" in error.reason
    assert not error.permanent


@pytest.fixture
def guarded(server: Server) -> Iterator[Server]:
    """A server on which user `guarded` needs a password."""
    server.command("ACL", "SETUSER", "guarded", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    yield server
    server.command("ACL", "DELUSER", "guarded")


async def test_passwords(guarded: Server) -> None:
    port = guarded.port
    link = link_to(f"redis://guarded:{QUOTED}@127.0.0.1:{port}")
    try:
        assert await link.call(("ACL", "WHOAMI")) == [b"guarded"]
    finally:
        await link.close()
    error = await refusal(f"redis://guarded:{QUOTED}x@127.0.0.1:{port}")
    assert error.permanent
    assert "wrong user name or password for user 'guarded'" in error.reason


async def test_a_server_that_wants_a_password(breakable_server: Server) -> None:
    breakable_server.command("CONFIG", "SET", "requirepass", PASSWORD)
    error = await refusal(breakable_server.url)
    assert error.permanent
    assert "asks for a password" in error.reason
    link = link_to(f"redis://:{QUOTED}@127.0.0.1:{breakable_server.port}")
    try:
        assert await link.call(("ACL", "WHOAMI")) == [b"default"]
    finally:
        await link.close()


async def test_a_database_that_does_not_exist(server: Server) -> None:
    error = await refusal(f"redis://127.0.0.1:{server.port}/9999")
    assert error.permanent
    assert "database 9999 does not exist" in error.reason


@pytest.mark.parametrize(
    ("answers", "found", "needed"),
    [
        (usual_answers("6.2.14"), "Redis 6.2.14", "7.0"),
        (usual_answers("7.2.4", valkey="7.0.1"), "Valkey 7.0.1", "7.2"),
        ({"HELLO": b"-NOPROTO unsupported protocol version\r\n"}, "older than 6.0", "7.0"),
        ({"HELLO": b"-ERR unknown command `HELLO`, with args beginning with: `3`\r\n"}, "older than 6.0", "7.0"),
        (usual_answers("6.0.16") | {"INFO": b"-NOPERM no\r\n"}, "Redis 6.0.16", "7.0"),
    ],
)
async def test_a_server_too_old(answers: dict[str, Answer], found: str, needed: str) -> None:
    with FakeServer(answers) as fake:
        error = await refusal(fake.url)
    assert error.permanent
    assert found in error.reason
    assert needed in error.reason


@pytest.mark.parametrize(
    ("answers", "words", "permanent"),
    [
        ({"PING": b"-LOADING Redis is loading the dataset in memory\r\n"}, "not ready", False),
        ({"HELLO": b"-LOADING Redis is loading the dataset in memory\r\n"}, "not ready", False),
        ({"PING": b"-MASTERDOWN Link with MASTER is down\r\n"}, "not ready", False),
        ({"HELLO": b"-ERR max number of clients reached\r\n"}, "max number of clients", False),
        ({"HELLO": b"-DENIED Redis is running in protected mode\r\n"}, "protected mode", True),
        ({"HELLO": b"-NOPERM this user has no permissions to run 'hello'\r\n"}, "lacks a permission", True),
        ({"INFO": b"-NOPERM this user has no permissions to run 'info'\r\n"}, "lacks a permission", True),
        ({"HELLO": b"*0\r\n"}, "does not answer like", False),
        ({"INFO": bulk("redis_version:7.2.4\r\nrun_id:\r\n")}, "which run of it answers", True),
    ],
)
async def test_refusals(answers: dict[str, Answer], words: str, permanent: bool) -> None:
    with FakeServer(usual_answers() | answers) as fake:
        error = await refusal(fake.url)
    assert words in error.reason
    assert error.permanent == permanent


async def test_reading_does_without_client_info() -> None:
    """Then nobody knows the connection by its address, and T4 is all there is."""
    with FakeServer(usual_answers() | {"CLIENT": b"-NOPERM no permission for client|info\r\n"}) as fake:
        link = link_to(fake.url)
        try:
            reading = await link.open_reading()
            assert not reading.client_address
            await reading.close()
        finally:
            await link.close()


async def test_a_failed_connection_leaves_no_socket() -> None:
    """An unclosed socket warns when it is collected, and pytest makes that an error; here the descriptors are counted, too."""
    descriptors = Path("/proc/self/fd")
    gc.collect()
    before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    await refusal(f"redis://127.0.0.1:{free_port()}")
    gc.collect()
    if before:
        assert len(list(descriptors.iterdir())) <= before


async def test_missing_certificate_files(anyio_backend: Backend) -> None:
    link = link_to("rediss://127.0.0.1?ssl_ca_certs=/nowhere/ca.pem")
    with pytest.raises(SettingsError, match=r"/nowhere/ca\.pem"):
        await link.connect()


async def test_hello_is_sent_with_name_and_login() -> None:
    with FakeServer(usual_answers()) as fake:
        address = parse_address(fake.url.replace("redis://", "redis://me:pw@").replace("/0", "/5"))
        environment = Environment(host=lambda: "a host", pid=lambda: 7)
        for client in ("Zoë at 3", None):
            link = Link(address, environment, client=client)
            await link.connect()
            await link.close()
        sent = [b" ".join(command) for command in fake.commands]
    assert b"HELLO 3 AUTH me pw SETNAME redisaq:Zo__at_3" in sent
    assert b"HELLO 3 AUTH me pw SETNAME redisaq:a_host:7" in sent
    assert b"SELECT 5" in sent


def test_the_fake_looks_like_a_server() -> None:
    assert hello("7.0.0").startswith(b"%4")
    assert bulk("é") == b"$2\r\n\xc3\xa9\r\n"


async def test_a_renamed_hello_is_named() -> None:
    with FakeServer(usual_answers() | {"HELLO": b"-ERR unknown command 'HELLO', with args beginning with: '3'\r\n"}) as fake:
        with pytest.raises(ConnectionFailed, match="renamed") as failed:
            await Link(parse_address(fake.url)).connect()
        assert failed.value.permanent


@pytest.mark.parametrize("masters", [1, 3])
async def test_a_cluster_is_named(masters: int) -> None:
    """One that has all slots is as good as a single server."""
    answers = {
        "HELLO": hello("7.2.4").replace(b"%4", b"%5", 1) + bulk("mode") + bulk("cluster"),
        "CLUSTER": bulk(f"cluster_size:{masters}\r\n"),
    }
    with FakeServer(usual_answers() | answers) as fake:
        link = Link(parse_address(fake.url))
        if masters == 1:
            await link.connect()
            await link.close()
            return
        with pytest.raises(ConnectionFailed, match=r"this is a node of a cluster: begin the URL with redis\+cluster:") as failed:
            await link.connect()
        assert failed.value.permanent


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_a_sentinel_is_named(scheme: str) -> None:
    answers = {
        "HELLO": hello("7.2.4").replace(b"%4", b"%5", 1) + bulk("mode") + bulk("sentinel"),
        "SELECT": b"-ERR unknown command 'SELECT', with args beginning with: '0'\r\n",
    }
    with FakeServer(usual_answers() | answers) as fake:
        broker = open_broker(f"{scheme}://127.0.0.1:{fake.port}", "any")
        with pytest.raises(ConnectionFailed, match=r"this is a sentinel: .* as in redis\+sentinel://host1,host2/service") as failed:
            await broker.connect()
        assert failed.value.permanent
        await broker.close()


async def test_a_moved_slot_says_that_it_is_a_cluster() -> None:
    """One server of it can have had all slots when we connected."""
    with FakeServer(usual_answers() | {"SMEMBERS": b"-MOVED 1 127.0.0.1:1\r\n"}) as fake:
        broker = RedisBroker(Link(parse_address(fake.url)), "any")
        with pytest.raises(ConnectionFailed, match=r"MOVED 1.*redis\+cluster://") as moved:
            await broker.do(ReadTopics())
        assert not moved.value.permanent
        assert not moved.value.maybe_executed
        fake.answers["HELLO"] = hello("7.2.4").replace(b"%4", b"%5", 1) + bulk("mode") + bulk("cluster")
        fake.answers["CLUSTER"] = bulk("cluster_size:3\r\n")
        with pytest.raises(ConnectionFailed, match="this is a node of a cluster") as failed:
            await broker.do(ReadTopics())
        assert failed.value.permanent
        await broker.close()


async def test_eviction_is_warned_of_once(breakable_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    breakable_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    link = Link(parse_address(breakable_server.url))
    for _ in range(2):
        await link.connect()
        await link.close()
    warnings = [record.getMessage() for record in caplog.records if record.name == "redisaq.link"]
    assert len(warnings) == 1
    assert "allkeys-lru" in warnings[0]
    assert "noeviction" in warnings[0]


async def test_a_server_whose_backlog_is_full_is_waited_for(tmp_path: Path) -> None:
    """The system refuses at once where a TCP connection would wait."""
    path = str(tmp_path / "socket")
    address, waiting, opened = parse_address(f"unix://{path}"), list[socket.socket](), list[socket.socket]()
    assert isinstance(address, Address)

    async def open_one() -> None:
        opened.append(await _open_unix(address))

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                waiting[-1].connect(path)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(open_one)
                await anyio.sleep(0.05)
                assert opened == []
                server.accept()[0].close()
    for one in (*waiting, *opened):
        one.close()
    assert len(opened) == 1
