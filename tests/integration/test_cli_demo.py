"""`redisaq demo` as users run it: real processes, one of them killed; and whatever ends it leaves nothing behind."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from redisaq.cli import demo, main
from redisaq.cli.demo import Child, Demo, Report
from tests.integration.cli_processes import LIMIT, own_place, running_in, started, working_in
from tests.servers import Server

FINAL = re.compile(r"produced (\d+), processed at least once (\d+), lost (\d+), duplicates (\d+): they match")
UVLOOP = pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for everything temporary; when the test is over, nothing may run in it, nor be in it."""
    with own_place() as directory:
        yield directory


def read_until(process: subprocess.Popen[str], text: str) -> None:
    """Read lines up to one that holds the text."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"it ended without {text!r}")


def check(out: str, *, messages: int) -> None:
    """Look at what a run printed that went well."""
    lines = out.splitlines()
    assert re.search(r"\* partitions shared out: consumer-1 \S.*; consumer-2 \S.*; consumer-3 \S", out), out
    assert len(re.findall(r"\* killed consumer-\d \(SIGKILL\); it owned partitions", out)) == 1, out
    assert re.search(r"\* consumer-\d took over partition \d+, \d+\.\d\d s after the kill", out), out
    took = re.fullmatch(r"consumer-\d was killed; partitions [\d -]+ had a new owner within (\d+\.\d+) s", lines[-2])
    assert took, out
    assert float(took[1]) > demo.TTL / 6  # nobody takes before the lease is over; the figure itself is the machine's
    final = FINAL.fullmatch(lines[-1])
    assert final, out
    assert [int(figure) for figure in final.groups()[:3]] == [messages, messages, 0]


@pytest.mark.backends_take_turns  # one private server is like another: the tests below start more, on asyncio and trio
@pytest.mark.parametrize("backend", ["asyncio", pytest.param("uvloop", marks=UVLOOP)])
def test_on_a_private_server(place: Path, backend: str) -> None:
    with started(place, "demo", "--backend", backend, "--messages", "400", "--partitions", "6") as process:
        out, errors = process.communicate(timeout=LIMIT)
    assert errors == ""
    assert process.returncode == 0
    check(out, messages=400)
    assert out.startswith(f"redisaq demo: {backend}, a private Valkey\n")


def test_on_a_given_server(place: Path, valkey_server: Server) -> None:
    with started(place, "demo", "--backend", "trio", "--messages", "400", "--partitions", "6", "--redis-url", valkey_server.url) as process:
        out, errors = process.communicate(timeout=LIMIT)
    assert errors == ""
    assert process.returncode == 0
    check(out, messages=400)
    assert not any(place.iterdir())  # no server of its own


def test_a_message_that_is_never_reported_is_lost(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole demo, but one message's processing never arrives at the parent, as if nobody had got it."""
    take = Demo.take
    hidden: list[str] = []

    def take_all_but_one(played: Demo, child: Child, report: Report) -> None:
        if report.what == "processed":
            hidden[:] = hidden or report.ids
            if report.ids == hidden:
                return
        if played.victim and not played._waiting:
            monkeypatch.setattr(demo, "PATIENCE", 4.0)
        take(played, child, report)

    monkeypatch.chdir(place)
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)  # forget the one found earlier
    monkeypatch.setattr(Demo, "take", take_all_but_one)
    assert main(["demo", "--messages", "200", "--partitions", "6"]) == 1
    captured = capsys.readouterr()
    assert "no progress for 4 s while waiting for the rest of the messages" in captured.err
    final = captured.out.splitlines()[-1]
    assert "produced 200, processed at least once 199, lost 1," in final
    assert final.endswith("they do NOT match: 1 were not processed")


def test_an_unreachable_server_is_one_line(place: Path) -> None:
    with started(place, "demo", "--redis-url", "redis://user:secret@127.0.0.1:1/0") as process:
        out, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert re.fullmatch(r"redisaq demo: producer: redis://user@127\.0\.0\.1:1/0: .*\n", errors)
    assert "they do NOT match" in out
    assert "secret" not in out + errors


@pytest.mark.parametrize(("backend", "number"), [("asyncio", signal.SIGTERM), ("trio", signal.SIGINT)])
def test_an_interrupt_ends_everything_in_order(place: Path, backend: str, number: signal.Signals) -> None:
    with started(place, "demo", "--backend", backend) as process:
        read_until(process, "shared out")
        assert len(running_in(place)) >= 5  # this one, producer, consumers; the server and its keeper
        process.send_signal(number)
        _, errors = process.communicate(timeout=LIMIT)
        assert working_in(place) == []
        assert not any(place.iterdir())
    assert process.returncode == 130
    assert errors == "redisaq demo: interrupted; every process has ended.\n"


@pytest.mark.parametrize("moment", ["redisaq demo", "shared out", "killed"])
def test_killed_itself_it_leaves_nothing(place: Path, moment: str) -> None:
    """What must be gone soon is looked at by the fixture."""
    with started(place, "demo", "--messages", "2000") as process:
        read_until(process, moment)
        process.kill()
    assert process.returncode == -signal.SIGKILL


def test_a_child_that_dies_by_itself_fails_the_demo(place: Path) -> None:
    with started(place, "demo") as process:
        read_until(process, "shared out")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        out, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert re.search(r"consumer-\d ended by itself with status -9", errors)
    assert "they do NOT match" in out


def test_a_reader_that_goes_away_ends_it_quietly(place: Path) -> None:
    with started(place, "demo") as process:
        read_until(process, "shared out")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(LIMIT)
    assert process.returncode == 1
    assert errors == ""
