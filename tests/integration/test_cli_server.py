"""`redisaq server`: it serves producers and consumers of other processes, and goes without a trace."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import hiredis
import pytest

from redisaq import Consumer, Message, Producer
from tests.integration.cli_processes import LIMIT, own_place, running_in, started, working_in
from tests.servers import command

pytestmark = pytest.mark.anyio


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for everything temporary; when the test is over, nothing may run in it, and no file but this one be in it."""
    with own_place(leaves="queue data") as directory:
        yield directory


@contextlib.contextmanager
def server(place: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Start it; give the process and its two URLs."""
    with started(place, "server", *words) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip(), process.stdout.readline().strip()


def end(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """End it with a signal, as it should end."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=LIMIT)
    assert errors == ""
    assert process.returncode == 0


async def enqueue(url: str, count: int) -> list[str]:
    async with Producer("orders", url) as producer:
        return await producer.batch_enqueue([{"n": n} for n in range(count)])


async def consume(url: str) -> list[str]:
    got: list[str] = []

    async def handle(message: Message[object]) -> None:
        got.append(message.msg_id)

    async with Consumer("orders", url) as consumer:
        await consumer.process(handle, until_empty=True)
    return got


async def test_both_urls_lead_to_it_and_sigterm_ends_it_without_a_trace(place: Path) -> None:
    with server(place) as (process, embedded_url, unix_url):
        assert embedded_url.startswith(f"embedded://{place}/")
        assert unix_url.startswith(f"unix://{place}/")
        assert await consume(embedded_url) == []
        ids = await enqueue(unix_url, 5)
        assert await consume(embedded_url) == ids
        assert len(running_in(place)) == 3  # it, the server, the server's keeper
        end(process, signal.SIGTERM)
        assert working_in(place) == []
        assert not any(place.iterdir())


async def test_a_directory_keeps_its_data_and_sigint_ends_it_too(place: Path) -> None:
    directory = place / "queue data"
    with server(place, "--dir", str(directory)) as (process, embedded_url, unix_url):
        assert embedded_url == f"embedded://{directory}"
        assert unix_url == f"unix://{directory}/valkey.sock".replace(" ", "%20")
        ids = await enqueue(unix_url, 3)
        end(process, signal.SIGINT)
    with server(place, "--dir", "queue data") as (process, embedded_url, _):
        assert embedded_url == f"embedded://{directory}"
        assert await consume(embedded_url) == ids
        end(process, signal.SIGTERM)


# What follows has no event loop in the test itself: it is about other processes.


def test_it_serves_for_as_long_as_it_is_wanted(place: Path) -> None:
    """A server that is killed is started again while the command runs."""
    with server(place) as (process, embedded_url, _):
        directory = Path(embedded_url.removeprefix("embedded://"))
        address = directory / "valkey.sock"
        info: bytes = command(address, "INFO", "server")
        first = next(int(line.split(b":")[1]) for line in info.splitlines() if line.startswith(b"process_id:"))
        os.kill(first, signal.SIGKILL)
        limit = time.monotonic() + LIMIT
        while True:
            with contextlib.suppress(OSError, hiredis.ReplyError):  # it is not there, or still loading
                if command(address, "PING") == b"PONG":
                    break
            assert time.monotonic() < limit
            time.sleep(0.01)
        end(process, signal.SIGTERM)


def test_killed_it_leaves_no_process(place: Path) -> None:
    """What must be gone soon is looked at by the fixture."""
    with server(place) as (process, _, _):
        process.kill()


def test_a_directory_of_no_use_is_one_line(place: Path) -> None:
    (place / "queue data").touch()
    with started(place, "server", "--dir", "queue data/inside") as process:
        out, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 2
    assert out == ""
    assert errors.startswith("redisaq server: embedded://")
    assert errors.count("\n") == 1
