"""What the keeper of an embedded server does beside keeping it: it sends what the server has appended to the disk."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from redisaq.embedded.keeper import Keeper
from tests.ticks import Ticks


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """Undo what a keeper, which is a process of its own, does with SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_keeper_sends_what_is_appended_to_the_disk_as_long_as_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its program never stops appending; a user lets go once it has been synced twice."""
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nmkdir appendonlydir\nwhile :; do echo x >> appendonlydir/1.aof; sleep 0.05; done\n")
    program.chmod(0o700)
    synced: list[int] = []
    monkeypatch.setattr("redisaq.embedded.keeper.SYNC_SECONDS", 0.1)
    with (tmp_path / "users.lock").open("w") as user:
        fcntl.flock(user, fcntl.LOCK_SH)

        def sync(descriptor: int) -> None:
            synced.append(descriptor)
            if len(synced) == 2:
                fcntl.flock(user, fcntl.LOCK_UN)

        monkeypatch.setattr(os, "fsync", sync)
        lock = os.open(tmp_path / "server.lock", os.O_RDWR | os.O_CREAT)
        try:
            keeper = Keeper(str(program), lock)
            keeper.run()  # until nobody uses it
        finally:
            os.close(lock)
    assert keeper.unused
    assert len(synced) >= 2


def test_what_was_appended_is_sent_to_the_disk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tmp_path / "appendonlydir"
    files.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    keeper = Keeper("no program", lock=-1)
    (files / "1.aof").write_text("a")
    (files / "2.aof").write_text("b")
    one, two = ((files / name).stat().st_ino for name in ("1.aof", "2.aof"))
    keeper.sync()
    assert sorted(synced) == sorted([one, two])
    keeper.sync()
    assert len(synced) == 2
    with (files / "2.aof").open("a") as file:
        file.write("c")
    keeper.sync()
    assert synced[2:] == [two]
    shutil.rmtree(files)
    keeper.sync()
    assert len(synced) == 3


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given STOP_SECONDS to end by itself, and no more."""
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "program"
    program.write_text(
        "#!/bin/sh\ntrap '' TERM\necho $$ > pid.new && mv pid.new pid\nn=0\nwhile [ $n -lt 300 ]; do sleep 0.05; n=$((n + 1)); done\n"
    )
    program.chmod(0o700)
    monkeypatch.setattr("redisaq.embedded.keeper.SYNC_SECONDS", 0.05)
    monkeypatch.setattr("redisaq.embedded.keeper.STOP_SECONDS", 0.5)
    with (tmp_path / "users.lock").open("w") as user:
        fcntl.flock(user, fcntl.LOCK_SH)
        left: list[float] = []

        def sync(_keeper: Keeper) -> None:
            if not left and (tmp_path / "pid").exists():
                left.append(time.monotonic())
                fcntl.flock(user, fcntl.LOCK_UN)

        monkeypatch.setattr(Keeper, "sync", sync)
        lock = os.open(tmp_path / "server.lock", os.O_RDWR | os.O_CREAT)
        try:
            with Ticks() as ticks:
                Keeper(str(program), lock).run()
                ended = time.monotonic()
        finally:
            os.close(lock)
    assert ended - left[0] >= 0.5
    assert ticks.between(left[0], ended) < 8
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
