"""The tests' own machinery: the matrix is whole, servers start, lose or keep data, and never outlive the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio.lowlevel
import hiredis
import pytest

from tests.conftest import BACKENDS
from tests.server_fixtures import KeyLeaks, ServerPool
from tests.servers import Server

ROOT = Path(__file__).parents[2]


@pytest.mark.anyio
async def test_each_backend_runs_what_it_says(anyio_backend: tuple[str, dict[str, object]], request: pytest.FixtureRequest) -> None:
    await anyio.lowlevel.checkpoint()
    native = type(anyio.lowlevel.current_token().native_token).__module__
    wanted = {"asyncio": "asyncio", "asyncio-eager": "asyncio", "uvloop": "uvloop", "trio": "trio"}[request.node.callspec.id]
    assert native.split(".")[0] == wanted


def test_the_matrix_is_whole() -> None:
    eager = ["asyncio-eager"] if sys.version_info >= (3, 12) else []
    assert [backend.id for backend in BACKENDS] == ["asyncio", "uvloop", "trio", *eager]


@pytest.mark.trio
async def test_pytest_trio_still_works() -> None:
    await anyio.lowlevel.checkpoint()


def test_servers_answer_on_both_addresses(server: Server) -> None:
    assert server.command("CONFIG", "GET", "port") == [b"port", str(server.port).encode()]
    assert server.url == f"redis://127.0.0.1:{server.port}/0"
    assert Path(server.unix_url.removeprefix("unix://")).is_socket()
    with pytest.raises(hiredis.ReplyError):
        server.command("NONSENSE")


def test_a_restart_keeps_or_loses_data_as_asked(breakable_server: Server) -> None:
    breakable_server.command("SET", "a", "1")
    first = breakable_server.pid
    breakable_server.restart()
    assert breakable_server.pid != first
    assert breakable_server.command("GET", "a") == b"1"
    breakable_server.restart(keep_data=False)
    assert breakable_server.command("GET", "a") is None
    breakable_server.command("SET", "a", "2")
    breakable_server.flush()
    assert breakable_server.command("DBSIZE") == 0


def test_key_leaks_are_seen(valkey_server: Server) -> None:
    leaks = KeyLeaks("leaky", valkey_server)
    valkey_server.command("SET", "{leaky:orders:0}:g:billing:lease", "1")
    valkey_server.command("SET", "leaky:topics", "1")
    try:
        leaks.allow("topics")
        assert leaks.left() == ["orders:0:g:billing:lease"]
        leaks.allow("orders:*:lease")
        assert leaks.left() == []
    finally:
        valkey_server.command("DEL", "{leaky:orders:0}:g:billing:lease", "leaky:topics")


VICTIM = """
import sys, time
from tests.server_fixtures import ServerPool
servers = [ServerPool().new("valkey9") for _ in range(2)]
print(servers[0].pid, servers[1].pid, servers[0].directory, flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_no_server_outlives_a_run_that_is_killed(number: signal.Signals, server_pool: ServerPool) -> None:
    server_pool.shared("valkey9")  # skips where the program is missing
    with subprocess.Popen([sys.executable, "-c", VICTIM], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as victim:
        assert victim.stdout is not None
        first, second, directory = victim.stdout.readline().split()
        victim.send_signal(number)
        victim.wait()
    limit = time.monotonic() + 20
    while _alive(int(first)) or _alive(int(second)) or Path(directory).exists():
        assert time.monotonic() < limit, "servers or files were left behind"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text() if Path("/proc").is_dir() else True
