"""`redisaq dashboard` as a process: it serves the page, keeps others out, and ends in order."""

from __future__ import annotations

import signal
from urllib.parse import parse_qs

import httpx
import pytest

from redisaq.cli import main
from tests.integration.cli_processes import LIMIT, own_place, started
from tests.servers import free_port


def test_it_serves_the_page_until_sigterm() -> None:
    """The server of the queue is away, which is no reason for the page not to be there."""
    with own_place(leaves="token") as place:
        (place / "token").write_text("a+token/that&nobody%20guesses=\n")
        url = f"redis://127.0.0.1:{free_port()}"
        with started(place, "dashboard", "--url", url, "--listen", "127.0.0.1:0", "--token-file", str(place / "token")) as process:
            assert process.stdout
            address = process.stdout.readline().strip()
            root, _, fragment = address.partition("/#")
            (token,) = parse_qs(fragment)["token"]  # as the page's script reads it
            assert token == "a+token/that&nobody%20guesses="  # noqa: S105 -- of this test
            assert httpx.get(root, timeout=LIMIT).status_code == 401
            answer = httpx.get(root, headers={"authorization": f"Bearer {token}"}, timeout=LIMIT)
            assert answer.status_code == 200
            assert httpx.get(root, headers={"host": "evil.example"}, timeout=LIMIT).status_code == 421
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT) == 0
            assert process.stderr
            assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--listen", "0.0.0.0:0"), "give --token-file"),
        (("--listen", "8787"), "--listen takes HOST:PORT"),
        (("--token", "x", "--token-file", "y"), "not both"),
        (("--token-file", "not there"), "cannot be read"),
        (("--token", "short"), "at least 16 characters"),
    ],
)
def test_what_it_refuses(words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["dashboard", "--listen", f"127.0.0.1:{taken.getsockname()[1]}"]) == 1
    assert "cannot listen" in capsys.readouterr().err
