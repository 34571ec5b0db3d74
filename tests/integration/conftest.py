"""What tests of Admin and of the commands share: where they work, and how a command is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from redisaq.cli import main
from tests.server_fixtures import KeyLeaks, ServerPool
from tests.servers import Server

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
