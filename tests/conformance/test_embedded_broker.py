"""The embedded broker: a server that is there when it is used, and the Redis broker behind it."""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from redisaq.brokers import open_broker
from redisaq.brokers.base import Broker, GroupName
from redisaq.brokers.embedded import EmbeddedBroker
from tests.conformance.steps import append

pytestmark = pytest.mark.anyio

METHODS = [name for name, member in inspect.getmembers(Broker, inspect.iscoroutinefunction) if name not in ("connect", "close", "__init__")]


class Recorder:
    """Stands for the RedisBroker, and answers with what it was asked."""

    def __getattr__(self, name: str) -> Any:
        async def method(*args: object, **kwargs: object) -> object:
            bound = inspect.signature(getattr(Broker, name)).bind(None, *args, **kwargs)
            return name, dict(list(bound.arguments.items())[1:])

        return method


@pytest.mark.parametrize("name", METHODS)
async def test_every_method_is_the_redis_brokers(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With every argument in its place."""
    broker = EmbeddedBroker("nowhere", "ns")
    monkeypatch.setattr(broker, "_broker", Recorder())
    parameters = list(inspect.signature(getattr(Broker, name)).parameters.values())[1:]
    arguments = {parameter.name: object() for parameter in parameters}
    positional = [arguments[parameter.name] for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
    keywords = {parameter.name: arguments[parameter.name] for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    answer = await getattr(broker, name)(*positional, **keywords)
    assert answer in (None, (name, arguments))
    if answer is None:
        assert inspect.signature(getattr(Broker, name)).return_annotation == "None"


async def test_it_starts_with_the_first_and_keeps_its_data(tmp_path: Path) -> None:
    """Brokers of one directory meet; the last one to close ends the server, and the next one finds what was there."""
    url = f"embedded://{tmp_path / 'data'}"
    first, second = open_broker(url, "ns"), open_broker(url, "ns")
    async with anyio.create_task_group() as tasks:
        for broker in (first, second, first, second):
            tasks.start_soon(broker.connect)
    await first.make_topic("orders", 1)
    await append(second, "orders", 0, b"1")
    await first.close()
    await first.close()
    assert (await second.remaining(GroupName("orders", "billing"), [0]))[0].unread
    await second.close()
    assert await first.topics() == ["orders"], "joined anew by the call itself"
    assert (await first.remaining(GroupName("orders", "billing"), [0]))[0].unread
    await first.close()


async def test_cancelling_the_start_leaves_no_hold(tmp_path: Path) -> None:
    broker = EmbeddedBroker(str(tmp_path / "data"), "ns")
    with anyio.move_on_after(0.01):
        await broker.connect()
    await broker.connect()
    assert await broker.topics() == []
    await broker.close()


PROGRAM = """
import sys, anyio
from redisaq.brokers import open_broker

async def main():
    first, second = open_broker("embedded://", "ns"), open_broker("embedded://", "ns")
    await first.make_topic("orders", 1)
    await first.close()
    assert await second.topics() == ["orders"]
    from redisaq.brokers import embedded
    print(embedded._own.directory)
    if sys.argv[1:] == ["close"]:
        await second.close()

anyio.run(main)
"""


@pytest.mark.parametrize("ending", ["close", "forget"])
def test_without_a_directory_there_is_one_for_the_process(ending: str) -> None:
    """A program's producer and consumer meet there, one after the other too; it goes with the process."""
    ran = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM, ending], check=True, capture_output=True, text=True)
    directory = Path(ran.stdout.strip())
    assert directory.name.startswith("redisaq-")
    limit = time.monotonic() + 30
    while directory.exists():
        assert time.monotonic() < limit, "the server's directory stays"
        time.sleep(0.01)
