"""The examples do what their READMEs say, as programs of their own, on the server they bring and on one they are given."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.server_fixtures import ServerPool
from tests.servers import Server, free_port
from tests.unit.source import ROOT

EXAMPLES = ROOT / "examples"
LIMIT = 150.0


@pytest.fixture(scope="module")
def redis(server_pool: ServerPool) -> Iterator[Server]:
    """A server for the examples alone: they use fixed names."""
    own = server_pool.new("valkey9")
    yield own
    own.close()


def surroundings(redis_url: str | None, **more: str) -> dict[str, str]:
    """Return a program's environment."""
    plain = {name: value for name, value in os.environ.items() if name not in ("PORT", "REDISAQ_URL")}
    return plain | more | ({} if redis_url is None else {"REDISAQ_URL": redis_url})


def run_example(name: str, redis_url: str | None) -> str:
    """Run an example to its end and return what it printed."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name / "main.py")]
    result = subprocess.run(command, check=False, env=surroundings(redis_url), capture_output=True, text=True, timeout=LIMIT)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def check_basic(output: str) -> None:
    assert "enqueued 600 messages into 6 partitions" in output
    assert "anna: partitions [0, 1, 2, 3, 4, 5]" in output
    assert "ben takes partition" in output
    assert "anna gives partition" in output
    assert "cleo takes partition" in output
    assert "ben gives partition" in output
    assert output.endswith("group senders: 600 of 600 handled, 0 more than once\ngroup archive: 600 of 600 read again\n")


def test_simulation(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "simulation" / "main.py"), str(tmp_path / "timeline.svg")]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT)
    assert result.returncode == 0, result.stderr
    assert "8 seeds: nothing lost" in result.stdout
    assert re.search(r"(anna|ben|cleo) +crashes", result.stdout)
    assert (tmp_path / "timeline.svg").read_text(encoding="utf-8").startswith("<svg")


def test_basic() -> None:
    check_basic(run_example("basic", None))


def test_basic_again_and_again_on_a_given_server(redis: Server) -> None:
    for _ in range(2):  # what the last run left is handled: only what is new counts
        check_basic(run_example("basic", redis.url))


@pytest.mark.parametrize("given", [False, True], ids=["embedded", "given"])
def test_trio_nursery(redis: Server, given: bool) -> None:
    output = run_example("trio_nursery", redis.unix_url if given else None)
    assert "ready, with partitions [0, 1, 2, 3]" in output
    assert "interrupted\n" in output
    assert output.endswith("the interrupted ones among them: True\neach order once: True\n")


# -- fastapi ---------------------------------------------------------------------------------------------------------------------


def fastapi_example() -> Any:
    """Import the example again."""
    spec = importlib.util.spec_from_file_location("redisaq_example_app", EXAMPLES / "fastapi" / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # annotations are looked up there
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module


@pytest.mark.anyio
async def test_fastapi_submits_and_works(redis: Server) -> None:
    app = fastapi_example().create_app(redis.url)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://example")
    with anyio.fail_after(LIMIT):
        async with app.router.lifespan_context(app), client:
            assert (await client.get("/health")).json() == {"state": "running", "partitions": 4, "running": 0, "handled": 0}
            answers = [await client.post("/jobs", json={"text": f"text {n}", "seconds": 0.01}) for n in range(8)]
            assert {answer.status_code for answer in answers} == {202}
            for n, answer in enumerate(answers):
                while (found := await client.get(f"/jobs/{answer.json()['id']}")).status_code == 404:
                    await anyio.sleep(0.01)
                assert found.json()["result"] == f"TEXT {n}"
            assert (await client.post("/jobs", json={"seconds": 1})).status_code == 422
            assert (await client.get("/health")).json()["handled"] == 8


@pytest.mark.anyio
async def test_fastapi_finishes_what_runs_before_it_ends(redis: Server) -> None:
    app = fastapi_example().create_app(redis.url)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://example")
    with anyio.fail_after(LIMIT):
        async with client:
            async with app.router.lifespan_context(app):
                job = (await client.post("/jobs", json={"text": "long", "seconds": 0.3})).json()["id"]
                while (await client.get("/health")).json()["running"] == 0:
                    await anyio.sleep(0.005)
            assert (await client.get(f"/jobs/{job}")).json()["result"] == "LONG"
            assert (await client.get("/health")).status_code == 503


def test_fastapi_as_a_program(redis: Server) -> None:
    pytest.importorskip("uvicorn")
    port = free_port()
    command = [sys.executable, str(EXAMPLES / "fastapi" / "app.py")]
    program = subprocess.Popen(command, env=surroundings(redis.url, PORT=str(port)), stdout=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT) as client:
            wait_for(client)
            assert client.post("/jobs", json={"text": "drained", "seconds": 0.5}).status_code == 202
            while client.get("/health").json()["running"] == 0:
                time.sleep(0.005)
        program.send_signal(signal.SIGTERM)
        output, _ = program.communicate(timeout=LIMIT)
    finally:
        program.kill()
        program.wait()
    assert "done: drained\n" in output
    assert program.returncode in (0, -signal.SIGTERM)  # uvicorn ends by the signal it was sent


# -- starlette -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_starlette_as_a_program(redis: Server, backend: str) -> None:
    """It works, shows the page, and finishes what runs before it ends."""
    pytest.importorskip("anycorn")
    port = free_port()
    command = [sys.executable, str(EXAMPLES / "starlette" / "app.py")]
    program = subprocess.Popen(
        command, env=surroundings(f"{redis.url.rpartition('/')[0]}/1", PORT=str(port), BACKEND=backend), stdout=subprocess.PIPE, text=True
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT) as client:
            wait_for(client)
            assert client.post("/jobs", content='{"seconds": 1}').status_code == 422
            job = client.post("/jobs", content='{"text": "short", "seconds": 0}').json()["id"]
            limit = time.monotonic() + LIMIT
            while client.get(f"/jobs/{job}").json() != {"state": "done"} and time.monotonic() < limit:
                time.sleep(0.005)
            assert client.get("/jobs/nothing").status_code == 404
            while "jobs" not in client.get("/queue/").text and time.monotonic() < limit:  # the sampler has not seen it yet
                time.sleep(0.02)
            job = client.post("/jobs", content='{"text": "drained", "seconds": 0.5}').json()["id"]
            while client.get(f"/jobs/{job}").json() != {"state": "pending"} and time.monotonic() < limit:
                time.sleep(0.005)
        program.send_signal(signal.SIGTERM)
        output, _ = program.communicate(timeout=LIMIT)
    finally:
        program.kill()
        program.wait()
    assert (output, program.returncode) == ("done: short\ndone: drained\n", 0)


def wait_for(client: httpx.Client) -> None:
    """Return once the program answers."""
    limit = time.monotonic() + LIMIT
    while time.monotonic() < limit:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    pytest.fail("the program does not answer")


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXAMPLES.glob("*/*.py")))
def test_each_example_tells_how_to_run_it(name: str) -> None:
    text = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    program = next(Path(path).name for path in sorted((EXAMPLES / name).glob("*.py")))
    assert f"python examples/{name}/{program}" in text
    assert f"examples/{name}/README.md" in (ROOT / "README.md").read_text(encoding="utf-8")
