"""What tests of Admin, of the commands and of the link share: where they work, how a command is run, what stands before a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from redisaq.cli import main
from tests.link_proxy import Proxy
from tests.server_fixtures import KeyLeaks, ServerPool
from tests.servers import Server
from tests.still_server import StillServer

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=["memory", "valkey9"])
def url(request: pytest.FixtureRequest, server_pool: ServerPool, namespace: str, key_leaks: KeyLeaks) -> str:
    """The memory broker, or a server in which the test must leave nothing."""
    if request.param == "memory":
        return f"memory://{namespace}"
    server = server_pool.shared(request.param)
    key_leaks.server = server
    return server.url


@pytest.fixture(scope="module")
def redis(server_pool: ServerPool) -> Iterator[Server]:
    """One server is enough for commands: they are made of what is tested with each."""
    own = server_pool.new("valkey9")
    yield own
    own.close()


@pytest.fixture
def say(redis: Server, namespace: str, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command there; return status, output and errors."""

    def run(*words: str, where: bool = True) -> tuple[int, str, str]:
        place = ("--url", redis.url, "--namespace", namespace) if where else ()
        status = main([*words, *place])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def proxy(valkey_server: Server) -> Iterator[Proxy]:
    """A proxy before a server, for tests of the link."""
    with Proxy(valkey_server.port) as proxy:
        yield proxy


@pytest.fixture
def still(valkey_server: Server, namespace: str) -> Iterator[StillServer]:
    """A namespace of a server whose clock stands still."""
    still = StillServer(valkey_server, namespace)
    yield still
    still.forget_everything()
