"""A reader who has only the site gets to the end of its walks: each is followed literally, in an empty directory."""

from __future__ import annotations

import configparser
import os
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import anyio
import pytest

from redisaq import Producer
from tests.integration.walkthroughs import LIMIT, WALKS, Piece, missing, pattern_of, pieces_of, walk
from tests.server_fixtures import ServerPool
from tests.unit.source import ROOT


def pieces(page: str) -> list[Piece]:
    """Return the blocks and comments of a page that is followed."""
    assert page in WALKS
    return pieces_of((ROOT / page).read_text(encoding="utf-8"))


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def follow(page: str, directory: Path, *, words: dict[str, str] | None = None, **environment: str) -> None:
    """Follow a page from its top to its end."""
    with walk(directory, **environment) as walking:
        walking.words.update(words or {})
        walking.follow(pieces(page))


def test_the_first_queue(tmp_path: Path) -> None:
    follow("docs/start/first-queue.md", tmp_path)


def test_a_fastapi_application_with_a_status_route(tmp_path: Path) -> None:
    port = str(free_port())
    follow("docs/guides/fastapi.md", tmp_path, words={"localhost:8000": f"127.0.0.1:{port}"}, UVICORN_PORT=port)


def test_finding_and_redriving_dead_letters(tmp_path: Path) -> None:
    follow("docs/operate/dead-letters.md", tmp_path)


def test_replaying_a_crash(tmp_path: Path) -> None:
    follow("docs/guides/replay-a-crash.md", tmp_path)


def test_a_worker_in_systemd(tmp_path: Path, server_pool: ServerPool) -> None:
    """What systemd would do with the page's files: it reads the unit and the environment, starts the command, and ends it by SIGTERM."""
    server, port = server_pool.new("valkey9"), free_port()
    try:
        with walk(tmp_path) as walking:
            for piece in pieces("docs/operate/systemd.md"):
                if piece.title:
                    walking.take(piece)
            unit = configparser.ConfigParser(strict=True, interpolation=None)
            unit.read(tmp_path / "etc/systemd/system/redisaq-worker.service")
            service = unit["Service"]
            words = shlex.split(service["ExecStart"].replace("8080", str(port)).replace("--processes 4", "--processes 2"))
            assert words[0] == "/srv/shop/venv/bin/redisaq"  # where the page installs it
            (name, _, url), *others = [line.partition("=") for line in (tmp_path / service["EnvironmentFile"][1:]).read_text().splitlines()]
            assert (name, url[:8], others) == ("REDISAQ_URL", "redis://", [])
            process = subprocess.Popen(
                [tmp_path / ".commands" / "redisaq", *words[1:]],
                cwd=tmp_path / service["WorkingDirectory"][1:],
                env=walking.environment | {name: server.url},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            try:
                wait_until_ready(process, f"http://127.0.0.1:{port}/ready")
                anyio.run(enqueue_an_order, server.url)
                assert process.stdout is not None
                lines = iter(process.stdout.readline, "")
                assert any("billed 7" in line for line in lines)
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=LIMIT)
            finally:
                process.kill()
                process.wait()
            assert process.returncode == 0
    finally:
        server.close()


def wait_until_ready(process: subprocess.Popen[str], url: str) -> None:
    """Ask the worker as the page's curl does, until it says yes."""
    limit = time.monotonic() + LIMIT
    while time.monotonic() < limit and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 -- the test's own worker
                assert answer.status == 200
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    pytest.fail("the worker was never ready")


async def enqueue_an_order(url: str) -> None:
    async with Producer("orders", url, namespace="shop") as producer:
        await producer.enqueue({"number": 7}, key="ada")


# -- what follows a page can fail ---------------------------------------------------------------------------------------------------------


def page(text: str) -> list[Piece]:
    return pieces_of(text.replace("~~~", "```"))


def test_a_page_is_read_in_its_order() -> None:
    text = '# A\n~~~python title="a.py"\n1\n~~~\n<!-- walk: exit=1 -->\n~~~bash\nls\n~~~\n'
    assert page(text) == [Piece(2, "python", "a.py", "1\n"), Piece(5, "", "", "exit=1"), Piece(6, "bash", "", "ls\n")]


def test_lines_are_patterns() -> None:
    assert missing([pattern_of("1 of … done")], "x 1  of 17 done.") == []
    assert missing([pattern_of("1.0")], "100") == [pattern_of("1.0")]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("~~~bash\nfalse\n~~~\n", "ended with 1"),
        ("<!-- walk: exit=1 -->\n~~~bash\ntrue\n~~~\n", "ended with 0"),
        ("~~~bash\necho one\n~~~\n~~~text\ntwo\n~~~\n", "printed:\none"),
        ('~~~bash\necho one\n~~~\n<!-- walk: ID="(\\d+)" -->\n', "is not in what was printed"),
        ("<!-- walk: go -->\n", "no such comment"),
        ("<!-- walk: background -->\n~~~bash\nsleep 1000\n~~~\n", "leaves something running"),
        ("<!-- walk: background -->\n~~~bash\ntrue\n~~~\n~~~text\nready\n~~~\n", "it has ended"),
    ],
)
def test_a_page_that_is_wrong_is_noticed(tmp_path: Path, text: str, match: str) -> None:
    with walk(tmp_path) as walking, pytest.raises(AssertionError, match=match):
        walking.follow(page(text))


def test_what_a_page_leaves_running_is_ended(tmp_path: Path) -> None:
    with walk(tmp_path) as walking:
        walking.take(page("<!-- walk: background -->")[0])
        walking.take(page("~~~bash\nsleep 1000\n~~~\n")[0])
        (terminal,) = walking.terminals
        assert terminal.process.poll() is None
    with pytest.raises(ProcessLookupError):
        os.killpg(terminal.process.pid, 0)
