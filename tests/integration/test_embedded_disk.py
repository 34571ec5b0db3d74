"""The embedded server's directory: a disk that is full, and what must not be trusted or cannot be used."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from redisaq import Admin, Producer
from redisaq.embedded import hold_embedded, keeper, open_embedded
from redisaq.embedded.keeper import Keeper
from redisaq.embedded.server import EmbeddedServer, valkey_program
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, RedisaqError, SettingsError
from tests.integration.test_embedded import processes_in, until

LIMIT = 60


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "data"
    yield place
    until(lambda: not processes_in(place), "a process was left behind")


# -- a full disk -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose files may not grow beyond 64 kB: its writes fail then as on a full disk."""
    program = tmp_path / "small"
    program.write_text(f"#!/bin/sh\ntrap '' XFSZ\nulimit -S -f 128\nexec '{valkey_program()}' \"$@\"\n")
    program.chmod(0o700)
    monkeypatch.setattr("redisaq.embedded.server.valkey_program", lambda: str(program))


def make_room(directory: Path) -> None:
    """Let the files of whatever runs in the directory grow again."""
    for pid in processes_in(directory):
        with contextlib.suppress(ProcessLookupError):
            _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


async def fill(producer: Producer) -> list[str]:
    """Enqueue until that fails; return the ids that were confirmed."""
    confirmed: list[str] = []
    while True:
        try:
            confirmed.append(await producer.enqueue("x" * 1000))
        except RedisaqError as error:
            if "MISCONF" in str(error):
                return confirmed
            if not isinstance(error, AmbiguousEnqueueError):  # a busy machine may take longer than a short send_timeout
                raise


@pytest.mark.anyio
@pytest.mark.usefixtures("small_disk")
async def test_what_was_confirmed_on_a_full_disk_is_not_lost_by_leaving(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change that met the full disk was confirmed and is not written: the server stays until it is, also for users that come later."""
    url = f"embedded://{directory}"
    with anyio.fail_after(LIMIT):
        async with Producer("jobs", url, send_timeout=1.0) as producer:
            confirmed = await fill(producer)
        assert len(confirmed) > 10
        await anyio.sleep(10 * keeper.CHECK_SECONDS)
        assert len(processes_in(directory)) == 2, "the server and its keeper"
        async with Admin(url) as admin:  # joins it
            assert (await admin.topic("jobs")).partitions[0].length == len(confirmed)
        await anyio.sleep(5 * keeper.CHECK_SECONDS)
        assert len(processes_in(directory)) == 2
        assert "bytes of confirmed changes are not written" in (directory / "valkey.log").read_text()
        make_room(directory)
        await anyio.to_thread.run_sync(until, lambda: not processes_in(directory), "it has not ended")
        monkeypatch.undo()  # a disk with room
        async with Admin(url) as admin:
            assert (await admin.topic("jobs")).partitions[0].length == len(confirmed)


@pytest.mark.anyio
@pytest.mark.usefixtures("small_disk")
async def test_a_private_servers_data_are_not_waited_for(tmp_path: Path) -> None:
    """They go with it anyway."""
    with anyio.fail_after(LIMIT):
        server = await open_embedded(None)
        async with Producer("jobs", server.unix_url, send_timeout=1.0) as producer:
            await fill(producer)
        await server.close()
        assert not Path(server.directory).exists()


class Status:
    """A server that says nothing but how its last write ended."""

    def __init__(self, word: str) -> None:
        self.word = word
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind("valkey.sock")
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    connection.recv(100)
                    text = f"# Persistence\r\naof_last_write_status:{self.word}\r\naof_buffer_length:77\r\n"
                    connection.sendall(f"${len(text)}\r\n{text}\r\n".encode())

    def close(self) -> None:
        """Stop."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    one = Keeper("no program", lock=-1)
    yield one
    os.close(one._users)
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("told", [False, True])
def test_a_keeper_waits_for_so_long_and_then_says_what_is_lost(
    told: bool, kept: Keeper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr("redisaq.embedded.keeper.time.monotonic", lambda: now)
    if told:
        os.kill(os.getpid(), signal.SIGTERM)
    status = Status("err")
    try:
        assert not kept._done()
        now += keeper.UNWRITTEN_SECONDS - 1
        assert not kept._done()
        assert "lost" not in capsys.readouterr().err
        now += 1
        assert kept._done()
        assert "77 bytes of confirmed changes could not be written for 600 s, and are lost" in capsys.readouterr().err
    finally:
        status.close()


@pytest.mark.parametrize("word", ["ok", "err"])
def test_a_keeper_that_need_not_wait_does_not(word: str, kept: Keeper) -> None:
    """All is written; or nobody answers, who could be waited for."""
    status = Status(word)
    if word == "ok":
        assert kept._done()
    status.close()
    assert kept._done()


# -- directories that will not do ------------------------------------------------------------------------------------------------


def check_refused(directory: object, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        hold_embedded(str(directory)).let_go()
    assert str(caught.value).startswith("embedded://")


def test_another_users_directory_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    check_refused(tmp_path, f"belongs to user {uid}, and this process is of user {uid + 1}")


@pytest.mark.parametrize("mode", [0o770, 0o757, 0o1777])
def test_a_directory_that_others_may_write_to_is_not_trusted(mode: int, tmp_path: Path) -> None:
    tmp_path.chmod(mode)
    check_refused(tmp_path, "can be written to by others")
    tmp_path.chmod(0o755)
    hold_embedded(str(tmp_path)).let_go()


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["users.lock", "server.lock", "valkey.log"])
async def test_links_are_not_followed(name: str, directory: Path, tmp_path: Path) -> None:
    """To a file of ours, which would be emptied, locked or written to."""
    mine = tmp_path / "mine"
    mine.write_text("mine")
    directory.mkdir(mode=0o700)
    (directory / name).symlink_to(mine)
    with pytest.raises(SettingsError, match="a symbolic link is in the place of one of its files"):
        await open_embedded(str(directory))
    assert mine.read_text() == "mine"


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_refused(tmp_path / "file", "it is a file, not a directory")
    check_refused(tmp_path / "file" / "data", "a part of the path is a file")
    check_refused(tmp_path / ("x" * 300), "the name is too long for the file system")
    check_refused(f"{tmp_path}/a\0b", "cannot be used: .*null")
    (tmp_path / "d" / "users.lock").mkdir(parents=True)
    (tmp_path / "d").chmod(0o700)
    check_refused(tmp_path / "d", "cannot be used: Is a directory")


@pytest.mark.anyio
@pytest.mark.parametrize(("number", "words"), [(errno.EROFS, "the file system is read-only"), (errno.EACCES, "may not write there")])
@pytest.mark.parametrize("name", ["users.lock", "server.lock", "valkey.log"])
async def test_a_directory_that_is_read_only(name: str, number: int, words: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The superuser, as whom tests may run, may write everywhere: so the system call fails here."""
    real: Callable[..., int] = os.open

    def refuse(path: Any, *more: Any, **named: Any) -> int:
        if str(path).endswith(name):
            raise OSError(number, os.strerror(number))
        return real(path, *more, **named)

    monkeypatch.setattr(os, "open", refuse)
    producer = Producer("jobs", f"embedded://{directory}")
    with anyio.fail_after(LIMIT), pytest.raises(SettingsError, match=words):
        await producer.connect()
    monkeypatch.undo()
    await producer.close()


@pytest.mark.anyio
@pytest.mark.parametrize("used_up", [errno.EMFILE, errno.ENOSPC])
@pytest.mark.parametrize("where", ["os.open", "tempfile.mkdtemp", "subprocess.run", "fcntl.flock"])
async def test_what_is_used_up_is_tried_again(where: str, used_up: int, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SettingsError, or a bare OSError, would end a consumer."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(used_up, os.strerror(used_up))

    monkeypatch.setattr(f"redisaq.embedded.server.{where}", refuse)
    with anyio.fail_after(LIMIT), pytest.raises(ConnectionFailed, match=r"embedded://.* cannot be used: ") as caught:
        await open_embedded(None if where == "tempfile.mkdtemp" else str(directory))
    assert not caught.value.permanent


@pytest.mark.anyio
@pytest.mark.parametrize("private", [True, False])
async def test_without_descriptors_a_broker_connects_once_there_are_some(
    private: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left behind by the attempts, and what was reached before is reached again."""
    places = tmp_path / "temporary"
    places.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(places))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    server = hold_embedded(None if private else str(tmp_path / "data"))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            with pytest.raises(ConnectionFailed, match="too many open files"):
                hold_embedded(None)
            with anyio.fail_after(LIMIT), pytest.raises(ConnectionFailed, match="too many open files"):
                await server.ensure()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(list(places.iterdir())) == private
        with anyio.fail_after(LIMIT):
            await server.ensure()
    finally:
        with anyio.CancelScope(shield=True):
            await server.close()


@pytest.mark.anyio
async def test_a_directory_that_was_in_use_and_refuses_is_tried_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a lock file without the right to write, when the server has to be started again."""
    async with await open_embedded(str(directory)) as server:

        async def dead() -> bool:
            return False

        def refuse(*_: Any, **__: Any) -> Any:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(server, "_answers", dead)
        monkeypatch.setattr("redisaq.embedded.server.os.open", refuse)
        with anyio.fail_after(LIMIT), pytest.raises(ConnectionFailed, match="may not write there"):
            await server.ensure()
        monkeypatch.undo()
        with anyio.fail_after(LIMIT):
            await server.ensure()


def test_a_socket_whose_name_has_no_room_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the directory, nor through a link in TMPDIR or /tmp."""

    def refuse(*_: Any, **__: Any) -> str:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    check_refused(tmp_path / ("x" * 100), "is too long for a Unix socket")
    server = EmbeddedServer(str(tmp_path / ("x" * 100)), private=False)
    assert repr(server).endswith("closed>")
