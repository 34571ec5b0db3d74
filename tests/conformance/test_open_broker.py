"""A URL names a broker; nothing is touched before it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from redisaq.brokers import open_broker
from redisaq.brokers.embedded import EmbeddedBroker
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.steps.topics import MakeTopic, ReadTopics
from redisaq.errors import SettingsError
from tests.servers import Server


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://name", MemoryBroker),
        ("memory://", MemoryBroker),
        ("redis://localhost:6379/0", RedisBroker),
        ("redis://", RedisBroker),
        ("rediss://user:secret@example.invalid:1/2", RedisBroker),
        ("unix:///tmp/nobody", RedisBroker),
        ("embedded://", EmbeddedBroker),
        ("embedded:///nowhere/at/all", EmbeddedBroker),
    ],
)
def test_the_scheme_names_the_broker(url: str, kind: type) -> None:
    assert type(open_broker(url, "ns")) is kind
    assert not Path("/nowhere").exists()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:6379",
        "http://user:secret@host",
        "redis:/host",
        "REDIS//",
        "memory:",
        "embedded:/x",
        "redis+cluster://h:1/1",
    ],
)
def test_an_url_that_cannot_work(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_broker(url, "ns")
    assert "secret" not in str(caught.value)


def test_redis_is_imported_for_real_servers_only() -> None:
    """It takes longer than many a program's whole start."""
    program = (
        "import sys; from redisaq.brokers import open_broker; open_broker('memory://x', 'ns'); "
        "assert not {'redisaq.link', 'hiredis'} & set(sys.modules), 'too early'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.anyio
async def test_servers_are_reached_by_either_address(valkey_server: Server, namespace: str) -> None:
    over_tcp, over_socket = open_broker(valkey_server.url, namespace), open_broker(valkey_server.unix_url, namespace)
    await over_tcp.do(MakeTopic("orders", 1))
    assert await over_socket.do(ReadTopics()) == ["orders"]
    await over_tcp.close()
    await over_socket.close()
    for key in valkey_server.command("KEYS", f"*{namespace}*"):
        valkey_server.command("DEL", key)


@pytest.mark.anyio
async def test_memory_brokers_meet_by_name(namespace: str) -> None:
    await open_broker("memory://meeting", namespace).do(MakeTopic("orders", 1))
    assert await open_broker("memory://meeting", namespace).do(ReadTopics()) == ["orders"]
    assert await open_broker("memory://elsewhere", namespace).do(ReadTopics()) == []
