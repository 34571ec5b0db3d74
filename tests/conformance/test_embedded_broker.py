"""The embedded broker: a server that runs when it is used, and the Redis broker on it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest

from redisaq.brokers import open_broker
from redisaq.brokers.embedded import EmbeddedBroker
from redisaq.brokers.steps.settling import ReadRemaining
from redisaq.brokers.steps.topics import MakeTopic, ReadTopics
from redisaq.brokers.terms import GroupName
from redisaq.errors import ConnectionFailed
from tests.conformance.steps import append
from tests.integration.test_embedded import processes_in, until

pytestmark = pytest.mark.anyio


async def test_it_starts_with_the_first_and_keeps_its_data(tmp_path: Path) -> None:
    """Brokers of one directory use the same server. The last one to close ends it, and the next one finds the data."""
    url = f"embedded://{tmp_path / 'data'}"
    first, second = open_broker(url, "ns"), open_broker(url, "ns")
    async with anyio.create_task_group() as tasks:
        for broker in (first, second, first, second):
            tasks.start_soon(broker.connect)
    await first.do(MakeTopic("orders", 1))
    await append(second, "orders", 0, b"1")
    await first.close()
    await first.close()
    assert (await second.do_each([ReadRemaining(GroupName("orders", "billing"), 0)]))[0].unread
    await second.close()
    assert await first.do(ReadTopics()) == ["orders"], "joined again by the call itself"
    assert (await first.do_each([ReadRemaining(GroupName("orders", "billing"), 0)]))[0].unread
    await first.close()


async def test_cancelling_the_start_leaves_no_hold(tmp_path: Path) -> None:
    broker = EmbeddedBroker(str(tmp_path / "data"), "ns")
    with anyio.move_on_after(0.01):
        await broker.connect()
    await broker.connect()
    assert await broker.do(ReadTopics()) == []
    await broker.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a server with its keeper")
async def test_a_keeper_that_is_killed_costs_a_connection(tmp_path: Path) -> None:
    """The server ends with it; the next connection starts both again, with the data."""
    directory = tmp_path / "data"
    broker = open_broker(f"embedded://{directory}", "ns")
    await broker.do(MakeTopic("orders", 1))
    await append(broker, "orders", 0, b"1")
    killed, urls = set(processes_in(directory)), set[str]()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    with anyio.fail_after(30):
        while not set(processes_in(directory)) - killed:  # a call that finds its connection broken may be the one that makes another
            try:
                await broker.do(ReadTopics())
            except ConnectionFailed as error:
                urls.add(error.url)
    assert urls <= {f"embedded://{directory}"}
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(broker.listen_partition, "orders", 0)
            tasks.start_soon(broker.do, ReadTopics())
    assert (await broker.do_each([ReadRemaining(GroupName("orders", "billing"), 0)]))[0].unread
    await broker.close()
    until(lambda: not processes_in(directory), "nobody holds it any more")


async def test_who_never_reached_it_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not start: each call says so, and none of them leaves a hold."""
    monkeypatch.setattr("redisaq.embedded.server.valkey_program", lambda: "/bin/false")
    directory = tmp_path / "data"
    broker = open_broker(f"embedded://{directory}", "ns")
    failed: list[str] = []

    async def connect() -> None:
        with pytest.raises(ConnectionFailed, match=r"^embedded://.*/data: the server does not start") as caught:
            await broker.listen_partition("orders", 0)
        failed.append(caught.value.reason)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(connect)
    assert len(failed) == 3
    until(lambda: is_free(directory / "users.lock"), "somebody holds the server")


def is_free(file: Path) -> bool:
    """Return whether this lock is free; a keeper that gives up still checks it."""
    with file.open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


PROGRAM = """
import sys, anyio
from redisaq.brokers import open_broker
from redisaq.brokers.steps.topics import MakeTopic, ReadTopics

async def main():
    first, second = open_broker("embedded://", "ns"), open_broker("embedded://", "ns")
    await first.do(MakeTopic("orders", 1))
    await first.close()
    assert await second.do(ReadTopics()) == ["orders"]
    from redisaq.brokers import embedded
    print(embedded._own.get().directory)
    if sys.argv[1:] == ["close"]:
        await second.close()

anyio.run(main)
"""


@pytest.mark.parametrize("ending", ["close", "forget"])
def test_without_a_directory_there_is_one_for_the_process(ending: str) -> None:
    """A program's producer and consumer use the same server, even one after the other; it ends with the process."""
    ran = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM, ending], check=True, capture_output=True, text=True)
    directory = Path(ran.stdout.strip())
    assert directory.name.startswith("redisaq-")
    limit = time.monotonic() + 30
    while directory.exists():
        assert time.monotonic() < limit, "the server's directory stays"
        time.sleep(0.01)
