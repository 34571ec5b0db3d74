"""`redisaq top` for real: in a pseudo terminal against a server that goes away, and in a pipe."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from redisaq import Producer
from tests.server_fixtures import ServerPool
from tests.servers import Server


@pytest.fixture
def server(server_pool: ServerPool) -> Iterator[Server]:
    """A server with a topic of two partitions and three messages."""
    own = server_pool.new("valkey9")
    anyio.run(produce, own.url)
    yield own
    own.close()


async def produce(url: str) -> None:
    async with Producer("orders", url, init_partitions=2) as producer:
        await producer.batch_enqueue([1, 2, 3])


class Terminal:
    """`redisaq top` in a pseudo terminal."""

    def __init__(self, url: str, columns: int = 100) -> None:
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (30, columns))
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "redisaq.cli", "top", "--url", url],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env={**os.environ, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        self.seen = ""

    def until(self, found: Callable[[str], bool]) -> None:
        """Read until what has been seen since the last call is this."""
        self.seen = ""
        end = time.monotonic() + 60
        while not found(self.seen):
            assert time.monotonic() < end, self.seen[-3000:]
            if select.select([self.master], [], [], 1.0)[0]:
                self.seen += os.read(self.master, 65536).decode("utf-8", "replace")

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def ended(self) -> int:
        """Wait for the end; return the status. The terminal is as it was."""
        status: int | None = None
        end = time.monotonic() + 60
        while (status := self.process.poll()) is None:
            assert time.monotonic() < end
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
        while select.select([self.master], [], [], 0.1)[0]:
            self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
        assert termios.tcgetattr(self.slave) == self.before
        assert "\x1b[?1049l" in self.seen  # the screen that was there before
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(server: Server) -> Iterator[Terminal]:
    own = Terminal(server.url)
    yield own
    own.close()


def test_in_a_terminal(terminal: Terminal, server: Server) -> None:
    """It opens, follows, obeys keys, keeps its numbers when the server goes away, and leaves the terminal as it was."""
    terminal.until(lambda text: "orders" in text and "no group reads it" in text)
    terminal.press("?")
    terminal.until(lambda text: "choose a row" in text)
    terminal.press("\x1b")
    terminal.until(lambda text: "no group reads it" in text)
    server.close()
    terminal.until(lambda text: "away since" in text and "orders" in text)
    terminal.press("q")
    assert terminal.ended() == 0


def test_an_interrupt_restores_the_terminal(terminal: Terminal) -> None:
    terminal.until(lambda text: "orders" in text)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.ended() == 130


def test_in_a_pipe(server: Server) -> None:
    """One frame, without colours; or one snapshot as JSON."""

    def say(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "redisaq.cli", "top", "--url", server.url, *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        return done.returncode, done.stdout

    status, text = say()
    assert status == 0
    assert "orders 2" in text
    assert "no group reads it" in text
    assert "\x1b" not in text
    status, text = say("--json")
    found: Any = json.loads(text)
    assert (status, found["topics"][0]["topic"], found["topics"][0]["length"]) == (0, "orders", 3)
